//! What a lane says about itself to whoever measures it: one writes, many read, nobody locks.

use std::sync::Arc;

use super::{Counters, Ledger, counters::Counter};
use crate::{flight::Slots, policy::Reason};

/// See the module.
#[derive(Debug)]
pub(crate) struct LaneStats {
    /// What its paths count.
    pub(crate) counters: Arc<Counters>,
    /// Retries parked, by rung.
    pub(crate) parked: Vec<(String, Counter)>,
    dead_letters: [Counter; Reason::ALL.len()],
    /// How deliveries ended, as the lane last booked it.
    ends: [Counter; ENDS.len()],
    /// Deliveries received.
    pub(crate) received: Counter,
    /// Of those acked: dropped.
    pub(crate) dropped: Counter,
    /// Of those stale: settled already.
    pub(crate) duplicates: Counter,
    /// Deliveries on their path.
    pub(crate) in_flight: Counter,
    /// Deliveries that wait for a handler slot.
    pub(crate) buffered: Counter,
    /// Retries that wait in the worker.
    pub(crate) waiting: Counter,
    /// Its handler slots.
    pub(crate) slots: Arc<Slots>,
}

/// The ends of a delivery, as attribute values.
pub(crate) const ENDS: [&str; 5] = ["acked", "parked", "dead-lettered", "returned", "stale"];

impl LaneStats {
    pub(crate) fn new(
        counters: Arc<Counters>,
        slots: Arc<Slots>,
        rungs: impl Iterator<Item = String>,
    ) -> Self {
        Self {
            counters,
            slots,
            parked: rungs.map(|queue| (queue, Counter::default())).collect(),
            dead_letters: Default::default(),
            ends: Default::default(),
            received: Counter::default(),
            dropped: Counter::default(),
            duplicates: Counter::default(),
            in_flight: Counter::default(),
            buffered: Counter::default(),
            waiting: Counter::default(),
        }
    }

    /// Counts a message parked on this rung.
    pub(crate) fn parked_on(&self, rung: &str) {
        let found = self.parked.iter().find(|(queue, _)| queue == rung);
        found.inspect(|(_, counter)| counter.add_one());
    }

    /// Counts a dead letter.
    pub(crate) fn dead_lettered(&self, reason: Reason) {
        let found = Reason::ALL.iter().position(|known| *known == reason);
        found.inspect(|index| self.dead_letters[*index].add_one());
    }

    /// Dead letters by reason.
    pub(crate) fn dead_letters(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let counts = self.dead_letters.iter().map(Counter::get);
        Reason::ALL.into_iter().map(Reason::as_str).zip(counts)
    }

    /// Deliveries by how they ended.
    pub(crate) fn ends(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        ENDS.into_iter().zip(self.ends.iter().map(Counter::get))
    }

    /// The lane's account as it stands.
    pub(crate) fn book(&self, ledger: &Ledger) {
        let Ledger {
            received,
            acked,
            parked,
            dead_lettered,
            returned,
            stale,
            dropped,
            duplicates,
        } = *ledger;
        let ends = [acked, parked, dead_lettered, returned, stale];
        for (counter, value) in self.ends.iter().zip(ends) {
            counter.set(value);
        }
        self.received.set(received);
        self.dropped.set(dropped);
        self.duplicates.set(duplicates);
    }
}
