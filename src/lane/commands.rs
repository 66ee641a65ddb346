//! What a lane is asked and told while it runs.

use std::{mem, sync::Arc};

use tokio::sync::oneshot;

use super::LaneActor;
use crate::{
    broker::{Broker, BrokerError},
    flight::{CancelReason, Phase},
    status::{DeliveryId, Window},
};

/// Why a call to a lane gave no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// There is no lane of this name.
    #[error("no such consumer")]
    NoSuchConsumer,
    /// The lane did not answer within `timeouts.call`.
    #[error("the consumer did not answer in time")]
    TimedOut,
    /// The lane has ended, or has not begun.
    #[error("the consumer is not running")]
    NotRunning,
}

/// Why a message in flight was not cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CancelError {
    /// The lane gave no answer.
    #[error(transparent)]
    Call(#[from] CallError),
    /// It is no longer in flight, or never was.
    #[error("the message is not in flight any more")]
    Gone,
    /// There is no handler to cancel.
    #[error("the message is not at its handler")]
    NotHandling(Phase),
}

/// What can be asked of a lane.
pub(crate) enum Command {
    /// Take nothing new, give back what has not started.
    Pause(oneshot::Sender<()>),
    /// Consume again.
    Resume(oneshot::Sender<()>),
    /// Messages in flight, oldest first.
    InFlight {
        /// Leave out this many of the oldest.
        skip: usize,
        /// Answer with this many at most.
        limit: usize,
        /// Where the answer goes.
        answer: oneshot::Sender<Window>,
    },
    /// Cancel the handler that has this message.
    Cancel(DeliveryId, oneshot::Sender<Result<(), CancelError>>),
    /// How many messages wait in its retry rungs and its dead-letter queue.
    Depths(oneshot::Sender<Result<Depths, BrokerError>>),
}

/// The retry rungs of a lane, shortest first, and last the dead-letter queue, each with its
/// messages; `None` for a queue that does not exist.
pub(crate) type Depths = Vec<(String, Option<u32>)>;

impl<B: Broker> LaneActor<B> {
    pub(super) fn obey(&mut self, command: Command) {
        // An asker that has gone away does not matter.
        match command {
            // A drain has taken over: there is nothing to pause or resume.
            Command::Pause(answer) | Command::Resume(answer) if self.draining => {
                let _ = answer.send(());
            }
            Command::Pause(answer) => {
                self.paused = true;
                self.stop_consuming();
                self.pausing.push(answer);
            }
            Command::Resume(answer) => {
                // The loop subscribes at its next turn, or once the consumer is cancelled.
                if mem::take(&mut self.paused) {
                    self.subscription.subscribe_now();
                }
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
            Command::Cancel(delivery, answer) => {
                let _ = answer.send(self.cancel(delivery));
            }
            Command::Depths(answer) => self.count(answer),
        }
    }

    fn in_flight(&self, skip: usize, limit: usize) -> Window {
        let runs = self.unsettled.flights().skip(skip).take(limit);
        Window {
            total: self.unsettled.open(),
            runs: runs.map(Arc::clone).collect(),
        }
    }

    /// Its path does the rest: the outcome is `Interrupted`, and the message is returned.
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

    /// Counts beside the lane, which does not wait for the broker's answers.
    fn count(&self, answer: oneshot::Sender<Result<Depths, BrokerError>>) {
        let (lane, broker) = (Arc::clone(&self.lane), self.broker.clone());
        tokio::spawn(async move {
            let rungs = lane.ladder.rungs().map(|rung| rung.queue);
            let queues = rungs.chain([lane.settings.dead_letter_queue()]).collect();
            let _ = answer.send(broker.depths(queues).await);
        });
    }
}
