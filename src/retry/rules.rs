//! `rules` of `[consumers.NAME.retry]`.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// One rule: what the worker does with a failure of this class and status. The first rule that fits
/// decides. The last rule may leave out both: it decides every failure that no other rule fits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The failure's class: `timeout`, `panic`, `http` (a response with an error status),
    /// `http-proxy` (407), `http-connect`, `http-timeout` and `http-request` (no response),
    /// `http-echo` (an answer to another request), a class of the handlers `command` and `process`,
    /// or the class that the handler itself gave. Without it: any class. All rules but the last need
    /// `class` or `status`. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// The failure's status, such as `409`, `"500-599"` or `"5xx"`. Without it: any status.
    /// Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String", extend("type" = ["integer", "string"], "pattern" = STATUS))]
    pub status: Option<StatusPattern>,
    /// What the worker does with the failure. Required.
    pub action: RuleAction,
}

impl Rule {
    /// Whether the rule matches a failure of this class and status.
    #[must_use]
    pub fn matches(&self, class: &str, status: Option<u16>) -> bool {
        self.class.as_deref().is_none_or(|wanted| wanted == class)
            && self
                .status
                .is_none_or(|wanted| status.is_some_and(|status| wanted.contains(status)))
    }
}

/// The action of a [`Rule`] on a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RuleAction {
    /// Retry it, as if the handler had called it retryable.
    Retry,
    /// Dead-letter the message at once, as `rejected`.
    DeadLetter,
    /// Retry it without charging the attempt: the service is unavailable.
    Unavailable,
}

/// The statuses that a [`Rule`] is about. Written `409`, `"500-599"` or `"5xx"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatusPattern {
    lowest: u16,
    highest: u16,
}

impl StatusPattern {
    /// Whether the pattern matches the status.
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

/// The error for a text that is not a [`StatusPattern`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected {EXPECTED}")]
pub struct InvalidStatus;

/// The texts that the schema accepts as a pattern.
const STATUS: &str = "^([0-9]xx|[0-9]+( *- *[0-9]+)?)$";

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
