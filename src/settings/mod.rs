//! The settings of a worker: every key that a file and the environment can set.
//!
//! Each section has its type, documentation, defaults, checks and tests in the part of the library
//! that uses it. This module puts the sections together. `make docs` generates
//! `docs/configuration.md`, `config/default.toml`, the chart's schema and the schema for editors
//! from these types.

mod builder;

use std::{collections::BTreeMap, path::Path};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use builder::SettingsBuilder;

pub use crate::{
    admin::{AdminSettings, Listen},
    broker::{
        Binding, BrokerSettings, BrokerUrls, PublishSettings, QueueArgument, QueueType,
        ReconnectSettings, TimeoutSettings, TlsSettings, Topology,
    },
    config::{ConfigError, Problem, Secret, Source, environment},
    consumer::{AckSettings, ConsumerSettings, ForwardSettings, InvalidRate, Rate},
    decode::{BodySettings, CloudEvents, Decode},
    explain::Schedule,
    handler::HandlerSettings,
    kubernetes::PodDeletionCostSettings,
    retry::{InvalidStatus, RetrySettings, Rule, RuleAction, StatusPattern},
    state::StateSettings,
    telemetry::{LogFormat, LogSettings, OtlpProtocol, TelemetrySettings, TraceParent},
    worker::{DrainSettings, MemorySettings, WorkerSettings},
};

use crate::{
    admin::ServerSettings,
    config::{self, Checked, Findings, KeyPath},
    consumer,
    telemetry::TelemetrySetup,
};

/// The settings of a Lapwing worker.
///
/// Every key has a default, except for the consumers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Where RabbitMQ is and how to reach it.
    pub broker: BrokerSettings,
    /// How retries and dead letters reach the broker.
    pub publish: PublishSettings,
    /// What the worker does between SIGTERM and its end.
    pub drain: DrainSettings,
    /// The deadline of every wait that could hang, apart from handlers.
    pub timeouts: TimeoutSettings,
    /// How much memory messages may take.
    pub memory: MemorySettings,
    /// The HTTP server with probes, metrics, the API and the console.
    pub admin: AdminSettings,
    /// The state actor that handlers share.
    pub state: StateSettings,
    /// What the worker writes to standard error.
    pub log: LogSettings,
    /// Traces, metrics and logs over OTLP.
    pub telemetry: TelemetrySettings,
    /// Which replica Kubernetes removes first when it scales in.
    pub pod_deletion_cost: PodDeletionCostSettings,
    /// The consumers, by name.
    #[schemars(extend("propertyNames" = { "pattern": consumer::NAME_PATTERN }))]
    pub consumers: BTreeMap<String, ConsumerSettings>,
}

impl Checked for Settings {
    fn check(&self, findings: &mut Findings) {
        WorkerSettings::from(self.clone()).check(findings);
        self.admin.check(findings);
        self.log.check(findings);
        self.telemetry.check(findings);
        self.pod_deletion_cost.check(findings);
    }
}

impl From<Settings> for WorkerSettings {
    fn from(settings: Settings) -> Self {
        Self {
            broker: settings.broker,
            publish: settings.publish,
            drain: settings.drain,
            timeouts: settings.timeouts,
            memory: settings.memory,
            state: settings.state,
            consumers: settings.consumers,
        }
    }
}

impl From<&Settings> for ServerSettings {
    fn from(settings: &Settings) -> Self {
        Self {
            admin: settings.admin.clone(),
            worker: settings.clone().into(),
            // Serialisation cannot fail, because every key is a string.
            shown: serde_json::to_value(settings).unwrap_or_default(),
        }
    }
}

impl From<&Settings> for TelemetrySetup {
    fn from(settings: &Settings) -> Self {
        let AdminSettings { listen, probes, .. } = settings.admin;
        Self {
            telemetry: settings.telemetry.clone(),
            log: settings.log.clone(),
            worker: settings.broker.worker_name(),
            consumers: settings.consumers.len(),
            is_scraped: listen.address().or(probes.address()).is_some(),
        }
    }
}

