//! Reports of a consumer: figures, state, outcomes, messages in flight. Lanes and paths write them,
//! telemetry exports them, and the admin server serves them.

mod acks;
mod backlog;
mod counters;
mod durations;
mod figures;
mod health;
mod in_flight;
mod ledger;
mod outcome_record;
mod outcomes;
mod process;
mod report;
mod routes;

pub use backlog::{Backlog, Limit, Load, OldestFrom};
pub(crate) use backlog::{Look, Looks};
pub(crate) use counters::{Counters, Counts};
pub(crate) use durations::{Added, Durations, Tally};
pub(crate) use figures::{Figures, Standing};
pub use health::{ConsumerHealth, ConsumerState, Readiness};
pub(crate) use in_flight::Window;
pub use in_flight::{DeliveryId, InFlight, InFlightPage, InvalidDeliveryId};
pub(crate) use ledger::End;
pub use ledger::Ledger;
pub use outcome_record::OutcomeRecord;
pub(crate) use outcomes::Outcomes;
pub(crate) use process::{admin_refused, note_admin_refused};
pub use report::{ConsumerReport, ConsumerReports};
pub(crate) use routes::RouteFigures;
pub use routes::RouteReport;
