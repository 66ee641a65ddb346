//! Stuck handlers. A handler that blocks its thread sees neither its timeout nor its cancellation.
//! The lane settles its delivery, and gives its slot to another delivery.

use std::{sync::Arc, time::Duration};

use super::LaneActor;
use crate::{broker::Broker, flight::Flight, outcome::Ending, path};

/// A handler counts as stuck this long after its timeout and its `cancel_grace`.
const SLACK: Duration = Duration::from_millis(500);

impl<B: Broker> LaneActor<B> {
    pub(super) fn settle_stuck_handlers(&mut self) {
        let grace = self.lane.settings.cancel_grace + SLACK;
        let after_stop = self.hard_stopped.is_some_and(|at| at.elapsed() > grace);
        let timeout = |flight: &Flight| match self.lane.dispatch.route(flight) {
            Some(route) => route.limits.timeout,
            None => self.lane.settings.timeout,
        };
        let stuck = |flight: &&Arc<Flight>| {
            flight
                .handling_for()
                .is_some_and(|time| after_stop || time > timeout(flight) + grace)
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
                    after: timeout(&flight),
                },
            };
            tokio::spawn(path::settle_stuck(Arc::clone(&self.lane), flight, ending));
        }
    }
}
