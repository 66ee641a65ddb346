//! How a message ends, by the outcome of its handler.

use std::time::Duration;

use super::kit::{Handling, Kit, Step, near};
use crate::{Failure, Ledger, Phase, broker::fake::Letter, clock, text::rfc3339};

#[tokio::test(start_paused = true)]
async fn a_message_that_succeeds_is_acked() {
    let kit = Kit::start("", Handling::new([], Step::Succeed)).await;
    kit.publish();
    kit.finished().await;
    let report = kit.drain().await.unwrap();
    assert_eq!((report.ledger().received, report.ledger().acked), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_tried_again_until_it_succeeds() {
    let handling = Handling::new([Step::Fail, Step::Panic, Step::Fail], Step::Succeed);
    let kit = Kit::start("", handling.clone()).await;
    let id = kit.publish();
    kit.finished().await;
    let attempts: Vec<_> = handling.runs().iter().map(|run| run.attempt).collect();
    assert_eq!(attempts, [1, 2, 3, 4]);
    assert!(handling.runs().iter().all(|run| run.id == id));
    let report = kit.drain().await.unwrap();
    assert_eq!(report.ledger().acked, 1);
}

#[tokio::test(start_paused = true)]
async fn a_permanent_failure_is_dead_lettered_with_its_reason() {
    let kit = Kit::start("", Handling::new([], Step::FailForGood)).await;
    let id = kit.publish();
    kit.finished().await;
    assert_eq!(kit.ids("orders.dead"), [id]);
    let dead = kit.worker.broker().messages("orders.dead");
    assert_eq!(dead[0].header("lapwing-reason"), Some("rejected"));
    let report = kit.drain().await.unwrap();
    assert_eq!(report.ledger().dead_lettered, 1);
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_attempts_are_used_up_is_dead_lettered() {
    let handling = Handling::new([], Step::Fail);
    let kit = Kit::start("retry = { max_attempts = 3 }", handling.clone()).await;
    kit.publish();
    kit.finished().await;
    assert_eq!(handling.runs().len(), 3);
    let dead = kit.worker.broker().messages("orders.dead");
    assert_eq!(dead[0].header("lapwing-reason"), Some("max-attempts"));
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_dropped_is_acked_and_counted_apart() {
    let kit = Kit::start("", Handling::new([Step::Drop], Step::Succeed)).await;
    kit.publish_many(2);
    kit.finished().await;
    let counts = kit.report().await.counts;
    assert_eq!((counts.dropped, counts.succeeded), (1, 1));
    assert!(kit.ids("orders.dead").is_empty());
    let expected = Ledger {
        received: 2,
        acked: 2,
        dropped: 1,
        ..Ledger::default()
    };
    assert_eq!(kit.drain().await.unwrap().ledger(), expected);
}

#[tokio::test(start_paused = true)]
async fn with_one_attempt_the_first_failure_is_the_last() {
    let handling = Handling::new([], Step::Fail);
    let kit = Kit::start("retry = { max_attempts = 1 }", handling.clone()).await;
    kit.publish();
    kit.finished().await;
    assert_eq!(handling.attempts(), [1]);
    let dead = kit.dead();
    assert_eq!(dead.header("lapwing-reason"), Some("max-attempts"));
    assert_eq!(dead.number("lapwing-attempts"), Some(1));
    let expected = Ledger {
        received: 1,
        dead_lettered: 1,
        ..Ledger::default()
    };
    assert_eq!(kit.drain().await.unwrap().ledger(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_fails_when_it_is_too_old_is_dead_lettered() {
    let handling = Handling::new([], Step::Fail);
    let kit = Kit::start("", handling.clone()).await;
    let long_ago = rfc3339(clock::now() - Duration::from_hours(24));
    let letter = Letter::default().id("old").parked();
    kit.send(letter.header("lapwing-first-seen", &long_ago), b"");
    kit.finished().await;
    assert_eq!(handling.attempts(), [1]);
    let dead = kit.dead();
    assert_eq!(dead.header("lapwing-reason"), Some("max-age"));
    assert_eq!(dead.header("lapwing-first-seen"), Some(long_ago.as_str()));
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_age_of_a_message_grows_over_its_retries() {
    let settings = "retry = { max_age = '10s', base = '4s', factor = 1, jitter = 0 }";
    let handling = Handling::new([], Step::Fail);
    let kit = Kit::start(settings, handling.clone()).await;
    kit.publish();
    kit.finished().await;
    near(&handling.gaps(), &[4_000, 4_000, 4_000]);
    assert_eq!(kit.dead().header("lapwing-reason"), Some("max-age"));
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_old_message_that_succeeds_is_acked() {
    let kit = Kit::start("", Handling::new([], Step::Succeed)).await;
    let long_ago = rfc3339(clock::now() - Duration::from_hours(48));
    let letter = Letter::default().id("old").parked();
    kit.send(letter.header("lapwing-first-seen", &long_ago), b"");
    kit.finished().await;
    assert_eq!(kit.drain().await.unwrap().ledger().acked, 1);
}

/// A panic counts as a failure: the attempt is counted, and the message runs again.
async fn a_panic_is_charged(step: Step, settings: &str) {
    let handling = Handling::new([step.clone(), step], Step::Succeed);
    let settings = format!("concurrency = 1\n{settings}");
    let kit = Kit::start(&settings, handling.clone()).await;
    kit.publish();
    handling.has_run(1).await;
    kit.until_in("orders.retry.1s", 1).await;
    let parked = kit.only("orders.retry.1s");
    assert_eq!(parked.number("lapwing-attempts"), Some(1));
    let history = parked.header("lapwing-history").unwrap();
    let history: serde_json::Value = serde_json::from_str(history).unwrap();
    assert_eq!(history[0]["kind"], "panic");
    assert_eq!(history[0]["error"], "the test wants it");
    kit.finished().await;
    assert_eq!(handling.attempts(), [1, 2, 3]);
    let report = kit.report().await;
    assert_eq!((report.counts.panicked, report.running), (2, 0));
    let ledger = kit.drain().await.unwrap().ledger();
    assert_eq!((ledger.parked, ledger.acked), (2, 1));
}

const PARKED: &str = "retry = { base = '1s', factor = 1, jitter = 0 }";

#[tokio::test(start_paused = true)]
async fn a_handler_that_panics_before_its_first_await_has_failed() {
    a_panic_is_charged(Step::Panic, PARKED).await;
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_panics_after_an_await_has_failed() {
    a_panic_is_charged(Step::PanicAfterAwait, PARKED).await;
}

#[tokio::test(start_paused = true)]
async fn a_handler_whose_destructor_panics_when_it_ends_has_failed() {
    a_panic_is_charged(Step::PanicInDrop, PARKED).await;
}

#[tokio::test(start_paused = true)]
async fn a_handler_whose_destructor_panics_when_it_is_dropped_has_failed() {
    let settings = format!("timeout = '2s'\n{PARKED}");
    a_panic_is_charged(Step::HangThenPanicInDrop, &settings).await;
}

#[tokio::test(start_paused = true)]
async fn a_snoozed_message_comes_back_without_a_charge() {
    let snooze = Step::Snooze(Duration::from_secs(3));
    let handling = Handling::new([snooze.clone(), snooze], Step::Succeed);
    let kit = Kit::start("retry.max_attempts = 1", handling.clone()).await;
    kit.publish();
    kit.until_in("orders.retry.4s", 1).await;
    let parked = kit.only("orders.retry.4s");
    assert_eq!(parked.expiration(), Some(Duration::from_secs(3)));
    assert_eq!(parked.number("lapwing-attempts"), Some(0));
    assert_eq!(parked.header("lapwing-history"), None);
    kit.finished().await;
    assert_eq!(handling.attempts(), [1, 1, 1]);
    near(&handling.gaps(), &[3_000, 3_000]);
    assert_eq!(kit.report().await.counts.snoozed, 2);
    let expected = Ledger {
        received: 3,
        parked: 2,
        acked: 1,
        ..Ledger::default()
    };
    assert_eq!(kit.drain().await.unwrap().ledger(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_short_snooze_waits_in_the_worker_without_a_charge() {
    let snooze = Step::Snooze(Duration::from_millis(300));
    let handling = Handling::new([snooze.clone(), Step::Fail, snooze], Step::Succeed);
    let kit = Kit::start("retry = { base = '100ms', jitter = 0 }", handling.clone()).await;
    kit.publish();
    kit.finished().await;
    assert_eq!(handling.attempts(), [1, 1, 2, 2]);
    near(&handling.gaps(), &[300, 100, 300]);
    let expected = Ledger {
        received: 1,
        acked: 1,
        ..Ledger::default()
    };
    assert_eq!(kit.drain().await.unwrap().ledger(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_handler_an_operator_cancels_goes_back_without_a_charge() {
    let handling = Handling::new([Step::Fail, Step::Hang], Step::Succeed);
    let settings = "retry = { base = '1s', jitter = 0, max_attempts = 2 }";
    let kit = Kit::start(settings, handling.clone()).await;
    kit.publish();
    handling.has_run(2).await;
    kit.cancel_in(Phase::Handling).await.unwrap();
    kit.finished().await;
    assert_eq!(handling.attempts(), [1, 2, 2]);
    assert_eq!(kit.report().await.counts.interrupted, 1);
    let expected = Ledger {
        received: 3,
        parked: 1,
        returned: 1,
        acked: 1,
        ..Ledger::default()
    };
    assert_eq!(kit.drain().await.unwrap().ledger(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_handler_outlasts_the_drain_goes_back_without_a_charge() {
    let handling = Handling::new([], Step::Hang);
    let settings = "timeout = '1h'\n[drain]\ngrace = '10s'";
    let kit = Kit::start(settings, handling.clone()).await;
    let (id, broker) = (kit.publish(), kit.broker.clone());
    handling.has_run(1).await;
    let ledger = kit.drain().await.unwrap().ledger();
    assert_eq!((ledger.received, ledger.returned), (1, 1));
    let left = broker.ready("orders");
    assert_eq!(left[0].properties.message_id(), Some(id.as_str()));
    assert_eq!(left[0].header("lapwing-attempts"), None);
}

#[tokio::test(start_paused = true)]
async fn a_permanent_failure_is_charged() {
    let failure = Failure::permanent("order", "no such item").status(410);
    let handling = Handling::new([Step::Fail], Step::FailWith(failure));
    let kit = Kit::start("", handling.clone()).await;
    kit.publish();
    kit.finished().await;
    assert_eq!(handling.attempts(), [1, 2]);
    assert_eq!(kit.dead().number("lapwing-attempts"), Some(2));
    assert_eq!(kit.report().await.counts.failed, 2);
    kit.drain().await.unwrap();
}
