//! A lane's deliveries: starting their paths, booking their ends, telling the broker.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::{debug, error, warn};

use super::{
    DRAIN_PACE, DRAIN_SINGLES, LaneActor, PATIENCE, SINGLES, pace::TOGETHER, unsettled::Finished,
};
use crate::{
    broker::{Acks, BrokerError, Delivery, Session},
    decode::decode,
    flight::{Flight, Permit},
    path::Ended,
    status::{End, LaneState},
};

impl LaneActor {
    /// One delivery, and whatever else has arrived.
    pub(super) fn received(&mut self, delivery: Option<Result<Delivery, BrokerError>>) {
        let mut taken = 0;
        let mut arrived = Some(delivery);
        while let Some(delivery) = arrived.take() {
            match delivery {
                Some(Ok(delivery)) => self.start(delivery),
                Some(Err(error)) => return self.lose_session(&error),
                // The broker has cancelled the consumer, for instance because the queue was
                // deleted. Nothing says so but the end of the stream.
                None => return self.subscribe_again_soon(),
            }
            arrived = self.session.as_mut().and_then(Session::try_next).map(Some);
            taken += 1;
        }
        self.rest_if_busy(taken);
    }

    /// Sends a delivery on its path, with others. It may have to wait for a slot there, but is
    /// taken from the session all the same, so that the session's end is seen behind it.
    fn start(&mut self, delivery: Delivery) {
        // lapin hands over what it had buffered when the channel died; the broker has it back.
        let usable = self.session.as_ref().is_some_and(Session::is_usable);
        self.ledger.received += 1;
        if !usable {
            self.ledger.unsettled(End::Stale);
            return;
        }
        let tag = delivery.tag;
        let lane = &self.lane;
        let received = delivery.received;
        let message = decode(delivery, &lane.queue, lane.settings.decode);
        let flight = Arc::new(Flight::new(
            Arc::clone(&lane.name),
            message,
            Arc::clone(&lane.resources),
            (self.epoch, tag),
            received,
            Permit::new(Arc::clone(&lane.watch.figures.slots)),
        ));
        if !self.unsettled.push(tag, Arc::clone(&flight)) {
            error!(lane = %lane.name, tag, "delivery tag out of order, replacing the session");
            self.ledger.unsettled(End::Stale);
            return self.lose_session(&BrokerError::Lost("tag out of order".to_owned()));
        }
        self.under_way += 1;
        self.pace.stirred = true;
        self.starting.push(flight);
        if self.starting.len() == TOGETHER {
            self.send_off();
        }
    }

    /// Finished messages that make an ack go out at once.
    pub(super) fn ack_batch(&self) -> usize {
        let settings = &self.lane.settings;
        // A small prefetch must not fill with finished messages that wait for company.
        usize::from(settings.ack.batch.min(settings.prefetch / 4).max(1))
    }

    /// Books the end of a path.
    pub(super) fn book(&mut self, ended: &Ended, since: Instant) {
        self.under_way -= 1;
        let (tag, end) = (ended.flight.tag, ended.end);
        if ended.flight.epoch != self.epoch {
            // Its session died, and it was booked then.
            self.orphans
                .retain(|flight| !Arc::ptr_eq(flight, &ended.flight));
            self.lane.watch.stale_end();
            if end.is_acked() {
                self.ledger.duplicates += 1;
            }
            return;
        }
        match end {
            End::Hold => self.hold(tag),
            End::Return => self.held.push(tag),
            End::Stale => debug!(lane = %self.lane.name, tag, "session is gone"),
            _ => {
                let span = self.lane.watch.ack_span(&ended.flight);
                let open = self.unsettled.finish(tag, Finished { end, span }, since);
                debug_assert!(open, "a path reports once");
            }
        }
    }

    /// Writes acks, where enough have gathered or waited long enough, and none are being written.
    pub(super) fn begin_flush(&mut self, now: Instant) {
        let Some(session) = &self.session else { return };
        let Some(since) = self.unsettled.oldest_finished() else {
            return;
        };
        if self.flushing.is_some() || (self.draining && now < self.next_flush) {
            return;
        }
        let settings = &self.lane.settings;
        let batch = self.ack_batch();
        let idle = self.unsettled.open() == 0 && self.acks_at_rest(now);
        let due = now.duration_since(since) >= settings.ack.delay;
        if !idle && !due && self.unsettled.finished() < batch {
            return;
        }
        let (patience, singles) = match self.draining {
            true => (settings.ack.delay, DRAIN_SINGLES),
            false if self.unsettled.finished() >= batch => (Duration::ZERO, SINGLES),
            false => (settings.ack.delay * PATIENCE, SINGLES),
        };
        let flush = self.unsettled.flush(now, patience, singles);
        self.next_flush = now + settings.ack.delay;
        if flush.acks.is_empty() {
            return;
        }
        if self.draining {
            self.next_flush = now + DRAIN_PACE;
        }
        self.flushing_ends = flush.ends;
        let singles = flush.acks.singles.len();
        self.flush_began = now;
        self.flushing = Some(Box::pin(session.ack(flush.acks)));
        self.wrote_singly(singles);
    }

