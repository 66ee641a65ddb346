//! The record in a dead letter's headers.

use serde_json::Value;

use super::kit::{Handling, Kit, Step};
use crate::{
    Failure,
    broker::fake::{Letter, Stored},
};

const QUICK: &str = "retry = { base = '1ms', factor = 1, max_attempts = 3 }";

fn history(dead: &Stored) -> Vec<Value> {
    serde_json::from_str(dead.header("lapwing-history").unwrap()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_carries_the_whole_record() {
    let last = Failure::retryable("http", "answered 503").status(503);
    let handling = Handling::new([Step::Fail, Step::Panic], Step::FailWith(last));
    let kit = Kit::start(QUICK, handling.clone()).await;
    let id = kit.publish();
    kit.finished().await;
    let dead = kit.dead();
    assert_eq!(dead.properties.message_id(), Some(id.as_str()));
    assert_eq!(dead.body, b"{}");
    let texts = [
        ("lapwing-reason", "max-attempts"),
        ("lapwing-error", "answered 503"),
        ("lapwing-error-kind", "http"),
        ("lapwing-source-queue", "orders"),
        ("lapwing-source-exchange", ""),
        ("lapwing-source-routing-key", "orders"),
    ];
    for (name, text) in texts {
        assert_eq!(dead.header(name), Some(text), "{name}");
    }
    let numbers = [
        ("lapwing-attempts", 3),
        ("lapwing-crashes", 0),
        ("lapwing-replays", 0),
    ];
    for (name, number) in numbers {
        assert_eq!(dead.number(name), Some(number), "{name}");
    }
    let time = |name| humantime::parse_rfc3339(dead.header(name).unwrap()).unwrap();
    assert!(time("lapwing-first-seen") <= time("lapwing-failed-at"));
    let fingerprint = dead.header("lapwing-fingerprint").unwrap();
    assert_eq!(fingerprint.len(), 16);
    let worker = dead.header("lapwing-worker").unwrap();
    assert!(worker.starts_with("lapwing@"), "{worker}");
    let history = history(&dead);
    let told: Vec<_> = history
        .iter()
        .map(|it| (&it["attempt"], &it["kind"]))
        .collect();
    let expected =
        [(1, "test"), (2, "panic"), (3, "http")].map(|(n, kind)| (n.into(), kind.into()));
    let expected: Vec<(&Value, &Value)> = expected.iter().map(|(n, kind)| (n, kind)).collect();
    assert_eq!(told, expected);
    assert!(history.iter().all(|it| it["worker"] == worker));
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_history_has_the_last_ten_attempts() {
    let handling = Handling::new([], Step::Fail);
    let settings = "retry = { base = '1ms', factor = 1, max_attempts = 15 }";
    let kit = Kit::start(settings, handling.clone()).await;
    kit.publish();
    kit.finished().await;
    let attempts: Vec<_> = history(&kit.dead())
        .iter()
        .map(|it| it["attempt"].as_u64().unwrap())
        .collect();
    assert_eq!(attempts, (6..=15).collect::<Vec<_>>());
    assert_eq!(kit.dead().number("lapwing-attempts"), Some(15));
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn long_texts_are_cut_at_a_character() {
    let failure = Failure::permanent("k".repeat(1_000), "é".repeat(10_000));
    let kit = Kit::start("", Handling::new([], Step::FailWith(failure))).await;
    kit.publish();
    kit.finished().await;
    let dead = kit.dead();
    assert_eq!(dead.header("lapwing-error-kind").unwrap().len(), 255);
    assert_eq!(dead.header("lapwing-error").unwrap(), "é".repeat(4_096));
    let error = history(&dead)[0]["error"].as_str().unwrap().to_owned();
    assert_eq!(error, "é".repeat(256));
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn equal_failures_have_equal_fingerprints() {
    let failure = |class: &'static str, text: &str| {
        Step::FailWith(Failure::permanent(class, format!("order {text}")))
    };
    let steps = [
        failure("a", "17 is closed"),
        failure("a", "18 is closed"),
        failure("b", "17 is closed"),
        failure("a", "17 is lost"),
    ];
    let kit = Kit::start("concurrency = 1", Handling::new(steps, Step::Succeed)).await;
    kit.publish_many(4);
    kit.finished().await;
    let dead = kit.broker.ready("orders.dead");
    let of = |n: usize| dead[n].header("lapwing-fingerprint").unwrap();
    assert_eq!(of(0), of(1), "but for the number");
    assert_ne!(of(0), of(2), "another class");
    assert_ne!(of(0), of(3), "another text");
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_for_delay_queues_does_not_stay_on_a_dead_letter() {
    let handling = Handling::new([Step::Fail], Step::FailForGood);
    let kit = Kit::start("retry.base = '4s'", handling.clone()).await;
    let letter = Letter::default()
        .id("a")
        .parked()
        .header("lapwing-last-attempt", "x");
    kit.send(letter, b"");
    kit.finished().await;
    let dead = kit.dead();
    for name in [
        "lapwing-not-before",
        "lapwing-parked-at",
        "lapwing-last-attempt",
    ] {
        assert_eq!(dead.header(name), None, "{name}");
    }
    assert_eq!(dead.expiration(), None);
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_goes_to_the_queue_that_the_settings_name() {
    let handling = Handling::new([], Step::FailForGood);
    let kit = Kit::start("dead_letter_queue = 'graveyard'", handling).await;
    kit.publish();
    kit.finished().await;
    let dead = kit.only("graveyard");
    assert_eq!(dead.header("lapwing-source-queue"), Some("orders"));
    assert!(kit.broker.ready("orders.dead").is_empty());
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn counts_of_an_earlier_life_stay_on_a_dead_letter() {
    let kit = Kit::start("", Handling::new([], Step::FailForGood)).await;
    let letter = Letter::default()
        .id("a")
        .parked()
        .number("lapwing-replays", 2)
        .number("lapwing-crashes", 1)
        .number("lapwing-attempts", 4);
    kit.send(letter, b"");
    kit.finished().await;
    let dead = kit.dead();
    let number = |name| dead.number(name).unwrap();
    assert_eq!(number("lapwing-replays"), 2);
    assert_eq!(number("lapwing-crashes"), 1);
    assert_eq!(number("lapwing-attempts"), 5);
    kit.drain().await.unwrap();
}
