//! The path of one delivery, from its handler slot to its end.
//!
//! [`travel`] is the whole path: `dispatch -> read -> execute -> forward -> decide -> settle`. Each
//! step gives a value and no error. A delivery leaves the path only by an [`End`], so every
//! delivery is settled.

mod back;
mod canary;
mod dispatch;
mod ends;
mod execute;
mod forward;
mod kept;
mod lane;
mod read;
mod republish;
mod runner;
mod service;
mod start_queue;

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    broker::Broker,
    chance, dead_letters,
    flight::{Flight, within},
    outcome::{Ending, Failure, OutcomeKind},
    policy::{self, Facts, Settlement},
    retry::RetrySettings,
    status::End,
};
pub(crate) use back::copy_back;
pub(crate) use dispatch::{Dispatch, Handlers};
pub(crate) use ends::{Ended, Ends};
pub(crate) use lane::{Lane, Live};
pub(crate) use read::reading_permits;
pub(crate) use runner::run_on;
pub(crate) use service::Service;
pub(crate) use start_queue::{RateLimit, StartQueue};

use dispatch::Route;
use execute::{Executed, execute};
use forward::forward;
use read::read;
use republish::{dead_letter, park, retry};
use runner::or_fault;

/// Carries a delivery that has got its slot `now` to its end, and waits until this end can be booked.
/// `None`: the handler was stuck, and the lane has claimed the delivery.
async fn carry_to_end<B: Broker>(
    lane: &Lane<B>,
    flight: &Arc<Flight>,
    now: Instant,
) -> Option<End> {
    let end = travel(lane, flight, now).await?;
    flight.slot.give_back();
    if end.is_final() {
        // If the session has ended, the end settles the next delivery of the message.
        lane.has_place(flight).await;
    }
    Some(end)
}

/// Reports the end of a delivery whose session has ended before its ack was written, once this end can
/// be booked.
pub(crate) async fn end_at_next_place<B: Broker>(
    lane: Arc<Lane<B>>,
    flight: Arc<Flight>,
    end: End,
) {
    lane.has_place(&flight).await;
    lane.ends.report(Ended { flight, end });
}

/// Carries a delivery that has a slot to its end. `None`: the handler was stuck, and the lane has
/// claimed the delivery.
async fn travel<B: Broker>(lane: &Lane<B>, flight: &Arc<Flight>, mut now: Instant) -> Option<End> {
    let early = flight.message.early_by();
    // A message that no route takes need not wait for its time.
    if !early.is_zero()
        && let Some(route) = lane.dispatch.route(flight)
    {
        // The clocks of two workers differ by a little, so a little too early is no reason to park the
        // message again.
        let terms = &route.retry;
        if let Some(end) = put_off(lane, flight, terms, early).await {
            return Some(end);
        }
        now = Instant::now();
    }
    loop {
        // The session has ended: the broker has the delivery back.
        if !lane.is_current(flight.session()) {
            return Some(End::Stale);
        }
        let route = lane.dispatch.route(flight);
        let terms = retry_settings(lane, route);
        let expired = flight.message.expired_by();
        let is_too_old = flight.age_at(now) >= terms.max_age;
        // A message that runs no handler takes no turn.
        let wait = match route {
            Some(route) if expired.is_none() && !lane.service.is_down() => {
                route.wait(now, flight, !is_too_old)
            }
            _ => None,
        };
        if let Some(wait) = wait
            && !is_too_old
        {
            match put_off(lane, flight, terms, wait).await {
                Some(end) => return Some(end),
                None => {
                    now = Instant::now();
                    continue;
                }
            }
        }
        let trace = lane.watch.attempt_began(flight);
        let ending = match (expired, route, wait) {
            (Some(by), _, _) => Ending::Expired { by },
            (None, Some(_), Some(_)) => Ending::Unavailable(too_old()),
            (None, Some(route), None) => within(trace.as_ref(), handle(lane, flight, route)).await,
            (None, None, _) => lane.dispatch.no_route(flight),
        };
        let was_asked = wait.is_none();
        flight.slot.give_back();
        if !flight.claim() {
            lane.watch.stale_end();
            return None;
        }
        let settled = async {
            let ending = forward(lane, flight, terms, ending).await;
            settle(lane, flight, terms, ending, was_asked).await
        };
        let next = within(trace.as_ref(), settled).await;
        let (after, charged) = match next {
            Next::End(end) => return Some(end),
            Next::Retry { after, charged } => (after, charged),
        };
        let waiting = Box::pin(retry(lane, flight, terms, after, charged));
        if let Some(end) = within(trace.as_ref(), waiting).await {
            return Some(end);
        }
        now = Instant::now();
    }
}

