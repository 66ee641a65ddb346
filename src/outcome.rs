//! What a handler run ended in.

use std::{borrow::Cow, fmt, time::Duration};

/// How one handler run ended. Handlers return the first four; the worker makes the others.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Outcome {
    /// Done: the message is acked.
    Succeeded,
    /// It failed: retried or dead-lettered, as the failure and the lane's policy say.
    Failed(Failure),
    /// Not now: the message comes back after this time, with no attempt charged.
    Snoozed {
        /// How long to wait.
        after: Duration,
    },
    /// Not wanted: acked, and counted apart from success.
    Dropped {
        /// Why, for the log.
        reason: Cow<'static, str>,
    },
    /// It ran into the lane's timeout.
    TimedOut {
        /// The timeout.
        after: Duration,
    },
    /// It panicked.
    Panicked {
        /// What it said.
        message: String,
    },
    /// The body is not what the handler takes.
    Undecodable(Failure),
    /// There is no handler for the message's type.
    Unroutable {
        /// The type.
        message_type: String,
    },
    /// We cancelled it: it has not failed.
    Interrupted,
}

impl Outcome {
    /// The outcome "come back later", with no attempt charged.
    #[must_use]
    pub fn snooze(after: Duration) -> Self {
        Self::Snoozed { after }
    }

    /// The outcome "not wanted".
    #[must_use]
    pub fn dropped(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::Dropped {
            reason: reason.into(),
        }
    }

    /// The outcome as a failure, where it is one.
    #[must_use]
    pub fn failure(&self) -> Option<Failure> {
        Some(match self {
            Self::Failed(failure) | Self::Undecodable(failure) => failure.clone(),
            Self::TimedOut { after } => Failure::retryable(
                "timeout",
                format!("no answer within {}", crate::text::seconds(*after)),
            ),
            Self::Panicked { message } => Failure::retryable("panic", message.clone()),
            Self::Unroutable { message_type } => Failure::permanent(
                "unroutable-type",
                format!("no handler for message type {message_type:?}"),
            ),
            Self::Succeeded | Self::Snoozed { .. } | Self::Dropped { .. } | Self::Interrupted => {
                return None;
            }
        })
    }

    /// A word for logs and counters; one of few.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed(_) => "failed",
            Self::Snoozed { .. } => "snoozed",
            Self::Dropped { .. } => "dropped",
            Self::TimedOut { .. } => "timed-out",
            Self::Panicked { .. } => "panicked",
            Self::Undecodable(_) => "undecodable",
            Self::Unroutable { .. } => "unroutable-type",
            Self::Interrupted => "interrupted",
        }
    }
}

/// Why a handler failed, and whether trying again can help.
///
/// Any [`std::error::Error`] becomes a retryable failure of class `error` by `?`.
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct Failure {
    /// Whether a later attempt may succeed.
    pub retryable: bool,
    /// What sort of failure, for rules, counters and fingerprints; one of few, kebab-case.
    pub class: Cow<'static, str>,
    /// The HTTP status or its like, for rules.
    pub status: Option<u16>,
    /// What went wrong, for people.
    pub error: String,
    /// When to try again, in place of the computed delay.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// A failure that a later attempt may not meet.
    pub fn retryable(class: impl Into<Cow<'static, str>>, error: impl Into<String>) -> Self {
        Self {
            retryable: true,
            class: class.into(),
            status: None,
            error: error.into(),
            retry_after: None,
        }
    }

    /// A failure that every attempt would meet: the message is dead-lettered as `rejected`.
    pub fn permanent(class: impl Into<Cow<'static, str>>, error: impl Into<String>) -> Self {
        Self {
            retryable: false,
            ..Self::retryable(class, error)
        }
    }

    /// The same failure, to be tried again after `delay` (clamped to the lane's cap).
    #[must_use]
    pub fn retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }

    /// The same failure, with a status that rules can match.
    #[must_use]
    pub fn status(mut self, status: u16) -> Self {
        self.status = Some(status);
        self
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.retryable {
            "retryable"
        } else {
            "permanent"
        };
        write!(f, "{kind} {}", self.class)?;
        if let Some(status) = self.status {
            write!(f, " ({status})")?;
        }
        write!(f, ": {}", self.error)
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        Self::retryable("error", text)
    }
}

/// What a handler function may return.
pub trait IntoOutcome {
    /// The outcome it means.
    fn into_outcome(self) -> Outcome;
}

impl IntoOutcome for Outcome {
    fn into_outcome(self) -> Outcome {
        self
    }
}

impl IntoOutcome for () {
    fn into_outcome(self) -> Outcome {
        Outcome::Succeeded
    }
}

impl<T: IntoOutcome, E: Into<Failure>> IntoOutcome for Result<T, E> {
    fn into_outcome(self) -> Outcome {
        match self {
            Ok(value) => value.into_outcome(),
            Err(error) => Outcome::Failed(error.into()),
        }
    }
}
