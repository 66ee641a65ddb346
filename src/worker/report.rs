//! The report of a worker that has ended, and the errors of one that could not start.

use std::collections::BTreeMap;

use crate::{
    broker::{BrokerError, Difference, lines},
    config::ConfigError,
    handler::HandlerError,
    status::{ConsumerReports, Ledger},
};

/// Why a worker did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The settings are invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A handler could not be made or started.
    #[error("consumer {consumer:?}: {error}")]
    Handler {
        /// The consumer.
        consumer: String,
        /// Why.
        error: HandlerError,
    },
    /// A consumer has no handler.
    #[error("consumer {0:?} has no handler: set `handler` or register one in code")]
    NoHandler(String),
    /// A handler was registered for a consumer that is not configured.
    #[error("a handler was registered for consumer {0:?}, which is not configured")]
    NoConsumer(String),
    /// A handler takes a value that was not given to [`Worker::share`](crate::Worker::share).
    #[error(
        "a handler of consumer {consumer:?} takes Shared<{type_name}>, which was not given to the worker"
    )]
    NotShared {
        /// The consumer.
        consumer: String,
        /// The type.
        type_name: &'static str,
    },
    /// The queues at the broker do not match the settings of these consumers.
    #[error("{}", self.lines().join("; "))]
    Queues(BTreeMap<String, Vec<Difference>>),
    /// The broker could not be used, and `broker.fail_fast` is set.
    #[error("consumer {consumer:?}: {error}")]
    Broker {
        /// The consumer.
        consumer: String,
        /// Why.
        error: BrokerError,
    },
    /// The worker's own thread could not be started, or panicked.
    #[error("worker thread: {0}")]
    Thread(String),
}

impl RunError {
    /// One line for each thing that somebody has to mend.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let Self::Queues(refused) = self else {
            return vec![self.to_string()];
        };
        let of_consumer = |(consumer, differences): (&String, &Vec<Difference>)| {
            let lines = lines(differences).into_iter();
            let named = lines.map(|line| format!("consumer {consumer:?}: {line}"));
            named.collect::<Vec<_>>()
        };
        refused.iter().flat_map(of_consumer).collect()
    }
}

/// The report of a worker that has ended.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Report {
    /// The reports of the consumers, by name.
    pub consumers: ConsumerReports,
}

impl Report {
    /// The ledger of all consumers together.
    #[must_use]
    pub fn ledger(&self) -> Ledger {
        let mut sum = Ledger::default();
        for consumer in self.consumers.values() {
            sum += consumer.ledger;
        }
        sum
    }

    /// The number of handlers that the drain cancelled. Their messages are back in their queues, and
    /// run again.
    #[must_use]
    pub fn cut_off(&self) -> u64 {
        let consumers = self.consumers.values();
        consumers.map(|consumer| consumer.counts.cut_off).sum()
    }

    /// The number of deliveries that the drain left unsettled. The broker redelivers them.
    #[must_use]
    pub fn left(&self) -> usize {
        self.consumers.values().map(|consumer| consumer.left).sum()
    }
}
