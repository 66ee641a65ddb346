//! The path of one delivery, from the broker's hands to what the broker is told.
//!
//! `decode -> dispatch -> execute -> decide -> settle`. Every step is total: nothing leaves the
//! path but by an [`End`], so that no delivery can escape its settlement.

mod dispatch;
mod ends;
mod execute;
mod lane;
mod start_queue;

use std::{
    future::poll_fn,
    mem,
    panic::AssertUnwindSafe,
    pin::pin,
    sync::Arc,
    task::Poll,
    time::{Duration, SystemTime},
};

use futures_util::FutureExt;
use tokio::time::Instant;
use tracing::error;

use crate::{
    backoff::Reconnect,
    broker::{CopyHeaders, Publication, PublishError, Written},
    config::ReconnectSettings,
    dead_letters, decode,
    flight::{Flight, within},
    outcome::{Ending, Failure, OutcomeKind},
    policy::{self, Facts, Reason, Settlement},
    status::End,
};
pub(crate) use dispatch::Dispatch;
pub(crate) use ends::Ended;
use execute::{Executed, execute};
pub(crate) use lane::{Lane, LaneParts};

/// Longer delays, from a handler's snooze or a header, mean never, and are cut to this: ten years.
/// A time must fit its header.
const LONGEST_DELAY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// StartQueue a runner on the handlers' runtime: see [`starts`](super::starts).
pub(crate) fn run_on(lane: &Arc<Lane>) {
    lane.runtime.spawn(carry_all(Arc::clone(lane)));
}

/// Carries deliveries along their paths until none waits to be started.
async fn carry_all(lane: Arc<Lane>) {
    let (mut now, mut first) = (Instant::now(), true);
    while let Some(flight) = lane.starts.take(mem::take(&mut first), now) {
        flight.permit().granted();
        let mut left = false;
        let end = {
            let mut path = pin!(carry(&lane, &flight));
            let step = poll_fn(|cx| {
                let end = path.as_mut().poll(cx);
                let needs_runner = match (&end, left) {
                    (Poll::Ready(_), _) => false,
                    // From here on this task is its own.
                    (Poll::Pending, false) => lane.starts.leave(),
                    // Nobody but another runner can take the slot that it has given back.
                    (Poll::Pending, true) => !flight.permit().is_held() && lane.starts.pass_on(),
                };
                left |= end.is_pending();
                if needs_runner {
                    run_on(&lane);
                }
                end
            });
            step.await
        };
        if let Some(end) = end {
            lane.ends.report(Ended { flight, end });
        }
        let began = mem::replace(&mut now, Instant::now());
        if left {
            lane.starts.join();
        } else if lane.starts.split(now - began) {
            // The second of two that are spawned here is what this thread turns to next, and no
            // other can take it; the first one can be taken. A task that went on here itself would
            // leave the only other one where nobody can take it.
            run_on(&lane);
            run_on(&lane);
            return;
        }
        // To the other tasks of the runtime this must not look like one that never yields.
        tokio::task::coop::consume_budget().await;
    }
}

/// Carries one delivery along its path. `None` when the lane has settled it meanwhile.
async fn carry(lane: &Lane, flight: &Arc<Flight>) -> Option<End> {
    let end = or_hold(flight, travel(lane, flight)).await;
    flight.permit().release();
    end
}

/// A panic in the path is a fault of ours (a handler's is an outcome). The delivery must not be
/// stuck with it: the lane gives it back after a while, and says so.
async fn or_hold(flight: &Flight, path: impl Future<Output = Option<End>>) -> Option<End> {
    let end = AssertUnwindSafe(path).catch_unwind().await;
    end.unwrap_or_else(|_| {
        error!(lane = %flight.lane, id = flight.message.id(), "path panicked: lane held, message stays in its queue");
        Some(End::Hold)
    })
}

