//! Running a handler: under a timeout, cancellable, and with its panics caught.

use std::{any::Any, panic::AssertUnwindSafe, pin::pin, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::time::{sleep_until, timeout};

use crate::{
    consumer::ConsumerSettings,
    flight::{CancelReason, Flight},
    handler::{Context, Handler},
    outcome::{Ending, Outcome},
};

/// How long a handler may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// For one run.
    pub(crate) timeout: Duration,
    /// To heed its cancellation, where it asked for it.
    pub(crate) cancel_grace: Duration,
}

impl Limits {
    /// Those of a lane.
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

/// Runs a handler once. Always comes back, unless the handler blocks its thread; the lane looks
/// for those.
pub(crate) async fn execute(
    handler: &dyn Handler,
    flight: &Arc<Flight>,
    limits: Limits,
) -> Executed {
    flight.cancel.begin();
    // What a handler holds can panic too, when it is dropped with it.
    let supervised = AssertUnwindSafe(supervise(handler, flight, limits)).catch_unwind();
    supervised.await.unwrap_or_else(|payload| {
        flight.handler_ended();
        Executed {
            ending: panicked(payload),
            ignored_cancellation: false,
        }
    })
}

async fn supervise(handler: &dyn Handler, flight: &Arc<Flight>, limits: Limits) -> Executed {
    let (cancelled, last, ignored_cancellation) = {
        let context = Context::new(Arc::clone(flight));
        // Inside the future, so that a handler that panics before its first await is caught too.
        let handling =
            AssertUnwindSafe(async move { handler.handle(context).await }).catch_unwind();
        let mut handling = pin!(handling);
        let started = flight.handler_started();
        let mut last = None;
        let cancelled = tokio::select! {
            biased;
            ended = &mut handling => {
                let ended = ended.map_or_else(panicked, Ending::from);
                // A handler that heeds its cancellation can end before this sees the cancellation.
                let Some(reason) = flight.cancel.reason() else {
                    flight.handler_ended();
                    return Executed { ending: ended, ignored_cancellation: false };
                };
                last = Some(ended);
                reason
            }
            reason = flight.cancel.requested() => reason,
            // Made only when the handler waits: a timer costs more than a small message does.
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
        // It finished in the end, and what is done need not be done again.
        (_, Some(done @ Ending::Handled(Outcome::Succeeded | Outcome::Dropped { .. }))) => done,
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

fn panicked(payload: Box<dyn Any + Send>) -> Ending {
    let text = payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned());
    let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
    Ending::Panicked {
        message: text.unwrap_or_else(|| "panicked".to_owned()),
    }
}
