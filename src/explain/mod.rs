//! What will happen to a message that keeps failing, attempt by attempt.
//!
//! Nothing here decides. The policy, the breaker and the ladder of retry queues do, as in a worker.

mod failing;
mod life;
mod outage;
mod schedule;
mod seconds;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::Serialize;

pub use failing::{Failing, Says};
pub use outage::Outage;
pub use schedule::Schedule;

use crate::{
    breaker::Sign,
    consumer::ConsumerSettings,
    outcome::{Ending, OutcomeKind},
    policy::{self, Settlement, SettlementKind},
    retry::Ladder,
};
use life::{Circumstances, Life, wait};
use schedule::{brief, range};

/// What will happen to a message of a consumer that keeps failing.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Explained {
    /// The consumer.
    pub consumer: String,
    /// Its queue.
    pub queue: String,
    /// Its dead-letter queue.
    pub dead_letter_queue: String,
    /// How each attempt ends.
    pub outcome: OutcomeKind,
    /// The class of the failure.
    pub class: Option<String>,
    /// Why no failure of this consumer may have the class: it is probably misspelt. `None` if one can.
    pub doubt: Option<String>,
    /// The HTTP status or the exit code.
    pub status: Option<u16>,
    /// How long each attempt runs, in seconds: the timeout, if that ends it. Other attempts count as 0.
    #[serde(rename = "runs_s", serialize_with = "as_seconds")]
    pub runs: Duration,
    /// A failure after this age is the last one: `retry.max_age`, in seconds.
    #[serde(rename = "max_age_s", serialize_with = "as_seconds")]
    pub max_age: Duration,
    /// The lives of the message, by the circumstances. There is at least one.
    pub lives: Vec<Story>,
    /// When the consumer stops because of such failures; `None`: never.
    pub stops: Option<Outage>,
}

/// One life of a message.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Story {
    /// The circumstances, where they matter.
    pub when: Option<&'static str>,
    /// The attempts that are followed by another one. Equal ones that follow each other are one entry.
    pub attempts: Vec<Attempts>,
    /// The number of the last attempt: with the longest delays, and with the shortest.
    pub last_attempt: [usize; 2],
    /// The age of the message at its end, in seconds: with the shortest delays, and with the longest.
    #[serde(rename = "age_s", serialize_with = "seconds::list")]
    pub age: Vec<Duration>,
    /// What the last attempt leads to.
    pub end: SettlementKind,
    /// The reasons of the dead letter: with other delays, another limit may be the first.
    pub reasons: Vec<&'static str>,
    /// Whether the message has more attempts than these.
    pub goes_on: bool,
}

/// Attempts that are followed by the same delay.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Attempts {
    /// The first of them, from 1.
    pub first: usize,
    /// The last of them.
    pub last: usize,
    /// Whether they count against `retry.max_attempts`.
    pub charged: bool,
    /// The shortest and the longest delay before the next attempt, in seconds.
    #[serde(rename = "delay_s", serialize_with = "seconds::list")]
    pub delay: Vec<Duration>,
    /// Where the message waits: `worker`, or the names of the retry queues that can have it.
    pub waits_in: Vec<String>,
}

/// Explains what happens to a message of this consumer whose handler keeps failing like this.
#[must_use]
pub fn explain(name: &str, consumer: &ConsumerSettings, failing: &Failing) -> Explained {
    let ladder = consumer.ladder();
    let of_message = failing.of(consumer);
    let ending = match &of_message {
        Some(own) => failing.ending(own),
        None => failing::unroutable(consumer),
    };
    let consumer = of_message.as_deref().unwrap_or(consumer);
    let ending = policy::classify(&consumer.retry, ending);
    let sign = policy::sign(&consumer.retry, &ending);
    let failure = ending.failure();
    let runs = match ending {
        Ending::TimedOut { after } => after,
        _ => Duration::ZERO,
    };
    let story = |when, others_succeed| {
        let life = |random| {
            let given = Circumstances {
                retry: &consumer.retry,
                breaker: &consumer.breaker,
                ending: &ending,
                runs,
                others_succeed,
                look: LOOK,
            };
            Life::new(&given, random)
        };
        Story::new(consumer, &ladder, when, &life(1.0), &life(0.0))
    };
    let alone = story(None, true);
    let down = story(None, false);
    let lives = match matches!(sign, Sign::Unavailable | Sign::Limited) && alone != down {
        true => vec![
            story(Some(ALL_FAIL), false),
            story(Some(OTHERS_SUCCEED), true),
        ],
        false => vec![alone],
    };
    let retry_after = failure.as_ref().and_then(|failure| failure.retry_after);
    Explained {
        consumer: name.to_owned(),
        queue: consumer.queue.clone(),
        dead_letter_queue: consumer.dead_letter_queue(),
        outcome: ending.kind(),
        class: failure.as_ref().map(|failure| failure.class.to_string()),
        doubt: failing.doubt(consumer),
        status: failure.and_then(|failure| failure.status),
        runs,
        max_age: consumer.retry.max_age,
        lives,
        stops: Outage::new(&consumer.breaker, sign, retry_after),
    }
}

