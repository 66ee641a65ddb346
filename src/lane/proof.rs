//! What the broker has shown about acks. AMQP has no reply to an ack. A written ack may wait in a
//! socket, in the channel's process, or for a queue without a leader. If one of them fails, the ack is
//! lost.
//!
//! Three things show that the queue has an ack. A delivery shows that the queue has applied acks: the
//! broker never has more unsettled deliveries outstanding than the prefetch. An answer to the
//! cancellation of a live consumer, or to a `basic.get`, has passed through the queue behind the acks.
//! Any other answer on the channel shows only that the channel's process has them.

use std::{collections::VecDeque, future::pending, time::Duration};

use tokio::time::Instant;
use tracing::{debug, warn};

use super::{LaneActor, Request};
use crate::{
    broker::{Broker, BrokerError, Delivery, Session},
    status::Ledger,
};

/// How long acks may go without an answer of the channel before the lane asks for one.
const HEAR: Duration = Duration::from_secs(2);
/// The most writes that are kept apart.
const BATCHES: usize = 256;

/// The acks of one write.
#[derive(Debug)]
struct Batch {
    /// The number of acks written on the session up to and including this write.
    upto: u64,
    at: Instant,
    /// What the ledger gets once they are proven.
    ends: Ledger,
}

/// The acks of a session that were written and are not proven, oldest first.
#[derive(Debug, Default)]
pub(super) struct Unproven {
    batches: VecDeque<Batch>,
    /// The sum of all batches.
    sum: Ledger,
    /// Acks written on the session.
    written: u64,
    /// The number of these acks that the channel's process has.
    heard: u64,
    /// Acks written before the current subscription.
    before: u64,
    /// Deliveries returned since the current subscription began. They too make room for others.
    returned: u64,
    /// The first tag of the current subscription, and its prefetch.
    first: u64,
    prefetch: u64,
}

impl Unproven {
    /// A new subscription begins with this tag.
    pub(super) fn subscribed(&mut self, first: u64, prefetch: u16) {
        (self.before, self.returned) = (self.written, 0);
        (self.first, self.prefetch) = (first, prefetch.into());
    }

    /// These acks were written.
    pub(super) fn wrote(&mut self, ends: Ledger, now: Instant) {
        self.written += count(&ends);
        self.sum += ends;
        let upto = self.written;
        let is_full = self.batches.len() >= BATCHES;
        match self.batches.back_mut() {
            Some(last) if is_full => {
                last.upto = upto;
                last.ends += ends;
            }
            _ => self.batches.push_back(Batch {
                upto,
                at: now,
                ends,
            }),
        }
    }

    /// The number of acks written on the session.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    pub(super) fn returned(&mut self, count: usize) {
        self.returned += count as u64;
    }

    /// What the ledger shows although nothing proves it yet.
    pub(super) fn sum(&self) -> Ledger {
        self.sum
    }

    pub(super) fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// The deliveries of the current subscription up to the tag before `next` have arrived. Returns
    /// the acks that this proves.
    ///
    /// The broker applies the commands of a channel in their order. So if as many deliveries of the
    /// subscription are settled as have made room for others, at least as many of the first commands
    /// since its beginning are applied. All returns may be among them.
    fn delivered(&mut self, next: u64) -> Ledger {
        let settled = next.saturating_sub(self.first + self.prefetch);
        match settled.saturating_sub(self.returned) {
            0 => Ledger::default(),
            acks => self.proven(self.before + acks),
        }
    }

    /// The queue has applied this many acks of the session. Returns those that were not proven.
    fn proven(&mut self, upto: u64) -> Ledger {
        let mut proven = Ledger::default();
        while let Some(batch) = self.batches.pop_front_if(|batch| batch.upto <= upto) {
            proven += batch.ends;
        }
        self.sum -= proven;
        proven
    }

    /// Since when acks have been waiting for an answer of the channel.
    fn unheard_since(&self) -> Option<Instant> {
        let mut batches = self.batches.iter();
        let oldest = batches.find(|batch| batch.upto > self.heard);
        oldest.map(|batch| batch.at)
    }

    /// The session is lost. Returns what the channel's process had, which the broker has most likely
    /// applied, and the number of the other acks.
    fn lost(&mut self) -> (Ledger, u64) {
        let presumed = self.proven(self.heard);
        (presumed, self.give_up())
    }

    /// Nothing will prove the other acks. Returns their number.
    fn give_up(&mut self) -> u64 {
        count(&std::mem::take(self).sum)
    }
}

