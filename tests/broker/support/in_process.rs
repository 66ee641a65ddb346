//! The worker as a library, in the test's own process: its handlers are the test's closures.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use lapwing::Settings;
use lapwing::{Context, LaneReport, Report, RunError, Worker, WorkerHandle};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use toml::{Table, Value};

use super::config::lay_over;
use super::vhost::VHost;
use super::wait::{DEADLINE, wait_until, within};

/// Settings for lanes that are named as their queues and have no configured handler.
///
/// `changes` is TOML laid over that, as in [`super::lane_config`].
pub fn lane_settings(vhost: &VHost, queues: &[&str], changes: &str) -> Settings {
    let lane = |queue: &&str| {
        let queue = (*queue).to_owned();
        let lane = Table::from_iter([("queue".to_owned(), Value::String(queue.clone()))]);
        (queue, Value::from(lane))
    };
    let broker = Table::from_iter([("url".to_owned(), Value::String(vhost.amqp_url()))]);
    let consumers = Table::from_iter(queues.iter().map(lane));
    let mut config = Table::from_iter([
        ("broker".to_owned(), broker.into()),
        ("consumers".to_owned(), consumers.into()),
    ]);
    lay_over(&mut config, changes.parse().expect("the changes are TOML"));
    Settings::from_toml(&config.to_string()).unwrap_or_else(|error| panic!("{error}"))
}

/// A worker that runs in the test.
#[derive(Debug)]
pub struct InProcess {
    /// Asks and tells it.
    pub handle: WorkerHandle,
    running: JoinHandle<Result<Report, RunError>>,
}

impl InProcess {
    /// Starts the worker and waits until every lane consumes and retries can be published.
    pub async fn start(worker: Worker) -> Self {
        let mut started = Self::begin(worker);
        let ready = started
            .handle
            .until(|readiness| readiness.ready && readiness.publishing.is_none());
        tokio::select! {
            _ = within("the worker's start", ready) => started,
            ended = &mut started.running => panic!("the worker ended at its start: {ended:?}"),
        }
    }

    /// Starts the worker.
    pub fn begin(worker: Worker) -> Self {
        let handle = worker.handle();
        let running = tokio::spawn(worker.run(pending()));
        Self { handle, running }
    }

    /// A lane's account now.
    pub async fn report(&self, lane: &str) -> LaneReport {
        self.handle.report(lane).await.expect("the lane answers")
    }

    /// Waits until a lane's account is as `accept` wants it.
    pub async fn wait_for_report(
        &self,
        what: &str,
        lane: &str,
        accept: impl Fn(&LaneReport) -> bool,
    ) -> LaneReport {
        wait_until(what, DEADLINE, async || self.report(lane).await, accept).await
    }

    /// Drains the worker: every delivery must have ended in one way, and none be left.
    pub async fn stop(self) -> Report {
        self.handle.stop();
        let ended = within("the worker's drain", self.running).await;
        let report = ended.expect("no panic").expect("it ran");
        assert_eq!(report.left(), 0, "{report:?}");
        assert_eq!(report.ledger().open(), 0, "{report:?}");
        report
    }
}

/// One run of a handler, as the handler saw it.
#[derive(Clone, Debug)]
pub struct HandlerRun {
    /// The message.
    pub id: String,
    /// The attempt, from 1.
    pub attempt: u32,
    /// When the handler noted it.
    pub at: Instant,
}

/// What handlers note. Clones are the same notes.
#[derive(Clone, Debug, Default)]
pub struct Notes {
    runs: watch::Sender<Vec<HandlerRun>>,
}

impl Notes {
    /// Notes that the handler runs; answers how often it has for this message, this run included.
    pub fn note(&self, context: &Context) -> usize {
        let id = context.message().id().unwrap_or_default().to_owned();
        let run = HandlerRun {
            id: id.clone(),
            attempt: context.attempt(),
            at: Instant::now(),
        };
        let mut seen = 0;
        self.runs.send_modify(|runs| {
            runs.push(run);
            seen = runs.iter().rev().filter(|run| run.id == id).count();
        });
        seen
    }

    /// All notes up to now.
    pub fn runs(&self) -> Vec<HandlerRun> {
        self.runs.borrow().clone()
    }

    /// The runs of a message.
    pub fn of(&self, id: &str) -> Vec<HandlerRun> {
        let runs = self.runs.borrow();
        runs.iter().filter(|run| run.id == id).cloned().collect()
    }

    /// Waits until there are this many notes.
    pub async fn wait_for(&self, count: usize) -> Vec<HandlerRun> {
        self.wait_until(&format!("{count} handler runs"), |runs| runs.len() >= count)
            .await
    }

    /// Waits until the notes are as `accept` wants them.
    pub async fn wait_until(
        &self,
        what: &str,
        accept: impl Fn(&[HandlerRun]) -> bool,
    ) -> Vec<HandlerRun> {
        let mut runs = self.runs.subscribe();
        match tokio::time::timeout(DEADLINE, runs.wait_for(|runs| accept(runs))).await {
            Ok(runs) => runs.expect("the sender is ours").clone(),
            Err(_) => panic!(
                "waited {DEADLINE:?} until {what}; there are {:?}",
                self.runs()
            ),
        }
    }
}

/// Counts what is inside at a time. Clones are the same meter.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    inside: Arc<AtomicUsize>,
    peak: Arc<AtomicUsize>,
}

impl Meter {
    /// Inside until the guard is dropped.
    pub fn enter(&self) -> impl Drop + Send + use<> {
        let inside = self.inside.fetch_add(1, Ordering::SeqCst) + 1;
        self.peak.fetch_max(inside, Ordering::SeqCst);
        Inside(self.inside.clone())
    }

    /// The most that were inside at once.
    pub fn peak(&self) -> usize {
        self.peak.load(Ordering::SeqCst)
    }
}

struct Inside(Arc<AtomicUsize>);

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Milliseconds.
pub const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}
