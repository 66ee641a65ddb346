//! How a worker ended, or why it did not start.

use crate::{
    broker::BrokerError,
    config::ConfigError,
    handler::HandlerError,
    status::{ConsumerReports, Ledger},
};

/// Why a worker did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The settings cannot work.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A handler could not be made.
    #[error("consumer {consumer:?}: {error}")]
    Handler {
        /// The consumer.
        consumer: String,
        /// Why.
        error: HandlerError,
    },
    /// A consumer has nothing to run.
    #[error("consumer {0:?} has no handler: set `handler` or register one in code")]
    NoHandler(String),
    /// A handler was registered for a consumer that is not configured.
    #[error("a handler was registered for consumer {0:?}, which is not configured")]
    NoConsumer(String),
    /// A handler takes a value that was not given to the worker.
    #[error(
        "a handler of consumer {consumer:?} takes Shared<{type_name}>, which was not given to the worker"
    )]
    NotShared {
        /// The consumer.
        consumer: String,
        /// The type.
        type_name: &'static str,
    },
    /// The broker could not be used, and `broker.fail_fast` is set; or what exists there is not
    /// what is configured.
    #[error("consumer {consumer:?}: {error}")]
    Broker {
        /// The consumer.
        consumer: String,
        /// Why.
        error: BrokerError,
    },
    /// The worker's own thread could not be started, or died.
    #[error("worker thread: {0}")]
    Thread(String),
}

/// How a worker ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// Each consumer's account.
    pub consumers: ConsumerReports,
}

impl Report {
    /// The account of all consumers together.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        let mut sum = Ledger::default();
        for consumer in self.consumers.values() {
            sum += consumer.ledger;
        }
        sum
    }

    /// Deliveries that were left unsettled when the time was up; the broker redelivers them.
    #[must_use]
    pub fn left(&self) -> usize {
        self.consumers.values().map(|consumer| consumer.left).sum()
    }
}