/// The number of acks.
fn count(ends: &Ledger) -> u64 {
    ends.ends().into_iter().map(|(_, count)| count).sum()
}

/// The question to the broker that is under way, with the number of acks written before it.
#[derive(Default)]
pub(super) enum Asking {
    #[default]
    Nothing,
    /// Does the channel answer?
    Channel(u64, Request<Result<(), BrokerError>>),
    /// Does the queue answer? It may answer with a message.
    Queue(u64, Request<Result<Option<Delivery>, BrokerError>>),
}

/// The answer of the broker.
pub(super) enum Answer {
    Channel(u64, Result<(), BrokerError>),
    Queue(u64, Result<Option<Box<Delivery>>, BrokerError>),
}

impl Asking {
    /// Waits for the answer. Without a question this waits without end.
    pub(super) async fn answer(&mut self) -> Answer {
        match self {
            Self::Nothing => pending().await,
            Self::Channel(upto, request) => Answer::Channel(*upto, request.await),
            Self::Queue(upto, request) => {
                let answer = request.await.map(|message| message.map(Box::new));
                Answer::Queue(*upto, answer)
            }
        }
    }

    fn is_nothing(&self) -> bool {
        matches!(self, Self::Nothing)
    }

    fn is_queue(&self) -> bool {
        matches!(self, Self::Queue(..))
    }
}

/// What the lane knows about its acks.
#[derive(Default)]
pub(super) struct Proof {
    pub(super) unproven: Unproven,
    pub(super) asking: Asking,
    /// Acks written before the cancellation that is under way.
    pub(super) before_cancel: u64,
    /// The prefetch of the subscription that was asked for last.
    pub(super) prefetch: u16,
    /// The tag of the message with which the queue has answered. The lane only returns the message, so
    /// the ledger does not count it.
    pub(super) message: Option<u64>,
    /// Until when the drain waits for the queue's answer.
    pub(super) until: Option<Instant>,
}

impl<B: Broker> LaneActor<B> {
    /// Books the acks that deliveries prove. Asks the broker for what they do not prove: while the lane
    /// works, whether the channel answers; at the end of a drain, whether the queue does.
    pub(super) fn prove_acks(&mut self, now: Instant) {
        if self.proof.unproven.is_empty() {
            return;
        }
        self.ledger += self.proof.unproven.delivered(self.unsettled.next());
        let Some(session) = &self.subscription.session else {
            return;
        };
        if self.proof.unproven.is_empty() || self.proof.asking.is_queue() {
            return;
        }
        let written = self.proof.unproven.written;
        if self.draining && self.is_settled() {
            self.proof.until.get_or_insert(now + self.lane.drain_settle);
            self.proof.asking = Asking::Queue(written, Box::pin(session.ask_queue()));
        } else if self.next_question().is_some_and(|at| at <= now) {
            self.proof.asking = Asking::Channel(written, Box::pin(session.ask_channel()));
        }
    }

    /// When to ask the channel. A consumer that is being cancelled brings an answer anyway.
    pub(super) fn next_question(&self) -> Option<Instant> {
        let asks = self.proof.asking.is_nothing()
            && !self.subscription.is_stopping()
            && self.subscription.session.is_some();
        let since = self.proof.unproven.unheard_since().filter(|_| asks);
        since.map(|since| since + HEAR)
    }

    /// Whether all acks are proven, or nothing will prove them any more.
    pub(super) fn is_proven(&self) -> bool {
        self.proof.unproven.is_empty()
            || self.subscription.session.is_none()
            || self
                .proof
                .until
                .is_some_and(|until| until <= Instant::now())
    }