/// The most attempts to look at: a service that is down for a day sees a message some thousand times.
const LOOK: usize = 10_000;

const ALL_FAIL: &str = "while the service is down for every message";
const OTHERS_SUCCEED: &str = "while other messages of its type succeed";

impl Story {
    fn new(
        consumer: &ConsumerSettings,
        ladder: &Ladder,
        when: Option<&'static str>,
        shortest: &Life,
        longest: &Life,
    ) -> Self {
        let attempts = Attempts::of(consumer, ladder, shortest, longest);
        let mut reasons: Vec<_> = [longest, shortest]
            .iter()
            .filter_map(|life| life.reason())
            .map(|reason| reason.name())
            .collect();
        reasons.dedup();
        let last = longest.steps.last().map(Settlement::kind);
        let last = last.unwrap_or(SettlementKind::Ack);
        Self {
            when,
            attempts,
            last_attempt: [longest.steps.len(), shortest.steps.len()],
            age: vec![shortest.age, longest.age],
            end: last,
            reasons,
            goes_on: [shortest, longest]
                .iter()
                .any(|life| life.steps.len() >= LOOK),
        }
    }

    /// The age of the message at its end, for people.
    #[must_use]
    pub fn lasts(&self) -> String {
        match self.age.as_slice() {
            [short, long] => range(brief(*short), brief(*long)),
            _ => String::new(),
        }
    }
}

impl Attempts {
    /// The attempts of both lives, those with the same delays together.
    fn of(
        consumer: &ConsumerSettings,
        ladder: &Ladder,
        shortest: &Life,
        longest: &Life,
    ) -> Vec<Self> {
        let [one, other] = [shortest, longest].map(|life| life.steps.len());
        let (fewest, most) = (one.min(other), one.max(other));
        let mut all: Vec<Self> = Vec::new();
        for number in 1..=most {
            let both = [shortest, longest].map(|life| life.steps.get(number - 1));
            let steps: Vec<_> = both.into_iter().flatten().collect();
            let waits: Vec<_> = steps.iter().filter_map(|step| wait(step)).collect();
            let (Some(low), Some(high)) = (waits.iter().min(), waits.iter().max()) else {
                continue;
            };
            let charged = steps
                .iter()
                .any(|step| matches!(step, Settlement::Retry { charged: true, .. }));
            let may_stay = steps
                .iter()
                .any(|step| matches!(step, Settlement::Retry { .. }));
            let entry = Self {
                first: number,
                last: number,
                charged,
                delay: vec![*low, *high],
                waits_in: places(consumer, ladder, may_stay, [*low, *high]),
            };
            // The last delays of a life that ends at its age are cut to it.
            let is_rest = waits.len() == 1 || !charged && number + 2 > fewest;
            match all.last_mut() {
                Some(before) if before.is_like(&entry) => before.last = number,
                Some(before) if is_rest && *high <= before.delay[1] => before.last = number,
                _ => all.push(entry),
            }
        }
        all
    }

    fn is_like(&self, other: &Self) -> bool {
        self.charged == other.charged
            && self.delay == other.delay
            && self.waits_in == other.waits_in
    }

    /// The delay, for people.
    #[must_use]
    pub fn waits(&self) -> String {
        match self.delay.as_slice() {
            [low, high] => range(brief(*low), brief(*high)),
            _ => String::new(),
        }
    }
}

/// Where a message waits for a delay in this range. `may_stay`: a short delay waits in the worker.
fn places(
    consumer: &ConsumerSettings,
    ladder: &Ladder,
    may_stay: bool,
    [low, high]: [Duration; 2],
) -> Vec<String> {
    let stays = |delay| may_stay && consumer.retry.waits_in_worker(delay);
    let mut places = Vec::new();
    if stays(low) {
        places.push("worker".to_owned());
    }
    if !stays(high) {
        let low = match stays(low) {
            true => consumer.retry.inline_below,
            false => low,
        };
        let [first, last] = [low, high].map(|delay| ladder.park(delay).0);
        let between = |length| first.length <= length && length <= last.length;
        let mut rungs: Vec<_> = ladder.all().filter(|rung| between(rung.length)).collect();
        if rungs.is_empty() {
            rungs.push(last);
        }
        places.extend(rungs.into_iter().map(|rung| rung.queue));
    }
    places
}

fn as_seconds<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}
