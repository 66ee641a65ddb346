//! Tests of the policy.

use super::*;
use proptest::prelude::*;

const FACTS: Facts = Facts {
    attempt: 1,
    age: Duration::ZERO,
    random: 0.0,
    excused: None,
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
        // Reading took too long.
        (
            Ending::Undecodable(Failure::retryable("x", "try")),
            retry(500),
        ),
        (
            Ending::Unroutable { why: "t".into() },
            dead(Reason::UnroutableType),
        ),
        (Ending::Expired { by: hour }, dead(Reason::Expired)),
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

fn excused(times: u32, age: Duration, failure: Failure) -> Settlement {
    let policy = RetrySettings::default();
    let facts = Facts {
        attempt: 8,
        age,
        random: 0.0,
        excused: Some(times),
    };
    decide(&policy, &Outcome::Failed(failure).into(), || facts)
}

#[test]
fn what_is_excused_waits_until_it_is_too_old_and_never_for_less_than_asked() {
    let down = || Failure::unavailable("x", "down");
    let young = Duration::ZERO;
    let defer = |seconds| Settlement::Defer {
        after: Duration::from_secs(seconds),
    };
    // The backoff of the eighth attempt is 64 s, but the service may be back at any time.
    assert_eq!(excused(1, young, down()), defer(30));
    let hour = Duration::from_secs(3600);
    assert_eq!(excused(1, young, down().retry_after(hour)), defer(3600));
    assert_eq!(excused(1, young, down().retry_after(young)), defer(30));
    let age = Duration::from_secs(86_400 - 7);
    assert_eq!(excused(1, age, down().retry_after(hour)), defer(7));
    let day = Duration::from_hours(24);
    assert_eq!(excused(9, day, down()), dead(Reason::MaxAge));
    let refused = Failure::permanent("x", "no");
    assert_eq!(excused(1, young, refused.clone()), defer(30));
    assert_eq!(excused(1, day, refused), dead(Reason::Rejected));
}

#[test]
fn rules_say_which_failures_mean_that_the_service_is_unavailable() {
    let policy = RetrySettings {
        rules: vec![
            Rule {
                class: Some("timeout".to_owned()),
                status: None,
                action: RuleAction::Unavailable,
            },
            Rule {
                class: None,
                status: Some(503.into()),
                action: RuleAction::Retry,
            },
        ],
        ..RetrySettings::default()
    };
    let sign = |ending: Ending| sign(&policy, &classify(&policy, ending));
    let late = Ending::TimedOut {
        after: Duration::from_secs(1),
    };
    assert_eq!(sign(late), Sign::Unavailable);
    let full = Failure::unavailable("http", "full").status(503);
    assert_eq!(sign(Outcome::Failed(full).into()), Sign::Answered);
    let bad = Failure::unavailable("http", "bad").status(502);
    assert_eq!(sign(Outcome::Failed(bad).into()), Sign::Unavailable);
    let many = Failure::unavailable("http", "slow down").status(429);
    assert_eq!(sign(Outcome::Failed(many).into()), Sign::Limited);
    let unread = Ending::Undecodable(Failure::retryable("x", "too slow"));
    assert_eq!(sign(unread), Sign::Nothing);
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
        let facts = Facts { attempt, age: Duration::from_secs(age), random, excused: None };
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