    pub(super) fn answered(&mut self, answer: Answer) {
        self.proof.asking = Asking::Nothing;
        match answer {
            Answer::Channel(upto, Ok(())) => {
                let unproven = &mut self.proof.unproven;
                unproven.heard = unproven.heard.max(upto);
            }
            Answer::Queue(upto, Ok(message)) => {
                self.ledger += self.proof.unproven.proven(upto);
                if let Some(message) = message {
                    self.return_unasked(*message);
                }
            }
            Answer::Channel(_, Err(error)) => self.lose_session(&error),
            Answer::Queue(_, Err(error)) => {
                warn!(consumer = %self.lane.name, %error, "the queue does not answer: the last acks may be lost");
                self.disown_acks();
                self.lose_session(&error);
            }
        }
    }

    /// The broker has answered to the cancellation of the live consumer.
    pub(super) fn cancellation_proves(&mut self) {
        let upto = self.proof.before_cancel;
        self.ledger += self.proof.unproven.proven(upto);
    }

    /// Books the acks of a session that is lost. Acks on their way were lost with it.
    pub(super) fn book_unproven(&mut self) {
        if self.proof.asking.is_queue() {
            self.disown_acks();
        }
        let (presumed, lost) = self.proof.unproven.lost();
        self.ledger += presumed;
        self.ledger.unproven(lost);
        if lost > 0 {
            debug!(consumer = %self.lane.name, lost, "acks may have been lost with their channel");
        }
        self.proof = Proof::default();
    }

    /// Counts acks that nothing proves as lost.
    pub(super) fn disown_acks(&mut self) {
        let lost = self.proof.unproven.give_up();
        self.ledger.unproven(lost);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::End;

    fn acks(count: usize) -> Ledger {
        let mut ends = Ledger::default();
        (0..count).for_each(|_| ends.settled(End::Done));
        ends
    }

    fn unproven(prefetch: u16) -> Unproven {
        let mut unproven = Unproven::default();
        unproven.subscribed(1, prefetch);
        unproven
    }

    #[tokio::test(start_paused = true)]
    async fn a_delivery_proves_the_acks_that_made_room_for_it() {
        let mut unproven = unproven(4);
        unproven.wrote(acks(2), Instant::now());
        unproven.wrote(acks(1), Instant::now());
        assert_eq!(unproven.delivered(5).acked, 0, "4 fit without an ack");
        assert_eq!(unproven.delivered(6).acked, 0, "half of a write");
        assert_eq!(unproven.delivered(7).acked, 2);
        assert_eq!(unproven.sum().acked, 1);
        assert_eq!(unproven.delivered(8).acked, 1);
        assert!(unproven.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_return_may_have_made_the_room() {
        let mut unproven = unproven(4);
        unproven.wrote(acks(1), Instant::now());
        unproven.returned(1);
        assert_eq!(unproven.delivered(6).acked, 0);
        assert_eq!(unproven.delivered(7).acked, 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_subscription_proves_earlier_acks_by_its_own() {
        let mut unproven = unproven(4);
        unproven.wrote(acks(3), Instant::now());
        unproven.subscribed(5, 2);
        assert_eq!(unproven.delivered(7).acked, 0);
        unproven.wrote(acks(1), Instant::now());
        assert_eq!(unproven.delivered(8).acked, 4);
    }

    #[tokio::test(start_paused = true)]
    async fn with_its_session_an_ack_is_lost_unless_the_channel_has_answered() {
        let mut unproven = unproven(64);
        unproven.wrote(acks(3), Instant::now());
        let since = unproven.unheard_since();
        assert_eq!(since, Some(Instant::now()));
        unproven.heard = unproven.written;
        assert_eq!(unproven.unheard_since(), None);
        unproven.wrote(acks(2), Instant::now());
        let (presumed, lost) = unproven.lost();
        assert_eq!((presumed.acked, lost), (3, 2));
        assert_eq!(unproven.sum(), Ledger::default());
    }

    #[tokio::test(start_paused = true)]
    async fn many_writes_take_little_room() {
        let mut unproven = unproven(64);
        for _ in 0..3 * BATCHES {
            unproven.wrote(acks(1), Instant::now());
        }
        assert_eq!(unproven.batches.len(), BATCHES);
        assert_eq!(
            unproven.proven(3 * BATCHES as u64).acked,
            3 * BATCHES as u64
        );
    }
}
