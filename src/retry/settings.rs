//! `[consumers.NAME.retry]`.

use std::time::Duration;

use humantime::format_duration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Rule, RuleAction, exponential_backoff};
use crate::config::{DAY, Findings, KeyPath, Span, Spans};

/// What happens after a failure: retries with exponential backoff, and when to give up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RetrySettings {
    /// How many attempts a message has, the first one included. After this many failures the worker
    /// dead-letters the message as `max-attempts`. `1`: no retry. Too low: a short outage
    /// dead-letters messages. Too high: a message that cannot succeed is tried again and again. The
    /// defaults of `max_attempts`, `max_age` and `cap` go together: a message that keeps failing has
    /// 20 attempts in 10 to 21 hours. `lapwing config check` prints the schedule. Default: `20`.
    #[schemars(range(min = 1))]
    pub max_attempts: u32,
    /// The longest time since the first delivery of a message: a failure after that time
    /// dead-letters it as `max-age`. A handler's `Retry-After` counts up to this age. Too low and too
    /// high: as for `max_attempts`. Default: `1day`.
    #[serde(with = "Span::<1, { 365 * DAY }>")]
    pub max_age: Duration,
    /// The delay after the first failure. Too low: the cause of the failure has had no time to go
    /// away. Too high: a short fault delays messages by this time. Default: `500ms`.
    #[serde(with = "Span::<1, CAP_MAX_MILLIS>")]
    pub base: Duration,
    /// The factor by which the delay grows after each further failure. Too low: retries add load
    /// during an outage. Too high: delays reach `cap` after few failures. Default: `2.0`.
    #[schemars(range(min = 1.0, max = 1000.0))]
    pub factor: f64,
    /// The longest delay that `base` and `factor` give; at least `base`. Each doubling above 1 s is
    /// one more retry queue at the broker. A `Retry-After` may be longer: the message then waits in
    /// the longest retry queue, several times if needed. Too low: retries add load during an outage.
    /// Too high: a message comes back long after the fault is gone. Default: `4h`.
    #[serde(with = "Span::<1, CAP_MAX_MILLIS>")]
    pub cap: Duration,
    /// The random part of a delay: a delay d becomes d times a random number from 1 - jitter to 1.
    /// Too low: messages that failed together are retried together. Too high: some delays are close
    /// to zero. Default: `0.5`.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub jitter: f64,
    /// The delays before the retries, one by one, such as `["5s", "1m", "10m"]`: a message has one
    /// attempt more than the list has delays. `max_attempts`, `base`, `factor` and `jitter` then do
    /// not count. `[]`: the delays come from `base`, `factor`, `cap` and `jitter`. Default: `[]`.
    #[serde(with = "Spans::<1, CAP_MAX_MILLIS>")]
    #[schemars(example = ["5s", "1m", "10m"])]
    pub delays: Vec<Duration>,
    /// A retry with a shorter delay than this waits in the worker: it uses prefetch, but no handler
    /// slot. A retry with a longer delay waits in a retry queue at the broker. At most `cap`. `0s`:
    /// every retry goes to the broker. Too low: more work for the broker. Too high: waiting
    /// messages fill the prefetch. Default: `1s`.
    #[serde(with = "Span::<0, CAP_MAX_MILLIS>")]
    pub inline_below: Duration,
    /// Rules that decide whether a failure is retried, dead-lettered or a sign that the service is
    /// unavailable, whatever the handler said. The first rule that fits decides. A last rule without
    /// `class` and `status` decides everything else. Default: `[]`.
    #[schemars(example = [Rule { class: Some("http".to_owned()), status: Some(409.into()), action: RuleAction::DeadLetter }])]
    pub rules: Vec<Rule>,
}

/// The longest delay. Its retry queue holds messages for 2²¹ s, which is 24.3 days. RabbitMQ takes
/// a time to live of at most 2³² − 1 ms, which is 49.7 days.
const CAP_MAX_MILLIS: u64 = 24 * DAY;

impl Default for RetrySettings {
    fn default() -> Self {
        Self {
            max_attempts: 20,
            max_age: Duration::from_hours(24),
            base: Duration::from_millis(500),
            factor: 2.0,
            cap: Duration::from_hours(4),
            jitter: 0.5,
            delays: Vec::new(),
            inline_below: Duration::from_secs(1),
            rules: Vec::new(),
        }
    }
}

