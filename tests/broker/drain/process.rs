//! SIGTERM to a working worker.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::support::{
    Account, BUSY, DEADLINE, Gate, HttpHandler, PublishSpec, Reply, WorkerProcess, assert_adds_up,
    consumer, vhost,
};

#[tokio::test]
async fn sighup_drains_as_sigterm_does() {
    let vhost = vhost().await;
    let slow = Duration::from_secs(1);
    let handler = HttpHandler::answering(move |_| Reply::ok().after(slow)).await;
    let config = consumer(&vhost, "orders").http(&handler).toml();
    let mut worker = WorkerProcess::start(&config);
    worker.wait_for_consumers(&vhost, "orders", 1).await;
    vhost.publish("orders", "{}").await;
    handler.wait_for_requests(1, DEADLINE).await;

    worker.signal(rustix::process::Signal::HUP);
    let exit = worker.exited(DEADLINE).await;

    assert!(exit.status.success(), "{exit:?}");
    assert_eq!(worker.ledger().acked, 1, "the handler was waited for");
}

#[tokio::test]
async fn sigterm_under_load_lets_running_handlers_finish_and_runs_nothing_twice() {
    const SLOW: Duration = Duration::from_millis(1_500);
    let vhost = vhost().await;
    let handler = HttpHandler::answering(|request| match request.json()["n"].as_u64() {
        Some(n) if n % 50 == 49 => Reply::ok().after(SLOW),
        _ => Reply::ok().after(Duration::from_millis(20)),
    })
    .await;
    let changes = "[consumers.orders]\nprefetch = 60\nconcurrency = 30";
    let config = consumer(&vhost, "orders")
        .http(&handler)
        .with(changes)
        .toml();
    let mut worker = WorkerProcess::start(&config);
    worker.wait_for_consumers(&vhost, "orders", 1).await;
    let make = |n| PublishSpec::of(format!("{{\"n\":{n}}}"));
    let ids = vhost.publish_many("orders", 1_000, make).await;
    handler.wait_for_answered(300, DEADLINE).await;

    worker.terminate();
    let exit = worker.exited(DEADLINE).await;

    assert!(exit.status.success(), "{exit:?}");
    assert!(exit.took <= SLOW + BUSY, "{exit:?}");
    let ledger = worker.ledger();
    assert_adds_up(&ledger);
    assert_eq!(ledger.stale, 0, "{ledger:?}");
    let seen = handler.seen();
    assert_eq!(seen.running, 0);
    assert_eq!(seen.abandoned, 0, "every handler was waited for");
    assert_eq!(ledger.acked, seen.answered as u64);
    assert!(seen.answered < 1_000, "the signal came amid the load");

    // Every other message is in the queue once, and a second worker finds no finished message.
    let finished: BTreeSet<_> = Account::new(ids.clone(), &seen)
        .finished()
        .map(str::to_owned)
        .collect();
    let mut second = WorkerProcess::start(&config);
    handler.wait_for_answered(1_000, DEADLINE).await;
    second.drain(DEADLINE).await;
    let again = &handler.seen().exchanges[seen.exchanges.len()..];
    for exchange in again {
        let id = exchange.request.message_id();
        assert!(!finished.contains(id), "{id} had finished and ran again");
    }
    let account = Account::take(&vhost, ids, &handler.seen(), &["orders", "orders.dead"]).await;
    account.assert_exactly_once();
    assert_eq!(
        account.left_in("orders") + account.left_in("orders.dead"),
        0
    );
}

#[tokio::test]
async fn deliveries_that_had_not_started_are_back_while_the_others_still_run() {
    const N: u32 = 1_000;
    const RUNNING: u32 = 4;
    let vhost = vhost().await;
    let gate = Gate::default();
    let handler = HttpHandler::behind(&gate, |_| Reply::ok()).await;
    let changes = format!("[consumers.orders]\nprefetch = {N}\nconcurrency = {RUNNING}");
    let config = consumer(&vhost, "orders")
        .http(&handler)
        .with(&changes)
        .toml();
    let mut worker = WorkerProcess::start(&config);
    worker.wait_for_consumers(&vhost, "orders", 1).await;
    let make = |_| PublishSpec::of("{}");
    let ids = vhost.publish_many("orders", N as usize, make).await;
    handler.wait_for_requests(RUNNING as usize, DEADLINE).await;
    vhost.wait_for_counts("orders", 0, N, DEADLINE).await;

    let signalled = Instant::now();
    worker.terminate();
    vhost
        .wait_for_counts("orders", N - RUNNING, RUNNING, DEADLINE)
        .await;
    println!("{} are back after {:?}", N - RUNNING, signalled.elapsed());
    assert_eq!(handler.seen().running, RUNNING as usize);

    gate.open();
    let exit = worker.exited(DEADLINE).await;
    assert!(exit.status.success(), "{exit:?}");
    let ledger = worker.ledger();
    assert_eq!(
        (ledger.received, ledger.acked, ledger.returned),
        (N.into(), RUNNING.into(), (N - RUNNING).into())
    );
    let account = Account::take(&vhost, ids, &handler.seen(), &["orders", "orders.dead"]).await;
    account.assert_exactly_once();
    assert_eq!(account.left_in("orders"), (N - RUNNING) as usize);
}
