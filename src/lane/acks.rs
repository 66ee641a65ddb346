//! Ends of deliveries: the lane books each end, and acks finished deliveries together.

use std::{mem, sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::warn;

use super::{
    LaneActor, Request,
    unsettled::{Abandoned, Finished},
};
use crate::{
    broker::{Acks, Broker, BrokerError, Session},
    flight::Flight,
    path::Ended,
    status::{End, Ledger},
};

/// A finished delivery behind one that is still open waits this many times `ack.delay` before it
/// gets an ack of its own.
const PATIENCE: u32 = 5;
/// The most acks of single deliveries in one write.
const SINGLES: usize = 64;
/// The same in a drain. A quorum queue takes about 32 commands of a channel at a time (measured),
/// so a drain writes few acks at once and pauses for [`DRAIN_PACE`] after them.
const DRAIN_SINGLES: usize = 16;
/// The pause after each write in a drain.
const DRAIN_PACE: Duration = Duration::from_millis(5);

/// Acks on their way to the broker.
pub(super) struct Acking {
    /// The write under way. A later turn of the loop gets its result: see [`LaneActor::flushed`].
    pub(super) writing: Option<Request<(Acks, Result<(), BrokerError>)>>,
    /// The ends of the deliveries that `writing` acks.
    ends: Vec<Finished>,
    began: Instant,
    /// No further write before this time.
    next: Instant,
    /// By this time the broker has applied all commands that name a single delivery.
    pub(super) applied_by: Instant,
}

impl Acking {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            writing: None,
            ends: Vec::new(),
            began: now,
            next: now,
            applied_by: now,
        }
    }

    /// Notes commands that the broker applies one by one. [`LaneActor::finish`] waits for them.
    pub(super) fn wrote_singly(&mut self, count: usize) {
        /// The time allowed for one command. RabbitMQ took less than 0.7 s for a burst of 1,000
        /// (measured).
        const EACH: Duration = Duration::from_millis(2);
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.applied_by = self.applied_by.max(Instant::now()) + EACH.saturating_mul(count);
    }
}

impl<B: Broker> LaneActor<B> {
    /// The number of finished deliveries at which acks go out at once.
    pub(super) fn ack_batch(&self) -> usize {
        let batch = self.lane.settings.ack.batch;
        // Finished deliveries that wait for their ack must not fill a small prefetch.
        usize::from(batch.min(self.proof.prefetch / 2).max(1))
    }

    /// Books the ends that paths have reported. `ends` is a buffer: empty before and after.
    pub(super) fn book_ends(&mut self, ends: &mut Vec<Ended>) {
        self.lane.ends.take(ends);
        if ends.is_empty() {
            return;
        }
        self.pace.stirred = true;
        // The ends may have waited since the lane last looked. This time counts for `ack.delay`.
        let since = self.pace.gathering_since.unwrap_or_else(Instant::now);
        for ended in ends.drain(..) {
            self.book(&ended, since);
        }
    }

    fn book(&mut self, ended: &Ended, since: Instant) {
        self.under_way -= 1;
        let (tag, end) = (ended.flight.tag(), ended.end);
        if Some(ended.flight.session()) != self.subscription.session_id {
            // The session has died. The lane booked the delivery as stale at that time.
            self.orphans.retain(|one| !Arc::ptr_eq(one, &ended.flight));
            self.lane.watch.stale_end();
            if end.is_acked() {
                self.ledger.duplicates += 1;
                let before_drain = Some(ended.flight.session()) != self.drained;
                self.handled_for_nothing += u64::from(self.draining && before_drain);
            }
            return;
        }
        let span = self.lane.watch.ack_span(&ended.flight);
        match end {
            End::Rejected => self.reject(tag, span),
            End::Fault => self.hold(
                tag,
                span,
                "an internal error stopped the processing of a message, see the log",
            ),
            End::Return => self.give_back(tag, span),
            End::Uncopied => self.uncopied(tag, span),
            // The path ended without a decision just before the message was delivered again.
            End::Stale => self.give_back(tag, span),
            _ => {
                self.returning.copies.ended(end);
                let open = self.unsettled.finish(tag, Finished { end, span }, since);
                debug_assert!(open, "a path reports once");
            }
        }
    }

    /// When the oldest finished delivery is due for its ack.
    pub(super) fn next_flush(&self) -> Option<Instant> {
        if !self.may_flush() {
            return None;
        }
        let since = self.unsettled.oldest_finished()?;
        Some(self.acking.next.max(since + self.lane.settings.ack.delay))
    }

