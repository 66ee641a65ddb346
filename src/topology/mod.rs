//! The tool for queues and bindings: compares what exists with what the settings want, makes what is
//! missing, and replaces a work queue by a quorum queue under a new name.
//!
//! A plan creates nothing. To apply it is what a worker does at its start, by the same code. A
//! migration can be killed at any moment: a later run goes on where it stopped. Then about the messages
//! of two batches exist twice. A message that is published while both queues have the same binding
//! exists twice too.

mod check;
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

use crate::{broker::BrokerError, letters::DeadLettersError, text::visible};

/// Why a command about queues fails.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TopologyError {
    /// The broker cannot be reached, or refused a request.
    #[error("{}", visible(&.0.to_string()))]
    Broker(BrokerError),
    /// Messages could not be moved. Those that were not moved are in their queue.
    #[error("{}", visible(&.0.to_string()))]
    Messages(DeadLettersError),
    /// The migration is refused. No message was moved.
    #[error("{0}")]
    Refused(String),
    /// The new queue has a binding, and the old one could not be unbound.
    #[error("{0}")]
    BoundTwice(String),
}

impl From<BrokerError> for TopologyError {
    fn from(error: BrokerError) -> Self {
        Self::Broker(error)
    }
}

impl From<DeadLettersError> for TopologyError {
    fn from(error: DeadLettersError) -> Self {
        Self::Messages(error)
    }
}