    /// Books what was written, or what could not be.
    pub(super) fn flushed(&mut self, acks: &Acks, result: Result<(), BrokerError>) {
        self.flushing = None;
        let (watch, written) = (&self.lane.watch, result.is_ok());
        watch.acks_written(self.flush_began.elapsed(), written);
        let ends = std::mem::take(&mut self.flushing_ends).into_iter();
        let ends = ends.map(|Finished { end, span }| {
            watch.told_broker("ack", span, written);
            end
        });
        match result {
            Ok(()) => ends.for_each(|end| self.ledger.settled(end)),
            Err(error) => {
                warn!(lane = %self.lane.name, %error, through = acks.through, singles = acks.singles.len(), "acks not written, the broker redelivers");
                ends.for_each(|end| self.ledger.unsettled(end));
                if let (BrokerError::TimedOut { .. }, Some(session)) = (&error, &self.session) {
                    session.kill();
                }
                self.lose_session(&error);
            }
        }
    }

    /// A delivery's copy cannot be published: nothing new is taken for a while, and it goes back.
    pub(super) fn hold(&mut self, tag: u64) {
        self.held.push(tag);
        // A drain or pause takes nothing new anyway, and does not wait to give back.
        if self.hold_until.is_none() && !self.draining && !self.paused {
            self.hold_until = Some(Instant::now() + self.lane.publish.hold);
            self.lane.starts.hold(true);
            self.tell_held();
        }
    }

    pub(super) fn tell_held(&self) {
        let reason = "retries and dead letters are not confirmed by the broker";
        self.tell(LaneState::Held, Some(reason.to_owned()));
    }

    /// StartQueue again what waits, if it was held.
    pub(super) fn end_hold(&mut self) {
        self.hold_until = None;
        self.lane.starts.hold(false);
        self.pace.start_at(Instant::now());
    }

    /// Takes back what has yet to start: the tags, in order.
    pub(super) fn withdraw(&mut self) -> Vec<u64> {
        let waiting = self.lane.starts.withdraw().into_iter();
        let tags = waiting
            .chain(self.starting.drain(..))
            .map(|flight| flight.tag);
        let tags: Vec<_> = tags
            .filter(|tag| self.unsettled.settle(*tag).is_some())
            .collect();
        self.under_way -= tags.len();
        tags
    }

    /// Notes commands that the broker takes one by one; see [`finish`](Self::finish).
    pub(super) fn wrote_singly(&mut self, count: usize) {
        /// What one may take; a burst of 1,000 took less than 0.7 s (measured).
        const EACH: Duration = Duration::from_millis(2);
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.applied_by = self.applied_by.max(Instant::now()) + EACH.saturating_mul(count);
    }

    /// Gives deliveries back to the queue.
    pub(super) async fn give_back(&mut self, tags: Vec<u64>) {
        let mut spans = Vec::new();
        let settled = tags.into_iter().filter(|tag| {
            let flight = self.unsettled.settle(*tag);
            let span = flight.as_ref().and_then(|f| self.lane.watch.nack_span(f));
            spans.extend(span);
            flight.is_some()
        });
        let tags: Vec<_> = settled.collect();
        let Some(session) = &self.session else { return };
        if tags.is_empty() {
            return;
        }
        let result = session.give_back(&tags).await;
        self.wrote_singly(tags.len());
        for span in spans {
            let watch = &self.lane.watch;
            watch.told_broker("nack", Some(span), result.is_ok());
        }
        self.gave_back(tags.len(), result);
    }

    pub(super) fn gave_back(&mut self, count: usize, result: Result<(), BrokerError>) {
        match result {
            Ok(()) => self.ledger.returned += count as u64,
            Err(error) => {
                // Not told, but the broker takes them back with the channel.
                self.ledger.stale += count as u64;
                self.lose_session(&error);
            }
        }
    }
}
