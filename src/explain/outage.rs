//! When the consumer stops because of such failures, and how it finds out that they are over.

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use super::{life::evidence, seconds};
use crate::breaker::{Breaker, BreakerSettings, Sign, Stance, Verdict};

/// When the consumer stops taking messages because its service counts as down.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outage {
    /// The number of different messages in a row that must end like this.
    pub messages: u32,
    /// The waits before the first probes, in seconds. The last one repeats.
    #[serde(rename = "probes_after_s", serialize_with = "seconds::list")]
    pub probes: Vec<Duration>,
    /// Whether attempts that end like this are charged while the service counts as down.
    pub charges: bool,
}

impl Outage {
    /// What the breaker does when message after message ends like this; `None`: it goes on.
    pub(super) fn new(
        settings: &BreakerSettings,
        sign: Sign,
        retry_after: Option<Duration>,
    ) -> Option<Self> {
        /// The most messages to try.
        const LOOK: u64 = 10_000;
        let mut breaker = Breaker::new(settings.clone());
        let mut now = Instant::now();
        let end = |message, now| evidence(sign, message, 0, now, retry_after);
        let opens = |message: &u64| {
            breaker.note(&end(*message, now));
            breaker.is_open()
        };
        let messages = (1..=LOOK).find(opens)?;
        let mut probes: Vec<Duration> = Vec::new();
        let mut verdict = Verdict::Usual;
        for message in (messages + 1).. {
            let Stance::Wait { until, .. } = breaker.stance(now) else {
                break;
            };
            let wait = until - now;
            if probes.last() == Some(&wait) {
                break;
            }
            probes.push(wait);
            now = until;
            // The probe begins.
            breaker.stance(now);
            verdict = breaker.note(&end(message, now));
        }
        Some(Self {
            messages: u32::try_from(messages).unwrap_or(u32::MAX),
            probes,
            charges: verdict == Verdict::Usual,
        })
    }
}
