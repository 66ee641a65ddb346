//! Typed settings, a file a section.
//!
//! Every field says what it means, its unit, its default, and what too high or too low does;
//! `config/default.toml` says the same to people who run the binary, and a test holds the two
//! equal. [`Settings::load`] reads files and environment, [`Settings::validate`] lists every
//! problem at once.

mod admin;
mod broker;
mod consumer;
mod deletion_cost;
mod handler;
mod layers;
mod load;
mod problem;
mod process;
mod read;
mod retry;
mod secret;
mod suggest;
mod telemetry;
mod validate;

pub use admin::{AdminSettings, Listen};
pub use broker::{BrokerSettings, PublishSettings, ReconnectSettings, TlsSettings};
pub use consumer::{AckSettings, Binding, ConsumerSettings, Decode, QueueType, Topology};
pub use deletion_cost::PodDeletionCostSettings;
pub use handler::{HandlerKind, HandlerSettings};
pub use load::environment;
pub use problem::{ConfigError, Problem, Source};
pub use process::{DrainSettings, LogFormat, LogSettings, StateSettings, TimeoutSettings};
pub use retry::{InvalidStatus, RetrySettings, Rule, RuleAction, StatusPattern};
pub use secret::{BrokerUrls, Secret};
pub use telemetry::{OtlpProtocol, TelemetrySettings, TraceParent};

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Everything a worker can be told, with a default for all but the consumers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where the broker is and how to reach it.
    pub broker: BrokerSettings,
    /// How retries and dead letters are published.
    pub publish: PublishSettings,
    /// How the worker stops.
    pub drain: DrainSettings,
    /// The deadline of every await that can hang, apart from handlers.
    pub timeouts: TimeoutSettings,
    /// The health and admin server.
    pub admin: AdminSettings,
    /// The state actor that handlers share.
    pub state: StateSettings,
    /// What is logged and how.
    pub log: LogSettings,
    /// What is exported to an OpenTelemetry collector.
    pub telemetry: TelemetrySettings,
    /// Whether Kubernetes is told what the worker has in flight.
    pub pod_deletion_cost: PodDeletionCostSettings,
    /// The lanes, by name. A name is lower case (`a-z`, `0-9`, `_`) so that each setting has its
    /// environment variable.
    pub consumers: BTreeMap<String, ConsumerSettings>,
}

#[cfg(test)]
mod sample;
#[cfg(test)]
mod tests;
