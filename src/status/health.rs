//! What a worker says about itself while it runs.

use std::{collections::BTreeMap, time::SystemTime};

use serde::Serialize;
use utoipa::ToSchema;

/// Whether the worker does its work, and what keeps it from it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Readiness {
    /// Every lane has a live consumer or was paused on purpose, its handlers can work, and no drain
    /// has begun.
    pub ready: bool,
    /// A drain has begun.
    pub draining: bool,
    /// The lanes, by name.
    pub lanes: BTreeMap<String, LaneHealth>,
    /// Why handlers cannot work, by consumer: those that cannot.
    pub handlers: BTreeMap<String, String>,
    /// Why retries and dead letters cannot be published now, where they cannot.
    pub publishing: Option<String>,
}

/// What one lane is doing.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct LaneHealth {
    /// What it is doing.
    pub state: LaneState,
    /// Since when.
    pub since: SystemTime,
    /// Why, where it is not consuming.
    pub reason: Option<String>,
}

/// The states of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum LaneState {
    /// It has no subscription and is getting one.
    Connecting,
    /// It has a live subscription.
    Consuming,
    /// It was paused on purpose.
    Paused,
    /// It cannot publish retries or dead letters, and waits before it tries again.
    Held,
    /// It takes nothing new and finishes what it has.
    Draining,
    /// It has ended.
    Stopped,
}

impl LaneState {
    /// All of them.
    pub(crate) const ALL: [Self; 6] = [
        Self::Connecting,
        Self::Consuming,
        Self::Paused,
        Self::Held,
        Self::Draining,
        Self::Stopped,
    ];

    /// A word for it; one of few.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Consuming => "consuming",
            Self::Paused => "paused",
            Self::Held => "held",
            Self::Draining => "draining",
            Self::Stopped => "stopped",
        }
    }
}

impl LaneHealth {
    pub(crate) fn new(state: LaneState, reason: Option<String>) -> Self {
        Self {
            state,
            since: SystemTime::now(),
            reason,
        }
    }

    /// Whether the lane does what it should.
    pub(crate) fn is_ready(&self) -> bool {
        matches!(self.state, LaneState::Consuming | LaneState::Paused)
    }
}
