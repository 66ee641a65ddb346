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

use crate::{
    broker::Broker,
    dead_letters, decode,
    flight::{Flight, within},
    outcome::{Ending, OutcomeKind},
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
        let trace = lane.watch.attempt_began(flight);
        let ending = match route {
            Ok(route) => within(trace.as_ref(), handle(lane, flight, route)).await,
            Err(unroutable) => unroutable,
        };
        flight.slot.give_back();
        if !flight.claim() {
            lane.watch.stale_end();
            return None;
        }
        let next = within(trace.as_ref(), settle(lane, flight, terms, &ending)).await;
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
    ending: Ending,
) {
    let terms = retry_settings(&lane, &lane.dispatch.route(&flight.message));
    let settled = async {
        match settle(&lane, &flight, terms, &ending).await {
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
    route: &Result<&'a Route, Ending>,
) -> &'a RetrySettings {
    match route {
        Ok(route) => &route.retry,
        Err(_) => &lane.settings.retry,
    }
}

/// Runs the handler, if the body is what it takes.
async fn handle<B: Broker>(lane: &Lane<B>, flight: &Arc<Flight>, route: &Route) -> Ending {
    if route.handler.wants_checked_json()
        && let Err(failure) = decode::check(&flight.message, route.decode)
    {
        return Ending::Undecodable(failure);
    }
    let Executed {
        ending,
        ignored_cancellation,
    } = execute(route.handler.as_ref(), flight, route.limits).await;
    if ignored_cancellation {
        lane.watch.ignored_cancellation(flight);
    }
    ending
}

/// What follows a settled outcome.
enum Next {
    /// The end of the path.
    End(End),
    /// A further attempt.
    Retry { after: Duration, charged: bool },
}

/// Carries out what the policy decides on an attempt's end.
async fn settle<B: Broker>(
    lane: &Lane<B>,
    flight: &Flight,
    terms: &RetrySettings,
    ending: &Ending,
) -> Next {
    lane.watch.attempt_ended(flight, ending);
    let facts = || Facts {
        attempt: flight.attempt(),
        age: flight.age(),
        random: rand::random(),
    };
    let settlement = policy::decide(terms, ending, facts);
    lane.watch.settled(flight, ending, &settlement);
    match settlement {
        Settlement::Ack => Next::End(match ending.kind() {
            OutcomeKind::Dropped => End::Dropped,
            _ => End::Done,
        }),
        Settlement::Return => Next::End(End::Return),
        Settlement::DeadLetter { reason } => {
            Next::End(Box::pin(dead_letter(lane, flight, ending, reason)).await)
        }
        // The broker redelivers the original: a copy would be a second one.
        Settlement::Retry { .. } if !lane.is_current(flight.session) => Next::End(End::Stale),
        Settlement::Retry { after, charged } => {
            if let (true, Some(failure)) = (charged, ending.failure()) {
                dead_letters::charge(flight, &failure, &lane.worker);
                lane.watch.failed(flight, &failure, after);
            }
            Next::Retry { after, charged }
        }
    }
}

#[cfg(test)]
mod tests;
