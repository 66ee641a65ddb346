//! The report of one consumer.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::{counters::Counts, ledger::Ledger, routes::RouteReport};

/// The figures of one consumer.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
#[non_exhaustive]
pub struct ConsumerReport {
    /// Messages in flight: delivered and not settled.
    pub in_flight: usize,
    /// Handler slots in use.
    pub running: usize,
    /// Messages in flight that wait for a handler slot.
    pub buffered: usize,
    /// Messages in flight whose retry waits in the worker.
    pub waiting: usize,
    /// How the consumer's deliveries ended.
    pub ledger: Ledger,
    /// The consumer's other counts.
    pub counts: Counts,
    /// The consumer's routes, if it has any.
    pub routes: Vec<RouteReport>,
    /// After a drain: deliveries that the drain left unsettled. The broker redelivers them.
    #[serde(skip)]
    pub left: usize,
}

/// The reports of a worker's consumers, by name.
pub type ConsumerReports = BTreeMap<String, ConsumerReport>;