/// Puts off an attempt that has a slot and has not begun. `None`: the delay is over, and the flight has a
/// slot again.
async fn put_off<B: Broker>(
    lane: &Lane<B>,
    flight: &Flight,
    terms: &RetrySettings,
    delay: Duration,
) -> Option<End> {
    flight.claim();
    flight.slot.give_back();
    Box::pin(retry(lane, flight, terms, delay, false)).await
}

/// Settles a delivery that the lane has claimed from a handler that blocks its thread.
pub(crate) async fn settle_stuck<B: Broker>(
    lane: Arc<Lane<B>>,
    flight: Arc<Flight>,
    ending: Ending,
) {
    let terms = retry_settings(&lane, lane.dispatch.route(&flight));
    let settled = async {
        let end = match settle(&lane, &flight, terms, ending, true).await {
            Next::End(end) => end,
            // Park the retry, however short its delay. A retry that waits in the worker is not
            // claimed, so the path of the stuck handler would settle it when that handler ends.
            Next::Retry { after, .. } => park(&lane, &flight, after).await,
        };
        if end.is_final() {
            lane.has_place(&flight).await;
        }
        Some(end)
    };
    let trace = flight.attempt_trace().map(|trace| trace.context);
    let settled = within(trace.as_ref(), settled);
    if let Some(end) = or_fault(&flight, settled).await {
        lane.ends.report(Ended { flight, end });
    }
}

/// The route's retry settings. Without a route the message is not retried, so the lane's settings
/// only fill the place.
fn retry_settings<'a, B: Broker>(lane: &'a Lane<B>, route: Option<&'a Route>) -> &'a RetrySettings {
    route.map_or(&lane.settings.retry, |route| &route.retry)
}

/// Runs the handler, if the message can be read as the settings and the handler demand.
async fn handle<B: Broker>(lane: &Lane<B>, flight: &Arc<Flight>, route: &Route) -> Ending {
    flight.outbox.begin(lane.settings.forward.wants_results());
    let seen = match read(&lane.readings, flight, route).await {
        Ok(seen) => seen,
        Err(ending) => return ending,
    };
    let Executed {
        ending,
        ignored_cancellation,
    } = execute(route.handler.as_ref(), flight, seen, route.limits).await;
    if ignored_cancellation {
        lane.watch.ignored_cancellation(flight);
    }
    ending
}

/// The next step after an attempt.
enum Next {
    /// The end of the path.
    End(End),
    /// A retry after this delay. `charged`: the last attempt counts.
    Retry { after: Duration, charged: bool },
}

/// The failure of a message that is too old to wait for its service, which is down. To run it would take
/// a slot from other routes for as long as the service gives no answer.
fn too_old() -> Failure {
    let text = "the service of its route is down, and the message is older than `retry.max_age`";
    Failure::unavailable("service-down", text)
}

/// Asks the policy what follows the end of an attempt, and carries out all but a retry. `was_asked`: the
/// end says something about the service.
async fn settle<B: Broker>(
    lane: &Lane<B>,
    flight: &Flight,
    terms: &RetrySettings,
    ending: Ending,
    was_asked: bool,
) -> Next {
    let ending = &policy::classify(terms, ending);
    lane.watch.attempt_ended(flight, ending);
    let excused = match was_asked {
        true => lane.judge(flight, terms, ending),
        false => Some(1),
    };
    let facts = || Facts {
        attempt: flight.attempt(),
        age: flight.age(),
        random: chance::fraction(),
        excused,
    };
    let settlement = policy::decide(terms, ending, facts);
    lane.watch.settled(flight, ending, &settlement);
    canary::report(lane, flight, ending, &settlement);
    match settlement {
        Settlement::Ack => Next::End(match ending.kind() {
            OutcomeKind::Dropped => End::Dropped,
            _ => End::Done,
        }),
        Settlement::Return => {
            lane.watch.interrupted(flight);
            Next::End(End::Return)
        }
        Settlement::DeadLetter { reason } => {
            Next::End(Box::pin(dead_letter(lane, flight, ending, reason)).await)
        }
        // The session has ended, and the broker has not delivered the message again to this lane. It
        // does so to somebody, so a copy would be a duplicate.
        Settlement::Retry { .. } | Settlement::Defer { .. } if !lane.has_place(flight).await => {
            Next::End(End::Stale)
        }
        // Park it, however short the delay: a retry that waits in the worker runs again while the
        // lane takes nothing.
        Settlement::Defer { after } => {
            if let Some(failure) = ending.failure() {
                lane.watch.failed(flight, &failure, after, false);
            }
            Next::End(Box::pin(park(lane, flight, after)).await)
        }
        Settlement::Retry { after, charged } => {
            if let (true, Some(failure)) = (charged, ending.failure()) {
                dead_letters::charge(flight, &failure, &lane.worker);
                lane.watch.failed(flight, &failure, after, true);
            }
            Next::Retry { after, charged }
        }
    }
}

#[cfg(test)]
mod tests;
