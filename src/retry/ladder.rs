//! The ladder: the retry queues of a queue, and the choice of one for a delay.

use std::time::Duration;

/// The ladder of a work queue: its retry queues of 1 s, 2 s, 4 s and so on up to the cap.
///
/// A delay goes to the shortest rung that is at least as long. The broker expires messages at the
/// head of a queue only, and a message ahead leaves at the latest one rung length after its own
/// arrival. So a message leaves between its delay and less than twice its delay: never early, in
/// one hop, without a plugin.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ladder {
    prefix: String,
    longest: u64,
}

impl Ladder {
    /// The ladder for delays up to `cap`, whose queues have names that begin with `prefix`.
    pub(crate) fn new(prefix: &str, cap: Duration) -> Self {
        let seconds = cap.as_secs() + u64::from(cap.subsec_nanos() > 0);
        Self {
            prefix: prefix.to_owned(),
            longest: seconds.max(1).next_power_of_two(),
        }
    }

    /// All rungs, shortest first.
    pub(crate) fn rungs(&self) -> impl Iterator<Item = Rung> + '_ {
        std::iter::successors(Some(1), |seconds| Some(seconds * 2))
            .take_while(|seconds| *seconds <= self.longest)
            .map(|seconds| self.rung(seconds))
    }

    /// The rung for a delay, and the time that the message must stay there at least. A delay beyond
    /// the longest rung must be parked again for its rest.
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
            queue: format!("{}.{seconds}s", self.prefix),
            length: Duration::from_secs(seconds),
        }
    }
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

    proptest! {
        #[test]
        fn a_parked_delay_is_never_early_and_less_than_twice_late(
            millis in 1u64..4_000_000, cap in 1u64..5_000,
        ) {
            let delay = Duration::from_millis(millis);
            let ladder = Ladder::new("q.retry", Duration::from_secs(cap));
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
    }

    #[test]
    fn the_ladder_reaches_the_cap() {
        let names = |cap| -> Vec<_> {
            let ladder = Ladder::new("q.retry", Duration::from_secs(cap));
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
