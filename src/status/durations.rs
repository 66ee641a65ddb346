//! A histogram of durations that many threads add to, and copies of it.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// Each doubling is divided into this many buckets, so a bucket's middle is within 1/16 of every
/// duration in the bucket.
const PARTS: u64 = 8;
/// Durations from here on, in microseconds (19 hours), share the last bucket. No handler may run
/// longer than 12 hours.
const LONGEST: u64 = 1 << 36;
const BUCKETS: usize = bucket(LONGEST) + 1;

/// The bucket of a duration in microseconds. Below [`PARTS`] each microsecond has its own bucket.
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

/// A histogram of durations. Recording one costs a single atomic addition.
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

    /// The durations recorded since `before`, which then becomes the present count.
    pub(crate) fn since(&self, before: &mut Tally) -> Added {
        let mut added = Vec::new();
        for (bucket, (now, before)) in self.0.iter().zip(before.0.iter_mut()).enumerate() {
            let now = now.load(Ordering::Relaxed);
            if now > *before {
                added.push((bucket, now - *before));
            }
            *before = now;
        }
        Added(added)
    }
}

/// A copy of a histogram.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tally(Box<[u64; BUCKETS]>);

/// The durations that were added to a histogram within some time: few buckets of many.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Added(Vec<(usize, u64)>);

impl Default for Tally {
    fn default() -> Self {
        Self(Box::new([0; BUCKETS]))
    }
}

impl Tally {
    pub(crate) fn add(&mut self, added: &Added) {
        for (bucket, count) in &added.0 {
            self.0[*bucket] += count;
        }
    }

    pub(crate) fn subtract(&mut self, added: &Added) {
        for (bucket, count) in &added.0 {
            self.0[*bucket] = self.0[*bucket].saturating_sub(*count);
        }
    }

    /// The duration, in seconds, that this part of all (0 to 1) did not exceed; `None` if nothing
    /// was recorded.
    pub(crate) fn quantile(&self, part: f64) -> Option<f64> {
        let total: u64 = self.0.iter().sum();
        let rank = ((total as f64 * part).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, count) in self.0.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Some(middle(bucket) / 1e6);
            }
        }
        None
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
        let mut window = Tally::default();
        assert_eq!(window.quantile(0.5), None);
        assert_eq!(durations.since(&mut before), Added::default());
        for millis in 1..=100 {
            durations.record(Duration::from_millis(millis));
        }
        let first = durations.since(&mut before);
        window.add(&first);
        for (part, seconds) in [(0.5, 0.050), (0.95, 0.095), (0.99, 0.099), (1.0, 0.1)] {
            let found = window.quantile(part).unwrap();
            assert!((found / seconds - 1.0).abs() < 0.07, "{part}: {found}");
        }
        durations.record(Duration::from_secs(3600));
        let second = durations.since(&mut before);
        window.add(&second);
        assert!((window.quantile(1.0).unwrap() / 3600.0 - 1.0).abs() < 0.07);
        window.subtract(&second);
        assert!((window.quantile(1.0).unwrap() / 0.1 - 1.0).abs() < 0.07);
        window.subtract(&first);
        assert_eq!(window, Tally::default());
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
