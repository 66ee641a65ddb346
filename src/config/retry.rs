//! `[consumers.NAME.retry]`: backoff, and rules that override the handler's word.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// `[consumers.NAME.retry]`: exponential backoff, and when to give up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetrySettings {
    /// Handler runs that may fail before the message is dead-lettered as `max-attempts`.
    /// Default: 8. 1: no retry.
    pub max_attempts: u32,
    /// Time from the first sight of a message after which a failure dead-letters it as `max-age`.
    /// Default: 24 h.
    #[serde(with = "humantime_serde")]
    pub max_age: Duration,
    /// The delay after the first failure. Default: 500 ms.
    #[serde(with = "humantime_serde")]
    pub base: Duration,
    /// What the delay is multiplied by after each further failure. Default: 2. At least 1.
    pub factor: f64,
    /// The longest delay, also for `Retry-After`. Default: 10 min. Each doubling above 1 s is one
    /// more delay queue at the broker.
    #[serde(with = "humantime_serde")]
    pub cap: Duration,
    /// The random part: a delay d becomes d × U\[1 − jitter, 1\]. Default: 0.5. 0 to 1. Too low:
    /// what failed together comes back together.
    pub jitter: f64,
    /// Delays below this wait inside the worker, holding a prefetch slot but no handler slot;
    /// longer ones are parked at the broker. Default: 1 s. 0 s: every retry is parked.
    #[serde(with = "humantime_serde")]
    pub inline_below: Duration,
    /// What overrides the handler's word on a failure; the first rule that fits decides.
    /// Default: none.
    pub rules: Vec<Rule>,
}

impl Default for RetrySettings {
    fn default() -> Self {
        Self {
            max_attempts: 8,
            max_age: Duration::from_hours(24),
            base: Duration::from_millis(500),
            factor: 2.0,
            cap: Duration::from_mins(10),
            jitter: 0.5,
            inline_below: Duration::from_secs(1),
            rules: Vec::new(),
        }
    }
}

/// One rule: a failure of this class and status is retried or dead-lettered.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The failure's class, whole (`timeout`, `panic`, `http`, `http-connect`, `http-timeout`,
    /// `http-request`, or what a Rust handler called it). Absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// The failure's status: a number (`409`), a range (`500-599`) or a hundred (`5xx`). Absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<StatusPattern>,
    /// What to do.
    pub action: RuleAction,
}

impl Rule {
    /// Whether the rule is about a failure of this class and status.
    #[must_use]
    pub fn matches(&self, class: &str, status: Option<u16>) -> bool {
        self.class.as_deref().is_none_or(|wanted| wanted == class)
            && self
                .status
                .is_none_or(|wanted| status.is_some_and(|status| wanted.contains(status)))
    }
}

/// What a [`Rule`] makes of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RuleAction {
    /// Retry, as if the handler had called it retryable.
    Retry,
    /// Dead-letter at once, as `rejected`.
    DeadLetter,
}

/// The statuses that a [`Rule`] is about. Written `409`, `"500-599"` or `"5xx"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusPattern {
    lowest: u16,
    highest: u16,
}

impl StatusPattern {
    /// Whether the status is among them.
    #[must_use]
    pub const fn contains(self, status: u16) -> bool {
        self.lowest <= status && status <= self.highest
    }
}

impl From<u16> for StatusPattern {
    fn from(status: u16) -> Self {
        Self {
            lowest: status,
            highest: status,
        }
    }
}

/// A text that is not a [`StatusPattern`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {EXPECTED}")]
pub struct InvalidStatus;

const EXPECTED: &str = "a status such as 409, \"500-599\" or \"5xx\"";

impl FromStr for StatusPattern {
    type Err = InvalidStatus;

    fn from_str(text: &str) -> Result<Self, InvalidStatus> {
        let (lowest, highest) = if let Some(hundred) = text.strip_suffix("xx") {
            let hundred = hundred.parse::<u16>().map_err(|_| InvalidStatus)?;
            let lowest = hundred.checked_mul(100).ok_or(InvalidStatus)?;
            (lowest, lowest.checked_add(99).ok_or(InvalidStatus)?)
        } else {
            let (lowest, highest) = text.split_once('-').unwrap_or((text, text));
            let status = |text: &str| text.trim().parse().map_err(|_| InvalidStatus);
            (status(lowest)?, status(highest)?)
        };
        if lowest > highest {
            return Err(InvalidStatus);
        }
        Ok(Self { lowest, highest })
    }
}

impl fmt::Display for StatusPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lowest, highest } = *self;
        if lowest == highest {
            write!(f, "{lowest}")
        } else if lowest.is_multiple_of(100) && highest - lowest == 99 {
            write!(f, "{}xx", lowest / 100)
        } else {
            write!(f, "{lowest}-{highest}")
        }
    }
}

impl Serialize for StatusPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for StatusPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Written)
    }
}

struct Written;

impl de::Visitor<'_> for Written {
    type Value = StatusPattern;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(EXPECTED)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<StatusPattern, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<StatusPattern, E> {
        u16::try_from(number)
            .map(StatusPattern::from)
            .map_err(|_| E::custom(InvalidStatus))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<StatusPattern, E> {
        u16::try_from(number)
            .map(StatusPattern::from)
            .map_err(|_| E::custom(InvalidStatus))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rule(class: Option<&str>, status: Option<&str>) -> Rule {
        Rule {
            class: class.map(str::to_owned),
            status: status.map(|status| status.parse().unwrap()),
            action: RuleAction::Retry,
        }
    }

    #[test]
    fn a_rule_is_about_its_class_and_its_statuses() {
        let cases = [
            (rule(Some("http"), None), "http", None, true),
            (rule(Some("http"), None), "http-connect", None, false),
            (rule(Some("http"), Some("409")), "http", Some(409), true),
            (rule(Some("http"), Some("409")), "http", Some(410), false),
            (rule(Some("http"), Some("409")), "other", Some(409), false),
            (rule(None, Some("5xx")), "http", Some(500), true),
            (rule(None, Some("5xx")), "http", Some(599), true),
            (rule(None, Some("5xx")), "http", Some(499), false),
            (rule(None, Some("5xx")), "http", Some(600), false),
            (rule(None, Some("400-410")), "http", Some(410), true),
            (rule(None, Some("400-410")), "http", Some(411), false),
            (rule(None, Some("5xx")), "timeout", None, false),
        ];
        for (rule, class, status, matches) in cases {
            assert_eq!(
                rule.matches(class, status),
                matches,
                "{rule:?} {class} {status:?}"
            );
        }
    }

    #[test]
    fn what_is_no_status_is_refused() {
        for text in [
            "", "x", "xx", "5x", "5xxx", "500-", "-500", "599-500", "70000", "700xx", "4xx-5xx",
        ] {
            assert_eq!(text.parse::<StatusPattern>(), Err(InvalidStatus), "{text}");
        }
        assert!(serde_json::from_str::<StatusPattern>("-1").is_err());
        assert_eq!(
            serde_json::from_str::<StatusPattern>("409").unwrap(),
            409.into()
        );
    }

    proptest! {
        #[test]
        fn a_pattern_reads_back_as_it_prints(a: u16, b: u16) {
            let pattern = StatusPattern { lowest: a.min(b), highest: a.max(b) };
            prop_assert_eq!(pattern.to_string().parse(), Ok(pattern));
        }
    }
}
