//! Deadlines: no wait in a test is endless, and a wait that times out says what it last saw.

use std::fmt::Debug;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::watch;

/// How long a test waits for something that is expected to take well under a second.
///
/// Generous, because the machine may be busy, and a successful wait ends earlier.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Milliseconds.
pub const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// The time that a busy machine may add to a time that a test measures.
///
/// A test of a limit makes sure that a worker without the limit takes much longer than this. It is
/// better to check the order of events than the time.
pub const BUSY: Duration = Duration::from_secs(8);

/// The pause between two polls of the broker's state.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// Waits until what `observe` returns satisfies `accept`, and returns it.
///
/// For state without events: the broker's queues and connections. Panics after `deadline` with
/// `what` and the last observed value. An observation that hangs is not counted.
pub async fn wait_until<T: Debug>(
    what: &str,
    deadline: Duration,
    mut observe: impl AsyncFnMut() -> T,
    accept: impl Fn(&T) -> bool,
) -> T {
    let started = Instant::now();
    let mut last = None;
    loop {
        let left = deadline.saturating_sub(started.elapsed());
        match tokio::time::timeout(left, observe()).await {
            Ok(seen) if accept(&seen) => return seen,
            Ok(seen) => last = Some(seen),
            Err(_) => break,
        }
        if started.elapsed() >= deadline {
            break;
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    match last {
        Some(last) => panic!("waited {deadline:?} until {what}; last seen: {last:#?}"),
        None => panic!("waited {deadline:?} until {what}; the first look did not return"),
    }
}

/// The output of `future`. Panics with `what` after [`DEADLINE`].
pub async fn within<F: IntoFuture>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what} took longer than {DEADLINE:?}"),
    }
}

/// Blocks threads until its [`Release`] is dropped, for handlers that block. Clones are the same
/// block.
#[derive(Clone, Debug)]
pub struct Block(Arc<(Mutex<bool>, Condvar)>);

/// Releases the threads of a [`Block`] when it is dropped. A failing test drops it too; otherwise
/// the test's runtime would wait for the threads.
#[derive(Debug)]
pub struct Release(Block);

impl Block {
    /// A block and its release.
    pub fn new() -> (Self, Release) {
        let block = Self(Arc::default());
        (block.clone(), Release(block))
    }

    /// Blocks the thread until the release.
    pub fn pass(&self) {
        let (open, changed) = &*self.0;
        let open = open.lock().expect("no panic");
        drop(changed.wait_while(open, |open| !*open).expect("no panic"));
    }
}

impl Drop for Release {
    fn drop(&mut self) {
        let (open, changed) = &*self.0.0;
        *open.lock().expect("no panic") = true;
        changed.notify_all();
    }
}

/// Holds handlers back until the test lets them through. Clones are the same gate.
#[derive(Clone, Debug, Default)]
pub struct Gate {
    open: watch::Sender<bool>,
}

impl Gate {
    /// Opens the gate for those who wait and for all later ones.
    pub fn open(&self) {
        self.open.send_replace(true);
    }

    /// Closes the gate for all who come from now on.
    pub fn close(&self) {
        self.open.send_replace(false);
    }

    /// Waits until the gate is open.
    pub async fn passed(&self) {
        let mut open = self.open.subscribe();
        open.wait_for(|&open| open)
            .await
            .expect("the sender is ours");
    }
}
