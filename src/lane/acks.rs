//! The end of a delivery: booked when its path has ended, acked with others.

use std::{mem, sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::{debug, warn};

use super::{
    LaneActor, Request,
    unsettled::{Abandoned, Finished},
};
use crate::{
    broker::{Acks, Broker, BrokerError, Session},
    path::Ended,
    status::End,
};

/// A finished message behind one that is still open waits this many times the ack delay before it
/// gets an ack of its own.
const PATIENCE: u32 = 5;
/// The most acks of single messages that go out together, and the pause after them in a drain. A
/// quorum queue takes about 32 commands of a channel at a time (measured).
const SINGLES: usize = 64;
const DRAIN_SINGLES: usize = 16;
const DRAIN_PACE: Duration = Duration::from_millis(5);

/// Acks on their way to the broker.
pub(super) struct Acking {
    /// The write that is under way. It does not borrow the session, and its result comes back as an
    /// event of a later turn: see [`LaneActor::flushed`].
    pub(super) writing: Option<Request<(Acks, Result<(), BrokerError>)>>,
    /// The ends that `writing` stands for.
    ends: Vec<Finished>,
    began: Instant,
    /// No further write before this time.
    next: Instant,
    /// When the broker has surely applied the commands that were written singly.
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

    /// Notes commands that the broker takes one by one; see [`LaneActor::finish`].
    pub(super) fn wrote_singly(&mut self, count: usize) {
        /// The time that the broker may take for one; a burst of 1,000 took less than 0.7 s
        /// (measured).
        const EACH: Duration = Duration::from_millis(2);
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.applied_by = self.applied_by.max(Instant::now()) + EACH.saturating_mul(count);
    }
}

impl<B: Broker> LaneActor<B> {
    /// The number of finished messages that makes an ack go out at once.
    pub(super) fn ack_batch(&self) -> usize {
        let settings = &self.lane.settings;
        // A small prefetch must not fill with finished messages that wait for company.
        usize::from(settings.ack.batch.min(settings.prefetch / 4).max(1))
    }

    /// Books the ends that have gathered. `ends` is an empty list, and is empty again afterwards.
    pub(super) fn book_ends(&mut self, ends: &mut Vec<Ended>) {
        self.lane.ends.take(ends);
        if ends.is_empty() {
            return;
        }
        self.pace.stirred = true;
        // The time that ends have waited unseen counts for their acks.
        let since = self.pace.gathering_since.unwrap_or_else(Instant::now);
        for ended in ends.drain(..) {
            self.book(&ended, since);
        }
    }

    fn book(&mut self, ended: &Ended, since: Instant) {
        self.under_way -= 1;
        let (tag, end) = (ended.flight.tag, ended.end);
        if Some(ended.flight.session) != self.subscription.session_id {
            // The session died, and the delivery was booked then.
            self.orphans.retain(|one| !Arc::ptr_eq(one, &ended.flight));
            self.lane.watch.stale_end();
            if end.is_acked() {
                self.ledger.duplicates += 1;
            }
            return;
        }
        let span = self.lane.watch.ack_span(&ended.flight);
        match end {
            End::NotPublished => self.hold(
                tag,
                span,
                "retries and dead letters are not confirmed by the broker",
            ),
            End::Fault => self.hold(
                tag,
                span,
                "the worker failed to carry on with a message, see its log",
            ),
            End::Return => self.give_back(tag, span),
            End::Stale => debug!(consumer = %self.lane.name, tag, "session is gone"),
            _ => {
                let open = self.unsettled.finish(tag, Finished { end, span }, since);
                debug_assert!(open, "a path reports once");
            }
        }
    }

    /// When acks are due, if nothing else happens.
    pub(super) fn next_flush(&self) -> Option<Instant> {
        if !self.may_flush() {
            return None;
        }
        let since = self.unsettled.oldest_finished()?;
        Some(self.acking.next.max(since + self.lane.settings.ack.delay))
    }

    /// Whether acks can be written now. A drain first waits for the broker's answer to the
    /// cancellation: acks that are written to a connection which says nothing any more would count
    /// as settled, and the worker would leave with an account that is not true.
    fn may_flush(&self) -> bool {
        let unsure = self.draining && self.subscription.is_stopping();
        self.acking.writing.is_none() && !unsure
    }

    /// Writes acks, if enough have gathered or waited long enough, and none are being written.
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

    /// Books what was written, or what could not be.
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
            Ok(()) => ends.for_each(|end| self.ledger.settled(end)),
            Err(error) => {
                warn!(consumer = %self.lane.name, %error, through = acks.through, singles = acks.singles.len(), "acks not written, the broker redelivers");
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

    /// Whether an ack that nothing else can join may go out at once. Not right after another one:
    /// when messages come in handfuls, each would get an ack of its own.
    pub(super) fn acks_at_rest(&self, now: Instant) -> bool {
        self.draining || now >= self.acking.next
    }

    /// Books what the broker was not told, and will not be: it has it back with the channel. Acks
    /// that were being written and whose fate is not known count as lost.
    pub(super) fn abandon(&mut self) {
        let watch = &self.lane.watch;
        let Abandoned {
            finished,
            returning,
            open,
        } = self.unsettled.abandon();
        self.ledger.stale += (open + returning.len()) as u64;
        for span in returning {
            watch.told_broker("nack", span, false);
        }
        self.returning = Default::default();
        self.acking.writing = None;
        let written = mem::take(&mut self.acking.ends);
        for Finished { end, span } in finished.into_iter().chain(written) {
            watch.told_broker("ack", span, false);
            self.ledger.unsettled(end);
        }
    }
}
