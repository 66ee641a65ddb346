//! What the worker believes of a message's headers, on a real broker.

use std::time::Duration;

use lapin::types::AMQPValue;
use serde_json::{Value, json};

use crate::support::{
    DEADLINE, HttpHandler, PublishSpec, QueueType, Reply, VHost, WorkerProcess, consumer,
    log_message, management::encode, vhost,
};

/// Each attempt but the last is parked for 2 s at least.
const PARKED: &str = "[consumers.orders.retry]\nmax_attempts = 3\nbase = '2s'\nfactor = 1\n\
                      jitter = 0.0\ninline_below = '0s'\n";

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

/// A worker whose handler fails each attempt.
async fn failing(vhost: &VHost, changes: &str) -> (WorkerProcess, HttpHandler) {
    let handler = HttpHandler::answering(|_| Reply::status(500)).await;
    let changes = format!("{changes}\n{PARKED}");
    let config = consumer(vhost, "orders")
        .http(&handler)
        .with(&changes)
        .toml();
    let worker = WorkerProcess::start(&config);
    worker.wait_for_consumers(vhost, "orders", 1).await;
    (worker, handler)
}

/// The attempts that the handler has seen.
fn attempts(handler: &HttpHandler) -> Vec<u32> {
    let seen = handler.seen().exchanges;
    seen.iter()
        .map(|exchange| exchange.request.attempt())
        .collect()
}

#[tokio::test]
async fn a_publisher_cannot_forge_what_workers_write() {
    let vhost = vhost().await;
    let (mut worker, handler) = failing(&vhost, "").await;
    let forged = PublishSpec::to("orders")
        .body("{}")
        .header("lapwing-attempts", AMQPValue::LongLongInt(6))
        .header("lapwing-first-seen", text("2020-01-01T00:00:00Z"))
        .header(
            "lapwing-source-routing-key",
            text("admin.delete-everything"),
        )
        .header("lapwing-not-before", text("9999-12-31T23:59:59Z"))
        .header("lapwing-original-user-id", text("root"));
    vhost.publish_with(forged).await;

    vhost.wait_for_counts("orders.dead", 1, 0, DEADLINE).await;

    assert_eq!(attempts(&handler), [1, 2, 3]);
    for exchange in handler.seen().exchanges {
        assert_eq!(exchange.request.header("lapwing-routing-key"), "orders");
    }
    let dead = vhost.drain_all("orders.dead").await;
    assert_eq!(dead[0].header("lapwing-source-routing-key"), "orders");
    assert!(dead[0].header("lapwing-original-user-id").is_null());
    worker.drain(DEADLINE).await;
}

#[tokio::test]
async fn a_user_of_another_name_is_learned_from_the_brokers_refusal() {
    let vhost = vhost().await;
    // As with EXTERNAL or OAuth 2, where the URL does not tell the user.
    let (mut worker, handler) = failing(&vhost, "[broker]\nuser = 'somebody'").await;
    vhost.publish("orders", "{}").await;

    vhost.wait_for_counts("orders.dead", 1, 0, DEADLINE).await;

    assert_eq!(
        attempts(&handler),
        [1, 2, 3],
        "no attempt is lost or repeated"
    );
    let learned = |line: &Value| log_message(line).contains("under another name");
    assert_eq!(worker.log().iter().filter(|line| learned(line)).count(), 1);
    let ledger = worker.drain(DEADLINE).await;
    assert_eq!((ledger.parked, ledger.returned), (2, 0));
}

#[tokio::test]
async fn what_another_system_wrote_about_deaths_is_there_at_each_attempt_and_in_the_dead_letter() {
    let vhost = vhost().await;
    let (mut worker, handler) = failing(&vhost, "").await;
    // Another system's queue, whose messages expire into ours.
    let arguments = [
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text("orders")),
        ("x-message-ttl", AMQPValue::LongInt(100)),
    ];
    vhost
        .declare_with("billing", QueueType::Quorum, &arguments)
        .await;
    vhost.publish("billing", "{}").await;

    vhost.wait_for_counts("orders.dead", 1, 0, DEADLINE).await;

    let dead = vhost.drain_all("orders.dead").await;
    let deaths = dead[0].header("x-death");
    assert_eq!(deaths.as_array().map(Vec::len), Some(1), "{deaths}");
    assert_eq!(deaths[0]["queue"], "billing");
    assert_eq!(dead[0].header("x-first-death-queue"), "billing");
    assert_eq!(attempts(&handler), [1, 2, 3]);
    for exchange in handler.seen().exchanges {
        let header = exchange.request.header("lapwing-header-x-death");
        let seen: Value = serde_json::from_str(header).expect("it is JSON");
        assert_eq!(
            seen[0]["queue"],
            "billing",
            "attempt {}",
            exchange.request.attempt()
        );
        assert_eq!(seen.as_array().map(Vec::len), Some(1), "{seen}");
    }
    worker.drain(DEADLINE).await;
}

#[tokio::test]
async fn a_policy_that_shortens_the_retry_queues_does_not_shorten_the_delays() {
    let vhost = vhost().await;
    let (mut worker, handler) = failing(&vhost, "").await;
    let policy = json!({
        "pattern": "^orders\\.retry", "apply-to": "queues", "definition": { "message-ttl": 500 },
    });
    let name = encode(vhost.name());
    let management = vhost.broker().management();
    management
        .put(&format!("policies/{name}/short"), &policy)
        .await;
    vhost.publish("orders", "{}").await;

    vhost.wait_for_counts("orders.dead", 1, 0, DEADLINE).await;

    let seen = handler.seen().exchanges;
    assert_eq!(seen.len(), 3);
    for pair in seen.windows(2) {
        let gap = pair[1].request.at - pair[0].request.at;
        assert!(gap >= Duration::from_millis(1_900), "{gap:?}");
    }
    let ledger = worker.drain(DEADLINE).await;
    assert!(ledger.parked > 2, "a second parking: {ledger:?}");
}

#[tokio::test]
async fn a_message_past_its_expiration_is_not_run() {
    let vhost = vhost().await;
    let (mut worker, handler) = failing(&vhost, "").await;
    let soon = |properties: lapin::BasicProperties| properties.with_expiration("3000".into());
    vhost
        .publish_with(PublishSpec::to("orders").body("{}").with(soon))
        .await;

    vhost.wait_for_counts("orders.dead", 1, 0, DEADLINE).await;

    let runs = attempts(&handler).len() as u64;
    assert!(
        (1..3).contains(&runs),
        "at 0 s, at 2 s unless the machine is slow, and not at 4 s: {runs}"
    );
    let dead = vhost.drain_all("orders.dead").await;
    assert_eq!(dead[0].header("lapwing-reason"), "expired");
    assert_eq!(dead[0].header("lapwing-original-expiration"), "3000");
    let ledger = worker.drain(DEADLINE).await;
    assert_eq!((ledger.parked, ledger.dead_lettered), (runs, 1));
}
