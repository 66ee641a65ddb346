//! Whether a consumer keeps up with its queue: the messages that wait there, how fast they grow, and how old
//! they are. The worker counts the queue every few seconds, and the lane notes when messages that arrive were
//! published.

use std::{
    collections::{VecDeque, vec_deque},
    sync::Mutex,
    time::{Duration, SystemTime},
};

use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use crate::{clock, lock::lock, text::as_rfc3339_or_null, words::words};

/// The looks that are kept. Growth is measured between the first and the last of them.
const LOOKS: usize = 13;
/// The looks that it takes to say whether a queue grows. It grows only if none of them found it empty.
const ENOUGH: usize = 6;
/// A change of this part of the queue, or less, does not count as growth.
const NOISE: f64 = 0.01;
/// Of the looks that are kept, this many may find a free slot at a consumer that is at its limit.
const DIPS: usize = 2;

words! {
    /// Whether a consumer keeps up with its queue.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
    #[serde(rename_all = "kebab-case")]
    #[non_exhaustive]
    pub enum Load {
        /// The queue was not counted often enough, or cannot be counted: see `error`.
        #[default]
        Unknown = "unknown",
        /// The queue is empty from time to time, or does not grow.
        KeepingUp = "keeping-up",
        /// The queue grows, although the consumer could run more: it is paused, its service is down, or
        /// few messages reach it.
        Growing = "growing",
        /// The queue grows, and the consumer cannot run more: see `limit`.
        AtLimit = "at-limit",
    }
}

words! {
    /// What keeps a consumer from running more messages at once.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
    #[serde(rename_all = "kebab-case")]
    #[non_exhaustive]
    pub enum Limit {
        /// All handler slots are busy: `concurrency`.
        Concurrency = "concurrency",
        /// Slots are free, and messages wait for their start: `rate`.
        Rate = "rate",
        /// The consumer holds as many messages as `prefetch` allows, and most wait for a retry or a confirm.
        Prefetch = "prefetch",
    }
}

words! {
    /// From what the age of the oldest message is known.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
    #[serde(rename_all = "kebab-case")]
    #[non_exhaustive]
    pub enum OldestFrom {
        /// The message that was delivered last says when it was published. Those behind it are younger.
        Timestamp = "timestamp",
        /// The queue was empty then.
        EmptyQueue = "empty-queue",
    }
}

/// How a consumer keeps up with its queue, as of the last look.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
#[non_exhaustive]
pub struct Backlog {
    /// Whether the consumer keeps up.
    pub load: Load,
    /// What keeps the consumer from running more; null unless `load` is `at-limit`.
    pub limit: Option<Limit>,
    /// Messages that wait in the queue, and that no worker holds; null if they cannot be counted.
    pub ready: Option<u32>,
    /// How fast these messages become more, each second, over the last minute or so; negative if they
    /// become fewer, and null if there were too few looks.
    pub growth: Option<f64>,
    /// How long the queue takes to be empty at this rate; null if it does not shrink.
    pub drain_seconds: Option<f64>,
    /// The age of the oldest of these messages, at most; 0 if there are none, null if it is not known.
    pub oldest_seconds: Option<f64>,
    /// From what this age is known.
    pub oldest_from: Option<OldestFrom>,
    /// Messages in the dead-letter queue now; null if they cannot be counted.
    pub dead_letters: Option<u32>,
    /// When the queues were counted; null before the first time.
    #[serde(serialize_with = "as_rfc3339_or_null")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub counted_at: Option<SystemTime>,
    /// Why the messages of one of the two queues cannot be counted.
    pub error: Option<String>,
}

/// What one look found: the messages of the queue and of the dead-letter queue, or why they are not known.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Look {
    pub(crate) ready: Result<u32, String>,
    pub(crate) dead_letters: Result<u32, String>,
    /// What kept the consumer from running more at that moment.
    pub(crate) limit: Option<Limit>,
}

/// The looks at a consumer's queue. The worker's watch and the lane write, others read.
#[derive(Debug, Default)]
pub(crate) struct Looks(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    /// The last looks that counted the queue, oldest first.
    counted: VecDeque<Counted>,
    /// The last look, and its time of day.
    last: Option<(Look, SystemTime)>,
    /// When the queue was last seen empty.
    empty_at: Option<Instant>,
    /// When the message was published that was delivered last for the first time.
    published: Option<SystemTime>,
    grows: bool,
}

/// A look that counted the queue.
#[derive(Clone, Copy, Debug)]
struct Counted {
    at: Instant,
    ready: u32,
    limit: Option<Limit>,
}

impl Looks {
    /// Adds a look.
    pub(crate) fn add(&self, look: Look) {
        let (now, time) = (Instant::now(), clock::now());
        let mut kept = lock(&self.0);
        match look.ready {
            Ok(ready) => kept.count(now, ready, look.limit),
            Err(_) => kept.counted.clear(),
        }
        kept.last = Some((look, time));
    }

