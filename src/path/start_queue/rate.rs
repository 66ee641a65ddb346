//! The fixed rate of a lane: how many attempts may start now, and when the next one may.

use std::time::Duration;

use tokio::time::Instant;

use crate::consumer::ConsumerSettings;

/// An attempt that starts at most this late does not put off the next ones. Timers are coarse, and a
/// lane that always wakes a little late must not fall behind its rate.
const LATE: Duration = Duration::from_millis(10);

/// A limit of the rate at which attempts start: the generic cell rate algorithm. It is a token bucket
/// that stores no tokens, but the time at which the next attempt would start if all came evenly.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RateLimit {
    /// The time between two attempts that come evenly.
    interval: Duration,
    /// An attempt may start this long before its even time.
    ahead: Duration,
    /// The even time of the next attempt.
    next: Instant,
}

impl RateLimit {
    pub(crate) fn new(interval: Duration, burst: u32, now: Instant) -> Self {
        Self {
            interval,
            ahead: interval * burst.saturating_sub(1),
            next: now,
        }
    }

    /// The limit of a lane, if its settings have one.
    pub(crate) fn of(settings: &ConsumerSettings) -> Option<Self> {
        let interval = settings.rate?.interval();
        Some(Self::new(interval, settings.burst, Instant::now()))
    }

    /// The number of attempts that may start now.
    pub(super) fn open(&self, now: Instant) -> usize {
        match (now + self.ahead).checked_duration_since(self.even(now)) {
            None => 0,
            Some(room) => {
                let more = room.as_nanos() / self.interval.as_nanos().max(1);
                usize::try_from(more).map_or(usize::MAX, |more| more.saturating_add(1))
            }
        }
    }

    /// When the next attempt may start.
    pub(super) fn opens_at(&self) -> Instant {
        self.next.checked_sub(self.ahead).unwrap_or(self.next)
    }

    /// An attempt starts now.
    pub(super) fn start(&mut self, now: Instant) {
        self.next = self.even(now) + self.interval;
    }

    /// The even time of an attempt that starts now. After a quiet time it is now.
    fn even(&self, now: Instant) -> Instant {
        match now > self.next + LATE {
            true => now,
            false => self.next,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MILLI: Duration = Duration::from_millis(1);

    /// Starts as many attempts as are allowed now.
    fn start_all(limit: &mut RateLimit, now: Instant) -> usize {
        let mut started = 0;
        while limit.open(now) > 0 {
            limit.start(now);
            started += 1;
        }
        started
    }

    #[test]
    fn after_a_quiet_time_a_burst_starts_and_then_one_in_each_interval() {
        let begin = Instant::now();
        let mut limit = RateLimit::new(100 * MILLI, 3, begin);
        assert_eq!(
            limit.open(begin + 3_600_000 * MILLI),
            3,
            "no more however long"
        );
        assert_eq!(start_all(&mut limit, begin), 3);
        assert_eq!(limit.opens_at(), begin + 100 * MILLI);
        assert_eq!(start_all(&mut limit, begin + 99 * MILLI), 0);
        assert_eq!(start_all(&mut limit, begin + 104 * MILLI), 1);
        assert_eq!(start_all(&mut limit, begin + 199 * MILLI), 0);
        assert_eq!(start_all(&mut limit, begin + 1_000 * MILLI), 3);
    }

    proptest! {
        /// A lane that wakes up to 10 ms after the limit opens keeps its rate.
        #[test]
        fn a_lane_that_wakes_late_neither_exceeds_the_rate_nor_falls_behind(
            micros in 50u64..400_000,
            burst in 1u32..20,
            late in prop::collection::vec(0u64..10_000, 1..200),
        ) {
            let begin = Instant::now();
            let interval = Duration::from_micros(micros);
            let mut limit = RateLimit::new(interval, burst, begin);
            let (mut now, mut started) = (begin, 0);
            for late in late {
                started += start_all(&mut limit, now);
                now = limit.opens_at().max(now) + Duration::from_micros(late);
            }
            started += start_all(&mut limit, now);
            let evenly = (now - begin).as_nanos() / interval.as_nanos();
            let started = started as u128;
            prop_assert!(started <= evenly + u128::from(burst));
            prop_assert!(started >= evenly, "{started} of {evenly}");
        }
    }
}
