//! `[consumers.NAME.breaker]`.

use std::time::Duration;

use humantime::format_duration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::config::{Findings, HOUR, KeyPath, Span};

/// What the consumer does when the service behind its handler is down. A message whose attempt ends
/// `unavailable` is tried again later, and the attempt is not charged, unless other messages of its
/// type succeeded since its last attempt. If message after message ends so, the consumer stops taking
/// messages, and probes with one message at a time until the service is back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BreakerSettings {
    /// Whether the consumer stops at all. `false`: it goes on, whatever its service does; attempts
    /// that end `unavailable` are judged as ever. Default: `true`.
    pub enabled: bool,
    /// How many different messages in a row must end `unavailable` or time out before the consumer
    /// stops. Too low: a few bad answers stop the consumer for `probe`. Too high: more
    /// messages meet a service that is down. Default: `5`.
    #[schemars(range(min = 1))]
    pub unavailable: u32,
    /// Whether the consumer also stops when many messages in a row fail for good, as after a wrong
    /// deploy of the service. Default: `true`.
    pub storms: bool,
    /// How many messages in a row must fail for good, with no other outcome between them, before
    /// the consumer stops. Too low: a few bad messages stop the consumer. Too high: a
    /// wrong deploy of the service dead-letters this many messages. Default: `50`.
    #[schemars(range(min = 1))]
    pub rejected: u32,
    /// The wait before the first probe. It doubles with each probe that fails. A `Retry-After` of
    /// the service lengthens it. Too low: probes add load to a service that starts. Too high: a short
    /// outage delays messages by this time. Default: `1s`.
    #[serde(with = "Span::<10, HOUR>")]
    pub probe: Duration,
    /// The longest wait between probes without a `Retry-After`; at least `probe`. Too low: more
    /// probes during a long outage. Too high: the consumer notices late that the service is back.
    /// Default: `10s`.
    #[serde(with = "Span::<10, HOUR>")]
    pub probe_cap: Duration,
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self {
            enabled: true,
            unavailable: 5,
            storms: true,
            rejected: 50,
            probe: Duration::from_secs(1),
            probe_cap: Duration::from_secs(10),
        }
    }
}

impl BreakerSettings {
    pub(crate) fn check(&self, findings: &mut Findings, section: &KeyPath) {
        let Self {
            probe, probe_cap, ..
        } = *self;
        if probe_cap < probe {
            let [cap, probe] = [probe_cap, probe].map(format_duration);
            let message = format!("is {cap}, must not be below `probe` ({probe})");
            findings.contradiction(section.key("probe_cap"), [section.key("probe")], message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::samples::{Sample, sections};

    sections!({ breaker: BreakerSettings }, |it, findings| {
        it.breaker.check(findings, &KeyPath::of("breaker"));
    });

    #[test]
    fn breakers_keep_their_ranges() {
        Sections::refused(&[
            (
                "breaker.probe = \"0s\"",
                "breaker.probe: is 0s, must be 10ms to 1h",
            ),
            (
                "breaker.probe = \"20s\"",
                "breaker.probe_cap: is 10s, must not be below `probe` (20s)",
            ),
            (
                "breaker.unavailable = 0",
                "breaker.unavailable: must be at least 1",
            ),
            (
                "breaker.rejected = 0",
                "breaker.rejected: must be at least 1",
            ),
        ]);
        Sections::allowed(&["breaker.enabled = false\nbreaker.storms = false"]);
    }
}
