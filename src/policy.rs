//! Decides the settlement that follows an outcome: a pure function. The crate's documentation has
//! its table.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    breaker::Sign,
    outcome::{Ending, Failure, Outcome},
    retry::{RetrySettings, Rule, RuleAction},
    words::words,
};

/// The decision about a delivery.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Settlement {
    /// Ack the delivery: the handler succeeded or did not want the message.
    Ack,
    /// Arrange a retry after this time.
    Retry {
        /// The time to wait.
        after: Duration,
        /// Whether the attempt is charged. A snooze is not.
        charged: bool,
    },
    /// Put the message in the dead-letter queue.
    DeadLetter {
        /// The reason.
        reason: Reason,
    },
    /// Park the message for this time: the service is unavailable, so no attempt is charged.
    Defer {
        /// The time to wait.
        after: Duration,
    },
    /// Return the delivery to its queue, unchanged, because it has not failed.
    Return,
}

impl Settlement {
    /// The kind of this settlement.
    #[must_use]
    pub fn kind(&self) -> SettlementKind {
        match self {
            Self::Ack => SettlementKind::Ack,
            Self::Retry { .. } | Self::Defer { .. } => SettlementKind::Retry,
            Self::DeadLetter { .. } => SettlementKind::DeadLetter,
            Self::Return => SettlementKind::Return,
        }
    }
}

words! {
    /// The kinds of settlement.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
    #[serde(rename_all = "kebab-case")]
    #[non_exhaustive]
    pub enum SettlementKind {
        /// The worker acks the delivery.
        Ack = "ack",
        /// The worker arranges a retry.
        Retry = "retry",
        /// The message goes to the dead-letter queue.
        DeadLetter = "dead-letter",
        /// The delivery goes back to its queue, unchanged.
        Return = "return",
    }
}

