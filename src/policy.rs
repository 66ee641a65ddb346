//! Decides the settlement that follows an outcome: a pure function. The crate's documentation has
//! its table.

use std::{fmt, time::Duration};

use serde::Serialize;
use utoipa::ToSchema;

use crate::{
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
    /// Return the delivery to its queue, unchanged, because it has not failed.
    Return,
}

impl Settlement {
    /// The kind of this settlement.
    #[must_use]
    pub fn kind(&self) -> SettlementKind {
        match self {
            Self::Ack => SettlementKind::Ack,
            Self::Retry { .. } => SettlementKind::Retry,
            Self::DeadLetter { .. } => SettlementKind::DeadLetter,
            Self::Return => SettlementKind::Return,
        }
    }
}

words! {
    /// The kinds of settlement.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
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
        /// No handler is configured for the message's type.
        UnroutableType = "unroutable-type",
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
}

/// Decides what follows from the end of an attempt under a consumer's retry policy. Calls `facts`
/// only after a failure, because only a failure needs them.
#[must_use]
pub fn decide(retry: &RetrySettings, ending: &Ending, facts: impl FnOnce() -> Facts) -> Settlement {
    match ending {
        Ending::Handled(Outcome::Succeeded | Outcome::Dropped { .. }) => Settlement::Ack,
        Ending::Handled(Outcome::Snoozed { after }) => Settlement::Retry {
            after: *after,
            charged: false,
        },
        Ending::Interrupted => Settlement::Return,
        Ending::Undecodable(_) => dead(Reason::Decode),
        Ending::Unroutable { .. } => dead(Reason::UnroutableType),
        Ending::Handled(Outcome::Failed(_)) | Ending::TimedOut { .. } | Ending::Panicked { .. } => {
            let failure = ending.failure().expect("these endings are failures");
            after_failure(retry, &failure, facts())
        }
    }
}

