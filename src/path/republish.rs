//! Retries and dead letters: publishes a copy of the message, and waits for the broker's confirm.
//!
//! The original is acked only after the confirm. A crash in between makes a duplicate. The other
//! order would lose the message.

use std::{mem, pin::pin, time::Duration};

use tokio::time::{Instant, sleep, sleep_until};

use super::{Lane, kept};
use crate::{
    broker::{Broker, CopyHeaders, Publication, PublishError, Written},
    clock, dead_letters,
    flight::Flight,
    outcome::{Ending, Failure},
    policy::Reason,
    retry::RetrySettings,
    status::End,
};

/// The longest delay: ten years. A longer one, from a handler's snooze or a header, means never and
/// is cut to this, so that the time fits its header.
const LONGEST_DELAY: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// The wait before the next attempt with a copy that the broker refuses because of its message.
/// Nothing but a change at the broker helps, and each refusal closes a channel.
pub(super) const SELDOM: Duration = Duration::from_secs(60);

/// How long a drain tries to publish a copy after the first failure. Then the original goes back to
/// its queue, which loses nothing, so the drain need not wait longer.
pub(super) const DRAIN_BUDGET: Duration = Duration::from_secs(1);

/// Retry with backoff. A retry with a short delay waits in the worker, without a handler slot. A
/// retry with a longer delay waits at the broker. `None`: the delay is over, and the flight has a
/// slot for its next attempt.
pub(super) async fn retry<B: Broker>(
    lane: &Lane<B>,
    flight: &Flight,
    settings: &RetrySettings,
    after: Duration,
    charged: bool,
) -> Option<End> {
    let place = match settings.waits_in_worker(after) {
        true => lane.wait_inline(),
        false => None,
    };
    let Some(place) = place else {
        return Some(park(lane, flight, after).await);
    };
    lane.watch.waits_inline();
    flight.wait();
    let until = Instant::now() + after;
    let slot = async move {
        sleep_until(until).await;
        drop(place);
        if !lane.has_place(flight).await {
            return None;
        }
        if charged {
            flight.next_attempt();
        }
        let slot = lane.starts.retake();
        lane.has_used_rate();
        Some(slot.await)
    };
    tokio::select! {
        biased;
        // A drain waits for running handlers, but not for retries that have yet to start.
        () = lane.drain.cancelled() => {
            flight.claim();
            let left = until.saturating_duration_since(Instant::now());
            Some(park(lane, flight, left).await)
        }
        slot = slot => match slot {
            Some(slot) => {
                flight.slot.put(slot);
                None
            }
            None => Some(End::Stale),
        },
    }
}

/// Parks a message: publishes a copy to the rung for this delay.
pub(super) async fn park<B: Broker>(lane: &Lane<B>, flight: &Flight, delay: Duration) -> End {
    const MILLISECOND: Duration = Duration::from_millis(1);
    let delay = delay.clamp(MILLISECOND, LONGEST_DELAY);
    let (rung, stay) = lane.ladder.park(delay);
    // The copy comes back before its time if the delay is longer than the longest rung, or if a policy
    // at the broker shortens the time-to-live of the rung. Then it is parked again.
    let mut not_before = clock::now() + delay;
    if stay < delay {
        // The broker counts whole milliseconds in each of several stays: early is worse than late.
        not_before += MILLISECOND;
    }
    let headers = dead_letters::parked(flight, stay, not_before);
    let end = republish(lane, flight, &rung.queue, headers, End::Parked).await;
    if end == End::Parked {
        lane.watch.parked(flight, &rung.queue, delay);
    }
    end
}

