//! The path of one delivery, from the broker's hands to what the broker is told.
//!
//! `decode -> dispatch -> execute -> decide -> settle`. Every step is total: nothing leaves the
//! path but by an [`End`], so that no delivery can escape its settlement.

pub(crate) mod dispatch;
pub(crate) mod ends;
pub(crate) mod execute;
pub(crate) mod shared;
pub(crate) mod starts;

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
use tracing::{debug, error, info, warn};

use crate::{
    broker::{CopyHeaders, Publication, PublishError, Reconnect, ReconnectSettings, Written},
    dead_letters, decode,
    flight::{Run, within},
    outcome::{Failure, Outcome},
    policy::{self, Facts, Reason, Settlement},
    status::End,
};
use ends::Ended;
use execute::{Executed, execute};
use shared::LaneShared;

/// Longer delays, from a handler's snooze or a header, mean never, and are cut to this: ten years.
/// A time must fit its header.
const LONGEST_DELAY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// Starts a runner on the handlers' runtime: see [`starts`](super::starts).
pub(crate) fn run_on(lane: &Arc<LaneShared>) {
    lane.runtime.spawn(carry_all(Arc::clone(lane)));
}

/// Carries deliveries along their paths until none waits to be started.
async fn carry_all(lane: Arc<LaneShared>) {
    let (mut now, mut first) = (Instant::now(), true);
    while let Some(run) = lane.starts.take(mem::take(&mut first), now) {
        run.permit().granted();
        let mut left = false;
        let end = {
            let mut path = pin!(carry(&lane, &run));
            let step = poll_fn(|cx| {
                let end = path.as_mut().poll(cx);
                let needs_runner = match (&end, left) {
                    (Poll::Ready(_), _) => false,
                    // From here on this task is its own.
                    (Poll::Pending, false) => lane.starts.leave(),
                    // Nobody but another runner can take the slot that it has given back.
                    (Poll::Pending, true) => !run.permit().is_held() && lane.starts.pass_on(),
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
            lane.ends.report(Ended { run, end });
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
async fn carry(lane: &LaneShared, run: &Arc<Run>) -> Option<End> {
    let end = or_hold(run, travel(lane, run)).await;
    run.permit().release();
    end
}

/// A panic in the path is a fault of ours (a handler's is an outcome). The delivery must not be
/// stuck with it: the lane gives it back after a while, and says so.
async fn or_hold(run: &Run, path: impl Future<Output = Option<End>>) -> Option<End> {
    let end = AssertUnwindSafe(path).catch_unwind().await;
    end.unwrap_or_else(|_| {
        error!(lane = %run.lane, id = run.message.id(), "path panicked: lane held, message stays in its queue");
        Some(End::Hold)
    })
}

/// The path. `None` when the lane has settled the delivery meanwhile, because its handler was
/// stuck.
async fn travel(lane: &LaneShared, run: &Arc<Run>) -> Option<End> {
    let early = run.message.early_by();
    if !early.is_zero() {
        run.permit().release();
        return Some(Box::pin(park(lane, run, early)).await);
    }
    loop {
        if !lane.is_current(run.epoch) {
            return Some(End::Stale);
        }
        let trace = lane.telemetry.begin(run);
        let outcome = within(trace.as_ref(), handle(lane, run)).await;
        run.permit().release();
        if !run.claim() {
            lane.counters.stale_settles.add_one();
            return None;
        }
        let took = run.handled_for();
        lane.counters.ended(&outcome, took);
        lane.telemetry.ended(run, &outcome, took);
        match within(trace.as_ref(), settle(lane, run, &outcome)).await {
            Next::End(end) => return Some(end),
            Next::Again => {
                run.unclaim();
                // A drain waits for handlers that run, not for those that have yet to begin.
                let has_slot = tokio::select! {
                    biased;
                    () = lane.drain.cancelled() => false,
                    () = lane.starts.retake(run.permit()) => true,
                };
                if !has_slot {
                    if !run.claim() {
                        return None;
                    }
                    return Some(Box::pin(park(lane, run, Duration::ZERO)).await);
                }
            }
        }
    }
}

/// Settles a delivery whose handler blocks its thread and will not come back in time.
pub(crate) async fn settle_stuck(lane: Arc<LaneShared>, run: Arc<Run>, outcome: Outcome) {
    let settled = async {
        let took = run.handling_for();
        lane.counters.ended(&outcome, took);
        lane.telemetry.ended(&run, &outcome, took);
        match settle(&lane, &run, &outcome).await {
            Next::End(end) => Some(end),
            Next::Again => Some(park(&lane, &run, Duration::ZERO).await),
        }
    };
    let trace = run.attempt_trace().map(|trace| trace.context);
    let settled = within(trace.as_ref(), settled);
    if let Some(end) = or_hold(&run, settled).await {
        lane.ends.report(Ended { run, end });
    }
}

async fn handle(lane: &LaneShared, run: &Arc<Run>) -> Outcome {
    let handler = match lane.dispatch.route(&run.message) {
        Ok(handler) => handler,
        Err(outcome) => return outcome,
    };
    if handler.wants_checked_json()
        && let Err(outcome) = decode::check(&run.message)
    {
        return outcome;
    }
    let Executed {
        outcome,
        ignored_cancellation,
    } = execute(handler.as_ref(), run, lane.limits).await;
    if ignored_cancellation {
        lane.counters.handler_stuck.add_one();
        warn!(lane = %run.lane, id = run.message.id(), "handler ignored its cancellation and was dropped");
    }
    outcome
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
async fn settle(lane: &LaneShared, run: &Run, outcome: &Outcome) -> Next {
    let facts = || Facts {
        attempt: run.attempt(),
        age: run.age(),
        random: rand::random(),
    };
    let settlement = policy::decide(&lane.settings.retry, outcome, facts);
    lane.vitals.note(run, outcome, &settlement);
    match settlement {
        Settlement::Ack => {
            debug!(lane = %run.lane, id = run.message.id(), attempt = run.attempt(), outcome = outcome.name(), "message acked");
            lane.telemetry.done(&run.message);
            Next::End(match outcome {
                Outcome::Dropped { .. } => End::Dropped,
                _ => End::Done,
            })
        }
        Settlement::Return => Next::End(End::Return),
        Settlement::DeadLetter { reason } => {
            Next::End(Box::pin(dead_letter(lane, run, outcome, reason)).await)
        }
        Settlement::Retry { after, charged } => {
            Box::pin(retry(lane, run, outcome, after, charged)).await
        }
    }
}

fn note_failure(lane: &LaneShared, run: &Run, failure: &Failure, after: Duration) {
    dead_letters::charge(run, failure, &lane.worker);
    info!(
        lane = %run.lane, id = run.message.id(), attempt = run.attempt(),
        class = %failure.class, status = failure.status, error = %failure.error,
        retry_in = ?after, "attempt failed",
    );
}

/// Retry with backoff: a short delay waits here, without a handler slot; a longer one at the
/// broker.
async fn retry(
    lane: &LaneShared,
    run: &Run,
    outcome: &Outcome,
    after: Duration,
    charged: bool,
) -> Next {
    // The broker redelivers what came by a channel that has died: a copy of ours would be a
    // second one.
    if !lane.is_current(run.epoch) {
        return Next::End(End::Stale);
    }
    if let (true, Some(failure)) = (charged, outcome.failure()) {
        note_failure(lane, run, &failure, after);
    }
    let waiting = match after < lane.settings.retry.inline_below {
        true => lane.wait_inline(),
        false => None,
    };
    let Some(_waiting) = waiting else {
        return Next::End(park(lane, run, after).await);
    };
    lane.counters.inline_retries.add_one();
    run.wait_begins();
    let until = Instant::now() + after;
    tokio::select! {
        () = tokio::time::sleep_until(until) => {
            if charged {
                run.next_attempt();
            }
            Next::Again
        }
        () = lane.drain.cancelled() => {
            run.handler_ended();
            let left = until.saturating_duration_since(Instant::now());
            Next::End(park(lane, run, left).await)
        }
    }
}

/// Parks a copy on the rung for this delay.
async fn park(lane: &LaneShared, run: &Run, delay: Duration) -> End {
    const MILLISECOND: Duration = Duration::from_millis(1);
    let delay = delay.clamp(MILLISECOND, LONGEST_DELAY);
    let (rung, stay) = lane.ladder.park(delay);
    // What the ladder cannot hold in one go is parked again when it comes back. The header has
    // whole milliseconds, and early is worse than late.
    let not_before = (stay < delay).then(|| SystemTime::now() + delay + MILLISECOND);
    let headers = dead_letters::parked(run, stay, not_before);
    let end = republish(lane, run, &rung.queue, headers, End::Parked).await;
    if end == End::Parked {
        lane.stats.parked_on(&rung.queue);
        info!(lane = %run.lane, id = run.message.id(), attempt = run.attempt(), delay = ?delay, rung = rung.queue, "message parked for retry");
    }
    end
}

/// Puts a copy in the dead-letter queue, with the whole record.
async fn dead_letter(lane: &LaneShared, run: &Run, outcome: &Outcome, reason: Reason) -> End {
    let failure = outcome.failure();
    let failure = failure.unwrap_or_else(|| Failure::permanent("unknown", outcome.name()));
    dead_letters::charge(run, &failure, &lane.worker);
    let headers = dead_letters::dead_lettered(run, &failure, reason, &lane.worker);
    let queue = lane.settings.dead_letter_queue();
    let end = republish(lane, run, &queue, headers, End::DeadLettered).await;
    if end == End::DeadLettered {
        lane.stats.dead_lettered(reason);
        warn!(
            lane = %run.lane, id = run.message.id(), attempt = run.attempt(), %reason,
            class = %failure.class, status = failure.status, error = %failure.error,
            queue, "message dead-lettered",
        );
    }
    end
}

/// Publishes a copy until the broker confirms it; only then may the original be acked. A crash
/// in between makes a duplicate, the other order would make a loss.
async fn republish(
    lane: &LaneShared,
    run: &Run,
    queue: &str,
    headers: CopyHeaders,
    confirmed: End,
) -> End {
    let message = Publication {
        exchange: "",
        routing_key: queue,
        body: run.message.body(),
        properties: Written::Copy(&run.message.properties, headers),
    };
    let mut give_up = Instant::now() + lane.publish.budget;
    let mut draining = false;
    let mut backoff = Reconnect::new(&ReconnectSettings {
        base: Duration::from_millis(50),
        cap: Duration::from_secs(2),
    });
    loop {
        if !lane.is_current(run.epoch) {
            return End::Stale;
        }
        let publishing = lane.telemetry.publish(queue, &run.message);
        let published = tokio::select! {
            // What is confirmed need not go back, and be there twice.
            biased;
            published = lane.publisher.publish(&message) => published,
            () = lane.hard_stop.cancelled() => return End::Return,
            () = blocked_in_drain(lane) => return End::Return,
        };
        lane.telemetry.published(queue, publishing, &published);
        let Err(failed) = published else {
            return confirmed;
        };
        lane.counters.publish_failures.add_one();
        let wait = backoff.next();
        if !draining && lane.drain.is_cancelled() {
            draining = true;
            give_up = give_up.min(Instant::now() + DRAIN_BUDGET);
        }
        if Instant::now() + wait > give_up {
            error!(lane = %run.lane, id = run.message.id(), queue, error = %failed, "copy not confirmed: lane held, message stays in its queue");
            return End::Hold;
        }
        debug!(lane = %run.lane, id = run.message.id(), queue, error = %failed, retry_in = ?wait, "copy not confirmed");
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
async fn blocked_in_drain(lane: &LaneShared) {
    lane.drain.cancelled().await;
    lane.publisher.blocked().await;
}