impl Settings {
    /// Settings from the defaults, then `file`, then the environment's `LAPWING__SECTION__KEY`
    /// (section and key in upper case, `__` between them), checked.
    ///
    /// # Errors
    /// Lists every unknown key, wrong type, missing unit, contradiction and unreadable file.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        config::load(file, environment)
    }

    /// Settings from the defaults, then this file, then the environment of the process, checked: what
    /// `lapwing run --config FILE` does.
    ///
    /// # Errors
    /// As [`Settings::load`], and if a variable that begins with `LAPWING__` is not UTF-8.
    pub fn from_file(file: impl AsRef<Path>) -> Result<Self, ConfigError> {
        Self::load(Some(file.as_ref()), config::environment()?)
    }

    /// Makes settings in code.
    pub fn builder() -> SettingsBuilder {
        SettingsBuilder::default()
    }

    /// As [`Settings::load`], but checks the types only, not the meaning of values: for tools that
    /// show settings and do not run them.
    ///
    /// # Errors
    /// Lists every unknown key, wrong type and missing unit.
    pub fn load_unvalidated(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        config::load_unvalidated(file, environment)
    }

    /// Settings from the defaults, then this text, checked.
    ///
    /// # Errors
    /// As [`Settings::load`].
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        config::from_toml(text)
    }

    /// The JSON Schema (draft 7) of the settings, for editors and other tools.
    #[must_use]
    pub fn json_schema() -> serde_json::Value {
        config::for_tools::<Self>()
    }

    /// Checks the meaning of settings that were made or changed in code, and that the files they
    /// name exist. [`Settings::load`] and [`Settings::from_toml`] have already done so.
    ///
    /// # Errors
    /// Lists every value out of its range and every contradiction.
    pub fn validate(&self) -> Result<(), ConfigError> {
        config::validate(self)
    }

    /// Checks that there is at least one consumer, for `lapwing run`.
    ///
    /// # Errors
    /// When no consumer is set.
    pub fn require_consumers(&self) -> Result<(), ConfigError> {
        consumer::require(&self.consumers)
    }

    /// Checks that every consumer names a handler, for `lapwing run`, where code cannot register
    /// one.
    ///
    /// # Errors
    /// Names the consumers without a handler.
    pub fn require_handlers(&self) -> Result<(), ConfigError> {
        let without = self.consumers.iter().filter(|(_, consumer)| {
            consumer.handler == HandlerSettings::None && consumer.types.is_empty()
        });
        let problems = without.map(|(name, _)| Problem {
            path: KeyPath::of("consumers")
                .key(name)
                .key("handler")
                .to_string(),
            source: Source::Default,
            message: "is required, such as { kind = \"log\" }, or `types` with a handler for each"
                .to_owned(),
        });
        ConfigError::check(problems.collect())
    }

    /// For each consumer what a message lives through that fails in every attempt.
    pub fn retry_schedules(&self) -> impl Iterator<Item = (&str, Schedule)> {
        let consumers = self.consumers.iter();
        consumers.map(|(name, consumer)| (name.as_str(), Schedule::new(&consumer.retry)))
    }

    /// For each consumer whose queue is used as it is: what its worker assumes about the delivery limit.
    pub fn assumed_delivery_limits(&self) -> impl Iterator<Item = (&str, &'static str)> {
        let consumers = self.consumers.iter();
        consumers.filter_map(|(name, consumer)| Some((name.as_str(), consumer.assumed_limit()?)))
    }

    /// The handlers of all consumers and types, each with its place in the settings.
    pub(crate) fn handlers(&self) -> impl Iterator<Item = (KeyPath, &HandlerSettings)> {
        self.consumers.iter().flat_map(|(name, consumer)| {
            let at = KeyPath::of("consumers").key(name);
            let own = (at.key("handler"), &consumer.handler);
            let typed = consumer.types.iter();
            let typed = typed.map(move |(kind, handler)| (at.key("types").key(kind), handler));
            typed.chain([own])
        })
    }
}

#[cfg(test)]
mod tests;
