//! What a lane knows about itself.

use std::collections::BTreeMap;

use super::{counters::Counts, ledger::Ledger};

/// What a lane knows about itself.
#[derive(Clone, Debug, Default, serde::Serialize)]
#[non_exhaustive]
pub struct LaneReport {
    /// Its account.
    pub ledger: Ledger,
    /// What it counted.
    pub counts: Counts,
    /// Deliveries on their path now; after a drain, those that were left unsettled.
    pub in_flight: usize,
    /// Handler slots in use.
    pub running: usize,
    /// Deliveries that wait for a handler slot.
    pub buffered: usize,
    /// Retries that wait in the worker.
    pub waiting: usize,
}

/// The reports of a worker's lanes, by name.
pub type LaneReports = BTreeMap<String, LaneReport>;