words! {
    /// Why a message was dead-lettered: the header `lapwing-reason`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    #[non_exhaustive]
    pub enum Reason {
        /// The handler called the failure permanent, or a rule decided so.
        Rejected = "rejected",
        /// The message has failed `max_attempts` times.
        MaxAttempts = "max-attempts",
        /// The message failed when it was older than `max_age`.
        MaxAge = "max-age",
        /// The handler cannot decode the body.
        Decode = "decode",
        /// No route takes the message.
        UnroutableType = "unroutable-type",
        /// The message's own `expiration` was over before a handler could start.
        Expired = "expired",
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The facts about a message that the decision needs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Facts {
    /// The number of the attempt that has ended, from 1.
    pub attempt: u32,
    /// The time since a worker first received the message.
    pub age: Duration,
    /// A random number in `[0, 1)`, for the jitter.
    pub random: f64,
    /// If the service is at fault: how many attempts in a row were not charged, this one included.
    pub excused: Option<u32>,
}

/// The longest computed delay after an attempt that is not charged. The service may be back at any
/// time.
const LONGEST_EXCUSE: Duration = Duration::from_secs(30);

/// The ending, with the rules applied that make a failure `unavailable`, or another failure of an
/// unavailable one.
#[must_use]
pub(crate) fn classify(retry: &RetrySettings, ending: Ending) -> Ending {
    let is_failure = match ending {
        Ending::Unavailable(_)
        | Ending::Handled(Outcome::Failed(_))
        | Ending::TimedOut { .. }
        | Ending::Panicked { .. } => !retry.rules.is_empty(),
        _ => false,
    };
    let Some(failure) = is_failure.then(|| ending.failure()).flatten() else {
        return ending;
    };
    match (action(retry, &failure), ending) {
        (Some(RuleAction::Unavailable), _) => Ending::Unavailable(failure),
        (Some(_), Ending::Unavailable(_)) => Ending::Handled(Outcome::Failed(failure)),
        (_, ending) => ending,
    }
}

/// What the end of an attempt says about the service behind the handler.
#[must_use]
pub(crate) fn sign(retry: &RetrySettings, ending: &Ending) -> Sign {
    const TOO_MANY_REQUESTS: u16 = 429;
    match ending {
        Ending::Handled(Outcome::Succeeded | Outcome::Dropped { .. } | Outcome::Snoozed { .. }) => {
            Sign::Well
        }
        Ending::Unavailable(failure) if failure.status == Some(TOO_MANY_REQUESTS) => Sign::Limited,
        Ending::Unavailable(_) => Sign::Unavailable,
        Ending::TimedOut { .. } => Sign::TimedOut,
        Ending::Handled(Outcome::Failed(failure)) => match is_retryable(retry, failure) {
            true => Sign::Answered,
            false => Sign::Rejected,
        },
        // A handler that knows the message answered. What the inbox knows never comes here.
        Ending::Handled(Outcome::Duplicate) | Ending::Panicked { .. } => Sign::Answered,
        Ending::Interrupted
        | Ending::Undecodable(_)
        | Ending::Unroutable { .. }
        | Ending::Expired { .. } => Sign::Nothing,
    }
}

/// Decides what follows from the end of an attempt under a consumer's retry policy. Calls `facts`
/// only after a failure, because only a failure needs them.
#[must_use]
pub fn decide(retry: &RetrySettings, ending: &Ending, facts: impl FnOnce() -> Facts) -> Settlement {
    match ending {
        Ending::Handled(Outcome::Succeeded | Outcome::Dropped { .. } | Outcome::Duplicate) => {
            Settlement::Ack
        }
        Ending::Handled(Outcome::Snoozed { after }) => Settlement::Retry {
            after: *after,
            charged: false,
        },
        Ending::Interrupted => Settlement::Return,
        Ending::Undecodable(failure) if !failure.retryable => dead(Reason::Decode),
        Ending::Unroutable { .. } => dead(Reason::UnroutableType),
        Ending::Expired { .. } => dead(Reason::Expired),
        Ending::Handled(Outcome::Failed(_))
        | Ending::Undecodable(_)
        | Ending::Unavailable(_)
        | Ending::TimedOut { .. }
        | Ending::Panicked { .. } => {
            let failure = ending.failure().expect("these endings are failures");
            after_failure(retry, &failure, facts())
        }
    }
}

fn after_failure(retry: &RetrySettings, failure: &Failure, facts: Facts) -> Settlement {
    if let Some(times) = facts.excused {
        return defer(retry, failure, facts, times);
    }
    if !is_retryable(retry, failure) {
        return dead(Reason::Rejected);
    }
    if facts.attempt >= retry.attempts() {
        return dead(Reason::MaxAttempts);
    }
    if facts.age >= retry.max_age {
        return dead(Reason::MaxAge);
    }
    // A service that asks for a time must not be asked sooner than one that does not. At `max_age`
    // the message has its last attempt, so a longer wait is of no use.
    let left = retry.max_age.saturating_sub(facts.age);
    let asked = failure.retry_after.unwrap_or_default().min(left);
    Settlement::Retry {
        after: retry.delay(facts.attempt, facts.random).max(asked),
        charged: true,
    }
}

/// The service is at fault: the message waits, and only its age ends it.
fn defer(retry: &RetrySettings, failure: &Failure, facts: Facts, times: u32) -> Settlement {
    if facts.age >= retry.max_age {
        return dead(match is_retryable(retry, failure) {
            true => Reason::MaxAge,
            false => Reason::Rejected,
        });
    }
    let attempt = facts.attempt.saturating_add(times.saturating_sub(1));
    let backoff = retry.delay(attempt, facts.random).min(LONGEST_EXCUSE);
    let asked = failure.retry_after.unwrap_or_default();
    Settlement::Defer {
        after: backoff.max(asked).min(retry.max_age - facts.age),
    }
}

fn is_retryable(retry: &RetrySettings, failure: &Failure) -> bool {
    match action(retry, failure) {
        Some(RuleAction::Retry | RuleAction::Unavailable) => true,
        Some(RuleAction::DeadLetter) => false,
        None => failure.retryable,
    }
}

/// The action of the first rule that fits.
fn action(retry: &RetrySettings, failure: &Failure) -> Option<RuleAction> {
    let fits = |rule: &&Rule| rule.matches(&failure.class, failure.status);
    retry.rules.iter().find(fits).map(|rule| rule.action)
}

fn dead(reason: Reason) -> Settlement {
    Settlement::DeadLetter { reason }
}

#[cfg(test)]
mod tests;
