//! How long things took: a histogram that many threads add to, and its copies.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Each doubling is parted into this many buckets, so that a bucket's middle is within 1/16 of
/// whatever fell into it.
const PARTS: u64 = 8;
/// Durations from here on, in microseconds (19 hours), share the last bucket. No handler may run
/// longer than 12 hours.
const LONGEST: u64 = 1 << 36;
const BUCKETS: usize = bucket(LONGEST) + 1;

/// Which bucket so many microseconds fall into: below [`PARTS`] each has its own.
const fn bucket(micros: u64) -> usize {
    let micros = if micros > LONGEST { LONGEST } else { micros };
    if micros < PARTS {
        return micros as usize;
    }
    let doublings = micros.ilog2() - PARTS.ilog2();
    ((doublings as u64) * PARTS + (micros >> doublings)) as usize
}

/// The middle of a bucket, in microseconds.
fn middle(bucket: usize) -> f64 {
    let (bucket, parts) = (bucket as u64, PARTS);
    if bucket < parts {
        return bucket as f64 + 0.5;
    }
    let doublings = bucket / parts - 1;
    let width = 1_u64 << doublings;
    ((bucket - doublings * parts) * width) as f64 + width as f64 / 2.0
}

/// Counts durations by their size. One atomic addition for each.
#[derive(Debug)]
pub(crate) struct Durations([AtomicU64; BUCKETS]);

impl Default for Durations {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; BUCKETS])
    }
}

impl Durations {
    pub(crate) fn record(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.0[bucket(micros)].fetch_add(1, Ordering::Relaxed);
    }

    /// What was counted since `before`, which is brought up to date.
    pub(crate) fn since(&self, before: &mut Tally) -> Tally {
        let mut new = Tally::default();
        let pairs = before.0.iter_mut().zip(new.0.iter_mut());
        for (now, (before, new)) in self.0.iter().zip(pairs) {
            let now = now.load(Ordering::Relaxed);
            *new = now.saturating_sub(*before);
            *before = now;
        }
        new
    }
}

/// A copy of such counts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tally(Box<[u64; BUCKETS]>);

impl Default for Tally {
    fn default() -> Self {
        Self(Box::new([0; BUCKETS]))
    }
}

impl Tally {
    pub(crate) fn add(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0.iter()) {
            *mine += theirs;
        }
    }

    pub(crate) fn subtract(&mut self, other: &Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0.iter()) {
            *mine = mine.saturating_sub(*theirs);
        }
    }

    /// The duration, in seconds, that this part of all (0 to 1) did not exceed; `None` where
    /// nothing was counted.
    pub(crate) fn quantile(&self, part: f64) -> Option<f64> {
        let total: u64 = self.0.iter().sum();
        let rank = ((total as f64 * part).ceil() as u64).max(1);
        let mut seen = 0;
        let reached = self.0.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        reached.map(|bucket| middle(bucket) / 1e6)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn quantiles_come_from_what_was_recorded() {
        let durations = Durations::default();
        let mut before = Tally::default();
        assert_eq!(durations.since(&mut before).quantile(0.5), None);
        for millis in 1..=100 {
            durations.record(Duration::from_millis(millis));
        }
        let first = durations.since(&mut before);
        for (part, seconds) in [(0.5, 0.050), (0.95, 0.095), (0.99, 0.099), (1.0, 0.1)] {
            let found = first.quantile(part).unwrap();
            assert!((found / seconds - 1.0).abs() < 0.07, "{part}: {found}");
        }
        durations.record(Duration::from_secs(3600));
        let second = durations.since(&mut before);
        assert!((second.quantile(0.5).unwrap() / 3600.0 - 1.0).abs() < 0.07);
        let mut window = Tally::default();
        window.add(&first);
        window.add(&second);
        assert!(window.quantile(1.0).unwrap() > 3000.0);
        window.subtract(&second);
        assert_eq!(window, first);
    }

    proptest! {
        #[test]
        fn a_buckets_middle_is_near_what_falls_into_it(micros in 0u64..LONGEST) {
            let found = middle(bucket(micros));
            prop_assert!((found - micros as f64).abs() <= (micros as f64 / 16.0).max(0.5) + 1e-9);
        }

        #[test]
        fn longer_durations_fall_into_later_buckets(a in 0u64..=u64::MAX, b in 0u64..=u64::MAX) {
            let (less, more) = (a.min(b), a.max(b));
            prop_assert!(bucket(less) <= bucket(more));
            prop_assert!(bucket(more) < BUCKETS);
        }
    }
}
