//! Retry with exponential backoff: how long to wait, and on which rung of the ladder.

use std::time::Duration;

use crate::config::{ReconnectSettings, RetrySettings};

/// The delay after the `attempt`-th failure (1-based): base × factorⁿ⁻¹, at most the cap, times a
/// random part in `[1 − jitter, 1]` that `random` (in `[0, 1)`) picks.
#[must_use]
pub fn exponential_backoff(retry: &RetrySettings, attempt: u32, random: f64) -> Duration {
    let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
    let cap = retry.cap.as_secs_f64();
    // Far attempts overflow to infinity, which the cap brings back.
    let delay = (retry.base.as_secs_f64() * retry.factor.powi(exponent)).min(cap);
    let jittered = delay * (1.0 - retry.jitter * random);
    Duration::try_from_secs_f64(jittered).unwrap_or(retry.cap)
}

/// Decorrelated jitter: each wait is random between the base and three times the last one.
#[derive(Clone, Debug)]
pub(crate) struct Reconnect {
    base: Duration,
    cap: Duration,
    last: Duration,
}

impl Reconnect {
    pub(crate) fn new(settings: &ReconnectSettings) -> Self {
        Self {
            base: settings.base,
            cap: settings.cap,
            last: settings.base,
        }
    }

    /// The next wait.
    pub(crate) fn next(&mut self) -> Duration {
        let high = self.last.saturating_mul(3).max(self.base);
        let wait = self.base + high.saturating_sub(self.base).mul_f64(rand::random());
        self.last = wait.min(self.cap);
        self.last
    }

    /// Back to short waits, after things went well.
    pub(crate) fn reset(&mut self) {
        self.last = self.base;
    }
}

/// The ladder of a work queue: its delay queues, 1 s, 2 s, 4 s and so on up to the cap.
///
/// A delay goes to the smallest rung that is not shorter. What is ahead of it in that queue leaves
/// by its own arrival plus the rung's length, so a message leaves between its delay and less than
/// twice its delay: never early, one hop, no plugin.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ladder {
    queue: String,
    longest: u64,
}

impl Ladder {
    /// The ladder for delays up to `cap`.
    pub(crate) fn new(queue: &str, cap: Duration) -> Self {
        let seconds = cap.as_secs() + u64::from(cap.subsec_nanos() > 0);
        Self {
            queue: queue.to_owned(),
            longest: seconds.max(1).next_power_of_two(),
        }
    }

    /// All rungs, shortest first.
    pub(crate) fn rungs(&self) -> impl Iterator<Item = Rung> + '_ {
        std::iter::successors(Some(1), |seconds| Some(seconds * 2))
            .take_while(|seconds| *seconds <= self.longest)
            .map(|seconds| self.rung(seconds))
    }

    /// Where a delay is parked: the rung, and how long the message stays there at the least. The
    /// rest of a delay beyond the longest rung has to be parked again.
    pub(crate) fn park(&self, delay: Duration) -> (Rung, Duration) {
        let seconds = delay
            .as_secs()
            .saturating_add(u64::from(delay.subsec_nanos() > 0));
        let seconds = seconds.clamp(1, self.longest).next_power_of_two();
        let rung = self.rung(seconds);
        let stay = delay.min(rung.length);
        (rung, stay)
    }

    fn rung(&self, seconds: u64) -> Rung {
        Rung {
            queue: format!("{}.retry.{seconds}s", self.queue),
            length: Duration::from_secs(seconds),
        }
    }
}

/// One delay queue.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rung {
    /// The queue's name.
    pub(crate) queue: String,
    /// Its message time-to-live.
    pub(crate) length: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_default_delays_double_and_stop_at_the_cap() {
        let retry = RetrySettings::default();
        let at = |attempt| exponential_backoff(&retry, attempt, 0.0).as_millis();
        assert_eq!([at(1), at(2), at(3), at(4)], [500, 1000, 2000, 4000]);
        assert_eq!(at(40), 600_000);
        assert_eq!(at(u32::MAX), 600_000);
    }

    proptest! {
        #[test]
        fn delays_stay_within_jitter_and_cap(
            attempt in 0u32..100, random in 0.0..1.0, jitter in 0.0..=1.0, factor in 1.0..10.0f64,
        ) {
            let retry = RetrySettings { jitter, factor, ..RetrySettings::default() };
            let most = exponential_backoff(&retry, attempt, 0.0);
            let delay = exponential_backoff(&retry, attempt, random);
            prop_assert!(delay <= most && most <= retry.cap);
            prop_assert!(delay >= most.mul_f64((1.0 - jitter).max(0.0) * 0.999_999));
        }

        #[test]
        fn a_parked_delay_is_never_early_and_less_than_twice_late(
            millis in 1u64..4_000_000, cap in 1u64..5_000,
        ) {
            let delay = Duration::from_millis(millis);
            let ladder = Ladder::new("q", Duration::from_secs(cap));
            let (rung, stay) = ladder.park(delay);
            prop_assert!(ladder.rungs().any(|r| r == rung));
            prop_assert!(stay <= rung.length);
            if delay <= rung.length {
                prop_assert_eq!(stay, delay);
                prop_assert!(rung.length < delay * 2 || rung.length == Duration::from_secs(1));
            } else {
                prop_assert_eq!(Some(rung), ladder.rungs().last());
            }
        }

        #[test]
        fn reconnect_waits_lie_between_base_and_cap(tries in 1usize..50) {
            let settings = ReconnectSettings::default();
            let mut reconnect = Reconnect::new(&settings);
            for _ in 0..tries {
                let wait = reconnect.next();
                prop_assert!(wait >= settings.base && wait <= settings.cap);
            }
        }
    }

    #[test]
    fn the_ladder_reaches_the_cap() {
        let names = |cap| -> Vec<_> {
            let ladder = Ladder::new("q", Duration::from_secs(cap));
            ladder.rungs().map(|rung| rung.queue).collect()
        };
        assert_eq!(names(1), ["q.retry.1s"]);
        assert_eq!(
            names(5),
            ["q.retry.1s", "q.retry.2s", "q.retry.4s", "q.retry.8s"]
        );
        assert_eq!(names(600).len(), 11);
    }
}
