//! The state of consumers, and the readiness of the worker.

use std::{collections::BTreeMap, time::SystemTime};

use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    clock,
    text::{as_rfc3339, as_rfc3339_or_null},
    words::words,
};

/// Whether the worker can do its work, and the reasons if it cannot.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = Ready)]
#[non_exhaustive]
pub struct Readiness {
    /// True when every consumer has a live subscription, was paused by an operator or has a service
    /// that is down, all handlers can work, and no drain has begun.
    pub ready: bool,
    /// True when the service of a consumer is down, when retries or dead letters of a consumer wait
    /// for the broker, or when a consumer gets no messages although its queue has some. Another worker
    /// would meet the same, so this does not make the worker unready. False in the state
    /// `service-unknown`.
    pub degraded: bool,
    /// True when a drain has begun.
    pub draining: bool,
    /// When the drain cancels the handlers that still run; nothing before a drain.
    #[serde(serialize_with = "as_rfc3339_or_null")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub drain_ends_at: Option<SystemTime>,
    /// The consumers, by name.
    pub consumers: BTreeMap<String, ConsumerHealth>,
    /// The errors of handlers that cannot work, by consumer.
    pub handlers: BTreeMap<String, String>,
    /// Why retries and dead letters cannot be published now; nothing if they can. This alone does
    /// not make the worker unready.
    pub publishing: Option<String>,
}

/// The state of one consumer.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[non_exhaustive]
pub struct ConsumerHealth {
    /// The state.
    pub state: ConsumerState,
    /// When the consumer entered the state.
    #[serde(serialize_with = "as_rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub since: SystemTime,
    /// Why the consumer is not consuming. If it is consuming: why some of its retries or dead letters
    /// wait, or that no message has come although the queue has some.
    pub reason: Option<String>,
    /// While the service is down: when the consumer tries the next message. Null while it tries one.
    #[serde(serialize_with = "as_rfc3339_or_null")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub next_probe_at: Option<SystemTime>,
}

words! {
    /// The states of a consumer.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
    #[serde(rename_all = "kebab-case")]
    #[non_exhaustive]
    pub enum ConsumerState {
        /// There is no subscription. The worker is getting one.
        Connecting = "connecting",
        /// The broker sends deliveries.
        Consuming = "consuming",
        /// An operator paused the consumer.
        Paused = "paused",
        /// Retries or dead letters that the broker does not take fill twice the prefetch: nothing new
        /// comes until it takes them. Also for `publish.hold` after an internal error.
        Held = "held",
        /// The service behind the handler is down. The consumer takes nothing but one message at a
        /// time, to see whether the service is back.
        ServiceDown = "service-down",
        /// The service behind the handler was down when the last message met it, and for a minute the
        /// queue has had no message to try it with. The next message is tried alone.
        ServiceUnknown = "service-unknown",
        /// The worker stops: the consumer takes nothing new, and running handlers finish.
        Draining = "draining",
        /// The consumer has ended.
        Stopped = "stopped",
    }
}

impl ConsumerHealth {
    pub(crate) fn new(state: ConsumerState, reason: Option<String>) -> Self {
        Self {
            state,
            since: clock::now(),
            reason,
            next_probe_at: None,
        }
    }

    /// Whether the consumer is consuming, would be if its service were not down, or was paused by
    /// an operator.
    pub(crate) fn is_ready(&self) -> bool {
        matches!(
            self.state,
            ConsumerState::Consuming
                | ConsumerState::Paused
                | ConsumerState::ServiceDown
                | ConsumerState::ServiceUnknown
        )
    }

    /// Whether the consumer's service is down, some of its retries or dead letters wait for the
    /// broker, or no message comes although the queue has some.
    pub(crate) fn is_degraded(&self) -> bool {
        let is_consuming = self.state == ConsumerState::Consuming;
        self.state == ConsumerState::ServiceDown || is_consuming && self.reason.is_some()
    }
}
