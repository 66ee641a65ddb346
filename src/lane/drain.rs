//! Graceful shutdown of a lane: the consumer is cancelled, what has not started goes back, running
//! handlers finish within the grace, everything is settled, and the session is closed.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::info;

use super::LaneActor;
use crate::{
    broker::{Broker, Session},
    flight::CancelReason,
    status::{ConsumerReport, ConsumerState, Standing},
};

/// How long after the end of the grace, and of its handlers' cancellation, a lane still settles.
const LAST_CHANCE: Duration = Duration::from_millis(1500);

impl<B: Broker> LaneActor<B> {
    pub(super) fn begin_drain(&mut self) {
        self.draining = true;
        self.stale_before_drain = self.ledger.stale;
        self.stop_consuming();
        // The drain takes over from a pause.
        self.pausing.drain(..).for_each(|answer| {
            // A caller that has gone away does not matter.
            let _ = answer.send(());
        });
        info!(consumer = %self.lane.name, running = self.under_way, "draining");
    }

    /// The grace has ended: handlers are asked to end, and their messages go back.
    pub(super) fn cancel_handlers(&mut self) {
        self.hard_stopped = Some(Instant::now());
        for flight in self.unsettled.flights().chain(&self.orphans) {
            flight.cancel.request(CancelReason::Drain);
        }
    }

    /// Whether the time after the hard stop is used up.
    pub(super) fn has_given_up(&self) -> bool {
        let most = self.lane.limits.cancel_grace + LAST_CHANCE;
        self.hard_stopped.is_some_and(|at| at.elapsed() > most)
    }

    /// Ends the session in order. Everything has been written; what remains is to give the broker
    /// time to apply it. A quorum queue takes about 32 commands of a channel at a time and keeps
    /// the rest in the channel's process, and closing the channel throws those away: finished
    /// messages would run again (measured on 3.10, 4.0 and 4.3 alike).
    pub(super) async fn finish(mut self) -> ConsumerReport {
        if let Some(session) = self.subscription.session.take() {
            const AT_LEAST: Duration = Duration::from_millis(50);
            let now = Instant::now();
            let wait = self.acking.applied_by.saturating_duration_since(now);
            tokio::time::sleep(wait.max(AT_LEAST).min(self.lane.drain_settle)).await;
            session.close().await;
        }
        self.lane.set_session(None);
        // What is left now was given up on.
        self.abandon();
        // A drain whose session died could not settle what that session had delivered.
        let left = self.ledger.stale - self.stale_before_drain;
        let lane = Arc::clone(&self.lane);
        lane.watch.figures.turned(Standing {
            left,
            ..self.standing()
        });
        self.publish(ConsumerState::Stopped, None);
        lane.watch.figures.report()
    }
}
