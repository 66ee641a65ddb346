//! Messages of other systems: their times, their attempts, and the replies that their callers want.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    account::TEST_ID,
    kit::{Handling, Kit, Step, near},
};
use crate::{
    ConsumerState, Worker,
    broker::fake::{FakeBroker, Fault, Letter, Release},
    clock,
    handler::Results,
    settings::Settings,
    testing::{TestBroker, TestWorker},
    text::rfc3339,
};

const SECOND: Duration = Duration::from_secs(1);
const CELERY: &str = "dialect = 'celery'";

/// A task of Celery.
fn task(id: &str) -> Letter {
    let letter = Letter::default().header(TEST_ID, id).header("id", id);
    let letter = letter.header("task", "shop.pay");
    let letter = letter.content_type("application/json");
    letter.content_encoding("utf-8")
}

#[tokio::test(start_paused = true)]
async fn a_task_with_a_time_waits_for_it_and_is_not_older_by_that() {
    let handling = Handling::new([Step::Fail], Step::Succeed);
    let settings = format!("{CELERY}\nretry = {{ max_age = '10s', base = '2s', jitter = 0 }}");
    let kit = Kit::start(&settings, handling.clone()).await;
    let began = Instant::now();
    let eta = rfc3339(clock::now() + 60 * SECOND);
    kit.send(task("t1").header("eta", &eta), b"[[],{},{}]");
    kit.send(task("t2"), b"[[],{},{}]");
    kit.until_in("orders.retry.64s", 1).await;
    let parked = kit.only("orders.retry.64s");
    assert_eq!(parked.properties.message_id(), Some("t1"));
    assert_eq!(parked.properties.message_type(), Some("shop.pay"));
    kit.finished().await;
    let runs = handling.runs();
    let told: Vec<_> = runs
        .iter()
        .map(|run| (run.id.as_str(), run.attempt))
        .collect();
    assert_eq!(told, [("t2", 1), ("t2", 2), ("t1", 1)]);
    let at = (runs[2].at - began).as_secs();
    assert!((59..70).contains(&at), "{at}");
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_age_of_a_task_with_a_time_begins_at_this_time() {
    let handling = Handling::new([Step::Fail], Step::Succeed);
    let settings = format!("{CELERY}\nretry = {{ max_age = '10s', base = '2s', jitter = 0 }}");
    let kit = Kit::start(&settings, handling.clone()).await;
    let eta = rfc3339(clock::now() + 60 * SECOND);
    kit.send(task("t1").header("eta", &eta), b"[[],{},{}]");
    kit.finished().await;
    assert_eq!(handling.attempts(), [1, 2]);
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_task_that_has_expired_is_dead_lettered_and_runs_if_somebody_puts_it_back() {
    let handling = Handling::new([], Step::Succeed);
    let kit = Kit::start(CELERY, handling.clone()).await;
    let expires = rfc3339(clock::now() - SECOND);
    kit.send(task("t1").header("expires", &expires), b"[[],{},{}]");
    kit.finished().await;
    assert!(handling.runs().is_empty());
    let dead = kit.dead();
    assert_eq!(dead.header("lapwing-reason"), Some("expired"));
    assert_eq!(dead.properties.message_id(), Some("t1"));
    let dead = kit.broker.take("orders.dead").unwrap();
    kit.send(Letter::of(&dead.properties), &dead.body);
    kit.finished().await;
    assert_eq!(handling.attempts(), [1]);
    // The test has taken one.
    kit.handling_took("t1");
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn attempts_of_the_other_system_count() {
    let handling = Handling::new([], Step::Fail);
    let settings = format!("{CELERY}\nretry = {{ max_attempts = 5, base = '2s', jitter = 0 }}");
    let kit = Kit::start(&settings, handling.clone()).await;
    kit.send(task("t1").number("retries", 3), b"[[],{},{}]");
    kit.finished().await;
    assert_eq!(handling.attempts(), [4, 5]);
    assert_eq!(kit.dead().header("lapwing-reason"), Some("max-attempts"));
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_properties_are_filled_in_is_known_when_it_is_delivered_again() {
    let handling = Handling::new([], Step::WaitForGate);
    let settings = "dialect = 'dramatiq'\ntimeout = '1h'";
    let mut kit = Kit::start(settings, handling.clone()).await;
    let body = br#"{"actor_name":"pay","message_id":"d1","options":{}}"#;
    kit.send(Letter::default().header(TEST_ID, "d1"), body);
    handling.has_run(1).await;
    kit.broker.fail(Fault::ConnectionLost);
    kit.until(ConsumerState::Connecting, None).await;
    kit.broker.reconnect();
    kit.until_state(ConsumerState::Consuming).await;
    kit.until_broker(|it| it.unacked() == 1).await;
    handling.open();
    kit.finished().await;
    assert_eq!(handling.runs().len(), 1);
    assert_eq!(handling.done(), ["d1"]);
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_record_of_the_worker_comes_before_that_of_the_other_system() {
    let handling = Handling::new([Step::Fail, Step::Fail], Step::Succeed);
    let settings = "dialect = 'dramatiq'\nretry = { base = '3s', factor = 1, jitter = 0 }";
    let kit = Kit::start(settings, handling.clone()).await;
    let body = br#"{"actor_name":"pay","message_id":"d1","options":{"retries":1}}"#;
    kit.send(Letter::default().header(TEST_ID, "d1"), body);
    kit.finished().await;
    assert_eq!(handling.attempts(), [2, 3, 4]);
    near(&handling.gaps(), &[3000, 3000]);
    kit.drain().await.unwrap();
}

async fn sum(results: Results) {
    results.set("{\"sum\":7}", Some("application/json"));
}

/// The reply to this message, as JSON.
async fn reply(dialect: &str, letter: Letter) -> Value {
    let text = format!(
        "[consumers.orders]\nqueue = 'orders'\ndialect = '{dialect}'\nforward.reply = true"
    );
    let broker = FakeBroker::new(Release::V43);
    broker.declare("answers");
    let worker = Worker::new(Settings::from_toml(&text).unwrap()).handler("orders", sum);
    let mut worker = TestWorker::start_on(worker, &TestBroker::of(broker.clone()));
    worker.until(|it| it.ready).await;
    let letter = letter.correlation_id("c1").reply_to("answers");
    assert!(broker.send("orders", b"[[],{},{}]", letter.into()));
    worker.finished().await;
    let answer = broker.take("answers").unwrap();
    assert_eq!(answer.properties.correlation_id(), Some("c1"));
    assert_eq!(worker.drain().await.unwrap().ledger().acked, 1);
    serde_json::from_slice(&answer.body).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_caller_gets_the_reply_that_it_reads() {
    let result = json!({ "sum": 7 });
    let celery = reply("celery", task("t1")).await;
    assert_eq!(celery["task_id"], "t1");
    assert_eq!(
        (&celery["status"], &celery["result"]),
        (&json!("SUCCESS"), &result)
    );
    let nest = reply("nestjs", Letter::default()).await;
    assert_eq!(nest, json!({ "response": result, "isDisposed": true }));
    assert_eq!(reply("spring", Letter::default()).await, result);
}
