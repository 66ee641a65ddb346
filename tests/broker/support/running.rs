//! The worker as a library, inside the test: for what only its handle tells.

use std::collections::BTreeSet;

use lapwing::Settings;
use lapwing::{LaneReport, Readiness, Report, RunError, Worker, WorkerHandle};
use tokio::task::JoinHandle;

use super::exchange::{Ending, Seen};
use super::wait::{DEADLINE, within};

/// A worker that runs in this process. Drained in the background when dropped.
#[derive(Debug)]
pub struct RunningWorker {
    handle: WorkerHandle,
    running: JoinHandle<Result<Report, RunError>>,
}

impl RunningWorker {
    /// A worker with this configuration file, its handlers included.
    pub fn start(config: &str) -> Self {
        Self::start_with(config, |worker| worker)
    }

    /// The same, with handlers registered by `adjust`.
    pub fn start_with(config: &str, adjust: impl FnOnce(Worker) -> Worker) -> Self {
        let settings = Settings::from_toml(config).expect("the test's configuration is valid");
        let worker = adjust(Worker::new(settings));
        Self {
            handle: worker.handle(),
            running: tokio::spawn(worker.run(std::future::pending())),
        }
    }

    /// To ask and tell it.
    pub fn handle(&self) -> &WorkerHandle {
        &self.handle
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

    /// Waits until it says that it does its work.
    pub async fn ready(&self) -> Readiness {
        self.until("is ready", |readiness| readiness.ready).await
    }

    /// Waits until it says that it does not do its work; answers why, of its only lane.
    pub async fn not_ready(&self) -> String {
        let why = |readiness: &Readiness| {
            let lane = readiness.lanes.values().next()?;
            lane.reason.clone().filter(|_| !readiness.ready)
        };
        let what = "is not ready and says why";
        let readiness = self.until(what, |readiness| why(readiness).is_some()).await;
        why(&readiness).expect("waited for above")
    }

    /// A lane's account.
    pub async fn report(&self, lane: &str) -> LaneReport {
        self.handle.report(lane).await.expect("the lane runs")
    }

    /// How its run ended without anyone's wish.
    pub async fn failed(self) -> RunError {
        let ended = within("the end of the worker", self.running).await;
        ended.expect("no panic").expect_err("it cannot run")
    }

    /// Drains it. Nothing is left open, and its ledger adds up.
    pub async fn drain(self) -> Report {
        self.handle.stop();
        let ended = within("the drain", self.running).await;
        let report = ended.expect("no panic").expect("it had started");
        let ledger = report.ledger();
        assert_eq!((report.left(), ledger.open()), (0, 0), "{ledger:?}");
        let ends =
            ledger.acked + ledger.parked + ledger.dead_lettered + ledger.returned + ledger.stale;
        assert_eq!(ledger.received, ends, "{ledger:?}");
        report
    }
}

/// Whether the handler has answered each of `ids` with success.
pub fn all_succeeded(ids: &[String], seen: &Seen) -> bool {
    let ended = |ended| matches!(ended, Some((_, Ending::Answered(200..=299))));
    let succeeded: BTreeSet<&str> = seen
        .exchanges
        .iter()
        .filter(|exchange| ended(exchange.ended))
        .map(|exchange| exchange.request.message_id())
        .collect();
    ids.iter().all(|id| succeeded.contains(id.as_str()))
}
