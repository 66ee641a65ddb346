//! Running a handler: under a timeout, cancellable, and with its panics caught.

use std::{any::Any, panic::AssertUnwindSafe, pin::pin, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::time::{sleep_until, timeout};

use crate::{
    consumer::ConsumerSettings,
    decode::Seen,
    flight::{CancelReason, Flight},
    handler::{Context, Handler},
    outcome::{Ending, Outcome},
};

/// The time limits of a handler.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// The time for one run.
    pub(crate) timeout: Duration,
    /// The time to end after a cancellation, if the handler asked for its `Cancellation`.
    pub(crate) cancel_grace: Duration,
}

impl Limits {
    /// The limits of a lane.
    pub(crate) fn of(settings: &ConsumerSettings) -> Self {
        Self {
            timeout: settings.timeout,
            cancel_grace: settings.cancel_grace,
        }
    }
}

/// How an execution ended, and whether the handler ignored its cancellation.
#[derive(Debug, PartialEq)]
pub(crate) struct Executed {
    pub(crate) ending: Ending,
    pub(crate) ignored_cancellation: bool,
}

/// Runs a handler once, for at most its limits. Only a handler that blocks its thread takes longer:
/// the lane finds such handlers.
pub(crate) async fn execute(
    handler: &dyn Handler,
    flight: &Arc<Flight>,
    seen: Seen,
    limits: Limits,
) -> Executed {
    flight.cancel.begin();
    // Destructors of what the handler owns can panic too.
    let supervised = AssertUnwindSafe(supervise(handler, flight, seen, limits)).catch_unwind();
    supervised.await.unwrap_or_else(|payload| {
        flight.handler_ended();
        Executed {
            ending: panicked(payload),
            ignored_cancellation: false,
        }
    })
}

async fn supervise(
    handler: &dyn Handler,
    flight: &Arc<Flight>,
    seen: Seen,
    limits: Limits,
) -> Executed {
    let (cancelled, last, ignored_cancellation) = {
        let context = Context::new(Arc::clone(flight), seen);
        // Call `handle` inside the future, to catch a panic before the handler's first await too.
        let handling =
            AssertUnwindSafe(async move { handler.handle(context).await }).catch_unwind();
        let mut handling = pin!(handling);
        let started = flight.handler_started(limits.timeout);
        let mut last = None;
        let cancelled = tokio::select! {
            biased;
            ended = &mut handling => {
                let ended = ended.map_or_else(panicked, Ending::from);
                // A handler can react to its cancellation and end before this `select!` sees it.
                let Some(reason) = flight.cancel.reason() else {
                    flight.handler_ended();
                    return Executed { ending: ended, ignored_cancellation: false };
                };
                last = Some(ended);
                reason
            }
            reason = flight.cancel.requested() => reason,
            // Create the timer only if the handler waits: a timer costs more than handling a small
            // message.
            () = async { sleep_until(started + limits.timeout).await } => CancelReason::Timeout,
        };
        flight.cancel.request(cancelled);
        let mut ignored_cancellation = false;
        if last.is_none() && flight.cancel.is_observed() {
            match timeout(limits.cancel_grace, &mut handling).await {
                Ok(ended) => last = Some(ended.map_or_else(panicked, Ending::from)),
                Err(_) => ignored_cancellation = true,
            }
        }
        (cancelled, last, ignored_cancellation)
        // The handler's future is dropped here, before `handler_ended`. Destructors of what it owns
        // are user code and can block, and must still count as the handler running.
    };
    flight.handler_ended();
    let ending = match (cancelled, last) {
        // The handler finished all the same, so the message need not run again.
        (
            _,
            Some(
                done @ Ending::Handled(
                    Outcome::Succeeded | Outcome::Dropped { .. } | Outcome::Duplicate,
                ),
            ),
        ) => done,
        (CancelReason::Timeout, _) => Ending::TimedOut {
            after: limits.timeout,
        },
        (CancelReason::Drain | CancelReason::Operator, _) => Ending::Interrupted,
    };
    Executed {
        ending,
        ignored_cancellation,
    }
}

pub(super) fn panicked(payload: Box<dyn Any + Send>) -> Ending {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned());
    let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
    Ending::Panicked {
        message: text.unwrap_or_else(|| "panicked".to_owned()),
    }
}
