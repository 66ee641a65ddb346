//! The worker process, its configuration, and the account of a test.

use serde_json::json;
use tokio::process::Command;

use crate::support::{
    Account, DEADLINE, HttpHandler, PublishSpec, Reply, WorkerProcess, consumer, log_message, vhost,
};

/// Another program instead of the worker.
fn shell(script: &str) -> WorkerProcess {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    WorkerProcess::spawn(command, tempfile::tempdir().expect("a temporary folder"))
}

#[tokio::test]
async fn a_worker_is_read_signalled_and_asked_for_its_ledger() {
    let ledger = r#"{"level":"INFO","fields":{"message":"drained","received":6,"acked":1,"parked":1,"dead_lettered":1,"returned":2,"copied":1,"stale":1}}"#;
    let mut worker = shell(&format!(
        "trap 'echo \"$LEDGER\" >&2; exit 0' TERM; LEDGER='{ledger}'; \
         echo plain; echo '{{\"message\":\"ready\"}}' >&2; while :; do sleep 0.05; done"
    ));
    let ready = worker.wait_for_message("ready", DEADLINE).await;
    assert_eq!(log_message(&ready), "ready");
    assert!(worker.is_running());

    let drained = worker.drain(DEADLINE).await;

    assert_eq!((drained.received, drained.returned), (6, 2));
    assert!(worker.log().contains(&json!("plain")));
}

#[tokio::test]
async fn a_killed_worker_has_no_exit_code() {
    let mut worker = shell("echo '{\"message\":\"ready\"}'; exec sleep 60");
    worker.wait_for_message("ready", DEADLINE).await;
    worker.kill();
    let exit = worker.exited(DEADLINE).await;
    assert_eq!(exit.status.code(), None);
}

#[tokio::test]
#[should_panic(expected = "the worker's log ended without a line \"ready\"")]
async fn a_worker_that_ends_early_fails_the_wait_at_once() {
    let worker = shell("echo 'no such queue' >&2; exit 64");
    worker.wait_for_message("ready", DEADLINE).await;
}

#[test]
fn a_consumer_is_configured_by_laying_changes_over_the_default() {
    let config = consumer("amqp://h/v", "orders")
        .http_at("http://h/")
        .with("[consumers.orders]\nprefetch = 4")
        .toml();
    let config: toml::Table = config.parse().expect("it is TOML");
    let consumer = &config["consumers"]["orders"];
    assert_eq!(consumer["prefetch"].as_integer(), Some(4));
    assert_eq!(consumer["handler"]["url"].as_str(), Some("http://h/"));
}

#[tokio::test]
async fn the_account_tells_lost_from_parked_and_twice_from_once() {
    let handler = HttpHandler::answering(|request| match request.message_id() {
        "failed" => Reply::status(500),
        _ => Reply::ok(),
    })
    .await;
    let client = reqwest::Client::new();
    for id in ["once", "twice", "twice", "failed"] {
        let request = client.post(handler.url()).header("lapwing-message-id", id);
        request.send().await.expect("an answer");
    }
    let published = ["once", "twice", "failed", "parked"].map(str::to_owned);

    let mut account = Account::new(published, &handler.seen());
    account.add_left("orders.retry.1s", "parked");

    assert_eq!(account.lost(), ["failed"]);
    assert_eq!(account.handled_twice(), ["twice"]);
    assert_eq!(account.runs_of("twice").len(), 2);
    assert_eq!(account.left_in("orders.retry.1s"), 1);
    account.add_left("orders.dead", "failed");
    account.assert_nothing_lost();
}

#[tokio::test]
async fn the_worker_is_started_fed_and_drained() {
    let vhost = vhost().await;
    let handler = HttpHandler::answering(|_| Reply::ok()).await;
    let config = consumer(&vhost, "orders").http(&handler).toml();
    let mut worker = WorkerProcess::start(&config);
    worker.wait_for_consumers(&vhost, "orders", 1).await;

    let ids = vhost
        .publish_many("orders", 50, |_| PublishSpec::of("{}"))
        .await;
    handler.wait_for_answered(50, DEADLINE).await;
    let ledger = worker.drain(DEADLINE).await;

    assert_eq!((ledger.received, ledger.acked), (50, 50));
    let account = Account::take(&vhost, ids, &handler.seen(), &["orders", "orders.dead"]).await;
    account.assert_exactly_once();
}
