//! The tool for queues and bindings: compares what exists with what the settings want, makes what is
//! missing, and replaces a work queue by a quorum queue under a new name.
//!
//! A plan creates nothing. To apply it is what a worker does at its start, by the same code. A
//! migration can be killed at any moment: a later run goes on where it stopped, no message is lost, and
//! at most the messages of two batches exist twice.

mod desk;
mod left;
mod mend;
mod migrate;
mod mover;
mod plan;
mod resolve;
#[cfg(test)]
mod tests;

pub use crate::broker::{Bound, QueueRole};
pub use desk::TopologyDesk;
pub use left::{Left, Obstacle};
pub use migrate::{Migrated, Migration, Moving, Step};
pub use plan::{Action, ConsumerPlan, Item, Object, Plan};

use crate::{broker::BrokerError, letters::DeadLettersError};

/// Why a command about queues fails.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TopologyError {
    /// The broker cannot be reached, or refused a request.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// Messages could not be moved. Those that were not moved are in their queue.
    #[error(transparent)]
    Messages(#[from] DeadLettersError),
    /// The migration is refused. Nothing was changed.
    #[error("{0}")]
    Refused(String),
}
