//! What a worker says about itself while it runs.

use std::{collections::BTreeMap, time::SystemTime};

use serde::Serialize;
use utoipa::ToSchema;

use crate::{text::as_rfc3339, words::words};

/// Whether the worker does its work, and what keeps it from it.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = Ready)]
#[non_exhaustive]
pub struct Readiness {
    /// Every consumer has a live consumer or was paused on purpose, its handlers can work, and no drain
    /// has begun.
    pub ready: bool,
    /// A drain has begun.
    pub draining: bool,
    /// The consumers, by name.
    pub consumers: BTreeMap<String, ConsumerHealth>,
    /// Why handlers cannot work, by consumer: those that cannot.
    pub handlers: BTreeMap<String, String>,
    /// Why retries and dead letters cannot be published now, where they cannot. That alone does
    /// not make it unready.
    pub publishing: Option<String>,
}

/// What one consumer is doing.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[non_exhaustive]
pub struct ConsumerHealth {
    /// What it is doing.
    pub state: ConsumerState,
    /// Since when.
    #[serde(serialize_with = "as_rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub since: SystemTime,
    /// Why, where it is not consuming.
    pub reason: Option<String>,
}

words! {
    /// The states of a consumer.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
    #[serde(rename_all = "kebab-case")]
    #[non_exhaustive]
    pub enum ConsumerState {
        /// It has no subscription and is getting one.
        Connecting = "connecting",
        /// It has a live subscription.
        Consuming = "consuming",
        /// It was paused on purpose.
        Paused = "paused",
        /// It cannot publish retries or dead letters, and waits before it tries again.
        Held = "held",
        /// It takes nothing new and finishes what it has.
        Draining = "draining",
        /// It has ended.
        Stopped = "stopped",
    }
}

impl ConsumerHealth {
    pub(crate) fn new(state: ConsumerState, reason: Option<String>) -> Self {
        Self {
            state,
            since: SystemTime::now(),
            reason,
        }
    }

    /// Whether the consumer does what it should.
    pub(crate) fn is_ready(&self) -> bool {
        matches!(self.state, ConsumerState::Consuming | ConsumerState::Paused)
    }
}
