//! Returns: deliveries that go back to their queue or that the broker dead-letters, and the hold of a
//! lane after an internal error.
//!
//! A delivery goes back by a nack. Near the delivery limit of its queue it goes back as a copy, see
//! [`copies`](super::copies).

use std::{mem, sync::Arc};

use tokio::time::Instant;

use super::{LaneActor, Request, copies::Copies};
use crate::{
    broker::{Broker, BrokerError, Delivery, Returns, Session, WayBack},
    status::{End, Ledger},
    telemetry::AckSpan,
};

/// Deliveries on their way back to the queue.
#[derive(Default)]
pub(super) struct Returning {
    /// Tags whose nacks are to be written. The table marks them as returning, so no `multiple` ack
    /// covers them before that.
    due: Vec<u64>,
    /// Tags to be rejected. The table marks them as returning too.
    rejects: Vec<u64>,
    pub(super) copies: Copies,
    pub(super) writing: Option<Request<(Returns, Result<(), BrokerError>)>>,
    /// Until when the lane is held: it takes and returns nothing.
    pub(super) hold_until: Option<Instant>,
    /// Why the lane is held, or was held last.
    why: &'static str,
}

impl Returning {
    pub(super) fn add(&mut self, tag: u64) {
        self.due.push(tag);
    }

    /// Whether the lane is held.
    pub(super) fn is_held(&self) -> bool {
        self.hold_until.is_some()
    }

    /// Why the lane is held, if it is.
    pub(super) fn held_because(&self) -> Option<&'static str> {
        self.hold_until.map(|_| self.why)
    }

    fn is_empty(&self) -> bool {
        let is_written = self.due.is_empty() && self.rejects.is_empty();
        is_written && self.writing.is_none() && self.copies.is_empty()
    }
}

impl<B: Broker> LaneActor<B> {
    /// Returns a delivery to its queue.
    pub(super) fn give_back(&mut self, tag: u64, span: Option<Box<AckSpan>>) {
        let flight = self.unsettled.flight(tag);
        let way = flight.map(|it| it.last_properties(|last| self.way_back(last)));
        match (way, flight) {
            (Some(WayBack::Copy { spare }), Some(flight)) => {
                self.returning.copies.add(Arc::clone(flight), spare);
            }
            _ => self.nack(tag, span),
        }
    }

    /// Returns a delivery by a nack.
    pub(super) fn nack(&mut self, tag: u64, span: Option<Box<AckSpan>>) {
        if self.unsettled.withhold(tag, span) {
            self.returning.add(tag);
        }
    }

    /// Returns a delivery that arrived while the consumer is being cancelled; false for a tag out
    /// of order.
    pub(super) fn refuse(&mut self, delivery: Delivery) -> bool {
        match self.way_back(&delivery.properties) {
            WayBack::Nack => self.refuse_by_nack(delivery.tag),
            WayBack::Copy { spare } => match self.push(delivery) {
                Some(flight) => {
                    self.returning.copies.add(flight, spare);
                    true
                }
                None => false,
            },
        }
    }

    fn refuse_by_nack(&mut self, tag: u64) -> bool {
        let is_next = self.unsettled.push_returning(tag);
        if is_next {
            self.returning.add(tag);
        }
        is_next
    }

    /// Returns a message that the queue gave to the lane as the answer to its question. The ledger does
    /// not count it, unless the message goes back as a copy. After the ack of the original the lane asks
    /// the queue again. So a message that comes from the queue for the first time is never copied: it
    /// may be the copy.
    pub(super) fn return_unasked(&mut self, message: Delivery) {
        let is_next = match self.way_back(&message.properties) {
            WayBack::Copy { .. } if message.redelivered => {
                self.ledger.received += 1;
                self.refuse(message)
            }
            _ => {
                self.proof.message = Some(message.tag);
                self.refuse_by_nack(message.tag)
            }
        };
        if !is_next {
            self.lose_session(&BrokerError::Lost("tag out of order".to_owned()));
        }
    }

