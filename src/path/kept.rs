//! Kept decisions: messages whose handler has ended, and whose retry or dead letter the broker does
//! not take.
//!
//! The worker does not run such a message again. The delivery stays unsettled until its copy is
//! published. Of all copies that wait for one queue only one is tried at a time, so a queue that is
//! missing or full sees few attempts. Once the queue takes a copy, the others follow.

use std::{
    collections::HashMap,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Mutex as AsyncMutex, Notify, OwnedMutexGuard},
    time::{Instant, sleep_until},
};

use crate::{
    broker::{PublishError, Reconnect, ReconnectSettings},
    flight::Flight,
    lock::lock,
};

/// The waits between attempts to publish: those of one copy, and those of one queue.
pub(super) fn waits() -> Reconnect {
    Reconnect::new(&ReconnectSettings {
        base: Duration::from_millis(50),
        cap: Duration::from_secs(5),
    })
}

/// The decisions of one lane that wait.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// Deliveries whose copy was not confirmed within `publish.budget`.
    count: AtomicUsize,
    /// The last queue that did not take a copy, and the broker's reply.
    why: Mutex<Option<String>>,
    /// The queues that have not taken a copy.
    refusing: Mutex<HashMap<String, Arc<Refusing>>>,
}

/// A queue that has not taken a copy.
#[derive(Debug)]
struct Refusing {
    turn: Arc<AsyncMutex<Turn>>,
    /// Notified when the queue has taken a copy.
    works: Notify,
}

/// The right to try the next copy.
#[derive(Debug)]
pub(super) struct Turn {
    waits: Reconnect,
    next: Instant,
}

impl Kept {
    /// Counts a delivery as kept until the result is dropped.
    pub(super) fn keep<'a>(&'a self, flight: &'a Flight, queue: &str) -> Keeping<'a> {
        let unanswered = || format!("{queue}: no confirm yet");
        lock(&self.why).get_or_insert_with(unanswered);
        flight.set_kept(true);
        self.count.fetch_add(1, Ordering::AcqRel);
        Keeping { kept: self, flight }
    }

    /// The number of kept decisions.
    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// The last queue that did not take a copy, and the broker's reply.
    pub(crate) fn why(&self) -> String {
        lock(&self.why).clone().unwrap_or_default()
    }

    /// The queue has not taken a copy.
    pub(super) fn failed(
        &self,
        queue: &str,
        why: &PublishError,
        turn: Option<OwnedMutexGuard<Turn>>,
    ) {
        *lock(&self.why) = Some(format!("{queue}: {why}"));
        if let Some(mut turn) = turn {
            turn.next = Instant::now() + turn.waits.next();
        }
    }

    /// The queue has taken a copy: those that wait for it follow.
    pub(super) fn taken(&self, queue: &str) {
        let mut refusing = lock(&self.refusing);
        let waiting = refusing.remove(queue);
        self.forget(&refusing);
        drop(refusing);
        if let Some(waiting) = waiting {
            waiting.works.notify_waiters();
        }
    }

    /// Forgets the last reply if nothing waits.
    fn forget(&self, refusing: &HashMap<String, Arc<Refusing>>) {
        if refusing.is_empty() && self.count() == 0 {
            *lock(&self.why) = None;
        }
    }

    /// A copy for this queue, which may have to wait.
    pub(super) fn copy<'a>(&'a self, queue: &'a str) -> Waiting<'a> {
        let (kept, refusing) = (self, None);
        Waiting {
            kept,
            queue,
            refusing,
        }
    }

    fn refusing(&self, queue: &str) -> Arc<Refusing> {
        let mut refusing = lock(&self.refusing);
        if let Some(known) = refusing.get(queue) {
            return Arc::clone(known);
        }
        let turn = Turn {
            waits: waits(),
            next: Instant::now(),
        };
        let new = Arc::new(Refusing {
            turn: Arc::new(AsyncMutex::new(turn)),
            works: Notify::new(),
        });
        refusing.insert(queue.to_owned(), Arc::clone(&new));
        new
    }
}

/// A copy that may have to wait for its queue. With the last copy the queue is forgotten: messages can
/// name queues, so there is no end of names.
pub(super) struct Waiting<'a> {
    kept: &'a Kept,
    queue: &'a str,
    refusing: Option<Arc<Refusing>>,
}

impl Waiting<'_> {
    /// Waits until the copy may be tried again, `wait` from now at the earliest: when the queue has
    /// taken another copy, or when it is this copy's turn.
    pub(super) async fn turn(&mut self, wait: Duration) -> Option<OwnedMutexGuard<Turn>> {
        let earliest = Instant::now() + wait;
        let refusing = &*self.refusing.insert(self.kept.refusing(self.queue));
        let mut works = pin!(refusing.works.notified());
        works.as_mut().enable();
        let turn = async {
            let turn = Arc::clone(&refusing.turn).lock_owned().await;
            sleep_until(turn.next.max(earliest)).await;
            turn
        };
        tokio::select! {
            biased;
            () = works => {}
            turn = turn => return Some(turn),
        }
        sleep_until(earliest).await;
        None
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Some(mine) = self.refusing.take() else {
            return;
        };
        let mut refusing = lock(&self.kept.refusing);
        let known = refusing.get(self.queue);
        // The map has one, and this the other.
        if known.is_some_and(|known| Arc::ptr_eq(known, &mine)) && Arc::strong_count(&mine) == 2 {
            refusing.remove(self.queue);
        }
        self.kept.forget(&refusing);
    }
}

/// A kept decision. Dropping this ends the wait.
pub(super) struct Keeping<'a> {
    kept: &'a Kept,
    flight: &'a Flight,
}

impl Drop for Keeping<'_> {
    fn drop(&mut self) {
        self.flight.set_kept(false);
        self.kept.count.fetch_sub(1, Ordering::AcqRel);
        self.kept.forget(&lock(&self.kept.refusing));
    }
}
