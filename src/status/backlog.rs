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
/// A look that is older than so many times the time between two looks says nothing any more.
const STALE: u32 = 5;
/// Of the looks that are kept, this many may find a free slot at a consumer that is at its limit.
const DIPS: usize = 2;

words! {
    /// Whether a consumer keeps up with its queue.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
    #[serde(rename_all = "kebab-case")]
    #[non_exhaustive]
    pub enum Load {
        /// The queue was not counted often enough, or cannot be counted: see `error`. Or it grows, and the
        /// broker sends none of its messages to this consumer, as if the queue had a single active consumer.
        #[default]
        Unknown = "unknown",
        /// The queue is empty from time to time, or does not grow.
        KeepingUp = "keeping-up",
        /// The queue grows, although the consumer could run more: it is paused, its service is down, or few
        /// messages reach it.
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
    /// How fast these messages become more, each second, over the last two minutes or so; negative if they
    /// become fewer, and null if there were too few looks.
    pub growth: Option<f64>,
    /// How long the queue takes to be empty at this rate; null if it does not shrink.
    pub drain_seconds: Option<f64>,
    /// The age of the oldest of these messages, about; 0 if there are none, null if it is not known.
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
    /// The deliveries that the consumer has received so far.
    pub(crate) received: u64,
    /// Whether the consumer was subscribed.
    pub(crate) is_subscribed: bool,
    /// The time between two looks.
    pub(crate) every: Duration,
}

/// The looks at a consumer's queue. The worker's watch and the lane write, others read.
#[derive(Debug, Default)]
pub(crate) struct Looks(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    /// The last looks that counted the queue, oldest first.
    counted: VecDeque<Counted>,
    /// The last look, and its time of day.
    last: Option<(Look, Instant, SystemTime)>,
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
    received: u64,
    is_subscribed: bool,
}

impl Looks {
    /// Adds a look.
    pub(crate) fn add(&self, look: Look) {
        let (now, time) = (Instant::now(), clock::now());
        let mut kept = lock(&self.0);
        match look.ready {
            Ok(ready) => kept.count(Counted {
                at: now,
                ready,
                limit: look.limit,
                received: look.received,
                is_subscribed: look.is_subscribed,
            }),
            Err(_) => kept.counted.clear(),
        }
        kept.last = Some((look, now, time));
    }

    /// A message that was delivered for the first time was published at this time.
    pub(crate) fn published(&self, at: SystemTime) {
        lock(&self.0).published = Some(at);
    }

    /// Whether the consumer is at its limit; `None` if it is not known, or if the queue grows and the consumer
    /// does no work, for instance because it is paused.
    pub(crate) fn is_at_limit(&self) -> Option<bool> {
        let load = self.backlog().load;
        let kept = lock(&self.0);
        let says_nothing = load == Load::Growing && kept.gets_nothing();
        (load != Load::Unknown && !says_nothing).then_some(load == Load::AtLimit)
    }

    /// How the consumer keeps up.
    pub(crate) fn backlog(&self) -> Backlog {
        let (now, time) = (Instant::now(), clock::now());
        let kept = lock(&self.0);
        let Some((look, at, counted_at)) = &kept.last else {
            return Backlog::default();
        };
        if let (Ok(_), true) = (
            &look.ready,
            now.saturating_duration_since(*at) > look.every * STALE,
        ) {
            return Backlog {
                counted_at: Some(*counted_at),
                error: Some("the queue was not counted since then".to_owned()),
                ..Backlog::default()
            };
        }
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
    fn count(&mut self, look: Counted) {
        if look.ready == 0 {
            self.empty_at = Some(look.at);
        }
        self.counted.push_back(look);
        let spare = self.counted.len().saturating_sub(LOOKS);
        self.counted.drain(..spare);
        // A queue that was seen to grow counts as growing until it clearly shrinks: a queue that stays
        // about the same would change its state all the time.
        let grows = self.grows;
        self.grows = false;
        let filled: Vec<f64> = self.since_empty().map(|look| look.ready.into()).collect();
        if filled.len() < ENOUGH {
            return;
        }
        // A short queue that only goes up and down does not grow: all later counts of one that grows are above
        // all earlier ones.
        let half = filled.len() / 2;
        let most = |counts: &[f64]| counts.iter().copied().fold(0.0, f64::max);
        let least = |counts: &[f64]| counts.iter().copied().fold(f64::INFINITY, f64::min);
        let (earlier, later) = (&filled[..half], &filled[filled.len() - half..]);
        let (first, last) = (earlier[0], later[half - 1]);
        let noise = (first * NOISE).max(1.0);
        let change = last - first;
        self.grows = least(later) > most(earlier) && change > noise || grows && change >= -noise;
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
        if self.gets_nothing() && self.counted.iter().all(|look| look.is_subscribed) {
            return (Load::Unknown, None);
        }
        let free = self.since_empty().filter(|look| look.limit.is_none());
        let free = free.count();
        let last = self.since_empty().rev().find_map(|look| look.limit);
        match last {
            Some(limit) if free <= DIPS => (Load::AtLimit, Some(limit)),
            _ => (Load::Growing, None),
        }
    }

    /// Whether the consumer was free, and no message came, in all looks that are kept.
    fn gets_nothing(&self) -> bool {
        let first = self.counted.front().map(|look| look.received);
        let mut looks = self.counted.iter();
        looks.all(|look| look.limit.is_none() && Some(look.received) == first)
    }

    /// The age of the oldest of `ready` messages, about, and from what it is known.
    fn oldest(
        &self,
        ready: u32,
        now: Instant,
        time: SystemTime,
    ) -> Option<(Duration, Option<OldestFrom>)> {
        if ready == 0 {
            return Some((Duration::ZERO, None));
        }
        let published = self.published.and_then(|published| {
            // A publisher whose clock is ahead tells nothing.
            let age = time.duration_since(published).ok()?;
            Some((age, Some(OldestFrom::Timestamp)))
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
mod tests;