    /// A message that was delivered for the first time was published at this time.
    pub(crate) fn published(&self, at: SystemTime) {
        lock(&self.0).published = Some(at);
    }

    /// How the consumer keeps up.
    pub(crate) fn backlog(&self) -> Backlog {
        let (now, time) = (Instant::now(), clock::now());
        let kept = lock(&self.0);
        let Some((look, counted_at)) = &kept.last else {
            return Backlog::default();
        };
        let growth = kept.growth();
        let ready = look.ready.as_ref().ok().copied();
        let (load, limit) = kept.load();
        let oldest = ready.and_then(|ready| kept.oldest(ready, now, time));
        let drain = match (ready, growth) {
            (Some(0), _) => Some(0.0),
            (Some(ready), Some(growth)) if growth < 0.0 => Some(f64::from(ready) / -growth),
            _ => None,
        };
        let errors = [&look.ready, &look.dead_letters];
        Backlog {
            load,
            limit,
            ready,
            growth,
            drain_seconds: drain,
            oldest_seconds: oldest.map(|(age, _)| age.as_secs_f64()),
            oldest_from: oldest.and_then(|(_, from)| from),
            dead_letters: look.dead_letters.as_ref().ok().copied(),
            counted_at: Some(*counted_at),
            error: errors.into_iter().find_map(|part| part.clone().err()),
        }
    }
}

impl Kept {
    fn count(&mut self, at: Instant, ready: u32, limit: Option<Limit>) {
        if ready == 0 {
            self.empty_at = Some(at);
        }
        self.counted.push_back(Counted { at, ready, limit });
        let spare = self.counted.len().saturating_sub(LOOKS);
        self.counted.drain(..spare);
        // A queue that was seen to grow counts as growing until it clearly shrinks: a queue that stays
        // about the same would change its state all the time.
        let grows = self.grows;
        self.grows = false;
        let mut filled = self.since_empty();
        if filled.len() < ENOUGH {
            return;
        }
        if let (Some(first), Some(last)) = (filled.next(), filled.next_back()) {
            let noise = (f64::from(first.ready) * NOISE).max(1.0);
            let change = f64::from(last.ready) - f64::from(first.ready);
            self.grows = change > noise || grows && change >= -noise;
        }
    }

