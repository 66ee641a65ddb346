//! Canaries of a replay: the worker reports their first outcome, and nothing waits for the report.

use std::time::Duration;

use serde_json::{Value, json};

use super::kit::{Handling, Kit, Step};
use crate::broker::fake::{Confirm, Letter};

const REPORTS: &str = "lapwing-canary.run";
/// The first retry waits in the worker, the second one in a retry queue.
const RETRIES: &str = "retry = { base = '500ms', factor = 8, jitter = 0, max_attempts = 3 }";

/// A letter that `lapwing dead replay --canary` has replayed, as its worker's user.
fn canary(number: u32) -> Letter {
    Letter::default()
        .id(&format!("m{number}"))
        .user_id("guest")
        .header("lapwing-reason", "max-attempts")
        .header("lapwing-replay", "run")
        .header("lapwing-canary", &format!("{REPORTS} {number}"))
}

async fn start(settings: &str, handling: Handling) -> Kit {
    let kit = Kit::start(settings, handling).await;
    kit.broker.declare(REPORTS);
    kit
}

/// The reports so far. Takes them out of the queue.
fn reports(kit: &Kit) -> Vec<Value> {
    let taken = std::iter::from_fn(|| kit.broker.take(REPORTS));
    taken
        .map(|it| serde_json::from_slice(&it.body).unwrap())
        .collect()
}

#[tokio::test(start_paused = true)]
async fn the_first_outcome_of_a_canary_is_reported() {
    let steps = [
        (Step::Succeed, "succeeded", "ack", ""),
        (Step::Drop, "dropped", "ack", ""),
        (Step::Fail, "failed", "retry", "test: failed"),
        (
            Step::FailForGood,
            "failed",
            "dead-letter",
            "test: failed for good",
        ),
        (Step::Snooze(Duration::from_secs(9)), "snoozed", "retry", ""),
    ];
    for (step, outcome, settlement, error) in steps {
        let kit = start("", Handling::new([step], Step::Succeed)).await;
        kit.send(canary(7), b"{}");
        kit.until_in(REPORTS, 1).await;
        let report = reports(&kit).remove(0);
        assert_eq!(report["number"], 7);
        assert_eq!(
            (&report["outcome"], &report["settlement"], &report["error"]),
            (&json!(outcome), &json!(settlement), &json!(error))
        );
        assert!(report["worker"].as_str().unwrap().starts_with("lapwing@"));
        kit.finished().await;
        assert_eq!(reports(&kit), [Value::Null; 0], "{outcome}");
        kit.drain().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn later_outcomes_are_not_reported() {
    let handling = Handling::new([], Step::Fail);
    let kit = start(RETRIES, handling.clone()).await;
    kit.send(canary(1), b"{}");
    kit.finished().await;
    assert_eq!(handling.attempts(), [1, 2, 3]);
    let reports = reports(&kit);
    assert_eq!(reports.len(), 1, "{reports:?}");
    let dead = kit.dead();
    assert_eq!(dead.header("lapwing-canary"), None);
    assert_eq!(dead.number("lapwing-replays"), Some(0));
    kit.drain().await.unwrap();
}

/// Whoever may publish to a queue can write the header.
#[tokio::test(start_paused = true)]
async fn a_header_that_no_worker_vouches_for_is_not_believed() {
    let kit = start("", Handling::new([], Step::Succeed)).await;
    kit.broker.declare("salaries");
    kit.send(canary(1).user_id("mallory"), b"{}");
    let elsewhere = canary(2).header("lapwing-canary", "salaries 2");
    kit.send(elsewhere, b"{}");
    kit.finished().await;
    // The report of this one follows the outcomes of the others.
    kit.send(canary(3), b"{}");
    kit.until_in(REPORTS, 1).await;
    let reports = reports(&kit);
    assert_eq!(reports[0]["number"], 3, "{reports:?}");
    assert!(kit.broker.ready("salaries").is_empty());
    kit.drain().await.unwrap();
}

/// Reports use the publishing channels of retries and dead letters.
#[tokio::test(start_paused = true)]
async fn a_slow_report_holds_up_no_settlement_and_others_wait_for_it() {
    let kit = start("", Handling::new([], Step::Succeed)).await;
    let slow = || Confirm::AckAfter(Duration::from_secs(9));
    kit.broker.answer_publishes([slow(), slow(), slow()]);
    let began = tokio::time::Instant::now();
    for number in 0..3 {
        kit.send(canary(number), b"{}");
    }
    kit.finished().await;
    assert!(began.elapsed() < Duration::from_secs(1));
    // The broker stores a report before it confirms.
    kit.until_in(REPORTS, 1).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(reports(&kit).len(), 1);
    kit.until_in(REPORTS, 2).await;
    assert!(began.elapsed() < Duration::from_secs(9));
    kit.drain().await.unwrap();
}

/// A delivery that goes back to its queue has had no outcome.
#[tokio::test(start_paused = true)]
async fn a_canary_that_was_interrupted_is_reported_when_it_has_run() {
    let handling = Handling::new([Step::Hang], Step::Succeed);
    let kit = start("", handling.clone()).await;
    kit.send(canary(1), b"{}");
    handling.has_run(1).await;
    kit.cancel_in(crate::Phase::Handling).await.unwrap();
    kit.until_in(REPORTS, 1).await;
    let reports = reports(&kit);
    assert_eq!(reports[0]["outcome"], "succeeded", "{reports:?}");
    assert_eq!(handling.runs().len(), 2);
    kit.drain().await.unwrap();
}
