//! Handlers that run longer than the grace of a drain.

use std::time::Duration;

use serde_json::Value;

use crate::support::{
    BUSY, DEADLINE, Exit, HttpHandler, PublishSpec, Reply, VHost, WorkerProcess, assert_adds_up,
    consumer, field, log_message, vhost,
};

const N: usize = 20;
const RUNNING: usize = 8;

/// A worker whose handlers do not end.
struct Stuck {
    vhost: VHost,
    handler: HttpHandler,
    worker: WorkerProcess,
}

impl Stuck {
    async fn with(grace: &str) -> Self {
        let vhost = vhost().await;
        let handler = HttpHandler::answering_async(|_| std::future::pending::<Reply>()).await;
        let changes = format!(
            "[drain]\ngrace = '{grace}'\n[consumers.orders]\nprefetch = {N}\nconcurrency = {RUNNING}"
        );
        let config = consumer(&vhost, "orders")
            .http(&handler)
            .with(&changes)
            .toml();
        let worker = WorkerProcess::start(&config);
        worker.wait_for_consumers(&vhost, "orders", 1).await;
        let make = |_| PublishSpec::of("{}");
        vhost.publish_many("orders", N, make).await;
        handler.wait_for_requests(RUNNING, DEADLINE).await;
        vhost.wait_for_counts("orders", 0, 20, DEADLINE).await;
        Self {
            vhost,
            handler,
            worker,
        }
    }

    /// Asserts that all messages are back in the queue, unchanged, and that the worker reports so.
    async fn assert_returned(&self, exit: Exit) {
        assert_eq!(exit.status.code(), Some(4), "{exit:?}");
        let cut = "handler cancelled at drain.grace, message returned to its queue";
        let log = self.worker.log();
        let cut: Vec<_> = log.iter().filter(|line| log_message(line) == cut).collect();
        assert_eq!(cut.len(), RUNNING, "{log:?}");
        for line in cut {
            assert_eq!(field(line, "queue"), "orders");
            assert!(
                field(line, "id").is_string() && field(line, "ran").is_string(),
                "{line}"
            );
        }
        let ledger = self.worker.ledger();
        assert_adds_up(&ledger);
        assert_eq!((ledger.received, ledger.returned), (20, 20), "{ledger:?}");
        let seen = self
            .handler
            .wait_for("the worker hung up", DEADLINE, |seen| seen.running == 0)
            .await;
        assert_eq!((seen.exchanges.len(), seen.abandoned), (RUNNING, RUNNING));

        // The interrupted attempt does not count: the next worker's attempt is the first.
        let fresh = HttpHandler::answering(|_| Reply::ok()).await;
        let config = consumer(&self.vhost, "orders").http(&fresh).toml();
        let mut next = WorkerProcess::start(&config);
        let seen = fresh.wait_for_answered(N, DEADLINE).await;
        for exchange in &seen.exchanges {
            assert_eq!(exchange.request.attempt(), 1);
        }
        let ledger = next.drain(DEADLINE).await;
        assert_eq!((ledger.received, ledger.acked), (20, 20), "{ledger:?}");
    }
}

#[tokio::test]
async fn handlers_longer_than_the_grace_are_cancelled_and_their_messages_returned_uncharged() {
    let mut stuck = Stuck::with("300ms").await;
    stuck.worker.terminate();
    let exit = stuck.worker.exited(DEADLINE).await;
    let grace = Duration::from_millis(300);
    assert!((grace..grace + BUSY).contains(&exit.took), "{exit:?}");
    stuck.assert_returned(exit).await;
}

#[tokio::test]
async fn a_returned_message_has_no_headers_of_ours() {
    let mut stuck = Stuck::with("0s").await;
    stuck.worker.terminate();
    stuck.worker.exited(DEADLINE).await;
    let left = stuck.vhost.drain_all("orders").await;
    assert_eq!(left.len(), N);
    for got in left {
        assert_eq!(*got.header("lapwing-attempts"), Value::Null);
        assert!(!got.headers.keys().any(|name| name.starts_with("lapwing-")));
    }
}

#[tokio::test]
async fn a_second_signal_ends_the_grace_at_once() {
    let mut stuck = Stuck::with("25s").await;
    stuck.worker.terminate();
    let waiting = "waiting for running handlers; a second signal cancels them";
    stuck.worker.wait_for_message(waiting, DEADLINE).await;
    stuck.worker.interrupt();
    let exit = stuck.worker.exited(DEADLINE).await;
    assert!(exit.took < BUSY, "{exit:?}");
    stuck.assert_returned(exit).await;
}