fn after_failure(retry: &RetrySettings, failure: &Failure, facts: Facts) -> Settlement {
    let fits = |rule: &&Rule| rule.matches(&failure.class, failure.status);
    let retryable = match retry.rules.iter().find(fits).map(|rule| rule.action) {
        Some(RuleAction::Retry) => true,
        Some(RuleAction::DeadLetter) => false,
        None => failure.retryable,
    };
    if !retryable {
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

fn dead(reason: Reason) -> Settlement {
    Settlement::DeadLetter { reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FACTS: Facts = Facts {
        attempt: 1,
        age: Duration::ZERO,
        random: 0.0,
    };

    fn decided(ending: impl Into<Ending>) -> Settlement {
        decide(&RetrySettings::default(), &ending.into(), || FACTS)
    }

    fn retry(millis: u64) -> Settlement {
        let after = Duration::from_millis(millis);
        Settlement::Retry {
            after,
            charged: true,
        }
    }

    #[test]
    fn each_outcome_has_its_settlement() {
        let hour = Duration::from_secs(3600);
        let no = || Failure::permanent("x", "no");
        let table = [
            (Outcome::Succeeded.into(), Settlement::Ack),
            (Outcome::dropped("old").into(), Settlement::Ack),
            (Ending::Interrupted, Settlement::Return),
            (
                Outcome::snooze(hour).into(),
                Settlement::Retry {
                    after: hour,
                    charged: false,
                },
            ),
            (Ending::Undecodable(no()), dead(Reason::Decode)),
            (
                Ending::Unroutable {
                    message_type: "t".into(),
                },
                dead(Reason::UnroutableType),
            ),
            (Outcome::Failed(no()).into(), dead(Reason::Rejected)),
            (
                Outcome::Failed(Failure::retryable("x", "try")).into(),
                retry(500),
            ),
            (Ending::TimedOut { after: hour }, retry(500)),
            (
                Ending::Panicked {
                    message: "oh".into(),
                },
                retry(500),
            ),
        ];
        for (ending, expected) in table {
            assert_eq!(decided(ending.clone()), expected, "{ending:?}");
        }
    }

    #[test]
    fn attempts_and_age_run_out() {
        let failed = Outcome::Failed(Failure::retryable("x", "try")).into();
        let policy = RetrySettings::default();
        let last = Facts {
            attempt: 20,
            ..FACTS
        };
        assert_eq!(decide(&policy, &failed, || last), dead(Reason::MaxAttempts));
        let old = Facts {
            age: policy.max_age,
            ..FACTS
        };
        assert_eq!(decide(&policy, &failed, || old), dead(Reason::MaxAge));
        let absurd = Facts {
            attempt: u32::MAX,
            ..FACTS
        };
        assert_eq!(
            decide(&policy, &failed, || absurd),
            dead(Reason::MaxAttempts)
        );
    }

    #[test]
    fn retry_after_never_shortens_the_backoff_and_reaches_up_to_the_age_but_not_beyond() {
        let asked = |seconds, facts| {
            let after = Duration::from_secs(seconds);
            let failure = Failure::retryable("x", "try").retry_after(after);
            let ending = Outcome::Failed(failure).into();
            decide(&RetrySettings::default(), &ending, || facts)
        };
        assert_eq!(asked(0, FACTS), retry(500));
        assert_eq!(asked(7, FACTS), retry(7_000));
        let fifth = Facts {
            attempt: 5,
            ..FACTS
        };
        assert_eq!(asked(1, fifth), retry(8_000));
        // `cap` is 4 h.
        let hour = 3_600_000;
        assert_eq!(asked(6 * 3600, FACTS), retry(6 * hour));
        let aged = Facts {
            age: Duration::from_hours(22),
            ..FACTS
        };
        assert_eq!(asked(6 * 3600, aged), retry(2 * hour));
    }

    #[test]
    fn a_rule_without_class_and_status_decides_everything_else() {
        let rule = |status: Option<u16>, action| Rule {
            class: None,
            status: status.map(Into::into),
            action,
        };
        let policy = RetrySettings {
            rules: vec![
                rule(Some(409), RuleAction::Retry),
                rule(None, RuleAction::DeadLetter),
            ],
            ..RetrySettings::default()
        };
        let decided = |ending: Ending| decide(&policy, &ending, || FACTS);
        let conflict = Failure::permanent("http", "conflict").status(409);
        assert_eq!(decided(Outcome::Failed(conflict).into()), retry(500));
        let broken = Failure::retryable("http", "broken").status(503);
        for other in [
            Outcome::Failed(broken).into(),
            Ending::TimedOut {
                after: Duration::from_secs(1),
            },
        ] {
            assert_eq!(decided(other), dead(Reason::Rejected));
        }
    }

    #[test]
    fn the_first_rule_that_fits_overrides_the_handler() {
        let rule = |class: Option<&str>, status: Option<&str>, action| Rule {
            class: class.map(str::to_owned),
            status: status.map(|status| status.parse().unwrap()),
            action,
        };
        let policy = RetrySettings {
            rules: vec![
                rule(Some("http"), Some("409"), RuleAction::Retry),
                rule(None, Some("5xx"), RuleAction::DeadLetter),
                rule(Some("timeout"), None, RuleAction::DeadLetter),
            ],
            ..RetrySettings::default()
        };
        let decided = |ending: Ending| decide(&policy, &ending, || FACTS);
        let conflict = Failure::permanent("http", "conflict").status(409);
        assert_eq!(decided(Outcome::Failed(conflict).into()), retry(500));
        let broken = Failure::retryable("http", "broken").status(503);
        assert_eq!(
            decided(Outcome::Failed(broken).into()),
            dead(Reason::Rejected)
        );
        let late = Ending::TimedOut {
            after: Duration::from_secs(1),
        };
        assert_eq!(decided(late), dead(Reason::Rejected));
        let gone = Failure::permanent("http", "gone").status(410);
        assert_eq!(
            decided(Outcome::Failed(gone).into()),
            dead(Reason::Rejected)
        );
    }

    proptest! {
        #[test]
        fn a_failure_is_always_retried_within_the_cap_and_the_age_or_dead_lettered(
            attempt in 0u32.., age in 0u64..1_000_000, random in 0.0..1.0,
            retry_after in proptest::option::of(0u64..1_000_000), retryable: bool,
        ) {
            let policy = RetrySettings::default();
            let failure = Failure {
                retryable,
                retry_after: retry_after.map(Duration::from_secs),
                ..Failure::retryable("x", "try")
            };
            let facts = Facts { attempt, age: Duration::from_secs(age), random };
            match decide(&policy, &Outcome::Failed(failure).into(), || facts) {
                Settlement::Retry { after, charged } => {
                    prop_assert!(charged && retryable);
                    prop_assert!(after <= policy.cap || facts.age + after <= policy.max_age);
                    prop_assert!(attempt < policy.max_attempts);
                }
                Settlement::DeadLetter { .. } => {}
                other => prop_assert!(false, "{other:?}"),
            }
        }
    }
}
