//! Batches: one call for several messages, each of which is on a path of its own.
//!
//! ```text
//! path of a message ──▶ waiting ──▶ a call ──▶ an outcome for each message ──▶ paths
//!                                    │  ▲
//!                             failed ▼  │ one after the other
//!                                    parts
//! ```
//!
//! A batch changes nothing about the path of a message: it has its slot, timeout, cancellation, attempt
//! and settlement for itself. A path hands its message in and waits for the outcome. If the path stops
//! waiting, because the message is cancelled or its time is over, the message leaves the batch.
//!
//! If a call fails as a whole, one of its messages may be the reason. So the batch is halved, until the
//! message at fault stands alone. Only this message gets the failure. If the service says that it is
//! unavailable, there are no halves: see `attend.rs`.
//!
//! A call is a task of its own: no path can end the call while others wait for it.

mod attend;
#[cfg(test)]
pub(crate) mod samples;
mod settings;
#[cfg(test)]
mod tests;
mod trace;
mod waiting;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

pub use settings::BatchSettings;

use super::{Context, json::Said};
use crate::{
    lock::lock,
    outcome::{Failure, Outcome},
};
use attend::attend;
pub(super) use attend::late;
use waiting::Waiting;

/// The call that a kind of handler makes for several messages. To add batches to a kind, implement
/// this, and hand each message to [`Batches::run`].
pub(super) trait Call: Send + Sync + 'static {
    /// What a call needs, such as a free co-process.
    type Ready: Send + 'static;

    /// Waits until a call can be made. The time does not count as that of the call.
    ///
    /// # Errors
    /// The failure of all messages that wait now.
    fn ready(&self) -> impl Future<Output = Result<Self::Ready, Failure>> + Send;

    /// Makes one call for these messages, in this order, and gives what is said about each, in the same
    /// order. The future is dropped when nobody waits for the call.
    ///
    /// # Errors
    /// The failure of the call as a whole: [`late`] after the time `limit`, when the service does no more
    /// about these messages as far as the handler can make sure of that.
    fn call(
        &self,
        ready: Self::Ready,
        messages: &[Context],
        limit: Option<Duration>,
    ) -> impl Future<Output = Result<Vec<Said>, Failure>> + Send;
}

/// Collects the messages of a handler for calls.
pub(super) struct Batches<C>(Arc<Shared<C>>);

/// What the paths, the collector and the calls share.
struct Shared<C> {
    call: C,
    settings: BatchSettings,
    waiting: Mutex<Waiting>,
    /// Notified when the collector should look again: a batch may go before its time.
    changed: Notify,
}

/// A message in a batch, and the path that waits for its outcome.
struct Entry {
    context: Context,
    path: oneshot::Sender<Said>,
    since: Instant,
}

impl Entry {
    /// Whether the path no longer waits.
    fn has_left(&self) -> bool {
        self.path.is_closed()
    }
}

impl<C: Call> Batches<C> {
    /// Batches as the settings say; `None` if each message has a call of its own.
    pub(super) fn of(settings: &BatchSettings, call: C) -> Option<Self> {
        settings.is_on().then(|| {
            Self(Arc::new(Shared {
                call,
                settings: settings.clone(),
                waiting: Mutex::default(),
                changed: Notify::new(),
            }))
        })
    }

    /// Hands a message in, and waits for its outcome. When this future is dropped, the message leaves
    /// its batch.
    pub(super) async fn run(&self, context: Context) -> Outcome {
        let (path, said) = oneshot::channel();
        let entry = Entry {
            context: context.clone(),
            path,
            since: Instant::now(),
        };
        self.add(entry);
        match said.await {
            Ok(said) => said.leave(&context),
            // The sender is dropped only if the call panics.
            Err(_) => Outcome::Failed(Failure::retryable(
                "panic",
                "the call of the batch panicked",
            )),
        }
    }

    fn add(&self, entry: Entry) {
        let shared = &self.0;
        let (goes_now, needs_collector) = {
            let mut waiting = lock(&shared.waiting);
            waiting.add(entry);
            (waiting.is_due(&shared.settings), waiting.needs_collector())
        };
        if needs_collector {
            tokio::spawn(collect(Arc::clone(shared)));
        } else if goes_now {
            shared.changed.notify_one();
        }
    }
}

/// Makes batches of the messages that wait, until none waits. Each call runs in a task of its own.
async fn collect<C: Call>(shared: Arc<Shared<C>>) {
    let collecting = Collecting(&shared);
    while shared.has_due().await {
        // Messages that come meanwhile go with this batch.
        let ready = shared.call.ready().await;
        let batch = lock(&shared.waiting).take(&shared.settings);
        match ready {
            Ok(ready) => {
                tokio::spawn(attend(Arc::clone(&shared), ready, batch));
            }
            Err(failure) => batch.fail(&failure),
        }
    }
    std::mem::forget(collecting);
}

/// Lets another collector begin if this one panics. What waits is given up.
struct Collecting<'a, C>(&'a Shared<C>);

impl<C> Drop for Collecting<'_, C> {
    fn drop(&mut self) {
        *lock(&self.0.waiting) = Waiting::default();
    }
}

impl<C> Shared<C> {
    /// Waits until a batch must go. False: no message waits, and the collector must end.
    async fn has_due(&self) -> bool {
        loop {
            let (until, drain) = {
                let mut waiting = lock(&self.waiting);
                let Some(first) = waiting.first() else {
                    waiting.collector_ends();
                    return false;
                };
                let until = first.since + self.settings.max_wait;
                let drain = first.context.drain();
                if waiting.is_due(&self.settings) || until <= Instant::now() {
                    return true;
                }
                (until, drain)
            };
            tokio::select! {
                biased;
                () = self.changed.notified() => {}
                () = drain.cancelled() => return true,
                () = tokio::time::sleep_until(until) => return true,
            }
        }
    }
}
