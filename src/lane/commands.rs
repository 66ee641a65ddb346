//! Commands to a lane while it runs: pause, resume, list and cancel messages, count queues.

use std::{mem, sync::Arc};

use tokio::sync::oneshot;

use super::LaneActor;
use crate::{
    broker::{Broker, BrokerError},
    flight::{CancelReason, Flight, Phase},
    status::{DeliveryId, Window},
};

/// Why a call to a consumer gave no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// There is no consumer of this name.
    #[error("no such consumer")]
    NoSuchConsumer,
    /// The consumer did not answer within `timeouts.call`.
    #[error("the consumer did not answer in time")]
    TimedOut,
    /// The consumer has ended, or has not started yet.
    #[error("the consumer is not running")]
    NotRunning,
}

/// Why a message in flight was not cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CancelError {
    /// The consumer gave no answer.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The message is no longer in flight, or never was.
    #[error("the message is no longer in flight")]
    Gone,
    /// No handler runs for the message: it is in this phase.
    #[error("no handler is running for the message")]
    NotHandling(Phase),
}

/// A command to a lane, with the channel for the answer.
pub(crate) enum Command {
    /// Take nothing new, and return what has not started. The answer comes when all is returned.
    Pause(oneshot::Sender<()>),
    /// Consume again.
    Resume(oneshot::Sender<()>),
    /// List the messages in flight, oldest first.
    InFlight {
        /// Leave out this many of the oldest.
        skip: usize,
        /// Answer with this many at most.
        limit: usize,
        /// The channel for the answer.
        answer: oneshot::Sender<Window>,
    },
    /// Find the messages in flight with this `message-id`. One pass over all of them takes a few milliseconds
    /// at most. In several passes a message could leave its place and be missed.
    Find(String, oneshot::Sender<Vec<Arc<Flight>>>),
    /// Cancel the handler that runs for this delivery.
    Cancel(DeliveryId, oneshot::Sender<Result<(), CancelError>>),
    /// Count the messages in the retry queues and the dead-letter queue.
    Depths(oneshot::Sender<Result<Depths, BrokerError>>),
}

/// The number of messages in each retry queue, shortest delay first, and then in the dead-letter
/// queue; `None` for a queue that does not exist.
pub(crate) type Depths = Vec<(String, Option<u32>)>;

impl<B: Broker> LaneActor<B> {
    pub(super) fn obey(&mut self, command: Command) {
        // A send fails when the caller has gone away; then nobody needs the answer.
        match command {
            // In a drain there is nothing to pause or resume.
            Command::Pause(answer) | Command::Resume(answer) if self.draining => {
                let _ = answer.send(());
            }
            Command::Pause(answer) => {
                self.set_paused(true);
                self.forget_outage();
                self.stop_consuming();
                self.pausing.push(answer);
            }
            Command::Resume(answer) => {
                // The loop subscribes at its next turn, or once the consumer is cancelled.
                if self.set_paused(false) {
                    self.subscription.subscribe_now();
                }
                // Who asked may look at the state at once.
                self.publish_state();
                for superseded in self.pausing.drain(..).chain([answer]) {
                    let _ = superseded.send(());
                }
            }
            Command::InFlight {
                skip,
                limit,
                answer,
            } => {
                let _ = answer.send(self.in_flight(skip, limit));
            }
            Command::Find(id, answer) => {
                let flights = self.unsettled.flights();
                let found = flights.filter(|flight| flight.message.id() == Some(&id));
                let _ = answer.send(found.map(Arc::clone).collect());
            }
            Command::Cancel(delivery, answer) => {
                let _ = answer.send(self.cancel(delivery));
            }
            Command::Depths(answer) => self.count(answer),
        }
    }

    /// Returns whether the consumer was paused before.
    fn set_paused(&mut self, paused: bool) -> bool {
        self.lane.watch.figures.set_paused(paused);
        mem::replace(&mut self.paused, paused)
    }

    fn in_flight(&self, skip: usize, limit: usize) -> Window {
        let runs = self.unsettled.flights().skip(skip).take(limit);
        Window {
            total: self.unsettled.open(),
            runs: runs.map(Arc::clone).collect(),
        }
    }

    /// Asks a handler to end. Its path then ends with the outcome `Interrupted`, and the lane
    /// returns the message.
    fn cancel(&self, delivery: DeliveryId) -> Result<(), CancelError> {
        let DeliveryId { session, tag } = delivery;
        if Some(session) != self.subscription.session_id {
            return Err(CancelError::Gone);
        }
        let Some(flight) = self.unsettled.flight(tag) else {
            return Err(CancelError::Gone);
        };
        match flight.phase() {
            Phase::Handling => flight.cancel.request(CancelReason::Operator),
            phase => return Err(CancelError::NotHandling(phase)),
        }
        Ok(())
    }

    /// Counts in a task of its own, so that the lane does not wait for the broker.
    fn count(&self, answer: oneshot::Sender<Result<Depths, BrokerError>>) {
        let (lane, broker) = (Arc::clone(&self.lane), self.broker.clone());
        tokio::spawn(async move {
            let rungs = lane.watch.figures.rungs();
            let rungs = rungs.map(|(rung, _)| rung.queue.clone());
            let queues = rungs.chain([lane.settings.dead_letter_queue()]).collect();
            let _ = answer.send(broker.depths(queues).await);
        });
    }
}
