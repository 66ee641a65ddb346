//! What a lane reports about itself: the lane and its paths write it, telemetry exports it, the
//! admin server serves it.

mod counters;
mod durations;
mod health;
mod in_flight;
mod ledger;
mod outcomes;
mod report;
mod stats;
mod vitals;

pub(crate) use counters::Counters;
pub(crate) use counters::Counts;
pub(crate) use durations::{Added, Durations, Tally};
pub use health::{LaneHealth, LaneState, Readiness};
pub(crate) use in_flight::Window;
pub use in_flight::{DeliveryId, InFlight, InFlightPage, InvalidDeliveryId};
pub(crate) use ledger::End;
pub use ledger::Ledger;
pub(crate) use outcomes::Outcomes;
pub use outcomes::{OutcomeKind, OutcomeRecord, SettlementKind};
pub use report::{LaneReport, LaneReports};
pub(crate) use stats::LaneStats;
pub(crate) use vitals::Vitals;
