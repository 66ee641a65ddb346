//! One call and what follows from it: outcomes for the paths, or calls for parts of the batch.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::info;

use super::{Call, Entry, Shared, trace::CallTrace};
use crate::{
    flight::within,
    handler::{Context, json::Said},
    outcome::Failure,
};

/// The messages of a call.
pub(super) struct Batch(Vec<Entry>);

impl Batch {
    pub(super) fn new(entries: Vec<Entry>) -> Self {
        Self(entries)
    }

    /// Forgets the messages whose paths no longer wait. The messages of the others.
    fn present(&mut self) -> Vec<Context> {
        self.0.retain(|entry| !entry.has_left());
        self.0.iter().map(|entry| entry.context.clone()).collect()
    }

    /// Waits until no path waits any more.
    async fn abandoned(&mut self) {
        for entry in &mut self.0 {
            entry.path.closed().await;
        }
    }

    /// Gives each path what is said about its message.
    fn answer(self, said: Vec<Said>) {
        for (entry, said) in self.0.into_iter().zip(said) {
            // A path that no longer waits has another end.
            let _ = entry.path.send(said);
        }
    }

    /// Gives all paths this failure.
    pub(super) fn fail(self, failure: &Failure) {
        for entry in self.0 {
            // As above.
            let _ = entry.path.send(Said::failed(failure.clone()));
        }
    }

    /// Splits the batch: halves, or the first message, the last one and those between them.
    fn split(mut self, ends: bool) -> impl Iterator<Item = Self> {
        let rest = match ends {
            true => self.0.split_off(1),
            false => self.0.split_off(self.0.len().div_ceil(2)),
        };
        let mut rest = Self(rest);
        let last = ends.then(|| Self(rest.0.split_off(rest.0.len().saturating_sub(1))));
        let parts = [Some(self), last, Some(rest)].into_iter().flatten();
        parts.filter(|part| !part.0.is_empty())
    }

    fn deadline(&self) -> Option<Instant> {
        let deadlines = self.0.iter().map(|entry| entry.context.deadline());
        deadlines.flatten().min()
    }
}

/// The parts of a batch that have no end yet, in the order of their calls.
struct Parts {
    waiting: VecDeque<Batch>,
    /// Messages that hang when they are alone. Their paths end them.
    hanging: Vec<Batch>,
    /// The messages in a row that were alone in their call and ended unavailable.
    refused: usize,
}

/// So many messages that end unavailable in calls of their own, and no answer between them: the service
/// is down.
const DOWN: usize = 2;

impl Parts {
    /// A call for several messages failed. Nobody knows which of them is the reason.
    fn split(&mut self, batch: Batch, ends: bool) {
        self.waiting.extend(batch.split(ends));
    }

    /// All messages that have no end yet get this failure.
    fn fail(&mut self, failure: &Failure) {
        for batch in self.waiting.drain(..).chain(self.hanging.drain(..)) {
            batch.fail(failure);
        }
    }

    /// The time for the next call, which has so many messages: their share of the time that is left, and
    /// half of this if the call has several, so that there is time for their parts. A message alone has a
    /// quarter of the time at least. One for which no other waits has all of it, which its path measures.
    fn limit(&mut self, batch: &Batch) -> Option<Duration> {
        for waiting in &mut self.waiting {
            waiting.0.retain(|entry| !entry.has_left());
        }
        let own = batch.0.len();
        let all = own + self.waiting.iter().map(|it| it.0.len()).sum::<usize>();
        if all == 1 {
            return None;
        }
        let deadlines = self.waiting.iter().map(Batch::deadline);
        let first = deadlines.chain([batch.deadline()]).flatten().min()?;
        let left = first.saturating_duration_since(Instant::now());
        Some(match own {
            // A single message may take longer than its share of a large batch.
            1 => left.div_f64(all.min(4) as f64),
            _ => left.mul_f64(own as f64 / all as f64) / 2,
        })
    }
}

/// Makes the call for a batch. If it fails, makes calls for parts of it, one after the other: the parts
/// of a part wait until those before them had their call. `ready`: what the first call needs.
pub(super) async fn attend<C: Call>(shared: Arc<Shared<C>>, ready: C::Ready, batch: Batch) {
    let mut ready = Some(ready);
    let mut parts = Parts {
        waiting: [batch].into(),
        hanging: Vec::new(),
        refused: 0,
    };
    while let Some(mut batch) = parts.waiting.pop_front() {
        let is_whole = ready.is_some();
        let ready = match ready.take() {
            Some(ready) => Ok(ready),
            None => tokio::select! {
                biased;
                ready = shared.call.ready() => ready,
                () = batch.abandoned() => continue,
            },
        };
        let ready = match ready {
            Ok(ready) => ready,
            Err(failure) => {
                batch.fail(&failure);
                return parts.fail(&failure);
            }
        };
        let messages = batch.present();
        let Some(first) = messages.first() else {
            continue;
        };
        if is_whole {
            first.count_batch(messages.len());
        }
        let limit = parts.limit(&batch);
        let called = tokio::select! {
            biased;
            called = call(&shared.call, ready, &messages, limit) => called,
            () = batch.abandoned() => continue,
        };
        match called {
            Ok(said) => {
                parts.refused = 0;
                batch.answer(said);
            }
            Err(failure) if concerns_all(&failure) && messages.len() > 1 => {
                let failure = uncharged(failure);
                batch.fail(&failure);
                return parts.fail(&failure);
            }
            Err(failure) if messages.len() == 1 && limit.is_some_and(|it| late(it) == failure) => {
                parts.hanging.push(batch);
            }
            Err(failure) if messages.len() == 1 => {
                batch.fail(&failure);
                parts.refused = match failure.unavailable {
                    true => parts.refused + 1,
                    false => 0,
                };
                if parts.refused >= DOWN || concerns_all(&failure) {
                    return parts.fail(&uncharged(failure));
                }
            }
            Err(failure) => {
                if is_whole {
                    info!(
                        consumer = first.consumer(), messages = messages.len(), class = %failure.class,
                        error = %failure.error, "the call for several messages failed: making calls for parts until the message at fault is alone",
                    );
                }
                parts.split(batch, is_whole && failure.unavailable);
            }
        }
    }
    for batch in &mut parts.hanging {
        batch.abandoned().await;
    }
}

/// Whether a failure is a sure word of the whole service. A proxy gives 502, 503 and 504 also for a
/// message that ends its server.
fn concerns_all(failure: &Failure) -> bool {
    let may_be_one = matches!(failure.status, Some(502..=504));
    failure.retry_after.is_some() || failure.unavailable && !may_be_one
}

/// The failure for messages that were not alone in its call, of which none is at fault.
fn uncharged(failure: Failure) -> Failure {
    Failure {
        unavailable: true,
        ..failure
    }
}

/// Makes one call, for at most this time.
async fn call<C: Call>(
    call: &C,
    ready: C::Ready,
    messages: &[Context],
    limit: Option<Duration>,
) -> Result<Vec<Said>, Failure> {
    let mut trace = CallTrace::begin(messages);
    let calling = call.call(ready, messages, limit);
    let called = within(trace.context(), calling).await;
    trace.ended(&called);
    called
}

/// The failure of a call that took longer than this.
pub(in crate::handler) fn late(limit: Duration) -> Failure {
    let text = format!(
        "no answer within {}, a part of the time of its messages",
        crate::text::seconds(limit)
    );
    Failure::retryable("timeout", text)
}
