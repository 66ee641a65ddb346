//! The outcomes of an attempt, and the outcomes that a handler can return.

mod failure;

use std::{borrow::Cow, time::Duration};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

pub use failure::{Failure, IntoFailure, IntoOutcome};

use crate::words::words;

/// The outcome that a handler returns.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Outcome {
    /// The handler succeeded. The worker acks the message.
    Succeeded,
    /// The handler failed. The failure and the consumer's policy decide between a retry and a dead
    /// letter.
    Failed(Failure),
    /// The handler postpones the message: it runs again after this time, and no attempt is charged.
    Snoozed {
        /// The time to wait.
        after: Duration,
    },
    /// The handler does not want the message. The worker acks it and counts it apart from
    /// successes.
    Dropped {
        /// The reason, for the log.
        reason: Cow<'static, str>,
    },
}

impl Outcome {
    /// The outcome "run again later". No attempt is charged.
    #[must_use]
    pub fn snooze(after: Duration) -> Self {
        Self::Snoozed { after }
    }

    /// The outcome "not wanted": the worker acks the message.
    #[must_use]
    pub fn dropped(reason: impl Into<Cow<'static, str>>) -> Self {
        Self::Dropped {
            reason: reason.into(),
        }
    }
}

/// The end of an attempt: the handler's own outcome, or an end that only the worker sees.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Ending {
    /// The handler ended with this outcome.
    Handled(Outcome),
    /// The handler exceeded the consumer's timeout.
    TimedOut {
        /// The timeout.
        after: Duration,
    },
    /// The handler panicked.
    Panicked {
        /// The text of the panic.
        message: String,
    },
    /// The worker cancelled the handler. This is not a failure.
    Interrupted,
    /// The handler cannot decode the body.
    Undecodable(Failure),
    /// The service behind the handler is unavailable, as the handler or a rule says.
    Unavailable(Failure),
    /// No handler is configured for the message's type.
    Unroutable {
        /// The message's type.
        message_type: String,
    },
    /// The message's own `expiration` was over before a handler could start.
    Expired {
        /// How long the expiration has been over.
        by: Duration,
    },
}