    /// Whether acks can be written now. A drain first waits for the broker's cancel-ok. On a
    /// connection that no longer answers, the ledger would count acks that never reach the broker. On a
    /// session in doubt the broker may have the messages back, so an ack there settles nothing.
    fn may_flush(&self) -> bool {
        let unsure = self.draining && self.subscription.is_stopping();
        self.acking.writing.is_none() && !unsure && !self.subscription.is_in_doubt
    }

    /// Begins to write acks when a batch has finished, when the oldest has waited for `ack.delay`,
    /// or when no other delivery is open. One write is under way at a time.
    pub(super) fn begin_flush(&mut self, now: Instant) {
        let Some(session) = &self.subscription.session else {
            return;
        };
        let Some(since) = self.unsettled.oldest_finished() else {
            return;
        };
        if !self.may_flush() || (self.draining && now < self.acking.next) {
            return;
        }
        let settings = &self.lane.settings;
        let batch = self.ack_batch();
        let idle = self.unsettled.open() == 0 && self.acks_at_rest(now);
        let due = now.duration_since(since) >= settings.ack.delay;
        if !idle && !due && self.unsettled.finished() < batch {
            return;
        }
        let (patience, singles) = if self.draining {
            (settings.ack.delay, DRAIN_SINGLES)
        } else if self.unsettled.finished() >= batch {
            (Duration::ZERO, SINGLES)
        } else {
            (settings.ack.delay * PATIENCE, SINGLES)
        };
        let flush = self.unsettled.flush(now, patience, singles);
        self.acking.next = now + settings.ack.delay;
        if flush.acks.is_empty() {
            return;
        }
        if self.draining {
            self.acking.next = now + DRAIN_PACE;
        }
        let singles = flush.acks.singles.len();
        self.acking.ends = flush.ends;
        self.acking.began = now;
        self.acking.writing = Some(Box::pin(session.ack(flush.acks)));
        self.acking.wrote_singly(singles);
    }

    /// Books the deliveries whose acks were written, or could not be written.
    pub(super) fn flushed(&mut self, acks: &Acks, result: Result<(), BrokerError>) {
        self.acking.writing = None;
        let (watch, written) = (&self.lane.watch, result.is_ok());
        watch.acks_written(self.acking.began.elapsed(), written);
        let ends = mem::take(&mut self.acking.ends).into_iter();
        let ends = ends.map(|Finished { end, span }| {
            watch.told_broker("ack", span, written);
            end
        });
        match result {
            Ok(()) => {
                let mut written = Ledger::default();
                ends.for_each(|end| written.settled(end));
                self.proof.unproven.wrote(written, Instant::now());
            }
            Err(error) => {
                warn!(consumer = %self.lane.name, %error, through = acks.through, singles = acks.singles.len(), "failed to write acks, the broker redelivers");
                ends.for_each(|end| self.ledger.unsettled(end));
                if let (BrokerError::TimedOut { .. }, Some(session)) =
                    (&error, &self.subscription.session)
                {
                    session.kill();
                }
                self.lose_session(&error);
            }
        }
    }

    /// Whether acks may go out at once when no other delivery is open. They may not within
    /// `ack.delay` of the last write: of messages that arrive a few at a time, each would get an
    /// ack of its own.
    pub(super) fn acks_at_rest(&self, now: Instant) -> bool {
        self.draining || now >= self.acking.next
    }

    /// Books all unsettled deliveries as stale: the broker has them back, because their channel is
    /// gone. Acks that were being written may have reached the broker or not, and count as lost. Returns
    /// the deliveries that have ended, and whose acks were not written.
    pub(super) fn abandon(&mut self) -> Vec<(Arc<Flight>, End)> {
        let answers = usize::from(self.proof.message.is_some());
        self.book_unproven();
        let watch = &self.lane.watch;
        let Abandoned {
            finished,
            returning,
            open,
        } = self.unsettled.abandon();
        self.ledger.stale += (open + returning.len()).saturating_sub(answers) as u64;
        for span in returning {
            watch.told_broker("nack", span, false);
        }
        self.returning = Default::default();
        self.acking.writing = None;
        for Finished { end, span } in mem::take(&mut self.acking.ends) {
            watch.told_broker("ack", span, false);
            self.ledger.unsettled(end);
        }
        self.ledger.stale += finished.len() as u64;
        let decided = finished
            .into_iter()
            .map(|(flight, Finished { end, span })| {
                watch.told_broker("ack", span, false);
                (flight, end)
            });
        decided.collect()
    }
}
