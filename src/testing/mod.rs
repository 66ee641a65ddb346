//! Tests of handlers and whole workers without RabbitMQ.
//!
//! [`TestWorker`] runs an unchanged [`Worker`], with its consumers, retries, dead letters
//! and drain, on a [`TestBroker`], which holds the queues in memory. With tokio's paused time
//! (`#[tokio::test(start_paused = true)]`, which needs tokio's feature `test-util`) a retry after ten
//! minutes takes no time.
//!
//! ```
//! use lapwing::{Failure, Settings, Worker, handler::Json, testing::TestWorker};
//!
//! #[derive(serde::Deserialize)]
//! struct Order {
//!     cents: i64,
//! }
//!
//! async fn charge(Json(order): Json<Order>) -> Result<(), Failure> {
//!     if order.cents < 0 {
//!         return Err(Failure::permanent("price", "negative"));
//!     }
//!     Ok(())
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let settings = Settings::from_toml("consumers.orders = { queue = 'orders' }")?;
//! let worker = TestWorker::start(Worker::new(settings).handler("orders", charge)).await;
//! worker.broker().publish_json("orders", r#"{"cents": 250}"#);
//! worker.broker().publish_json("orders", r#"{"cents": -1}"#);
//! worker.finished().await;
//!
//! let dead = worker.broker().messages("orders.dead");
//! assert_eq!(dead.len(), 1);
//! assert_eq!(dead[0].header("lapwing-reason"), Some("rejected"));
//! let report = worker.drain().await?;
//! assert_eq!(report.ledger().acked, 1);
//! # Ok(())
//! # }
//! ```

mod broker;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

use std::time::Duration;

pub use broker::{StoredMessage, TestBroker};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{Readiness, Report, RunError, Worker, WorkerHandle};

/// The longest that a test waits for its worker, on tokio's clock: longer than any retry.
const LONGEST_WAIT: Duration = Duration::from_hours(1000);

/// A worker that runs on a broker in memory, on the test's runtime.
#[derive(Debug)]
#[must_use = "the worker drains when this is dropped"]
pub struct TestWorker {
    broker: TestBroker,
    handle: WorkerHandle,
    shutdown: CancellationToken,
    running: JoinHandle<Result<Report, RunError>>,
}

impl TestWorker {
    /// Starts a worker on a new broker, and waits until the worker is ready.
    ///
    /// # Panics
    /// If the worker does not start. [`TestWorker::start_on`] gives the reason.
    pub async fn start(worker: Worker) -> Self {
        let mut started = Self::start_on(worker, &TestBroker::new());
        let readiness = started.until(|it| it.ready).await;
        assert!(readiness.ready, "the worker is not ready: {readiness:?}");
        started
    }

    /// Starts a worker on this broker, and does not wait.
    pub fn start_on(worker: Worker, broker: &TestBroker) -> Self {
        let shutdown = CancellationToken::new();
        let handle = worker.handle();
        let stopping = shutdown.clone().cancelled_owned();
        let running = tokio::spawn(worker.run_on(broker.inner(), stopping));
        Self {
            broker: broker.clone(),
            handle,
            shutdown,
            running,
        }
    }

    /// The broker.
    #[must_use]
    pub fn broker(&self) -> &TestBroker {
        &self.broker
    }

    /// The handle of the worker.
    #[must_use]
    pub fn handle(&self) -> &WorkerHandle {
        &self.handle
    }

    /// Waits until `wanted` is true of the worker's readiness, or until the worker has ended.
    pub async fn until(&mut self, wanted: impl Fn(&Readiness) -> bool) -> Readiness {
        self.handle.until(wanted).await
    }

    /// Waits until every message is finished: no delivery is unsettled and no retry waits. Messages in
    /// queues without a consumer, such as dead letters, count as finished.
    ///
    /// # Panics
    /// After 1,000 hours on tokio's clock.
    pub async fn finished(&self) {
        let queues: Vec<_> = self.handle.queues().collect();
        let broker = self.broker.inner();
        let wait = broker.wait_until_idle(&queues);
        let ended = tokio::time::timeout(LONGEST_WAIT, wait).await;
        assert!(ended.is_ok(), "some messages are not finished");
    }

    /// Stops the worker as SIGTERM does, and returns its report.
    ///
    /// # Errors
    /// If the worker did not start.
    ///
    /// # Panics
    /// If the worker panicked.
    pub async fn drain(self) -> Result<Report, RunError> {
        self.shutdown.cancel();
        self.running.await.expect("the worker does not panic")
    }
}