    /// Rejects a delivery: the broker dead-letters it.
    pub(super) fn reject(&mut self, tag: u64, span: Option<Box<AckSpan>>) {
        if self.unsettled.withhold(tag, span) {
            self.returning.rejects.push(tag);
        }
    }

    /// Returns a delivery that cannot be settled, and holds the lane for `publish.hold`: until then
    /// the lane takes and returns nothing.
    pub(super) fn hold(&mut self, tag: u64, span: Option<Box<AckSpan>>, why: &'static str) {
        self.give_back(tag, span);
        // A lane that drains or is paused takes nothing new anyway, and returns at once.
        if !self.returning.is_held() && !self.draining && !self.paused {
            self.returning.hold_until = Some(Instant::now() + self.lane.publish.hold);
            self.returning.why = why;
            self.lane.starts.hold(true);
        }
    }

    /// Ends the hold, if there is one: deliveries that wait can start.
    pub(super) fn end_hold(&mut self) {
        self.returning.hold_until = None;
        self.lane.starts.hold(false);
        self.pace.start_at(Instant::now());
    }

    /// Begins to write the nacks that are due, unless the lane is held. While the consumer is being
    /// cancelled the nacks wait too: the broker would deliver the messages to this consumer again. On a
    /// session in doubt the broker may have the messages back already.
    pub(super) fn begin_return(&mut self, now: Instant) {
        let waits = self.returning.writing.is_some()
            || self.subscription.is_stopping()
            || self.subscription.is_in_doubt
            || self.returning.hold_until.is_some_and(|until| until > now);
        if waits {
            return;
        }
        self.begin_copies();
        if self.returning.due.is_empty() && self.returning.rejects.is_empty() {
            return;
        }
        let Some(session) = &self.subscription.session else {
            return;
        };
        let returning = &mut self.returning;
        let returns = if !returning.rejects.is_empty() {
            Returns::Reject(mem::take(&mut returning.rejects))
        } else {
            // Paths end in any order, but `Returns::Through` names the last tag.
            let mut tags = mem::take(&mut returning.due);
            tags.sort_unstable();
            // If nothing else is unsettled, one command returns all: the broker applies single
            // commands slowly (see `finish`).
            match self.unsettled.is_all_returning() && self.acking.writing.is_none() {
                true => Returns::Through(tags),
                false => Returns::Single(tags),
            }
        };
        // The first of many nacks may bring deliveries while the last ones are still being written.
        if !matches!(returns, Returns::Reject(_)) {
            self.proof.unproven.returned(returns.tags().len());
        }
        self.acking.wrote_singly(returns.commands());
        self.returning.writing = Some(Box::pin(session.give_back(returns)));
    }

    /// Books the deliveries whose nacks were written, or could not be written.
    pub(super) fn returned(&mut self, returns: &Returns, result: Result<(), BrokerError>) {
        self.returning.writing = None;
        let tags = returns.tags();
        match result {
            Ok(()) => {
                for tag in tags {
                    let span = self.unsettled.returned(*tag);
                    self.lane.watch.told_broker("nack", span, true);
                }
                match returns {
                    Returns::Reject(_) => {
                        let mut rejected = Ledger::default();
                        tags.iter().for_each(|_| rejected.settled(End::Rejected));
                        self.proof.unproven.wrote(rejected, Instant::now());
                    }
                    Returns::Single(_) | Returns::Through(_) => {
                        let answer = self.proof.message.take_if(|tag| tags.contains(tag));
                        let count = tags.len() - usize::from(answer.is_some());
                        self.ledger.returned += count as u64;
                    }
                }
            }
            // The broker takes the deliveries back when their channel closes.
            Err(error) => self.lose_session(&error),
        }
    }

    /// Answers the callers that wait for a pause, once the consumer is cancelled and nothing is
    /// left to return.
    pub(super) fn answer_pauses(&mut self) {
        let is_complete = !self.subscription.may_bring_deliveries() && self.returning.is_empty();
        if self.pausing.is_empty() || !is_complete {
            return;
        }
        for answer in self.pausing.drain(..) {
            // A send fails when the caller has gone away; then nobody needs the answer.
            let _ = answer.send(());
        }
    }
}
