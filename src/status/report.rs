//! What a consumer reports about itself.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::{counters::Counts, ledger::Ledger};

/// What a consumer reports about itself.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
#[non_exhaustive]
pub struct ConsumerReport {
    /// Messages in flight: delivered, and not settled.
    pub in_flight: usize,
    /// Handler slots in use.
    pub running: usize,
    /// Of the messages in flight: those that wait for a handler slot.
    pub buffered: usize,
    /// Of the messages in flight: retries that wait in the worker.
    pub waiting: usize,
    /// How its deliveries ended.
    pub ledger: Ledger,
    /// What it counted.
    pub counts: Counts,
    /// After a drain: deliveries that it left unsettled; the broker redelivers them.
    #[serde(skip)]
    pub left: usize,
}

/// The reports of a worker's consumers, by name.
pub type ConsumerReports = BTreeMap<String, ConsumerReport>;
