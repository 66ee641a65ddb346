//! Returns as copies. A quorum queue takes a message away that came back too often: it counts each
//! lost channel, and before RabbitMQ 4.3 each return. So near the queue's delivery limit a delivery goes
//! back as a copy at the tail of its queue, whose count begins at 0. The original is acked after the
//! broker's confirm.
//!
//! A lost channel can take away a message that only waits for a slot. So the lane also gives a message
//! back that waits, once lost channels have brought it near the limit. A message that has started is not
//! copied: one that ends the process again and again must reach the limit at last.

use std::{mem, sync::Arc};

use tokio::time::Instant;
use tracing::{debug, info};

use super::{LaneActor, TICK};
use crate::{
    broker::{Broker, Properties, Session, Tolerance, WayBack},
    flight::{Flight, Phase},
    path,
    status::End,
    telemetry::AckSpan,
};

/// Deliveries that go back as copies.
#[derive(Default)]
pub(super) struct Copies {
    /// Those to be published, and whether a nack would keep the message too.
    due: Vec<(Arc<Flight>, bool)>,
    /// The number of those that are being published.
    under_way: usize,
    /// Deliveries that should not wait for a slot for long.
    waiting: Vec<Arc<Flight>>,
}

impl Copies {
    pub(super) fn add(&mut self, flight: Arc<Flight>, spare: bool) {
        self.due.push((flight, spare));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.due.is_empty() && self.under_way == 0
    }

    /// A new delivery waits for a slot.
    pub(super) fn watch_wait(&mut self, flight: &Arc<Flight>, tolerance: Option<Tolerance>) {
        if tolerance.is_some_and(|it| !it.can_wait(&flight.message.properties)) {
            self.waiting.push(Arc::clone(flight));
        }
    }

    /// A path has ended.
    pub(super) fn ended(&mut self, end: End) {
        let is_copy = matches!(end, End::Copied | End::Uncopied);
        // A copy that was begun in an earlier session is not counted in this one.
        self.under_way = self.under_way.saturating_sub(is_copy.into());
    }
}

impl<B: Broker> LaneActor<B> {
    /// The way back for a delivery of the session.
    pub(super) fn way_back(&self, properties: &Properties) -> WayBack {
        match (self.subscription.tolerance, &self.subscription.session) {
            (Some(tolerance), Some(_)) => tolerance.way_back(properties),
            // The broker already has the delivery back.
            _ => WayBack::Nack,
        }
    }

    /// A policy can change what the queue tolerates.
    pub(super) fn look_at_tolerance(&mut self) {
        let session = self.subscription.session.as_ref();
        if let Some(tolerance) = session.map(Session::tolerance) {
            self.note_tolerance(tolerance);
        }
    }

    /// Learns from the session what the queue tolerates. The log tells it when it is news.
    pub(super) fn note_tolerance(&mut self, tolerance: Tolerance) {
        if self.subscription.tolerance.replace(tolerance) == Some(tolerance) {
            return;
        }
        let (consumer, queue) = (&self.lane.name, &self.lane.queue);
        let counts_returns = tolerance.counts_returns();
        let Some(limit) = tolerance.limit() else {
            debug!(%consumer, %queue, "the queue has no delivery limit");
            return;
        };
        match tolerance.is_assumed() && counts_returns {
            true => {
                info!(%consumer, %queue, limit, "the queue sets no delivery limit: the worker assumes that of RabbitMQ 4. Only broker.management_url shows the limit of a policy");
            }
            false => debug!(%consumer, %queue, limit, counts_returns, "the queue's delivery limit"),
        }
    }

    /// Begins to publish the copies that are due.
    pub(super) fn begin_copies(&mut self) {
        for (flight, spare) in mem::take(&mut self.returning.copies.due) {
            flight.claim();
            self.under_way += 1;
            self.returning.copies.under_way += 1;
            tokio::spawn(path::copy_back(Arc::clone(&self.lane), flight, spare));
        }
    }

    /// The session is lost, and the broker has back what was to be copied. These deliveries have no path
    /// that could end.
    pub(super) fn forget_copies(&mut self) {
        for (flight, _) in mem::take(&mut self.returning.copies.due) {
            self.nack(flight.tag(), None);
        }
    }

    /// The copy is not confirmed: the original is returned.
    pub(super) fn uncopied(&mut self, tag: u64, span: Option<Box<AckSpan>>) {
        self.returning.copies.ended(End::Uncopied);
        self.nack(tag, span);
    }

    /// Gives back, as copies, the deliveries near the limit that still wait for a slot.
    pub(super) fn copy_what_waits(&mut self, now: Instant) {
        let watched = mem::take(&mut self.returning.copies.waiting);
        if watched.is_empty() {
            return;
        }
        let waiting = watched.into_iter();
        let waiting = waiting.filter(|it| it.phase() == Phase::Buffered);
        let (late, rest): (Vec<_>, _) = waiting.partition(|it| now - it.received >= TICK);
        self.returning.copies.waiting = rest;
        let is_late = |flight: &Arc<Flight>| late.iter().any(|it| Arc::ptr_eq(it, flight));
        if late.is_empty() {
            return;
        }
        for flight in self.lane.starts.withdraw_if(is_late) {
            self.under_way -= 1;
            if Some(flight.session()) == self.subscription.session_id {
                // Where a return is free, a nack would bring the message back at once.
                let spare = match flight.last_properties(|last| self.way_back(last)) {
                    WayBack::Copy { spare } => spare,
                    WayBack::Nack => true,
                };
                self.returning.copies.add(flight, spare);
            }
        }
    }
}