    /// The looks since the queue was last seen empty.
    fn since_empty(&self) -> vec_deque::Iter<'_, Counted> {
        let empty = self.counted.iter().rposition(|look| look.ready == 0);
        self.counted.range(empty.map_or(0, |empty| empty + 1)..)
    }

    /// Messages that the queue gained each second.
    fn growth(&self) -> Option<f64> {
        let (first, last) = (self.counted.front()?, self.counted.back()?);
        if self.counted.len() < ENOUGH {
            return None;
        }
        let seconds = last.at.duration_since(first.at).as_secs_f64();
        (seconds > 0.0).then(|| (f64::from(last.ready) - f64::from(first.ready)) / seconds)
    }

    fn load(&self) -> (Load, Option<Limit>) {
        if self.counted.len() < ENOUGH {
            return (Load::Unknown, None);
        }
        if !self.grows {
            return (Load::KeepingUp, None);
        }
        let free = self.since_empty().filter(|look| look.limit.is_none());
        let free = free.count();
        let last = self.since_empty().rev().find_map(|look| look.limit);
        match last {
            Some(limit) if free <= DIPS => (Load::AtLimit, Some(limit)),
            _ => (Load::Growing, None),
        }
    }

    /// The age of the oldest of `ready` messages, at most, and from what it is known.
    fn oldest(
        &self,
        ready: u32,
        now: Instant,
        time: SystemTime,
    ) -> Option<(Duration, Option<OldestFrom>)> {
        if ready == 0 {
            return Some((Duration::ZERO, None));
        }
        let published = self.published.map(|published| {
            let age = time.duration_since(published).unwrap_or_default();
            (age, Some(OldestFrom::Timestamp))
        });
        let empty = self.empty_at.map(|at| {
            let age = now.saturating_duration_since(at);
            (age, Some(OldestFrom::EmptyQueue))
        });
        published
            .into_iter()
            .chain(empty)
            .min_by_key(|(age, _)| *age)
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const STEP: Duration = Duration::from_secs(5);

    async fn look(looks: &Looks, ready: u32, limit: Option<Limit>) {
        looks.add(Look {
            ready: Ok(ready),
            dead_letters: Ok(7),
            limit,
        });
        advance(STEP).await;
    }

    async fn looks(counts: impl IntoIterator<Item = u32>, limit: Option<Limit>) -> Looks {
        let looks = Looks::default();
        for count in counts {
            look(&looks, count, limit).await;
        }
        looks
    }

    const BUSY: Option<Limit> = Some(Limit::Concurrency);

    #[tokio::test(start_paused = true)]
    async fn a_queue_that_grows_while_all_slots_are_busy_is_at_its_limit() {
        let looks = looks((0..13).map(|n| 100 + 10 * n), BUSY).await;
        let backlog = looks.backlog();
        assert_eq!((backlog.load, backlog.limit), (Load::AtLimit, BUSY));
        assert_eq!((backlog.ready, backlog.growth), (Some(220), Some(2.0)));
        assert_eq!(backlog.drain_seconds, None);
        assert_eq!(backlog.dead_letters, Some(7));
        // A slot that is free for a moment changes nothing, and one that stays free does.
        for free in 1..=3 {
            look(&looks, 220 + 10 * free, None).await;
            let load = looks.backlog().load;
            assert_eq!(load == Load::AtLimit, free <= 2, "{free}");
        }
        assert_eq!(looks.backlog().load, Load::Growing);
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_that_shrinks_says_when_it_is_empty() {
        let looks = looks((0..7).map(|n| 1000 - 50 * n), BUSY).await;
        let backlog = looks.backlog();
        assert_eq!((backlog.load, backlog.limit), (Load::KeepingUp, None));
        assert_eq!(backlog.growth, Some(-10.0));
        assert_eq!(backlog.drain_seconds, Some(70.0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_that_stays_the_same_keeps_its_state() {
        let looks = looks((0..13).map(|n| 1000 + 10 * n), BUSY).await;
        for count in [1121, 1117, 1125, 1119, 1120, 1118, 1123, 1120, 1121, 1119] {
            look(&looks, count, BUSY).await;
            assert_eq!(looks.backlog().load, Load::AtLimit);
        }
        for _ in 0..12 {
            look(&looks, 1000, BUSY).await;
        }
        assert_eq!(looks.backlog().load, Load::KeepingUp);
    }

    #[tokio::test(start_paused = true)]
    async fn a_queue_that_is_empty_from_time_to_time_does_not_grow() {
        let looks = looks([0, 3, 9, 0, 4, 12, 30, 40], BUSY).await;
        assert_eq!(looks.backlog().load, Load::KeepingUp);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_before_the_queue_was_empty_does_not_count() {
        let looks = looks([5, 0, 0, 0, 0, 0, 0], None).await;
        assert_eq!(looks.backlog().load, Load::KeepingUp);
        for count in 1..=6 {
            assert_ne!(looks.backlog().load, Load::AtLimit, "{count}");
            look(&looks, 10 * count, BUSY).await;
        }
        assert_eq!(looks.backlog().load, Load::AtLimit);
    }

    #[tokio::test(start_paused = true)]
    async fn too_few_looks_and_looks_that_fail_say_nothing() {
        assert_eq!(Looks::default().backlog(), Backlog::default());
        let looks = looks([1, 20, 300, 4000, 50_000], BUSY).await;
        let backlog = looks.backlog();
        assert_eq!((backlog.load, backlog.growth), (Load::Unknown, None));
        assert_eq!(backlog.ready, Some(50_000));
        looks.add(Look {
            ready: Err("no access".to_owned()),
            dead_letters: Ok(1),
            limit: BUSY,
        });
        let backlog = looks.backlog();
        assert_eq!((backlog.load, backlog.ready), (Load::Unknown, None));
        assert_eq!(backlog.oldest_seconds, None);
        assert_eq!(backlog.error.as_deref(), Some("no access"));
        assert_eq!(backlog.dead_letters, Some(1));
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_is_no_older_than_what_is_known() {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let _set = clock::Set::to(time);
        let looks = looks([9], None).await;
        assert_eq!(looks.backlog().oldest_seconds, None, "nothing is known");
        look(&looks, 0, None).await;
        let backlog = looks.backlog();
        assert_eq!(
            (backlog.oldest_seconds, backlog.oldest_from),
            (Some(0.0), None)
        );
        look(&looks, 9, None).await;
        let oldest = |looks: &Looks| {
            let backlog = looks.backlog();
            (backlog.oldest_seconds, backlog.oldest_from)
        };
        let empty = Some(OldestFrom::EmptyQueue);
        assert_eq!(oldest(&looks), (Some(10.0), empty));
        // Published after the queue was empty, 3 s ago.
        looks.published(time + Duration::from_secs(12));
        let timestamp = Some(OldestFrom::Timestamp);
        assert_eq!(oldest(&looks), (Some(3.0), timestamp));
        // A publisher whose clock is ahead.
        looks.published(time + Duration::from_secs(3600));
        assert_eq!(oldest(&looks), (Some(0.0), timestamp));
        // A message from long before the queue was empty says nothing.
        looks.published(time - Duration::from_secs(3600));
        assert_eq!(oldest(&looks), (Some(10.0), empty));
    }
}
