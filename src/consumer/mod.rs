//! The settings of consumers: queue, limits, retry policy and handler.

mod forward;
mod queues;
mod rate;
mod routes;
mod settings;

use std::collections::BTreeMap;

pub use forward::ForwardSettings;
pub use rate::{InvalidRate, Rate};
pub use routes::{InvalidRouteBy, RouteBy, RouteSettings, Unrouted};
pub(crate) use routes::{find, is_pattern, order, takes};
pub(crate) use settings::NAME_PATTERN;
pub use settings::{AckSettings, ConsumerSettings};

use crate::config::{ConfigError, Findings, Problem, Source};

/// Checks each consumer, and that the queues of all consumers fit together.
pub(crate) fn check(findings: &mut Findings, consumers: &BTreeMap<String, ConsumerSettings>) {
    for (name, consumer) in consumers {
        consumer.check(findings, name);
    }
    queues::check(findings, consumers);
}

/// Checks that there is at least one consumer.
pub(crate) fn require(consumers: &BTreeMap<String, ConsumerSettings>) -> Result<(), ConfigError> {
    if !consumers.is_empty() {
        return Ok(());
    }
    Err(ConfigError::from(Problem {
        path: "consumers".to_owned(),
        source: Source::Default,
        message:
            "at least one is required, such as [consumers.orders] with its queue; --config or \
                  LAPWING_CONFIG names the file"
                .to_owned(),
    }))
}
