//! Returns by a copy. Where a return counts as a failed delivery, the broker takes a message away that is
//! returned too often. So near the queue's delivery limit a message goes back as a copy at the tail of its
//! queue. The count of the copy begins at 0.

use std::{future::pending, mem, pin::pin, sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, sleep_until};

use super::{
    Ended, Lane, kept,
    republish::{DRAIN_BUDGET, SELDOM, blocked_in_drain, copy_of},
    runner::or_fault,
};
use crate::{
    broker::Broker,
    dead_letters,
    flight::{Flight, SessionId},
    status::End,
};

/// The wait between two attempts after the hard stop.
const LAST_WAIT: Duration = Duration::from_millis(100);

/// Publishes a copy of a message to the tail of its queue until the broker confirms it, and reports
/// [`End::Copied`]: the original is acked after the confirm. The broker does not confirm it while
/// publishing is blocked, or while the queue is full. A drain does not wait for that, and
/// [`End::Uncopied`] is reported: the original is returned.
///
/// `spare`: the broker keeps the message after that return. Otherwise the copy is the last chance, and a
/// drain waits for it as long as for a running handler.
pub(crate) async fn copy_back<B: Broker>(lane: Arc<Lane<B>>, flight: Arc<Flight>, spare: bool) {
    // `spare` is true of the delivery in this session.
    let session = flight.session();
    let copying = async {
        let mut publishing = pin!(publish(&lane, &flight, session, spare));
        let end = tokio::select! {
            // Look at the confirm first: if the copy is confirmed, the original must not be returned.
            biased;
            end = &mut publishing => end,
            () = given_up(&lane, spare) => End::Uncopied,
        };
        Some(end)
    };
    let end = match or_fault(&flight, copying).await {
        Some(End::Copied) => End::Copied,
        // The message was delivered again meanwhile: its lane decides anew.
        _ if flight.session() != session => End::Stale,
        None | Some(End::Fault) => End::Uncopied,
        Some(end) => end,
    };
    if end == End::Copied {
        // The ack settles the next delivery, if the broker has the message back.
        lane.has_place(&flight).await;
    }
    if end == End::Uncopied {
        lane.watch.returned_at_limit(&flight, spare);
    }
    lane.ends.report(Ended { flight, end });
}

async fn publish<B: Broker>(
    lane: &Lane<B>,
    flight: &Flight,
    session: SessionId,
    spare: bool,
) -> End {
    let queue = &*lane.queue;
    let headers = dead_letters::given_back(flight);
    let mut copy = copy_of(flight, queue, headers);
    let mut waits = kept::waits();
    let mut told = false;
    let mut give_up = None;
    loop {
        if !lane.is_current(session) {
            return End::Stale;
        }
        let publishing = lane.watch.publishing(queue, &flight.message);
        let published = lane.publish(&copy).await;
        lane.watch.published(queue, publishing, &published);
        let Err(failed) = published else {
            return End::Copied;
        };
        let is_at_fault = failed.is_about_the_message();
        if is_at_fault && copy.properties.make_bare() {
            continue;
        }
        // Little time is left after the hard stop.
        let is_stopped = lane.hard_stop.is_cancelled();
        let wait = match (is_stopped, is_at_fault) {
            (true, _) => LAST_WAIT,
            (false, true) => SELDOM,
            (false, false) => waits.next(),
        };
        match mem::replace(&mut told, true) {
            false => lane.watch.waits_at_limit(flight, &failed),
            true => lane.watch.not_confirmed(flight, queue, &failed, wait),
        }
        let over = async {
            if !spare {
                pending::<()>().await;
            }
            lane.drain.cancelled().await;
            sleep_until(*give_up.get_or_insert_with(|| Instant::now() + DRAIN_BUDGET)).await;
        };
        tokio::select! {
            biased;
            () = over => return End::Uncopied,
            () = lane.hard_stop.cancelled(), if !is_stopped => {}
            () = sleep(wait) => {}
        }
    }
}

/// Waits until the lane no longer waits for a confirm: shortly after the hard stop, or when a drain has
/// begun and the broker has blocked publishing.
async fn given_up<B: Broker>(lane: &Lane<B>, spare: bool) {
    let stopped = async {
        lane.hard_stop.cancelled().await;
        sleep(DRAIN_BUDGET).await;
    };
    tokio::select! {
        biased;
        () = stopped => {}
        () = blocked_in_drain(lane), if spare => {}
    }
}
