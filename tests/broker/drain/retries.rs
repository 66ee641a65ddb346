//! Retries that are backing off in the worker when a drain begins.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{
    ADMIN, Account, Admin, DEADLINE, Gate, Got, HttpHandler, PublishSpec, Reply, Request, VHost,
    WorkerProcess, admin::Answer, assert_adds_up, consumer, exchange::Seen, vhost,
};

const N: usize = 20;
const RUNG: &str = "orders.retry.8s";

/// Asserts that one failure counts, with its own class and text.
fn assert_charged_once(got: &Got) {
    assert_eq!(*got.header("lapwing-attempts"), 1);
    let history = got
        .header("lapwing-history")
        .as_str()
        .expect("as the test made it");
    let history: Vec<Value> = serde_json::from_str(history).expect("as the test made it");
    assert_eq!(history.len(), 1);
    assert_eq!(history[0]["attempt"], 1);
}

#[tokio::test]
async fn retries_that_wait_in_the_worker_are_parked_with_what_is_left_of_their_delay() {
    const DELAY: Duration = Duration::from_secs(8);
    let vhost = vhost().await;
    let handler = HttpHandler::answering(|_| Reply::status(500)).await;
    let changes = "[consumers.orders]\nprefetch = 64\n[consumers.orders.retry]\n\
        base = '8s'\njitter = 0.0\ninline_below = '10s'\ncap = '16s'";
    let config = consumer(&vhost, "orders")
        .http(&handler)
        .with(changes)
        .toml();
    let mut worker = WorkerProcess::start(&config);
    worker.wait_for_consumers(&vhost, "orders", 1).await;
    let published = Instant::now();
    let make = |_| PublishSpec::of("{}");
    let ids = vhost.publish_many("orders", N, make).await;
    worker.wait_for_messages("attempt failed", N).await;
    let waiting = Instant::now();

    worker.terminate();
    let exit = worker.exited(DEADLINE).await;
    let gone = Instant::now();

    assert!(exit.status.success(), "{exit:?}");
    let ledger = worker.ledger();
    assert_adds_up(&ledger);
    assert_eq!((ledger.received, ledger.parked), (20, 20), "{ledger:?}");
    assert_eq!(handler.seen().exchanges.len(), N, "no further attempt");
    assert!(gone - waiting < DELAY / 2, "the wait was cut short");
    // The retry queue keeps its messages for longer than this check takes.
    let parked = expiring(&vhost).await;
    assert_eq!(parked.len(), N);
    for (id, left, got) in &parked {
        assert!(ids.contains(id));
        assert!(*left < DELAY, "{left:?} of {DELAY:?}");
        assert!(*left + (gone - published) >= DELAY, "never early: {left:?}");
        assert_charged_once(got);
    }
}

/// The messages in the retry queue: ids, and the delay of each.
async fn expiring(vhost: &VHost) -> Vec<(String, Duration, Got)> {
    let parked = vhost.drain_all(RUNG).await;
    let stay = |got: &Got| {
        let text = got.properties.expiration().as_ref();
        Duration::from_millis(
            text.expect("as the test made it")
                .as_str()
                .parse()
                .expect("as the test made it"),
        )
    };
    let all = parked.into_iter();
    all.map(|got| (got.id().to_owned(), stay(&got), got))
        .collect()
}

#[tokio::test]
async fn retries_that_wait_for_a_handler_slot_do_not_hold_up_a_drain() {
    let vhost = vhost().await;
    let (first, second) = (Gate::default(), Gate::default());
    let gates = (first.clone(), second.clone());
    let handler = HttpHandler::answering_async(move |request: Arc<Request>| {
        let (first, second) = gates.clone();
        async move {
            if request.attempt() == 1 {
                first.passed().await;
                return Reply::status(500);
            }
            second.passed().await;
            Reply::ok()
        }
    })
    .await;
    let changes = format!(
        "{ADMIN}[consumers.orders]\nprefetch = 64\nconcurrency = {N}\n\
         [consumers.orders.retry]\nbase = '10ms'\njitter = 0.0\ncap = '1s'"
    );
    let config = consumer(&vhost, "orders")
        .http(&handler)
        .with(&changes)
        .toml();
    let mut worker = WorkerProcess::start_with_admin(&config);
    let admin = Admin::of(&worker).await;
    worker.wait_for_consumers(&vhost, "orders", 1).await;
    let make = |_| PublishSpec::of("{}");
    let ids = vhost.publish_many("orders", N, make).await;
    let all = |seen: &Seen| seen.running == N;
    handler.wait_for("all run", DEADLINE, all).await;
    // In the end they have returned two slots.
    let two = admin.patch("/api/v1/consumers/orders", r#"{"concurrency": 2}"#);
    assert_eq!(two.await.0, 200);
    first.open();
    worker.wait_for_messages("attempt failed", N).await;
    let again = |seen: &Seen| seen.answered == N && seen.running == 2;
    handler.wait_for("two run again", DEADLINE, again).await;
    // The others are on their path, and wait for no delay.
    let due = |(_, consumer): &Answer| consumer["waiting"] == 0 && consumer["in_flight"] == N;
    admin.until("/api/v1/consumers/orders", due).await;

    worker.terminate();
    worker.wait_for_message("draining", DEADLINE).await;
    // A retry that is due is parked without a delay, so another worker gets it at once.
    vhost.wait_for_counts("orders", 18, 2, DEADLINE).await;
    second.open();
    let exit = worker.exited(DEADLINE).await;

    assert!(exit.status.success(), "{exit:?}");
    let ledger = worker.ledger();
    assert_eq!((ledger.parked, ledger.acked), (18, 2), "{ledger:?}");
    assert_eq!(handler.seen().exchanges.len(), N + 2, "nothing was started");
    let mut account = Account::new(ids, &handler.seen());
    for got in vhost.drain_all("orders").await {
        assert_charged_once(&got);
        account.add_left("orders", got.id());
    }
    account.assert_exactly_once();
}
