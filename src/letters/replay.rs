//! Replays: letters that begin anew.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use futures_util::future::{BoxFuture, FutureExt};
use tokio::time::{Instant, sleep_until};
use tracing::info;

use super::{
    Changed, DeadLettersError, Filter, Letter,
    change::{Change, Report, change},
    desk::Desk,
};
use crate::broker::{
    CopyHeaders, Header, Publication, PublishError, Reading, Written, headers::names,
};

/// A letter that was replayed this often is not replayed again, unless the command is forced: it
/// goes round.
const MOST_REPLAYS: u32 = 3;

/// The headers of a dead letter that its replay does not have. The reason stays: by it the worker
/// knows a dead letter that was put back.
const OF_THE_PAST: &[&str] = &[
    names::ATTEMPTS,
    names::CRASHES,
    names::FIRST_SEEN,
    names::NOT_BEFORE,
    names::HISTORY,
    names::ERROR,
    names::ERROR_KIND,
    names::FINGERPRINT,
    names::FAILED_AT,
    names::SOURCE_QUEUE,
    names::WORKER,
    names::PARKED_AT,
    names::LAST_ATTEMPT,
];

/// Where replayed letters go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Each letter to the queue from which it was dead-lettered.
    Source,
    /// To this queue.
    Queue(String),
}

/// What to replay.
#[derive(Clone, Debug)]
pub struct Replay {
    /// Which letters.
    pub filter: Filter,
    /// Where to.
    pub target: Target,
    /// The most letters to replay; `None`: all.
    pub limit: Option<usize>,
    /// The most letters per second; `None`: as fast as the broker confirms them.
    pub rate: Option<f64>,
    /// Replay letters that were replayed three times and more.
    pub force: bool,
    /// The name of this run, which each copy carries.
    pub run: String,
    /// Who replays, for the log.
    pub by: String,
}

impl Replay {
    /// The queue to which a letter goes, or why it stays.
    ///
    /// # Errors
    /// The reason, for people.
    pub fn target_of<'a>(&'a self, letter: &'a Letter) -> Result<&'a str, String> {
        if letter.summary.replays >= MOST_REPLAYS && !self.force {
            return Err(format!(
                "replayed {MOST_REPLAYS} times or more before (--force replays it again)"
            ));
        }
        match &self.target {
            Target::Queue(queue) => Ok(queue),
            Target::Source => letter
                .summary
                .source_queue
                .as_deref()
                .ok_or_else(|| "its source queue is not known (--to names one)".to_owned()),
        }
    }
}

/// A replay under way.
struct Running<'a, B> {
    replay: &'a Replay,
    broker: &'a B,
    began: Instant,
    sent: AtomicU64,
}

/// How long a slow replay may hold a letter, as far as its rate decides. RabbitMQ takes letters back
/// after its consumer timeout, 30 minutes by default.
const HELD: f64 = 300.0;

impl<B: Reading> Running<'_, B> {
    /// When the rate allows the letter with this number.
    fn due_at(&self, number: u64) -> Option<Instant> {
        let after = |rate| Duration::from_secs_f64(number as f64 / rate);
        self.replay.rate.map(|rate| self.began + after(rate))
    }

    async fn publish(&self, letter: &Letter) -> Result<(), String> {
        let number = self.sent.fetch_add(1, Ordering::Relaxed);
        if let Some(due) = self.due_at(number) {
            sleep_until(due).await;
        }
        let replays = i64::from(letter.summary.replays) + 1;
        let headers = CopyHeaders {
            set: vec![
                (names::REPLAYS, Header::Int(replays)),
                (names::REPLAY, Header::Text(self.replay.run.clone())),
                (names::REASON, Header::Text(letter.summary.reason.clone())),
            ],
            remove: OF_THE_PAST,
            // So the worker believes where the message came from.
            is_named: true,
            ..CopyHeaders::default()
        };
        let publication = Publication {
            exchange: "",
            routing_key: self.replay.target_of(letter)?,
            body: &letter.body,
            properties: Written::Copy(&letter.properties, headers),
        };
        let published = self.broker.publish(&publication).await;
        published.map_err(|error| match error {
            PublishError::Returned(_) => {
                format!("there is no queue {:?}", publication.routing_key)
            }
            PublishError::Unconfirmed(why) => {
                format!("not confirmed, so its copy may exist as well: {why}")
            }
            other => other.to_string(),
        })
    }
}

impl<B: Reading> Change for Running<'_, B> {
    fn filter(&self) -> &Filter {
        &self.replay.filter
    }

    fn most(&self) -> u64 {
        self.replay.limit.map_or(u64::MAX, |limit| limit as u64)
    }

    /// No more than a second's worth: what is published is acked soon.
    fn batch(&self) -> usize {
        let rate = self.replay.rate.map(f64::ceil);
        rate.map_or(usize::MAX, |rate| (rate as usize).max(1))
    }

    fn window(&self) -> usize {
        let held = self.replay.rate.map(|rate| rate * HELD);
        held.map_or(usize::MAX, |held| (held as usize).max(1))
    }

    fn due(&self) -> Option<Instant> {
        self.due_at(self.sent.load(Ordering::Relaxed))
    }

    fn refuses(&self, letter: &Letter) -> Option<String> {
        self.replay.target_of(letter).err()
    }

    fn succeed<'a>(&'a self, letter: &'a Letter) -> BoxFuture<'a, Result<(), String>> {
        self.publish(letter).boxed()
    }
}

pub(super) async fn replay<B: Reading>(
    desk: &Desk<B>,
    replay: &Replay,
    report: Report<'_>,
) -> Result<Changed, DeadLettersError> {
    let Replay { run, by, .. } = replay;
    let queue = &desk.queue;
    info!(queue, run, by, target = ?replay.target, "replaying dead letters");
    let running = Running {
        replay,
        broker: &desk.broker,
        began: Instant::now(),
        sent: AtomicU64::new(0),
    };
    let changed = change(desk, &running, report).await;
    let replayed = running.sent.load(Ordering::Relaxed);
    match &changed {
        Ok(it) => {
            info!(
                queue,
                run,
                by,
                replayed = it.changed,
                kept = it.kept(),
                "replayed dead letters"
            );
        }
        Err(error) => {
            info!(queue, run, by, sent = replayed, %error, "the replay of dead letters ended early");
        }
    }
    changed
}
