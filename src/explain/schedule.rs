//! The retry schedule in words: what a message lives through that fails in every attempt.

use std::{fmt::Write, time::Duration};

use humantime::format_duration;

use super::life::{Circumstances, Life};
use crate::{
    breaker::BreakerSettings,
    outcome::{Ending, Failure, Outcome},
    retry::RetrySettings,
};

/// What a message lives through that fails in every attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// How often it runs, in what time, and the reason of its dead letter.
    pub summary: String,
    /// The delays between the attempts.
    pub delays: String,
    /// The number of attempts: with the longest delays, and with the shortest. `None`: too many to look at.
    pub attempts: [Option<usize>; 2],
}

impl Schedule {
    /// The schedule of these settings. Handlers' running times come on top.
    #[must_use]
    pub fn new(retry: &RetrySettings) -> Self {
        let [longest, shortest] = [0.0, 1.0].map(|random| life(retry, random));
        Self {
            summary: summary(&shortest, &longest),
            delays: delays(retry, &longest),
            attempts: [&longest, &shortest].map(|life| life.reason().map(|_| life.steps.len())),
        }
    }
}

/// A life with a failure that is retried: with the longest delays, or with the shortest.
fn life(retry: &RetrySettings, random: f64) -> Life {
    const LOOK: usize = 1000;
    // The rules say which failures are retried. This is about one that is.
    let retry = RetrySettings {
        rules: Vec::new(),
        ..retry.clone()
    };
    let failed = Outcome::Failed(Failure::retryable("error", ""));
    let circumstances = Circumstances {
        retry: &retry,
        breaker: &BreakerSettings::default(),
        ending: &Ending::from(failed),
        runs: Duration::ZERO,
        others_succeed: true,
        look: LOOK,
    };
    Life::new(&circumstances, random)
}

fn summary(shortest: &Life, longest: &Life) -> String {
    let [few, many] = [longest, shortest].map(|life| life.steps.len());
    let (Some(early), Some(late)) = (shortest.reason(), longest.reason()) else {
        let time = brief(longest.age);
        let attempts = few;
        return format!("more than {attempts} attempts, the first {attempts} in {time} at most");
    };
    let reason = match early == late {
        true => late.to_string(),
        false => format!("{late} or {early}"),
    };
    if few == 1 {
        return format!("1 attempt and no retry, then dead-lettered as {reason}");
    }
    // With shorter delays a message has more attempts until its age ends them.
    let attempts = range(few.to_string(), many.to_string());
    let time = range(brief(shortest.age), brief(longest.age));
    format!("{attempts} attempts in {time}, then dead-lettered as {reason}")
}

pub(super) fn range(low: String, high: String) -> String {
    match low == high {
        true => low,
        false => format!("{low} to {high}"),
    }
}

/// The delays, equal ones together.
fn delays(retry: &RetrySettings, life: &Life) -> String {
    const MOST: usize = 24;
    let mut text = String::new();
    let delays: Vec<_> = life.delays().collect();
    let mut groups = delays.chunk_by(|a, b| a == b);
    for group in groups.by_ref().take(MOST) {
        let comma = if text.is_empty() { "" } else { ", " };
        let times = match group.len() {
            1 => String::new(),
            times => format!("{times} × "),
        };
        // Writing to a text does not fail.
        let _ = write!(text, "{comma}{times}{}", brief(group[0]));
    }
    if groups.next().is_some() {
        text.push_str(", …");
    }
    if text.is_empty() {
        text.push_str("none");
    } else if retry.delays.is_empty() && retry.jitter > 0.0 {
        let percent = retry.jitter * 100.0;
        let _ = write!(text, "; each up to {percent:.0} % shorter at random");
    }
    text
}

/// A duration for people: two units at most.
pub(super) fn brief(duration: Duration) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let unit = match duration.as_secs() {
        0..MINUTE => 1,
        MINUTE..HOUR => 1000,
        HOUR..DAY => MINUTE * 1000,
        _ => HOUR * 1000,
    };
    let rounded = millis.saturating_add(unit / 2) / unit * unit;
    format_duration(Duration::from_millis(rounded)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(text: &str) -> (String, String) {
        let Schedule {
            summary, delays, ..
        } = Schedule::new(&toml::from_str(text).unwrap());
        (summary, delays)
    }

    #[test]
    fn the_default_schedule_lasts_most_of_a_day() {
        let (summary, delays) = schedule("");
        let expected = "20 attempts in 10h 17m to 20h 33m, then dead-lettered as max-attempts";
        assert_eq!(summary, expected);
        let expected = "500ms, 1s, 2s, 4s, 8s, 16s, 32s, 1m 4s, 2m 8s, 4m 16s, 8m 32s, 17m 4s, \
                        34m 8s, 1h 8m, 2h 17m, 4 × 4h; each up to 50 % shorter at random";
        assert_eq!(delays, expected);
    }

    #[test]
    fn a_schedule_names_the_limit_that_ends_it() {
        for (text, summary, delays) in [
            (
                "delays = ['5s', '1m', '10m']",
                "4 attempts in 11m 5s, then dead-lettered as max-attempts",
                "5s, 1m, 10m",
            ),
            (
                "max_attempts = 1",
                "1 attempt and no retry, then dead-lettered as max-attempts",
                "none",
            ),
            (
                "max_attempts = 99\nmax_age = '1m'\njitter = 0\nbase = '10s'\nfactor = 1",
                "7 attempts in 1m, then dead-lettered as max-age",
                "6 × 10s",
            ),
            (
                "max_attempts = 10\nmax_age = '1m'\nbase = '10s'\nfactor = 1",
                "7 to 10 attempts in 45s to 1m, then dead-lettered as max-age or max-attempts",
                "6 × 10s; each up to 50 % shorter at random",
            ),
            (
                "max_attempts = 4000000000\nbase = '1ms'\nfactor = 1\njitter = 0",
                "more than 1000 attempts, the first 1000 in 999ms at most",
                "999 × 1ms",
            ),
        ] {
            assert_eq!(schedule(text), (summary.to_owned(), delays.to_owned()));
        }
    }
}