/// The path. `None` when the lane has settled the delivery meanwhile, because its handler was
/// stuck.
async fn travel(lane: &Lane, flight: &Arc<Flight>) -> Option<End> {
    let early = flight.message.early_by();
    if !early.is_zero() {
        flight.permit().release();
        return Some(Box::pin(park(lane, flight, early)).await);
    }
    loop {
        if !lane.is_current(flight.epoch) {
            return Some(End::Stale);
        }
        let trace = lane.watch.attempt_began(flight);
        let ending = within(trace.as_ref(), handle(lane, flight)).await;
        flight.permit().release();
        if !flight.claim() {
            lane.watch.stale_end();
            return None;
        }
        lane.watch.attempt_ended(flight, &ending);
        match within(trace.as_ref(), settle(lane, flight, &ending)).await {
            Next::End(end) => return Some(end),
            Next::Again => {
                flight.unclaim();
                // A drain waits for handlers that run, not for those that have yet to begin.
                let has_slot = tokio::select! {
                    biased;
                    () = lane.drain.cancelled() => false,
                    () = lane.starts.retake(flight.permit()) => true,
                };
                if !has_slot {
                    if !flight.claim() {
                        return None;
                    }
                    return Some(Box::pin(park(lane, flight, Duration::ZERO)).await);
                }
            }
        }
    }
}

/// Settles a delivery whose handler blocks its thread and will not come back in time.
pub(crate) async fn settle_stuck(lane: Arc<Lane>, flight: Arc<Flight>, ending: Ending) {
    let settled = async {
        lane.watch.attempt_ended(&flight, &ending);
        match settle(&lane, &flight, &ending).await {
            Next::End(end) => Some(end),
            Next::Again => Some(park(&lane, &flight, Duration::ZERO).await),
        }
    };
    let trace = flight.attempt_trace().map(|trace| trace.context);
    let settled = within(trace.as_ref(), settled);
    if let Some(end) = or_hold(&flight, settled).await {
        lane.ends.report(Ended { flight, end });
    }
}

async fn handle(lane: &Lane, flight: &Arc<Flight>) -> Ending {
    let handler = match lane.dispatch.route(&flight.message) {
        Ok(handler) => handler,
        Err(ending) => return ending,
    };
    if handler.wants_checked_json()
        && let Err(failure) = decode::check(&flight.message)
    {
        return Ending::Undecodable(failure);
    }
    let Executed {
        ending,
        ignored_cancellation,
    } = execute(handler.as_ref(), flight, lane.limits).await;
    if ignored_cancellation {
        lane.watch.ignored_cancellation(flight);
    }
    ending
}

/// What a settled outcome leads to.
enum Next {
    /// The end of the path.
    End(End),
    /// A further attempt, now.
    Again,
}

/// Decides what follows, and carries it out. Nearly always that is an ack; what else it can be is
/// boxed, so that the future of a path, which is moved into its task, stays small.
async fn settle(lane: &Lane, flight: &Flight, ending: &Ending) -> Next {
    let facts = || Facts {
        attempt: flight.attempt(),
        age: flight.age(),
        random: rand::random(),
    };
    let settlement = policy::decide(&lane.settings.retry, ending, facts);
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
        Settlement::Retry { after, charged } => {
            Box::pin(retry(lane, flight, ending, after, charged)).await
        }
    }
}

/// Retry with backoff: a short delay waits here, without a handler slot; a longer one at the
/// broker.
async fn retry(
    lane: &Lane,
    flight: &Flight,
    ending: &Ending,
    after: Duration,
    charged: bool,
) -> Next {
    // The broker redelivers what came by a channel that has died: a copy of ours would be a
    // second one.
    if !lane.is_current(flight.epoch) {
        return Next::End(End::Stale);
    }
    if let (true, Some(failure)) = (charged, ending.failure()) {
        dead_letters::charge(flight, &failure, &lane.worker);
        lane.watch.failed(flight, &failure, after);
    }
    let waiting = match after < lane.settings.retry.inline_below {
        true => lane.wait_inline(),
        false => None,
    };
    let Some(_waiting) = waiting else {
        return Next::End(park(lane, flight, after).await);
    };
    lane.watch.waits_inline();
    flight.wait_begins();
    let until = Instant::now() + after;
    tokio::select! {
        () = tokio::time::sleep_until(until) => {
            if charged {
                flight.next_attempt();
            }
            Next::Again
        }
        () = lane.drain.cancelled() => {
            flight.handler_ended();
            let left = until.saturating_duration_since(Instant::now());
            Next::End(park(lane, flight, left).await)
        }
    }
}

