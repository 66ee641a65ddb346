//! The ladder: the retry queues of a queue, and the choice of one for a delay.

use std::{collections::BTreeSet, time::Duration};

use super::RetrySettings;

/// The ladder of a work queue: its retry queues, whose lengths are powers of two: 1 s, 2 s, 4 s and
/// so on.
///
/// A delay goes to the shortest rung that is at least as long. The broker expires messages at the
/// head of a queue only, and a message ahead leaves at the latest one rung length after its own
/// arrival. So a message leaves between its delay and less than twice its delay: never early, in
/// one hop, without a plugin.
///
/// The worker declares the rungs that the retry schedule can use. A `Retry-After`, a snooze or the
/// rest of a delay at a drain can need another rung. Such a rung is declared when a message needs
/// it first.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ladder {
    prefix: String,
    /// The lengths of the rungs of the schedule, in seconds.
    lengths: BTreeSet<u64>,
    /// The longest rung that the worker may declare. `None`: it declares none, and the rungs above
    /// are all that there are.
    longest: Option<u64>,
}

impl Ladder {
    /// The ladder of a queue whose retry queues the worker declares. Their names begin with `prefix`.
    pub(crate) fn new(prefix: &str, retry: &RetrySettings) -> Self {
        let longest = retry.delays.iter().copied().max().unwrap_or_default();
        Self {
            prefix: prefix.to_owned(),
            lengths: scheduled(retry),
            longest: Some(length(retry.cap.max(longest))),
        }
    }

    /// The ladder of a queue whose retry queues somebody else declares: one for each delay of the
    /// list, or else all lengths up to the cap. A message with a longer delay waits in the longest
    /// of them, several times.
    pub(crate) fn fixed(prefix: &str, retry: &RetrySettings) -> Self {
        let lengths = match retry.delays.is_empty() {
            true => powers(1, length(retry.cap)).collect(),
            false => scheduled(retry),
        };
        Self {
            prefix: prefix.to_owned(),
            lengths,
            longest: None,
        }
    }

    /// A ladder that has the rungs of this one and of another one with the same prefix.
    pub(crate) fn and(mut self, other: Self) -> Self {
        self.lengths.extend(other.lengths);
        self.longest = self.longest.max(other.longest);
        self
    }

    /// The beginning of the names of all rungs.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The rungs that the schedule can use, shortest first.
    pub(crate) fn rungs(&self) -> impl Iterator<Item = Rung> + '_ {
        self.lengths.iter().map(|seconds| self.rung(*seconds))
    }

    /// All rungs that a message can come to, shortest first.
    pub(crate) fn all(&self) -> impl Iterator<Item = Rung> + '_ {
        let others = self.longest.into_iter().flat_map(|most| powers(1, most));
        let all: BTreeSet<u64> = self.lengths.iter().copied().chain(others).collect();
        all.into_iter().map(|seconds| self.rung(seconds))
    }

    /// The rung for a delay, and the time that the message must stay there at least. A delay beyond
    /// the longest rung must be parked again for its rest.
    pub(crate) fn park(&self, delay: Duration) -> (Rung, Duration) {
        let wanted = length(delay);
        let seconds = match self.longest {
            Some(longest) => wanted.min(longest),
            None => {
                let fitting = self.lengths.range(wanted..).next();
                *fitting.or(self.lengths.last()).unwrap_or(&wanted)
            }
        };
        let rung = self.rung(seconds);
        let stay = delay.min(rung.length);
        (rung, stay)
    }

    fn rung(&self, seconds: u64) -> Rung {
        Rung {
            queue: format!("{}.{seconds}s", self.prefix),
            length: Duration::from_secs(seconds),
        }
    }
}

/// The length of the shortest rung for a delay, in seconds.
fn length(delay: Duration) -> u64 {
    /// No rung is longer: a delay of more than this is parked several times.
    const MOST: u64 = 1 << 62;
    let seconds = delay.as_secs();
    let seconds = seconds.saturating_add(u64::from(delay.subsec_nanos() > 0));
    seconds.clamp(1, MOST).next_power_of_two()
}

/// The powers of two from `low` to `high`, which are powers of two.
fn powers(low: u64, high: u64) -> impl Iterator<Item = u64> {
    std::iter::successors(Some(low), |seconds| seconds.checked_mul(2))
        .take_while(move |seconds| *seconds <= high)
}

