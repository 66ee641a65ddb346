//! Faults of the network between worker and broker: cut, down for a while, silent.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, SystemTime};

use lapwing::ConsumerState;
use serde_json::Value;

use super::{QUEUE, QUEUES, orders, publish, slow_handler};
use crate::support::{Account, BUSY, DEADLINE, Proxy, WorkerProcess, field, log_message, vhost};

#[tokio::test]
async fn connections_cut_again_and_again_under_load_lose_nothing() {
    let vhost = vhost().await;
    let proxy = Proxy::to(&vhost).await;
    let handler = slow_handler().await;
    let worker = orders(&proxy.url(&vhost), &handler).start().await;
    let ids = publish(&vhost, "cut", 400).await;

    for _ in 0..4 {
        let some = handler.seen().answered + 30;
        handler.wait_for_answered(some, DEADLINE).await;
        tokio::join!(worker.not_ready(), proxy.cut());
        worker.ready().await;
    }

    handler.wait_for_success(&ids).await;
    let ledger = worker.drain().await.ledger();
    assert!(ledger.stale > 0, "deliveries were in hand: {ledger:?}");
    let account = Account::take(&vhost, ids, &handler.seen(), &QUEUES).await;
    account.assert_nothing_lost();
    // A message runs again only if the broker delivered it again. The ledger's stale count does not
    // show this: an ack that was written may have been cut off on its way.
    let twice = account.handled_twice().len() as u64;
    assert!(
        twice <= ledger.received - 400,
        "{twice} ran twice, {ledger:?}"
    );
}

#[tokio::test]
async fn a_network_that_is_gone_for_a_while_shows_in_readiness_until_it_is_back() {
    let vhost = vhost().await;
    let proxy = Proxy::to(&vhost).await;
    let handler = slow_handler().await;
    let worker = orders(&proxy.url(&vhost), &handler).start().await;
    let ids = publish(&vhost, "gone", 100).await;
    handler.wait_for_answered(20, DEADLINE).await;
    let tried = proxy.accepted();

    proxy.refuse().await;
    proxy.cut().await;
    let refused = |readiness: &lapwing::Readiness| {
        let consumer = &readiness.consumers[QUEUE];
        let reason = consumer.reason.as_deref().unwrap_or_default();
        consumer.state == ConsumerState::Connecting && reason.contains("refused")
    };
    let down = worker.until("says that it is refused", refused).await;
    assert!(!down.ready && down.publishing.is_some(), "{down:?}");
    assert_eq!(proxy.accepted(), tried, "nobody got through meanwhile");

    proxy.accept_again();
    worker.ready().await;
    worker.publishes().await;
    handler.wait_for_success(&ids).await;
    worker.drain().await;
    Account::take(&vhost, ids, &handler.seen(), &QUEUES)
        .await
        .assert_nothing_lost();
}

/// The time of a log line.
fn logged_at(line: &Value) -> SystemTime {
    let at = field(line, "timestamp").as_str().expect("a time");
    humantime::parse_rfc3339(at).expect("a time")
}

/// The wait that a log line announces for its consumer: "3.5s".
fn wait_of(line: &Value) -> Duration {
    let wait = field(line, "retry_in").as_str().expect("a duration");
    let seconds = wait
        .strip_suffix('s')
        .and_then(|seconds| seconds.parse().ok());
    Duration::from_secs_f64(seconds.unwrap_or_else(|| panic!("{wait} is in seconds")))
}

/// The consumers that consumed before the end of the wait that they had announced last.
fn back_before_their_time(log: &[Value]) -> BTreeSet<&str> {
    let mut due = BTreeMap::new();
    let mut early = BTreeSet::new();
    for line in log {
        let consumer = field(line, "consumer").as_str().unwrap_or_default();
        match log_message(line) {
            "not consuming" | "still not consuming" => {
                due.insert(consumer, logged_at(line) + wait_of(line));
            }
            "consuming" if due.get(consumer).is_some_and(|due| logged_at(line) < *due) => {
                early.insert(consumer);
            }
            _ => {}
        }
    }
    early
}

#[tokio::test]
async fn all_consumers_are_back_with_the_connection_and_wait_for_nothing_else() {
    const CONSUMERS: usize = 9;
    let vhost = vhost().await;
    let proxy = Proxy::to(&vhost).await;
    let handler = slow_handler().await;
    let consumer = "queue = 'orders'\nhandler = { kind = 'log' }\n\
                retry = { base = '100ms', cap = '1s', inline_below = '0s' }\n";
    let consumers = (1..CONSUMERS).map(|number| format!("[consumers.l{number}]\n{consumer}"));
    // A wait takes up to 8 s, and the connection waits too. The consumers' waits end at different
    // times, most of them well after the connection is back.
    let slow = "[broker]\nreconnect = { base = '1s', cap = '8s' }\n[log]\nfilter = 'debug'\n";
    let changes = slow.to_owned() + &consumers.collect::<String>();
    let consumers = orders(&proxy.url(&vhost), &handler).with(&changes);
    let mut worker = WorkerProcess::start(&consumers.toml());
    worker.wait_for_messages("consuming", CONSUMERS).await;

    proxy.refuse().await;
    proxy.cut().await;
    worker.wait_for_messages("not consuming", CONSUMERS).await;
    proxy.accept_again();
    worker.wait_for_messages("consuming", 2 * CONSUMERS).await;

    // How much earlier depends on the machine. A consumer that waits for the end of its own wait is
    // never early.
    let log = worker.log();
    let early = back_before_their_time(&log);
    assert!(early.len() > 1, "{early:?}");
    worker.drain(DEADLINE).await;
}

#[tokio::test]
async fn a_half_open_connection_is_found_by_heartbeats_and_replaced() {
    let vhost = vhost().await;
    let proxy = Proxy::to(&vhost).await;
    let handler = slow_handler().await;
    let alert = "
        [broker]
        heartbeat = '1s'
        [timeouts]
        handshake = '1s'
        ack = '20s'
    ";
    let worker = orders(&proxy.url(&vhost), &handler)
        .with(alert)
        .start()
        .await;
    let ids = publish(&vhost, "stalled", 100).await;
    handler.wait_for_answered(20, DEADLINE).await;

    proxy.stall();
    let stalled = std::time::Instant::now();
    let why = worker.not_ready().await;
    let found = stalled.elapsed();
    println!("found after {found:?}: {why}");
    assert!(
        found < BUSY,
        "by two heartbeats and not by an ack's 20 s: {found:?}"
    );
    // New connections get no answer either, and the worker abandons them too.
    let tries = proxy.accepted();
    proxy.wait_for_accepted(tries + 2).await;
    assert!(!worker.handle.readiness().ready);

    proxy.resume();
    worker.ready().await;
    handler.wait_for_success(&ids).await;
    worker.drain().await;
    Account::take(&vhost, ids, &handler.seen(), &QUEUES)
        .await
        .assert_nothing_lost();
}
