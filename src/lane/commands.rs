//! What a lane is asked and told while it runs.

use std::sync::Arc;

use tokio::{sync::oneshot, time::Instant};

use super::LaneActor;
use crate::{
    broker::{self, BrokerError, Link},
    flight::{CancelReason, Phase},
    status::{DeliveryId, LaneReport, LaneState, Window},
};

/// Why a call to a lane gave no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// There is no lane of this name.
    #[error("no such lane")]
    NoSuchLane,
    /// The lane did not answer within `timeouts.call`.
    #[error("the lane did not answer in time")]
    TimedOut,
    /// The lane has ended, or has not begun.
    #[error("the lane is not running")]
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
    /// Its account.
    Report(oneshot::Sender<LaneReport>),
    /// Take nothing new, give back what has not started.
    Pause(oneshot::Sender<()>),
    /// Consume again.
    Resume(oneshot::Sender<()>),
    /// Messages in flight: leave out so many, and tell at most so many.
    InFlight(usize, usize, oneshot::Sender<Window>),
    /// Cancel the handler that has this message.
    Cancel(DeliveryId, oneshot::Sender<Result<(), CancelError>>),
    /// How many messages wait in its retry rungs and its dead-letter queue.
    Depths(oneshot::Sender<Result<Depths, BrokerError>>),
}

/// The retry rungs of a lane, shortest first, and last the dead-letter queue, each with its
/// messages; `None` for a queue that does not exist.
pub(crate) type Depths = Vec<(String, Option<u32>)>;

impl LaneActor {
    pub(super) async fn obey(&mut self, command: Command) {
        // An asker that has gone away does not matter.
        match command {
            Command::Report(answer) => {
                let _ = answer.send(self.report());
            }
            // A drain has taken over: there is nothing to pause or resume.
            Command::Pause(answer) | Command::Resume(answer) if self.draining => {
                let _ = answer.send(());
            }
            Command::Pause(answer) => {
                self.pause().await;
                let _ = answer.send(());
            }
            // Nothing would ever tell that it consumes.
            Command::Resume(answer) if !self.paused => {
                let _ = answer.send(());
            }
            Command::Resume(answer) => {
                // The next turn of the loop subscribes.
                self.paused = false;
                self.open_at = Instant::now();
                self.tell(LaneState::Connecting, None);
                let _ = answer.send(());
            }
            Command::InFlight(skip, most, answer) => {
                let _ = answer.send(self.in_flight(skip, most));
            }
            Command::Cancel(delivery, answer) => {
                let _ = answer.send(self.cancel(delivery));
            }
            Command::Depths(answer) => self.count(answer),
        }
    }

    pub(super) fn report(&self) -> LaneReport {
        let lane = &self.lane;
        LaneReport {
            ledger: self.ledger,
            counts: lane.counters.counts(),
            in_flight: self.started(),
            running: lane.vitals.slots.in_use(),
            buffered: lane.starts.waiting(),
            waiting: lane.waiting_inline(),
        }
    }

    fn in_flight(&self, skip: usize, most: usize) -> Window {
        let runs = self.unsettled.runs().skip(skip).take(most);
        Window {
            total: self.unsettled.open(),
            runs: runs.map(Arc::clone).collect(),
        }
    }

    /// Its path does the rest: the outcome is `Interrupted`, and the message is returned.
    fn cancel(&self, delivery: DeliveryId) -> Result<(), CancelError> {
        let DeliveryId { epoch, tag } = delivery;
        if epoch != self.epoch {
            return Err(CancelError::Gone);
        }
        let Some(flight) = self.unsettled.run(tag) else {
            return Err(CancelError::Gone);
        };
        match flight.phase() {
            Phase::Handling => flight.cancel.request(CancelReason::Operator),
            phase => return Err(CancelError::NotHandling(phase)),
        }
        Ok(())
    }

    /// Beside the lane, which does not wait for it. On the consuming connection: the broker may
    /// have blocked the other one.
    fn count(&self, answer: oneshot::Sender<Result<Depths, BrokerError>>) {
        let lane = Arc::clone(&self.lane);
        let connection = Link::current(&self.link);
        tokio::spawn(async move {
            let Some(connection) = connection else {
                let _ = answer.send(Err(BrokerError::Lost("not connected".to_owned())));
                return;
            };
            let rungs = lane.ladder.rungs().map(|rung| rung.queue);
            let queues = rungs.chain([lane.settings.dead_letter_queue()]).collect();
            let limit = lane.timeouts.declare;
            let _ = answer.send(broker::depths(&connection, queues, limit).await);
        });
    }
}
