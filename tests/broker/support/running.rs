//! The worker as a library in the test's own process, for handlers that are closures of the test
//! and for facts that only the worker's handle shows.

use std::future::pending;

use lapwing::{ConsumerReport, Readiness, Report, RunError, Worker, WorkerHandle};
use tokio::task::JoinHandle;

use super::wait::{DEADLINE, wait_until, within};
use super::worker_log::assert_adds_up;

/// A worker that runs in this process. Drained in the background when dropped.
#[derive(Debug)]
pub struct RunningWorker {
    /// The worker's handle.
    pub handle: WorkerHandle,
    pub running: JoinHandle<Result<Report, RunError>>,
}

impl RunningWorker {
    /// Starts the worker and waits until every consumer consumes and retries can be published.
    pub async fn start(worker: Worker) -> Self {
        let mut started = Self::begin(worker);
        let mut handle = started.handle.clone();
        let ready = handle.until(|readiness| readiness.ready && readiness.publishing.is_none());
        tokio::select! {
            _ = within("the worker's start", ready) => started,
            ended = &mut started.running => panic!("the worker ended at its start: {ended:?}"),
        }
    }

    /// Starts the worker and waits for nothing.
    pub fn begin(worker: Worker) -> Self {
        Self {
            handle: worker.handle(),
            running: tokio::spawn(worker.run(pending())),
        }
    }

    /// Waits until `wanted` is true of its readiness; panics with the last readiness otherwise.
    pub async fn until(&self, what: &str, wanted: impl Fn(&Readiness) -> bool) -> Readiness {
        let mut handle = self.handle.clone();
        match tokio::time::timeout(DEADLINE, handle.until(wanted)).await {
            Ok(readiness) => readiness,
            Err(_) => panic!(
                "waited {DEADLINE:?} until the worker {what}; it is {:#?}",
                self.handle.readiness()
            ),
        }
    }

    /// Waits until the worker is ready.
    pub async fn ready(&self) -> Readiness {
        self.until("is ready", |readiness| readiness.ready).await
    }

    /// Waits until the worker can publish.
    pub async fn publishes(&self) -> Readiness {
        self.until("can publish", |readiness| readiness.publishing.is_none())
            .await
    }

    /// Waits until the worker is not ready. Returns the reason of its only consumer.
    pub async fn not_ready(&self) -> String {
        let why = |readiness: &Readiness| {
            let consumer = readiness.consumers.values().next()?;
            consumer.reason.clone().filter(|_| !readiness.ready)
        };
        let what = "is not ready and says why";
        let readiness = self.until(what, |readiness| why(readiness).is_some()).await;
        why(&readiness).expect("waited for above")
    }

    /// The current ledger of a consumer.
    pub async fn report(&self, consumer: &str) -> ConsumerReport {
        self.handle
            .report(consumer)
            .expect("there is such a consumer")
    }

    /// Waits until `accept` returns true for a consumer's ledger.
    pub async fn wait_for_report(
        &self,
        what: &str,
        consumer: &str,
        accept: impl Fn(&ConsumerReport) -> bool,
    ) -> ConsumerReport {
        wait_until(what, DEADLINE, async || self.report(consumer).await, accept).await
    }

    /// Drains the worker. Every delivery must have ended in exactly one way, and none may be left.
    pub async fn drain(self) -> Report {
        self.handle.stop();
        let ended = within("the worker's drain", self.running).await;
        let report = ended.expect("no panic").expect("it ran");
        assert_eq!(report.left(), 0, "{report:?}");
        assert_adds_up(&report.ledger());
        report
    }
}