/// The lengths of the rungs for the delays of all retries, with any jitter.
fn scheduled(retry: &RetrySettings) -> BTreeSet<u64> {
    /// So many attempts are looked at one by one. A schedule with more of them grows slowly, so its
    /// further delays leave out no rung.
    const LOOK: u32 = 1000;
    let last = retry.attempts().saturating_sub(1);
    let range = |attempt| {
        let [low, high] = [1.0, 0.0].map(|random| length(retry.delay(attempt, random)));
        (low, high)
    };
    let mut ranges: Vec<_> = (1..=last.min(LOOK)).map(range).collect();
    if last > LOOK {
        ranges.push((range(LOOK).0, range(last).1));
    }
    let lengths = ranges.into_iter();
    lengths.flat_map(|(low, high)| powers(low, high)).collect()
}

/// One retry queue.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rung {
    /// The queue's name.
    pub(crate) queue: String,
    /// The message time-to-live of the queue.
    pub(crate) length: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn with_cap(seconds: u64) -> RetrySettings {
        RetrySettings {
            cap: Duration::from_secs(seconds),
            ..RetrySettings::default()
        }
    }

    proptest! {
        #[test]
        fn a_parked_delay_is_never_early_and_less_than_twice_late(
            millis in 1u64..4_000_000, cap in 1u64..5_000,
        ) {
            let delay = Duration::from_millis(millis);
            let ladder = Ladder::new("q.retry", &with_cap(cap));
            let (rung, stay) = ladder.park(delay);
            prop_assert!(ladder.all().any(|r| r == rung));
            prop_assert!(stay <= rung.length);
            if delay <= rung.length {
                prop_assert_eq!(stay, delay);
                prop_assert!(rung.length < delay * 2 || rung.length == Duration::from_secs(1));
            } else {
                prop_assert_eq!(Some(rung), ladder.all().last());
            }
        }

        #[test]
        fn a_delay_of_the_schedule_has_a_rung_from_the_start(
            attempts in 1u32..3000, factor in 1.0..20.0f64, jitter in 0.0..=1.0, random in 0.0..1.0,
            base in 1u64..100_000, at in 0.0..1.0,
        ) {
            let base = Duration::from_millis(base);
            let retry = RetrySettings {
                max_attempts: attempts, factor, jitter, base, ..RetrySettings::default()
            };
            let failed = 1 + (f64::from(attempts.saturating_sub(1)) * at) as u32;
            prop_assume!(failed < attempts);
            let ladder = Ladder::new("q", &retry);
            let (rung, _) = ladder.park(retry.delay(failed, random));
            prop_assert!(ladder.rungs().any(|known| known == rung), "{rung:?}");
        }
    }

    /// The lengths of the rungs that are declared at the start, in seconds.
    fn declared(text: &str) -> Vec<u64> {
        let retry: RetrySettings = toml::from_str(text).unwrap();
        let ladder = Ladder::new("q", &retry);
        ladder.rungs().map(|rung| rung.length.as_secs()).collect()
    }

    #[test]
    fn only_the_rungs_that_the_schedule_can_use_are_declared() {
        assert_eq!(declared("").len(), 15);
        assert_eq!(declared("max_attempts = 8"), [1, 2, 4, 8, 16, 32]);
        assert!(declared("max_attempts = 1").is_empty());
        assert_eq!(declared("cap = '5s'"), [1, 2, 4, 8]);
        assert_eq!(declared("delays = ['5s', '1m', '10m']"), [8, 64, 1024]);
        let sparse = "base = '1s'\nfactor = 100\njitter = 0\nmax_attempts = 3";
        assert_eq!(declared(sparse), [1, 128]);
    }

    #[test]
    fn another_delay_gets_the_rung_that_fits_it_and_without_declaring_the_next_longer_one() {
        let retry = toml::from_str("delays = ['5s', '1m', '10m']").unwrap();
        let parked = |ladder: Ladder, seconds| {
            let (rung, stay) = ladder.park(Duration::from_secs(seconds));
            (rung.length.as_secs(), stay.as_secs())
        };
        let free = |seconds| parked(Ladder::new("q", &retry), seconds);
        assert_eq!(free(30), (32, 30));
        assert_eq!(free(3 * 3600), (16_384, 3 * 3600));
        assert_eq!(free(24 * 3600), (16_384, 16_384));
        let fixed = |seconds| parked(Ladder::fixed("q", &retry), seconds);
        assert_eq!(fixed(1), (8, 1));
        assert_eq!(fixed(30), (64, 30));
        assert_eq!(fixed(3 * 3600), (1024, 1024));
    }

    #[test]
    fn a_ladder_that_others_declare_reaches_the_cap() {
        let names = |cap| -> Vec<_> {
            let ladder = Ladder::fixed("q.retry", &with_cap(cap));
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
