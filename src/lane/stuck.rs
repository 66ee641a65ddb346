//! Handlers that block their thread. They see neither timeout nor cancellation, so the lane settles
//! their deliveries and gives their slots to others.

use std::{sync::Arc, time::Duration};

use super::LaneActor;
use crate::{broker::Broker, flight::Flight, outcome::Ending, path};

/// The time that a handler gets beyond its timeout and cancellation grace.
const SLACK: Duration = Duration::from_millis(500);

impl<B: Broker> LaneActor<B> {
    pub(super) fn settle_stuck_handlers(&mut self) {
        let limits = self.lane.limits;
        let most = limits.timeout + limits.cancel_grace + SLACK;
        let after_stop = self
            .hard_stopped
            .is_some_and(|at| at.elapsed() > limits.cancel_grace + SLACK);
        let stuck = |flight: &&Arc<Flight>| {
            flight
                .handling_for()
                .is_some_and(|time| time > most || after_stop)
                && flight.claim_from_handler()
        };
        let flights = self.unsettled.flights().chain(&self.orphans);
        let stuck: Vec<_> = flights.filter(stuck).map(Arc::clone).collect();
        for flight in stuck {
            self.lane.watch.blocks_its_thread(&flight);
            flight.slot.give_back();
            let ending = match after_stop {
                true => Ending::Interrupted,
                false => Ending::TimedOut {
                    after: limits.timeout,
                },
            };
            tokio::spawn(path::settle_stuck(Arc::clone(&self.lane), flight, ending));
        }
    }
}
