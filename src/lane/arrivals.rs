//! The beginning of a delivery: taken from the session, sent on its path, or taken back from there.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::error;

use super::{
    LaneActor,
    pace::{TAKE_UP, TOGETHER},
};
use crate::{
    broker::{Broker, BrokerError, Delivery, Session},
    flight::Flight,
    message::Message,
    path,
    status::End,
};

impl<B: Broker> LaneActor<B> {
    /// One delivery, and whatever else has arrived.
    pub(super) fn received(&mut self, delivery: Option<Result<Delivery, BrokerError>>) {
        let mut taken = 0;
        let mut arrived = Some(delivery);
        while let Some(delivery) = arrived.take() {
            match delivery {
                Some(Ok(delivery)) => self.take(delivery),
                Some(Err(error)) => return self.lose_session(&error),
                None if self.subscription.is_stopping() => return self.subscription.stopped(),
                // The broker has cancelled the consumer, for instance because the queue was
                // deleted. Only the end of the stream tells.
                None => return self.consumer_cancelled(),
            }
            let session = self.subscription.session.as_mut();
            arrived = session.and_then(Session::try_next).map(Some);
            taken += 1;
        }
        if self.subscription.has_ended_unasked() {
            // The end came in one go with deliveries, and `try_next` has taken it.
            return self.consumer_cancelled();
        }
        self.rest_if_busy(taken);
    }

    /// Sends a delivery on its path, with others. It may have to wait for a slot there, but is taken
    /// from the session all the same, so that the session's end is seen behind it.
    fn take(&mut self, delivery: Delivery) {
        self.ledger.received += 1;
        // lapin hands over what it had buffered when the channel died; the broker has it back.
        if self.subscription.has_dead_channel() {
            return self.ledger.unsettled(End::Stale);
        }
        let tag = delivery.tag;
        let is_next = match self.subscription.is_stopping() {
            true => self.refuse(tag),
            false => self.start(delivery),
        };
        if !is_next {
            error!(consumer = %self.lane.name, tag, "delivery tag out of order, replacing the session");
            self.ledger.unsettled(End::Stale);
            self.lose_session(&BrokerError::Lost("tag out of order".to_owned()));
        }
    }

    /// The delivery came after the cancellation of the consumer had begun: it goes back.
    fn refuse(&mut self, tag: u64) -> bool {
        let is_next = self.unsettled.push_returning(tag);
        if is_next {
            self.returning.add(tag);
        }
        is_next
    }

    fn start(&mut self, delivery: Delivery) -> bool {
        let Some(session) = self.subscription.session_id else {
            return false;
        };
        let tag = delivery.tag;
        let lane = &self.lane;
        let received = delivery.received;
        let message = Message::new(delivery, Arc::clone(&lane.queue));
        let flight = Arc::new(Flight::new(
            Arc::clone(&lane.name),
            message,
            Arc::clone(&lane.resources),
            session,
            tag,
            received,
        ));
        if !self.unsettled.push(tag, Arc::clone(&flight)) {
            return false;
        }
        self.under_way += 1;
        self.pace.stirred = true;
        self.starting.push(flight);
        if self.starting.len() == TOGETHER {
            self.send_off();
        }
        true
    }

    /// Puts started deliveries in the start queue, and sees that those before them are taken up.
    pub(super) fn send_off(&mut self) {
        let lane = &self.lane;
        if self.starting.is_empty() && self.pace.take_up_at.is_none() {
            return;
        }
        let now = Instant::now();
        if !self.starting.is_empty() && lane.starts.put(&mut self.starting, now) {
            path::run_on(lane);
        }
        let take_up_at = self.pace.take_up_at.get_or_insert(now + TAKE_UP);
        if *take_up_at <= now {
            (0..lane.starts.missing(now)).for_each(|_| path::run_on(lane));
            self.pace.take_up_at = lane.starts.is_behind().then(|| now + TAKE_UP);
        }
    }

    /// Takes back what has not started, to be returned.
    pub(super) fn withdraw(&mut self) {
        let waiting = self.lane.starts.withdraw().into_iter();
        for flight in waiting.chain(self.starting.drain(..)) {
            self.under_way -= 1;
            if Some(flight.session) == self.subscription.session_id
                && self.unsettled.withhold(flight.tag, None)
            {
                self.returning.add(flight.tag);
            }
        }
    }
}