/// The table of outcomes: kind, field of the counts, word in logs and metrics. Counters, metrics,
/// records and the API's schema are made from its rows.
macro_rules! outcomes {
    ($make:ident) => {
        $make! {
            /// The handler succeeded.
            Succeeded succeeded "succeeded",
            /// The handler did not want the message.
            Dropped dropped "dropped",
            /// The handler failed.
            Failed failed "failed",
            /// The service behind the handler is unavailable.
            Unavailable unavailable "unavailable",
            /// The handler postponed the message.
            Snoozed snoozed "snoozed",
            /// The handler exceeded the consumer's timeout.
            TimedOut timed_out "timed-out",
            /// The handler panicked.
            Panicked panicked "panicked",
            /// The worker cancelled the handler.
            Interrupted interrupted "interrupted",
            /// No handler ran, because the body cannot be decoded.
            Undecodable undecodable "undecodable",
            /// No handler ran, because none is configured for the message's type.
            Unroutable unroutable "unroutable-type",
            /// No handler ran, because the message's own `expiration` was over.
            Expired expired "expired",
        }
    };
}
pub(crate) use outcomes;

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident $field:ident $name:literal,)*) => {
        words! {
            /// The kinds of outcome that an attempt can have.
            #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
            #[serde(rename_all = "kebab-case")]
            #[non_exhaustive]
            pub enum OutcomeKind {
                $($(#[$doc])* $kind = $name,)*
            }
        }
    };
}
outcomes!(kinds);

impl OutcomeKind {
    /// Whether the outcome is normal for every message and needs no attention.
    pub(crate) fn is_routine(self) -> bool {
        matches!(self, Self::Succeeded | Self::Dropped | Self::Snoozed)
    }

    /// Whether the outcome is a failure. An interrupted run is none: it does not count.
    pub(crate) fn is_failure(self) -> bool {
        !self.is_routine() && self != Self::Interrupted
    }
}

impl Ending {
    /// The kind of this outcome.
    #[must_use]
    pub fn kind(&self) -> OutcomeKind {
        match self {
            Self::Handled(Outcome::Succeeded) => OutcomeKind::Succeeded,
            Self::Handled(Outcome::Dropped { .. }) => OutcomeKind::Dropped,
            Self::Handled(Outcome::Failed(_)) => OutcomeKind::Failed,
            Self::Handled(Outcome::Snoozed { .. }) => OutcomeKind::Snoozed,
            Self::TimedOut { .. } => OutcomeKind::TimedOut,
            Self::Panicked { .. } => OutcomeKind::Panicked,
            Self::Interrupted => OutcomeKind::Interrupted,
            Self::Undecodable(_) => OutcomeKind::Undecodable,
            Self::Unavailable(_) => OutcomeKind::Unavailable,
            Self::Unroutable { .. } => OutcomeKind::Unroutable,
            Self::Expired { .. } => OutcomeKind::Expired,
        }
    }

    /// The failure, if this ending is one.
    #[must_use]
    pub fn failure(&self) -> Option<Failure> {
        Some(match self {
            Self::Handled(Outcome::Failed(failure))
            | Self::Undecodable(failure)
            | Self::Unavailable(failure) => failure.clone(),
            Self::TimedOut { after } => Failure::retryable(
                "timeout",
                format!(
                    "no answer within {}; the work may have been done",
                    crate::text::seconds(*after)
                ),
            ),
            Self::Panicked { message } => Failure::retryable("panic", message.clone()),
            Self::Unroutable { message_type } => Failure::permanent(
                "unroutable-type",
                format!("no handler for message type {message_type:?}"),
            ),
            Self::Expired { by } => Failure::permanent(
                "expired",
                format!(
                    "the message's own expiration was over {} before a handler could start",
                    crate::text::seconds(*by)
                ),
            ),
            Self::Handled(
                Outcome::Succeeded | Outcome::Snoozed { .. } | Outcome::Dropped { .. },
            )
            | Self::Interrupted => return None,
        })
    }

    /// The attribute `error.type`, if this ending is no success: the class of the failure, or the status
    /// of a server over HTTP, as the conventions for HTTP have it.
    pub(crate) fn error_class(&self) -> Option<Cow<'static, str>> {
        match self {
            Self::Interrupted => Some(self.kind().name().into()),
            // Match successes first: building a `Failure` allocates.
            _ if self.kind().is_routine() => None,
            _ => self.failure().map(|failure| match failure.status {
                Some(status) if failure.class == "http" => status.to_string().into(),
                _ => failure.class,
            }),
        }
    }

    /// The reason why the handler did not want the message, if it did not.
    pub(crate) fn drop_reason(&self) -> Option<&str> {
        match self {
            Self::Handled(Outcome::Dropped { reason }) => Some(reason),
            _ => None,
        }
    }
}

impl From<Outcome> for Ending {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Failed(failure) if failure.undecodable => Self::Undecodable(failure),
            Outcome::Failed(failure) if failure.unavailable => Self::Unavailable(failure),
            outcome => Self::Handled(outcome),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_ending_has_a_kind_of_its_own_and_only_failures_have_a_class() {
        let failure = || Failure::retryable("x", "try");
        let endings = [
            (Ending::from(Outcome::Succeeded), None),
            (Outcome::dropped("old").into(), None),
            (Outcome::Failed(failure()).into(), Some("x")),
            (
                Outcome::Failed(Failure::unavailable("y", "down")).into(),
                Some("y"),
            ),
            (Outcome::snooze(Duration::ZERO).into(), None),
            (
                Ending::TimedOut {
                    after: Duration::ZERO,
                },
                Some("timeout"),
            ),
            (
                Ending::Panicked {
                    message: "oh".into(),
                },
                Some("panic"),
            ),
            (Ending::Interrupted, Some("interrupted")),
            (
                Outcome::Failed(Failure::undecodable("no")).into(),
                Some("decode"),
            ),
            (
                Ending::Unroutable {
                    message_type: "t".into(),
                },
                Some("unroutable-type"),
            ),
            (Ending::Expired { by: Duration::ZERO }, Some("expired")),
        ];
        let kinds: Vec<_> = endings.iter().map(|(ending, _)| ending.kind()).collect();
        assert_eq!(kinds, OutcomeKind::ALL);
        for (ending, class) in endings {
            assert_eq!(ending.error_class().as_deref(), class, "{ending:?}");
        }
    }

    #[test]
    fn a_kind_in_json_is_its_word_but_for_the_one_without_a_handler() {
        for kind in OutcomeKind::ALL {
            let json = serde_json::to_value(kind).unwrap();
            let word = match kind {
                OutcomeKind::Unroutable => "unroutable",
                kind => kind.name(),
            };
            assert_eq!(json, word);
        }
    }
}
