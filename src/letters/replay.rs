//! Replays: letters that begin anew.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::{BoxFuture, FutureExt};
use tokio::time::{Instant, sleep_until};
use tracing::info;

use super::{
    Canary, Changed, DeadLettersError, Filter, Letter, Progress,
    canary::Reports,
    change::{Change, Report, change},
    desk::Desk,
};
use crate::{
    broker::{CopyHeaders, Header, Publication, PublishError, Reading, Written, headers::names},
    dead_letters,
    lock::lock,
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
    names::CANARY,
];

/// Where replayed letters go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Each letter to the queue from which it was dead-lettered.
    Source,
    /// To this queue.
    Queue(String),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Source => f.write_str("the queue of each letter"),
            Self::Queue(queue) => f.write_str(queue),
        }
    }
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
    /// Replay some letters first, and the others only if these succeed; `None`: all at once.
    pub canary: Option<Canary>,
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
    /// The copies that were not confirmed.
    failed: AtomicU64,
    /// If these letters are canaries: the queue for reports, and the letters whose copies are confirmed,
    /// by their number.
    canaries: Option<(&'a str, Mutex<BTreeMap<u64, String>>)>,
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
        let mut set = vec![
            (names::REPLAYS, Header::Int(replays)),
            (names::REPLAY, Header::Text(self.replay.run.clone())),
            (names::REASON, Header::Text(letter.summary.reason.clone())),
        ];
        if let Some((queue, _)) = &self.canaries {
            let queue = (*queue).to_owned();
            set.push(dead_letters::Canary { queue, number }.header());
        }
        let headers = CopyHeaders {
            set,
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
        match self.broker.publish(&publication).await {
            Ok(()) => {
                if let Some((_, confirmed)) = &self.canaries {
                    lock(confirmed).insert(number, letter.summary.id.clone());
                }
                Ok(())
            }
            Err(error) => {
                self.failed.fetch_add(1, Ordering::Relaxed);
                Err(why(error, publication.routing_key))
            }
        }
    }
}

/// Why a copy was not confirmed, for people.
fn why(error: PublishError, queue: &str) -> String {
    match error {
        PublishError::Returned(_) => format!("there is no queue {queue:?}"),
        PublishError::Unconfirmed(why) => {
            format!("not confirmed, so its copy may exist as well: {why}")
        }
        other => other.to_string(),
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
    info!(
        queue, run, by, filter = %replay.filter, to = %replay.target,
        canaries = replay.canary.map(|it| it.letters), "replaying dead letters"
    );
    let replayed = match replay.canary {
        None => run_all(desk, replay, None, report)
            .await
            .map(|it| it.changed),
        Some(canary) => with_canaries(desk, replay, canary, report).await,
    };
    match &replayed {
        Ok(it) => {
            let canaries = it.canaries.as_ref();
            info!(
                queue,
                run,
                by,
                replayed = it.changed,
                kept = it.kept(),
                canaries = canaries.map(|it| it.sent),
                canaries_succeeded = canaries.map(|it| it.succeeded),
                "replayed dead letters"
            );
        }
        Err(error) => info!(queue, run, by, %error, "the replay of dead letters ended early"),
    }
    replayed
}

/// A replay that has ended.
struct Ran {
    changed: Changed,
    /// Copies were published and not confirmed.
    has_failed: bool,
    /// The canaries whose copies are confirmed.
    canaries: BTreeMap<u64, String>,
}

async fn run_all<B: Reading>(
    desk: &Desk<B>,
    replay: &Replay,
    reports: Option<&str>,
    report: Report<'_>,
) -> Result<Ran, DeadLettersError> {
    let running = Running {
        replay,
        broker: &desk.broker,
        began: Instant::now(),
        sent: AtomicU64::new(0),
        failed: AtomicU64::new(0),
        canaries: reports.map(|queue| (queue, Mutex::default())),
    };
    let changed = change(desk, &running, report).await;
    let (sent, failed) = (running.sent.into_inner(), running.failed.into_inner());
    if changed.is_err() {
        info!(
            queue = desk.queue,
            run = replay.run,
            sent,
            failed,
            "published before the error"
        );
    }
    Ok(Ran {
        changed: changed?,
        has_failed: failed > 0,
        canaries: running
            .canaries
            .map(|(_, confirmed)| std::mem::take(&mut *lock(&confirmed)))
            .unwrap_or_default(),
    })
}

/// Replays the canaries, waits for their outcomes, and replays the others if all have succeeded.
async fn with_canaries<B: Reading>(
    desk: &Desk<B>,
    replay: &Replay,
    canary: Canary,
    report: Report<'_>,
) -> Result<Changed, DeadLettersError> {
    let mut reports = Reports::listen(&desk.broker, &replay.run).await?;
    let ended = canaries_first(desk, replay, canary, &mut reports, report).await;
    reports.close().await;
    let (changed, goes_on) = ended?;
    let left = replay
        .limit
        .map(|limit| limit.saturating_sub(usize::try_from(changed.changed).unwrap_or(limit)));
    if !goes_on || left == Some(0) {
        return Ok(changed);
    }
    let others = Replay {
        limit: left,
        ..replay.clone()
    };
    let before = changed.changed;
    let mut report = |progress: Progress| {
        report(Progress {
            changed: before + progress.changed,
            ..progress
        })
    };
    let later = run_all(desk, &others, None, &mut report).await?;
    Ok(changed.then(later.changed))
}

/// Replays the canaries, and waits for their outcomes. True: the others follow.
async fn canaries_first<B: Reading>(
    desk: &Desk<B>,
    replay: &Replay,
    canary: Canary,
    reports: &mut Reports<B>,
    report: Report<'_>,
) -> Result<(Changed, bool), DeadLettersError> {
    let letters = replay
        .limit
        .map_or(canary.letters, |most| most.min(canary.letters));
    let first = Replay {
        limit: Some(letters),
        ..replay.clone()
    };
    let queue = reports.queue.clone();
    let Ran {
        mut changed,
        has_failed,
        canaries,
    } = run_all(desk, &first, Some(&queue), report).await?;
    let progress = Progress {
        total: changed.looked.total,
        seen: changed.looked.seen,
        changed: changed.changed,
        canaries: None,
    };
    let (mut canaries, end) = reports
        .outcomes(canaries, canary.wait, progress, report)
        .await;
    changed.stopped |= end.is_break();
    // Fewer than wanted: no further letter can be replayed.
    let has_more = changed.changed >= letters as u64;
    canaries.ended = !canaries.all_succeeded() || has_failed || changed.stopped;
    let goes_on = has_more && !canaries.ended;
    changed.canaries = Some(canaries);
    Ok((changed, goes_on))
}
