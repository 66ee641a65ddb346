//! Arrivals: the lane takes deliveries from the session, starts them on their paths, and takes back
//! those that have not started.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::error;

use super::{
    LaneActor,
    pace::{TAKE_UP, TOGETHER},
};
use crate::{
    broker::{Broker, BrokerError, Delivery, Session},
    flight::{Flight, SessionId},
    message::Message,
    path,
    status::End,
};

/// A lane whose dialect reads bodies takes about so many bytes in one turn: all lanes share one thread, and
/// their acks wait meanwhile.
const READ_TOGETHER: usize = 256 * 1024;

impl<B: Broker> LaneActor<B> {
    /// Takes this delivery, and all others that have arrived by now.
    pub(super) fn received(&mut self, delivery: Option<Result<Delivery, BrokerError>>) {
        let mut taken = 0;
        let mut read = 0;
        let mut arrived = Some(delivery);
        while let Some(delivery) = arrived.take() {
            match delivery {
                Some(Ok(delivery)) => {
                    read += delivery.body.len();
                    self.take(delivery);
                }
                Some(Err(error)) => return self.lose_session(&error),
                None if self.subscription.is_stopping() => return self.stream_ended(),
                // The broker has cancelled the consumer, for instance because the queue was
                // deleted. The end of the stream is the only sign of it.
                None => return self.consumer_cancelled(),
            }
            taken += 1;
            if read >= READ_TOGETHER && self.lane.settings.dialect.is_some() {
                break;
            }
            let session = self.subscription.session.as_mut();
            arrived = session.and_then(Session::try_next).map(Some);
        }
        self.take_one_probe();
        if self.subscription.has_ended_unasked() {
            // `try_next` has taken the end of the stream, which came together with deliveries.
            return self.consumer_cancelled();
        }
        self.rest_if_busy(taken);
    }

    /// Starts a delivery on its path. The lane takes the delivery from the session even if it then
    /// has to wait for a slot: the lane sees the end of the session only behind its last delivery.
    fn take(&mut self, delivery: Delivery) {
        self.ledger.received += 1;
        // lapin still hands over deliveries that it had buffered when the channel died. The broker
        // has them back.
        if self.subscription.has_dead_channel() {
            return self.ledger.unsettled(End::Stale);
        }
        let tag = delivery.tag;
        // A run that goes on settles its message also while the consumer is being cancelled.
        let session = self.subscription.session_id;
        let run = session.and_then(|session| Some((session, self.first_run_of(&delivery)?)));
        let is_next = match run {
            Some((session, flight)) => self.resettle(flight, session, delivery),
            None if self.subscription.is_stopping() && !self.keeping.renews() => {
                self.refuse(delivery)
            }
            None => self.start(delivery),
        };
        if !is_next {
            error!(consumer = %self.lane.name, tag, "delivery tag out of order, replacing the session");
            self.ledger.unsettled(End::Stale);
            self.lose_session(&BrokerError::Lost("tag out of order".to_owned()));
        }
    }

    /// Adds a delivery to the table, and to those that start at the end of this turn; false for a
    /// tag out of order.
    fn start(&mut self, delivery: Delivery) -> bool {
        let Some(flight) = self.push(delivery) else {
            return false;
        };
        self.under_way += 1;
        let tolerance = self.subscription.tolerance;
        self.returning.copies.watch_wait(&flight, tolerance);
        self.pace.stirred = true;
        self.starting.push(flight);
        if self.starting.len() == TOGETHER {
            self.send_off();
        }
        true
    }

    /// Adds a delivery to the table; `None` for a tag out of order.
    pub(super) fn push(&mut self, delivery: Delivery) -> Option<Arc<Flight>> {
        let session = self.subscription.session_id?;
        self.sizes.saw(delivery.body.len());
        let (lane, tag, received) = (&self.lane, delivery.tag, delivery.received);
        let (dialect, with_sequel) = (lane.settings.dialect, lane.wants_sequel());
        let message = Message::read(delivery, Arc::clone(&lane.queue), dialect, with_sequel);
        if message.has_sequel {
            lane.tell_of_sequel(&message);
        }
        if self.samples_wait {
            self.samples_wait = !lane.watch.arrived(&message);
        }
        let flight = Arc::new(Flight::new(
            Arc::clone(&lane.name),
            message,
            Arc::clone(&lane.resources),
            session,
            tag,
            received,
        ));
        let is_next = self.unsettled.push(tag, Arc::clone(&flight));
        is_next.then_some(flight)
    }

    /// The flight of an earlier delivery of the same message that is still on its path, although its
    /// session has ended.
    fn first_run_of(&mut self, delivery: &Delivery) -> Option<Arc<Flight>> {
        if !delivery.redelivered || self.orphans.is_empty() {
            return None;
        }
        let dialect = self.lane.settings.dialect;
        let is_it = |flight: &Arc<Flight>| flight.message.is_delivered_again_by(delivery, dialect);
        let index = self.orphans.iter().position(is_it)?;
        Some(self.orphans.remove(index))
    }

    /// Lets a flight settle a new delivery of its message, whose handler then need not run again; false
    /// for a tag out of order.
    fn resettle(&mut self, flight: Arc<Flight>, session: SessionId, delivery: Delivery) -> bool {
        let is_next = self.unsettled.push(delivery.tag, Arc::clone(&flight));
        if is_next {
            let Delivery {
                tag, properties, ..
            } = delivery;
            self.lane.move_to(&flight, session, tag, properties);
            self.lane.watch.resettled(&flight);
        } else {
            self.orphans.push(flight);
        }
        is_next
    }

    /// Puts new deliveries in the start queue, and adds runners when deliveries there have waited
    /// for too long, or when the lane's rate allows the next start.
    pub(super) fn send_off(&mut self) {
        let lane = &self.lane;
        let is_idle = self.starting.is_empty() && self.pace.take_up_at.is_none();
        if is_idle && !lane.starts.has_rate() {
            return;
        }
        let now = Instant::now();
        if !self.starting.is_empty() && lane.starts.put(&mut self.starting, now) {
            path::run_on(lane);
        }
        let soon = now + TAKE_UP;
        let due = self.pace.take_up_at.take();
        self.pace.take_up_at = match due {
            Some(due) if due <= now => {
                (0..lane.starts.missing(now)).for_each(|_| path::run_on(lane));
                lane.starts.look_at(soon)
            }
            Some(due) if lane.starts.has_rate() => {
                Some(lane.starts.look_at(soon).map_or(due, |at| at.min(due)))
            }
            None if lane.starts.has_rate() => lane.starts.look_at(soon),
            due => due.or(Some(soon)),
        };
    }

    /// Takes back the deliveries that have not started, and returns them to their queue.
    pub(super) fn withdraw(&mut self) {
        let mut waiting: Vec<_> = self.lane.starts.withdraw().into();
        waiting.append(&mut self.starting);
        for flight in waiting {
            self.under_way -= 1;
            if Some(flight.session()) == self.subscription.session_id {
                self.give_back(flight.tag(), None);
            }
        }
    }
}
