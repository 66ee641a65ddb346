//! Messages that go back to their queue, and the hold of a lane whose copies are not confirmed.

use std::mem;

use tokio::time::Instant;

use super::{LaneActor, Request};
use crate::{
    broker::{Broker, BrokerError, Returns, Session},
    path::Gate,
    telemetry::AckSpan,
};

/// Deliveries on their way back to the queue.
#[derive(Default)]
pub(super) struct Returning {
    /// Tags to be returned. The table knows them as such, so that no `multiple` ack covers them
    /// before the broker was told.
    due: Vec<u64>,
    pub(super) writing: Option<Request<(Returns, Result<(), BrokerError>)>>,
    /// Until when the lane takes and returns nothing, because copies cannot be published.
    pub(super) hold_until: Option<Instant>,
}

impl Returning {
    pub(super) fn add(&mut self, tag: u64) {
        self.due.push(tag);
    }

    /// Whether the lane is held.
    pub(super) fn is_held(&self) -> bool {
        self.hold_until.is_some()
    }

    fn is_empty(&self) -> bool {
        self.due.is_empty() && self.writing.is_none()
    }
}

impl<B: Broker> LaneActor<B> {
    /// A delivery goes back to the queue.
    pub(super) fn give_back(&mut self, tag: u64, span: Option<Box<AckSpan>>) {
        if self.unsettled.withhold(tag, span) {
            self.returning.add(tag);
        }
    }

    /// A delivery cannot be settled: it goes back, and the lane takes nothing new for a while.
    pub(super) fn hold(&mut self, tag: u64, span: Option<Box<AckSpan>>, why: &'static str) {
        self.give_back(tag, span);
        // A lane that drains or is paused takes nothing new anyway, and returns at once.
        if !self.returning.is_held() && !self.draining && !self.paused {
            self.returning.hold_until = Some(Instant::now() + self.lane.publish.hold);
            self.lane.starts.set_gate(Gate::Closed { why });
        }
    }

    /// Starts again what waits, if the lane was held.
    pub(super) fn end_hold(&mut self) {
        self.returning.hold_until = None;
        self.lane.starts.set_gate(Gate::Open);
        self.pace.start_at(Instant::now());
    }

    /// Returns what is due, unless a hold says to wait, or the consumer is still being cancelled: the
    /// broker would deliver the messages to this consumer again.
    pub(super) fn begin_return(&mut self, now: Instant) {
        let waits = self.returning.writing.is_some()
            || self.subscription.is_stopping()
            || self.returning.hold_until.is_some_and(|until| until > now);
        if self.returning.due.is_empty() || waits {
            return;
        }
        let Some(session) = &self.subscription.session else {
            return;
        };
        // Paths end in any order, and one command for all names the last tag.
        let mut tags = mem::take(&mut self.returning.due);
        tags.sort_unstable();
        // One command for all, where nothing else is unsettled: see `finish`.
        let returns = match self.unsettled.is_all_returning() && self.acking.writing.is_none() {
            true => Returns::Through(tags),
            false => Returns::Single(tags),
        };
        self.acking.wrote_singly(returns.commands());
        self.returning.writing = Some(Box::pin(session.give_back(returns)));
    }

    /// Books what was returned, or what could not be.
    pub(super) fn returned(&mut self, returns: &Returns, result: Result<(), BrokerError>) {
        self.returning.writing = None;
        let tags = returns.tags();
        match result {
            Ok(()) => {
                for tag in tags {
                    let span = self.unsettled.returned(*tag);
                    self.lane.watch.told_broker("nack", span, true);
                }
                self.ledger.returned += tags.len() as u64;
            }
            // The broker was not told, but takes them back with the channel.
            Err(error) => self.lose_session(&error),
        }
    }

    /// Answers those who wait for the pause, once the consumer is cancelled and nothing is left to
    /// return.
    pub(super) fn answer_pauses(&mut self) {
        let is_complete = !self.subscription.may_bring_deliveries() && self.returning.is_empty();
        if self.pausing.is_empty() || !is_complete {
            return;
        }
        for answer in self.pausing.drain(..) {
            // A caller that has gone away does not matter.
            let _ = answer.send(());
        }
    }
}