/// Dead-letters a message: publishes a copy to the dead-letter queue, with a record of the failure.
pub(super) async fn dead_letter<B: Broker>(
    lane: &Lane<B>,
    flight: &Flight,
    ending: &Ending,
    reason: Reason,
) -> End {
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

/// Publishes a copy until the broker confirms it, and then returns `confirmed`. After
/// `publish.budget` the decision counts as kept: the delivery waits, and its handler does not run
/// again.
///
/// The original is acked only after the confirm. A crash in between makes a duplicate; the other
/// order would make a loss.
async fn republish<B: Broker>(
    lane: &Lane<B>,
    flight: &Flight,
    queue: &str,
    headers: CopyHeaders,
    confirmed: End,
) -> End {
    // While the broker has the message back, there is no copy that it could confirm.
    if !lane.has_place(flight).await {
        return End::Stale;
    }
    let mut publishing = pin!(publish(lane, flight, queue, headers, confirmed));
    tokio::select! {
        // Look at the confirm first: if the copy is confirmed, the original must not be returned.
        biased;
        end = &mut publishing => return end,
        () = given_up(lane) => return End::Return,
        () = sleep(lane.publish.budget) => {}
    }
    let _kept = lane.live.kept.keep(flight, queue);
    tokio::select! {
        biased;
        end = publishing => end,
        () = given_up(lane) => End::Return,
    }
}

/// A copy of a message, to this queue.
pub(super) fn copy_of<'a>(
    flight: &'a Flight,
    queue: &'a str,
    headers: CopyHeaders,
) -> Publication<'a> {
    Publication {
        exchange: "",
        routing_key: queue,
        body: flight.message.body(),
        properties: Written::Copy(&flight.message.properties, headers),
    }
}

/// Publishes a copy, again and again, until the broker confirms it. In a drain, a copy that fails is
/// given up soon.
async fn publish<B: Broker>(
    lane: &Lane<B>,
    flight: &Flight,
    queue: &str,
    headers: CopyHeaders,
    confirmed: End,
) -> End {
    let kept = &lane.live.kept;
    let mut copy = copy_of(flight, queue, headers);
    let mut waits = kept::waits();
    let mut restored = false;
    let mut waiting = kept.copy(queue);
    let mut turn = None;
    let mut give_up = None;
    loop {
        // Without a place the broker has the message back, and a copy would be a duplicate.
        if !lane.has_place(flight).await {
            return End::Stale;
        }
        let publishing = lane.watch.publishing(queue, &flight.message);
        let published = lane.publish(&copy).await;
        lane.watch.published(queue, publishing, &published);
        let Err(failed) = published else {
            kept.taken(queue);
            return confirmed;
        };
        let wait = waits.next();
        lane.watch.not_confirmed(flight, queue, &failed, wait);
        kept.failed(queue, &failed, turn.take());
        let is_at_fault = failed.is_about_the_message();
        if is_at_fault && copy.properties.make_bare() {
            continue;
        }
        if is_at_fault && lane.dead_letters_by_itself().await {
            lane.watch.rejected(flight, queue, &failed);
            return End::Rejected;
        }
        // A queue that was declared now takes the copy at once. If it does not, wait as after any
        // other failure.
        if let PublishError::Returned(_) = failed
            && lane.restore(queue).await
            && !mem::replace(&mut restored, true)
        {
            continue;
        }
        let next = async {
            match is_at_fault {
                true => {
                    sleep(SELDOM).await;
                    None
                }
                false => waiting.turn(wait).await,
            }
        };
        let over = async {
            lane.drain.cancelled().await;
            let at = *give_up.get_or_insert_with(|| Instant::now() + DRAIN_BUDGET);
            sleep_until(at).await;
        };
        tokio::select! {
            biased;
            () = over => {
                lane.watch.gave_up(flight, queue, &failed);
                return End::Return;
            }
            mine = next => turn = mine,
        }
    }
}

/// Waits until the worker no longer waits for confirms: at the hard stop, or when a drain has begun
/// and the broker has blocked publishing. An alarm of the broker can last for hours, so a drain does
/// not wait for its end.
pub(super) async fn given_up<B: Broker>(lane: &Lane<B>) {
    tokio::select! {
        biased;
        () = lane.hard_stop.cancelled() => {}
        () = blocked_in_drain(lane) => {}
    }
}

/// Waits until a drain has begun and the broker has blocked publishing.
pub(super) async fn blocked_in_drain<B: Broker>(lane: &Lane<B>) {
    lane.drain.cancelled().await;
    lane.blocked().await;
}
