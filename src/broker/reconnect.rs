//! The waits before the next attempt.

use std::time::Duration;

use super::ReconnectSettings;
use crate::chance;

/// The waits before the next attempt to connect or to subscribe.
///
/// Workers that lost their broker together spread their first attempts over the whole time up to the
/// cap, and later ones over the last part of it. So with the defaults 100 workers make about 30
/// attempts a second from the first second on, and each of them tries within the cap after the broker
/// is back, however long it was away.
#[derive(Clone, Debug)]
pub(crate) struct Redial {
    base: Duration,
    cap: Duration,
    has_failed: bool,
}

impl Redial {
    pub(crate) fn new(settings: &ReconnectSettings) -> Self {
        Self {
            base: settings.base,
            cap: settings.cap,
            has_failed: false,
        }
    }

    /// The next wait.
    pub(crate) fn next(&mut self) -> Duration {
        let low = match self.has_failed {
            false => self.base,
            true => self.base.max(self.cap * 3 / 5),
        };
        self.has_failed = true;
        low + self.cap.saturating_sub(low).mul_f64(chance::fraction())
    }

    /// Starts again, after a success.
    pub(crate) fn reset(&mut self) {
        self.has_failed = false;
    }
}

/// The waits before the next attempt to publish. Decorrelated jitter: each wait is random, between
/// the base and three times the last wait.
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
        let wait = self.base + high.saturating_sub(self.base).mul_f64(chance::fraction());
        // Whole milliseconds: people read them.
        let millis = u64::try_from(wait.min(self.cap).as_millis()).unwrap_or(u64::MAX);
        self.last = Duration::from_millis(millis);
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn reconnect_waits_lie_between_base_and_cap(tries in 1usize..50) {
            let settings = ReconnectSettings::default();
            let mut reconnect = Reconnect::new(&settings);
            let mut redial = Redial::new(&settings);
            for _ in 0..tries {
                for wait in [reconnect.next(), redial.next()] {
                    prop_assert!(wait >= settings.base && wait <= settings.cap);
                }
            }
        }
    }

    /// When 1000 workers that lost their broker at once try again, in seconds.
    fn attempts(away: f64) -> Vec<Vec<f64>> {
        let one = || {
            let mut redial = Redial::new(&ReconnectSettings::default());
            let mut at = 0.0;
            let mut next = || {
                at += redial.next().as_secs_f64();
                at
            };
            let mut all = vec![next()];
            while all.last().is_some_and(|last| *last < away) {
                all.push(next());
            }
            all
        };
        std::iter::repeat_with(one).take(1000).collect()
    }

    #[test]
    fn all_workers_are_back_within_the_cap_and_half_of_them_within_2500_milliseconds() {
        for away in [0.0, 2.0, 60.0, 600.0] {
            let mut late: Vec<_> = attempts(away)
                .iter()
                .filter_map(|all| Some(all.last()? - away))
                .collect();
            late.sort_by(f64::total_cmp);
            assert!(
                late[500] < 2.5,
                "after {away} s, half are back after {} s",
                late[500]
            );
            assert!(
                late[999] <= 4.0,
                "after {away} s, all are back after {} s",
                late[999]
            );
        }
    }

    #[test]
    fn a_hundred_workers_make_about_thirty_attempts_a_second_from_the_beginning() {
        let all: Vec<f64> = attempts(600.0).into_iter().flatten().collect();
        for (from, to) in [(0.0, 4.0), (4.0, 60.0), (60.0, 600.0)] {
            let seen = all.iter().filter(|at| (from..to).contains(*at)).count();
            let rate = seen as f64 / (to - from) / 10.0;
            assert!(
                rate < 34.0,
                "{rate} attempts a second from {from} s to {to} s"
            );
        }
    }
}
