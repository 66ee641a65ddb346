//! The path of one delivery, from its handler slot to what the broker is told.
//!
//! [`travel`] is the whole path: `dispatch -> decode check -> execute -> decide -> settle`. Every
//! step is total. Nothing leaves the path but by an [`End`], so no delivery can escape its
//! settlement.

mod dispatch;
mod ends;
mod execute;
mod lane;
mod republish;
mod runner;
mod start_queue;

use std::{sync::Arc, time::Duration};

use tracing::{debug, info, warn};

use crate::{
    broker::Broker,
    dead_letters, decode,
    flight::{Flight, within},
    outcome::Outcome,
    policy::{self, Facts, Settlement},
    retry::RetrySettings,
    status::End,
};
pub(crate) use dispatch::{Dispatch, Handlers};
pub(crate) use ends::{Ended, Ends};
pub(crate) use execute::Limits;
pub(crate) use lane::{Lane, Live};
pub(crate) use runner::run_on;
pub(crate) use start_queue::{Gate, StartQueue};

use dispatch::Route;
use execute::{Executed, execute};
use republish::{dead_letter, park, retry};
use runner::or_fault;

/// Carries a delivery that has a slot to its end. `None`: the lane has settled the delivery
/// meanwhile, because its handler was stuck.
async fn travel<B: Broker>(lane: &Lane<B>, flight: &Arc<Flight>) -> Option<End> {
    let early = flight.message.early_by();
    if !early.is_zero() {
        flight.claim();
        flight.slot.give_back();
        return Some(Box::pin(park(lane, flight, early)).await);
    }
    loop {
        // The broker has taken back what a session held that has ended.
        if !lane.is_current(flight.session) {
            return Some(End::Stale);
        }
        let route = lane.dispatch.route(&flight.message);
        let terms = retry_settings(lane, &route);
        let trace = lane.telemetry.begin(flight);
        let outcome = match route {
            Ok(route) => within(trace.as_ref(), handle(lane, flight, route)).await,
            Err(unroutable) => unroutable,
        };
        flight.slot.give_back();
        if !flight.claim() {
            lane.counters.stale_settles.add_one();
            return None;
        }
        let next = within(trace.as_ref(), settle(lane, flight, terms, &outcome)).await;
        let (after, charged) = match next {
            Next::End(end) => return Some(end),
            Next::Retry { after, charged } => (after, charged),
        };
        let waiting = Box::pin(retry(lane, flight, terms, after, charged));
        if let Some(end) = within(trace.as_ref(), waiting).await {
            return Some(end);
        }
    }
}

/// Settles a delivery that the lane has claimed from a handler that blocks its thread.
pub(crate) async fn settle_stuck<B: Broker>(
    lane: Arc<Lane<B>>,
    flight: Arc<Flight>,
    outcome: Outcome,
) {
    let terms = retry_settings(&lane, &lane.dispatch.route(&flight.message));
    let settled = async {
        match settle(&lane, &flight, terms, &outcome).await {
            Next::End(end) => Some(end),
            // Parked, however short the delay: a delivery that waits in the worker is not claimed,
            // and the stuck handler's own path would settle it when it comes back.
            Next::Retry { after, .. } => Some(park(&lane, &flight, after).await),
        }
    };
    let trace = flight.attempt_trace().map(|trace| trace.context);
    let settled = within(trace.as_ref(), settled);
    if let Some(end) = or_fault(&flight, settled).await {
        lane.ends.report(Ended { flight, end });
    }
}

/// The route's retry settings. Without a route nothing is retried, and any will do.
fn retry_settings<'a, B: Broker>(
    lane: &'a Lane<B>,
    route: &Result<&'a Route, Outcome>,
) -> &'a RetrySettings {
    match route {
        Ok(route) => &route.retry,
        Err(_) => &lane.settings.retry,
    }
}

/// Runs the handler, if the body is what it takes.
async fn handle<B: Broker>(lane: &Lane<B>, flight: &Arc<Flight>, route: &Route) -> Outcome {
    if route.handler.wants_checked_json()
        && let Err(outcome) = decode::check(&flight.message, route.decode)
    {
        return outcome;
    }
    let Executed {
        outcome,
        ignored_cancellation,
    } = execute(route.handler.as_ref(), flight, route.limits).await;
    if ignored_cancellation {
        lane.counters.handler_stuck.add_one();
        warn!(lane = %flight.lane, id = flight.message.id(), "handler ignored its cancellation and was dropped");
    }
    outcome
}

/// What follows a settled outcome.
enum Next {
    /// The end of the path.
    End(End),
    /// A further attempt.
    Retry { after: Duration, charged: bool },
}

/// Carries out what the policy decides on an outcome.
async fn settle<B: Broker>(
    lane: &Lane<B>,
    flight: &Flight,
    terms: &RetrySettings,
    outcome: &Outcome,
) -> Next {
    let took = flight.handled_for();
    lane.counters.ended(outcome, took);
    lane.telemetry.ended(flight, outcome, took);
    let facts = || Facts {
        attempt: flight.attempt(),
        age: flight.age(),
        random: rand::random(),
    };
    let settlement = policy::decide(terms, outcome, facts);
    lane.vitals.note(flight, outcome, &settlement);
    match settlement {
        Settlement::Ack => {
            debug!(lane = %flight.lane, id = flight.message.id(), attempt = flight.attempt(), outcome = outcome.name(), "message acked");
            lane.telemetry.done(&flight.message);
            Next::End(match outcome {
                Outcome::Dropped { .. } => End::Dropped,
                _ => End::Done,
            })
        }
        Settlement::Return => Next::End(End::Return),
        Settlement::DeadLetter { reason } => {
            Next::End(Box::pin(dead_letter(lane, flight, outcome, reason)).await)
        }
        // The broker redelivers the original: a copy would be a second one.
        Settlement::Retry { .. } if !lane.is_current(flight.session) => Next::End(End::Stale),
        Settlement::Retry { after, charged } => {
            if charged {
                note_failure(lane, flight, outcome, after);
            }
            Next::Retry { after, charged }
        }
    }
}

/// Charges the attempt that has failed.
fn note_failure<B: Broker>(lane: &Lane<B>, flight: &Flight, outcome: &Outcome, after: Duration) {
    let Some(failure) = outcome.failure() else {
        return;
    };
    dead_letters::charge(flight, &failure, &lane.worker);
    info!(
        lane = %flight.lane, id = flight.message.id(), attempt = flight.attempt(),
        class = %failure.class, status = failure.status, error = %failure.error,
        retry_in = ?after, "attempt failed",
    );
}

#[cfg(test)]
mod tests;
