//! One call and what follows from it: outcomes for the paths, or halves.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_util::future::join;
use tokio::time::{Instant, timeout};
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

    fn halves(mut self) -> (Self, Self) {
        let second = self.0.split_off(self.0.len().div_ceil(2));
        (self, Self(second))
    }
}

/// Makes the call for a batch. If it fails, makes a call for each half. `ready`: what the first call
/// needs; `None` for a half.
pub(super) fn attend<C: Call>(
    shared: Arc<Shared<C>>,
    ready: Option<C::Ready>,
    mut batch: Batch,
) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move {
        let is_half = ready.is_none();
        let ready = match ready {
            Some(ready) => Ok(ready),
            None => tokio::select! {
                biased;
                ready = shared.call.ready() => ready,
                () = batch.abandoned() => return,
            },
        };
        let ready = match ready {
            Ok(ready) => ready,
            Err(failure) => return batch.fail(&failure),
        };
        let messages = batch.present();
        let Some(first) = messages.first() else {
            return;
        };
        if !is_half {
            first.count_batch(messages.len());
        }
        let called = tokio::select! {
            biased;
            called = call(&shared.call, ready, &messages) => called,
            () = batch.abandoned() => return,
        };
        match called {
            Ok(said) => batch.answer(said),
            // A message that is alone is at fault, and nobody is if the service is unavailable.
            Err(failure) if failure.unavailable || messages.len() == 1 => batch.fail(&failure),
            Err(failure) => {
                if !is_half {
                    info!(
                        consumer = first.consumer(), messages = messages.len(), class = %failure.class,
                        error = %failure.error, "the call for several messages failed: halving the batch until the message at fault is alone",
                    );
                }
                drop(messages);
                let (first, second) = batch.halves();
                let first = attend(Arc::clone(&shared), None, first);
                join(first, attend(shared, None, second)).await;
            }
        }
    })
}

/// Makes one call, for a part of the time that its messages have.
async fn call<C: Call>(
    call: &C,
    ready: C::Ready,
    messages: &[Context],
) -> Result<Vec<Said>, Failure> {
    let mut trace = CallTrace::begin(messages);
    let calling = call.call(ready, messages);
    let calling = within(trace.context(), async {
        match time(messages) {
            None => calling.await,
            Some(limit) => timeout(limit, calling).await.unwrap_or_else(|_| {
                let text = format!(
                    "no answer within {}, half of the time of its messages",
                    crate::text::seconds(limit)
                );
                Err(Failure::retryable("timeout", text))
            }),
        }
    });
    let called = calling.await;
    trace.ended(&called);
    called
}

/// The time for a call: half of what its messages have left, so that there is time for the halves. A
/// message that is alone has all of its time, which its path measures.
fn time(messages: &[Context]) -> Option<Duration> {
    if messages.len() == 1 {
        return None;
    }
    let last = messages.iter().filter_map(Context::deadline).max()?;
    Some(last.saturating_duration_since(Instant::now()) / 2)
}
