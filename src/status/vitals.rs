//! What is known of a lane without asking it: read by others while it is busy, or does not answer.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use super::{
    Counters,
    outcomes::{LaneOutcomes, Outcomes},
};
use crate::{
    consumer::ConsumerSettings,
    flight::{Flight, Slots},
    outcome::Outcome,
    policy::Settlement,
    retry::{Ladder, Rung},
};

/// See the module.
#[derive(Debug)]
pub(crate) struct Vitals {
    pub(crate) settings: ConsumerSettings,
    pub(crate) counters: Arc<Counters>,
    pub(crate) slots: Arc<Slots>,
    outcomes: LaneOutcomes,
    /// Turns of the lane's loop.
    turns: AtomicU64,
    /// Whether a handler was registered in code.
    registered: AtomicBool,
}

impl Vitals {
    pub(crate) fn new(name: &str, settings: &ConsumerSettings, outcomes: &Outcomes) -> Self {
        Self {
            settings: settings.clone(),
            counters: Arc::default(),
            slots: Arc::new(Slots::new(settings.concurrency.into())),
            outcomes: outcomes.lane(name),
            turns: AtomicU64::new(0),
            registered: AtomicBool::new(false),
        }
    }

    /// The lane's loop has turned. Only the lane itself calls this.
    pub(crate) fn beat(&self) {
        let turns = self.turns.load(Ordering::Relaxed);
        self.turns.store(turns.wrapping_add(1), Ordering::Relaxed);
    }

    /// A number that changes as long as the lane's loop turns; with nothing to do, every 250 ms.
    pub(crate) fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    pub(crate) fn set_registered(&self) {
        self.registered.store(true, Ordering::Relaxed);
    }

    /// Whether a handler was registered in code.
    pub(crate) fn is_registered(&self) -> bool {
        self.registered.load(Ordering::Relaxed)
    }

    /// The lane's retry queues, shortest first.
    pub(crate) fn ladder(&self) -> Vec<Rung> {
        let settings = &self.settings;
        Ladder::new(&settings.queue, settings.retry.cap)
            .rungs()
            .collect()
    }

    /// Keeps an outcome, or, of those that are no failures, a few a second.
    pub(crate) fn note(&self, flight: &Flight, outcome: &Outcome, settlement: &Settlement) {
        self.outcomes.note(flight, outcome, settlement);
    }

    /// Lets this lane keep a few more outcomes that are no failures.
    pub(crate) fn refill(&self) {
        self.outcomes.refill();
    }
}