/// Parks a copy on the rung for this delay.
async fn park(lane: &Lane, flight: &Flight, delay: Duration) -> End {
    const MILLISECOND: Duration = Duration::from_millis(1);
    let delay = delay.clamp(MILLISECOND, LONGEST_DELAY);
    let (rung, stay) = lane.ladder.park(delay);
    // What the ladder cannot hold in one go is parked again when it comes back. The header has
    // whole milliseconds, and early is worse than late.
    let not_before = (stay < delay).then(|| SystemTime::now() + delay + MILLISECOND);
    let headers = dead_letters::parked(flight, stay, not_before);
    let end = republish(lane, flight, &rung.queue, headers, End::Parked).await;
    if end == End::Parked {
        lane.watch.parked(flight, &rung.queue, delay);
    }
    end
}

/// Puts a copy in the dead-letter queue, with the whole record.
async fn dead_letter(lane: &Lane, flight: &Flight, ending: &Ending, reason: Reason) -> End {
    let failure = ending.failure();
    let failure = failure.unwrap_or_else(|| Failure::permanent("unknown", ending.kind().name()));
    dead_letters::charge(flight, &failure, &lane.worker);
    let headers = dead_letters::dead_lettered(flight, &failure, reason, &lane.worker);
    let queue = lane.settings.dead_letter_queue();
    let end = republish(lane, flight, &queue, headers, End::DeadLettered).await;
    if end == End::DeadLettered {
        lane.watch.dead_lettered(flight, &failure, reason, &queue);
    }
    end
}

/// Publishes a copy until the broker confirms it; only then may the original be acked. A crash
/// in between makes a duplicate, the other order would make a loss.
async fn republish(
    lane: &Lane,
    flight: &Flight,
    queue: &str,
    headers: CopyHeaders,
    confirmed: End,
) -> End {
    let message = Publication {
        exchange: "",
        routing_key: queue,
        body: flight.message.body(),
        properties: Written::Copy(&flight.message.properties, headers),
    };
    let mut give_up = Instant::now() + lane.publish.budget;
    let mut draining = false;
    let mut backoff = Reconnect::new(&ReconnectSettings {
        base: Duration::from_millis(50),
        cap: Duration::from_secs(2),
    });
    loop {
        if !lane.is_current(flight.epoch) {
            return End::Stale;
        }
        let publishing = lane.watch.publishing(queue, &flight.message);
        let published = tokio::select! {
            // What is confirmed need not go back, and be there twice.
            biased;
            published = lane.publisher.publish(&message) => published,
            () = lane.hard_stop.cancelled() => return End::Return,
            () = blocked_in_drain(lane) => return End::Return,
        };
        lane.watch.published(queue, publishing, &published);
        let Err(failed) = published else {
            return confirmed;
        };
        let wait = backoff.next();
        if !draining && lane.drain.is_cancelled() {
            draining = true;
            give_up = give_up.min(Instant::now() + DRAIN_BUDGET);
        }
        if Instant::now() + wait > give_up {
            lane.watch.not_confirmed(flight, queue, &failed, None);
            return End::Hold;
        }
        lane.watch.not_confirmed(flight, queue, &failed, Some(wait));
        if let PublishError::Returned(_) = failed {
            lane.restore(queue).await;
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = lane.hard_stop.cancelled() => return End::Return,
        }
    }
}

/// What cannot be published is tried for this much longer when a drain has begun: the original goes
/// back as well, and no handler is waited for.
const DRAIN_BUDGET: Duration = Duration::from_secs(1);

/// An alarm can last for hours, which is no reason for a drain to use up its grace.
async fn blocked_in_drain(lane: &Lane) {
    lane.drain.cancelled().await;
    lane.publisher.blocked().await;
}
