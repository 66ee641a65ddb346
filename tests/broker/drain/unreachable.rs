//! Drains while the broker cannot be reached.

use std::time::Duration;

use crate::support::{
    ADMIN, Account, Admin, BUSY, DEADLINE, Gate, HttpHandler, Proxy, PublishSpec, Reply, VHost,
    WorkerProcess, admin::Answer, assert_adds_up, consumer, vhost,
};

const N: usize = 20;
const RUNNING: usize = 4;

/// Short timeouts for everything that can hang. The grace is much longer: a drain must not need it.
const CHANGES: &str = "
    drain = { grace = '30s', settle = '200ms' }
    timeouts = { declare = '1s', ack = '1s', close = '500ms', publish = '1s', confirm = '1s' }
    [consumers.orders]
    prefetch = 20
    concurrency = 4";

/// The longest drain when the handlers end at once: the cancellation of the consumer, or the shorter
/// waits for the last acks; then closing a channel and two connections.
const BOUND: Duration = Duration::from_millis(1_000 + 500 + 2 * 500).saturating_add(BUSY);

/// A worker behind a proxy, with handlers that wait at a gate.
struct Behind {
    vhost: VHost,
    proxy: Proxy,
    gate: Gate,
    handler: HttpHandler,
    worker: WorkerProcess,
    admin: Admin,
    ids: Vec<String>,
}

impl Behind {
    async fn new() -> Self {
        Self::with("").await
    }

    /// As `new`, with more changes to the configuration.
    async fn with(more: &str) -> Self {
        let vhost = vhost().await;
        let proxy = Proxy::to(&vhost).await;
        let gate = Gate::default();
        let handler = HttpHandler::behind(&gate, |_| Reply::ok()).await;
        let changes = format!("{CHANGES}\n{ADMIN}");
        let config = consumer(&proxy.url(&vhost), "orders")
            .http(&handler)
            .with(&changes)
            .with(more)
            .toml();
        let worker = WorkerProcess::start_with_admin(&config);
        let admin = Admin::of(&worker).await;
        worker.wait_for_consumers(&vhost, "orders", 1).await;
        let make = |_| PublishSpec::of("{}");
        let ids = vhost.publish_many("orders", N, make).await;
        handler.wait_for_requests(RUNNING, DEADLINE).await;
        vhost.wait_for_counts("orders", 0, 20, DEADLINE).await;
        Self {
            vhost,
            proxy,
            gate,
            handler,
            worker,
            admin,
            ids,
        }
    }

    /// Begins the drain, and waits until the broker has cancelled the consumer.
    async fn drain(&mut self) {
        self.worker.terminate();
        let vhost = &self.vhost;
        vhost.wait_for_counts("orders", 16, 4, DEADLINE).await;
    }

    /// Drains, and asserts what `assert_ends` does.
    async fn assert_drains(mut self, code: i32, stale: u64) {
        self.worker.terminate();
        self.assert_ends(code, stale).await;
    }

    /// Asserts that the worker ends in time and reports what it left, and that no message is lost.
    async fn assert_ends(mut self, code: i32, stale: u64) {
        let draining = |(_, body): &Answer| body["consumers"]["orders"]["state"] == "draining";
        self.admin.until("/readyz", draining).await;
        self.gate.open();
        let exit = self.worker.exited(DEADLINE).await;
        assert!(exit.took <= BOUND, "{exit:?}");
        assert_eq!(exit.status.code(), Some(code), "{exit:?}");
        let ledger = self.worker.ledger();
        assert_adds_up(&ledger);
        assert_eq!(ledger.stale, stale, "{ledger:?}");
        assert_eq!(ledger.acked, 0, "{ledger:?}");
        // The broker keeps the messages of a stalled connection until it notices that the client is
        // gone.
        self.proxy.cut().await;
        let queues = ["orders", "orders.dead"];
        let account = Account::take(&self.vhost, self.ids, &self.handler.seen(), &queues).await;
        account.assert_nothing_lost();
        assert_eq!(account.left_in("orders"), N);
    }
}

#[tokio::test]
async fn a_drain_ends_within_its_bounds_when_the_connection_says_nothing() {
    let behind = Behind::new().await;
    behind.proxy.stall();
    // Handlers finish, and their acks cannot be sent.
    behind.assert_drains(3, N as u64).await;
}

#[tokio::test]
async fn a_drain_that_hears_nothing_after_its_last_acks_leaves_them() {
    let mut behind = Behind::new().await;
    behind.drain().await;
    // Handlers finish, their acks are written, and the broker never gets them.
    behind.proxy.stall();
    behind.assert_ends(3, RUNNING as u64).await;
}

#[tokio::test]
async fn a_drain_gives_a_message_back_that_proves_its_acks() {
    // The broker answers. A busy machine may take its time.
    let patient = "
        drain.settle = '30s'
        timeouts = { declare = '30s', ack = '30s', close = '30s' }";
    let mut behind = Behind::with(patient).await;
    behind.drain().await;
    behind.gate.open();
    let exit = behind.worker.exited(DEADLINE).await;
    assert!(exit.status.success(), "{exit:?}");
    let ledger = behind.worker.ledger();
    assert_adds_up(&ledger);
    assert_eq!(ledger.acked, RUNNING as u64, "{ledger:?}");
    // The queue answered the last question with one of the messages, which is no delivery.
    assert_eq!(ledger.returned, (N - RUNNING) as u64, "{ledger:?}");
    let vhost = &behind.vhost;
    vhost.wait_for_counts("orders", 16, 0, DEADLINE).await;
}

#[tokio::test]
async fn a_drain_ends_within_its_bounds_when_the_broker_refuses_connections() {
    let behind = Behind::new().await;
    behind.proxy.refuse().await;
    behind.proxy.cut().await;
    behind
        .worker
        .wait_for_message("not consuming", DEADLINE)
        .await;
    // The broker has taken back all messages. Those that the drain waits for run again.
    behind.assert_drains(3, N as u64).await;
}

#[tokio::test]
async fn a_worker_that_never_reached_the_broker_drains_at_once() {
    let vhost = vhost().await;
    let proxy = Proxy::to(&vhost).await;
    proxy.stall();
    let handler = HttpHandler::answering(|_| Reply::ok()).await;
    let config = consumer(&proxy.url(&vhost), "orders")
        .http(&handler)
        .with(CHANGES)
        .toml();
    let mut worker = WorkerProcess::start(&config);
    proxy.wait_for_accepted(2).await;
    let ledger = worker.drain(BOUND).await;
    assert_eq!(ledger.received, 0);
}