impl RetrySettings {
    /// The most attempts of a message, the first one included.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        match self.delays.len() {
            0 => self.max_attempts,
            retries => u32::try_from(retries).map_or(u32::MAX, |retries| retries.saturating_add(1)),
        }
    }

    /// The delay after the `attempt`-th failure (counted from 1). `random`, in `[0, 1)`, selects the
    /// jitter: 0 gives the longest delay. Without a delay for this failure in `delays`: the last one.
    #[must_use]
    pub fn delay(&self, attempt: u32, random: f64) -> Duration {
        let number = usize::try_from(attempt.saturating_sub(1)).unwrap_or(usize::MAX);
        let listed = self.delays.get(number).or(self.delays.last());
        listed
            .copied()
            .unwrap_or_else(|| exponential_backoff(self, attempt, random))
    }

    /// Whether a retry with this delay waits in the worker, and not in a retry queue.
    pub(crate) fn waits_in_worker(&self, delay: Duration) -> bool {
        delay < self.inline_below
    }

    pub(crate) fn check(&self, findings: &mut Findings, section: &KeyPath) {
        let Self {
            base,
            cap,
            inline_below,
            ..
        } = *self;
        if cap < base {
            let [cap, base] = [cap, base].map(format_duration);
            let message = format!("is {cap}, must not be below `base` ({base})");
            findings.contradiction(section.key("cap"), [section.key("base")], message);
        }
        if inline_below > cap {
            let [below, cap] = [inline_below, cap].map(format_duration);
            let message = format!("is {below}, must not be above `cap` ({cap})");
            findings.contradiction(section.key("inline_below"), [section.key("cap")], message);
        }
        for (index, rule) in self.rules.iter().enumerate() {
            let path = section.key("rules").index(index);
            let is_last = index + 1 == self.rules.len();
            if rule.class.is_none() && rule.status.is_none() && !is_last {
                let message = "is required, or `status`: a rule without both matches every \
                               failure, so only the last rule may be one";
                findings.contradiction(path.key("class"), [path.key("status")], message);
            }
            if rule.class.as_deref() == Some("") {
                findings.add(path.key("class"), "must not be empty");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::samples::{Sample, sections};
    use crate::retry::Ladder;

    sections!({ retry: RetrySettings }, |it, findings| {
        it.retry.check(findings, &KeyPath::of("retry"));
    });

    #[test]
    fn a_list_gives_the_delays_one_by_one_and_their_number() {
        let retry: RetrySettings = toml::from_str("delays = ['5s', '1m', '10m']").unwrap();
        let at = |attempt| retry.delay(attempt, 0.9).as_secs();
        assert_eq!([at(1), at(2), at(3), at(4)], [5, 60, 600, 600]);
        assert_eq!(retry.attempts(), 4);
        assert_eq!(RetrySettings::default().attempts(), 20);
    }

    #[test]
    fn retries_keep_their_ranges() {
        Sections::refused(&[
            (
                "retry.max_attempts = 0",
                "retry.max_attempts: must be at least 1",
            ),
            (
                "retry.max_age = \"0s\"",
                "retry.max_age: is 0s, must be 1ms to",
            ),
            (
                "retry.max_age = \"2years\"",
                "retry.max_age: is 2years, must be",
            ),
            ("retry.base = \"0s\"", "retry.base: is 0s, must be 1ms to"),
            (
                "retry.base = \"5h\"",
                "retry.cap: is 4h, must not be below `base` (5h)",
            ),
            (
                "retry.cap = \"25days\"",
                "retry.cap: is 25days, must be 1ms to 24days",
            ),
            (
                "retry.cap = \"999ms\"",
                "retry.inline_below: is 1s, must not be above `cap` (999ms)",
            ),
            (
                "retry.factor = 0.9",
                "retry.factor: is 0.9, must be 1 to 1000",
            ),
            ("retry.factor = inf", "retry.factor: is inf, must be"),
            ("retry.factor = nan", "retry.factor: is NaN, must be"),
            (
                "retry.jitter = -0.1",
                "retry.jitter: is -0.1, must be 0 to 1",
            ),
            ("retry.jitter = 1.1", "retry.jitter: is 1.1, must be"),
            ("retry.jitter = nan", "retry.jitter: is NaN, must be"),
            (
                "retry.rules = [{ action = \"retry\" }, { class = \"x\", action = \"retry\" }]",
                "retry.rules[0].class: is required, or `status`",
            ),
            (
                "retry.delays = [\"5s\", \"0s\"]",
                "retry.delays[1]: is 0s, must be 1ms to 24days",
            ),
            (
                "retry.rules = [{ class = \"\", action = \"retry\" }]",
                "retry.rules[0].class: must not be empty",
            ),
        ]);
        Sections::allowed(&[
            "retry.factor = 1\nretry.jitter = 0\nretry.max_attempts = 1",
            "retry.cap = \"24days\"\nretry.jitter = 1.0\nretry.inline_below = \"0s\"",
            "retry.rules = [{ status = \"5xx\", action = \"dead-letter\" }]",
            "retry.rules = [{ status = 409, action = \"retry\" }, { action = \"dead-letter\" }]",
            "retry.delays = [\"5s\", \"1m\", \"10m\"]",
        ]);
    }

    #[test]
    fn the_longest_rung_fits_the_brokers_time_to_live() {
        let retry = RetrySettings {
            cap: Duration::from_millis(CAP_MAX_MILLIS),
            ..RetrySettings::default()
        };
        let longest = Ladder::new("orders", &retry).all().last().unwrap().length;
        assert!(longest.as_millis() < u128::from(u32::MAX), "{longest:?}");
    }
}
