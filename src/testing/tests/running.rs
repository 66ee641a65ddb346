//! Handlers that run too long, and handlers that are cancelled.

use std::time::Duration;

use super::kit::{Handling, Kit, Step, near};
use crate::{CancelError, Phase, handler::CancelReason};

const SECOND: Duration = Duration::from_secs(1);
/// The timeout of a handler is 5 s, and a message runs again 100 ms after a failure.
const QUICK: &str = "timeout = '5s'\nretry = { base = '100ms', factor = 1, jitter = 0 }";

#[tokio::test(start_paused = true)]
async fn a_handler_that_did_not_ask_is_dropped_at_its_timeout() {
    let handling = Handling::new([Step::Hang], Step::Succeed);
    let kit = Kit::start(QUICK, handling.clone()).await;
    kit.publish();
    kit.finished().await;
    near(&handling.gaps(), &[5_100]);
    assert_eq!(handling.attempts(), [1, 2]);
    let counts = kit.report().await.counts;
    assert_eq!((counts.timed_out, counts.handler_stuck), (1, 0));
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_heeds_its_timeout_has_timed_out_all_the_same() {
    let handling = Handling::new([Step::HeedCancellation], Step::Succeed);
    let rule = "rules = [{ class = 'timeout', action = 'dead-letter' }]";
    let kit = Kit::start(&format!("retry = {{ {rule} }}"), handling.clone()).await;
    kit.publish();
    kit.finished().await;
    assert_eq!(handling.cancelled_for(), [CancelReason::Timeout]);
    let dead = kit.dead();
    assert_eq!(dead.header("lapwing-error-kind"), Some("timeout"));
    let error = "no answer within 20s; the work may have been done";
    assert_eq!(dead.header("lapwing-error"), Some(error));
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_ignores_its_cancellation_is_dropped_after_the_grace() {
    for (grace, gap) in [("3s", 8_100), ("0s", 5_100)] {
        let handling = Handling::new([Step::IgnoreCancellation], Step::Succeed);
        let settings = format!("cancel_grace = '{grace}'\n{QUICK}");
        let kit = Kit::start(&settings, handling.clone()).await;
        kit.publish();
        kit.finished().await;
        near(&handling.gaps(), &[gap]);
        let counts = kit.report().await.counts;
        assert_eq!((counts.timed_out, counts.handler_stuck), (1, 1));
        assert_eq!(handling.running(), 0);
        kit.drain().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_succeeds_within_the_grace_is_taken_at_its_word() {
    let step = Step::SucceedWhenCancelled(SECOND / 2);
    let handling = Handling::new([], step);
    let kit = Kit::start(QUICK, handling.clone()).await;
    kit.publish();
    kit.finished().await;
    assert_eq!(handling.runs().len(), 1);
    let counts = kit.report().await.counts;
    assert_eq!((counts.succeeded, counts.timed_out), (1, 0));
    assert_eq!(kit.drain().await.unwrap().ledger().acked, 1);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_succeeds_after_the_grace_is_too_late() {
    let handling = Handling::new([Step::SucceedWhenCancelled(2 * SECOND)], Step::Succeed);
    let kit = Kit::start(QUICK, handling.clone()).await;
    kit.publish();
    kit.finished().await;
    near(&handling.gaps(), &[6_100]);
    assert_eq!(handling.done().len(), 1, "it was dropped before its end");
    assert_eq!(kit.report().await.counts.handler_stuck, 1);
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_ends_at_its_timeout_has_ended() {
    let handling = Handling::new([], Step::Take(5 * SECOND));
    let kit = Kit::start(QUICK, handling.clone()).await;
    kit.publish();
    kit.finished().await;
    assert_eq!(handling.runs().len(), 1);
    assert_eq!(kit.report().await.counts.succeeded, 1);
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_timeout_of_a_further_attempt_begins_anew() {
    let steps = [Step::HeedCancellation, Step::HeedCancellation];
    let handling = Handling::new(steps, Step::Take(4 * SECOND));
    let kit = Kit::start(QUICK, handling.clone()).await;
    kit.publish();
    kit.finished().await;
    near(&handling.gaps(), &[5_100, 5_100]);
    assert_eq!(handling.cancelled_for(), [CancelReason::Timeout; 2]);
    assert_eq!(kit.report().await.counts.inline_retries, 2);
    assert_eq!(kit.drain().await.unwrap().ledger().acked, 1);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_fails_because_an_operator_cancels_it_was_interrupted() {
    let handling = Handling::new([Step::HeedCancellation], Step::Succeed);
    let kit = Kit::start(QUICK, handling.clone()).await;
    kit.publish();
    handling.has_run(1).await;
    kit.cancel_in(Phase::Handling).await.unwrap();
    kit.finished().await;
    assert_eq!(handling.cancelled_for(), [CancelReason::Operator]);
    assert_eq!(handling.attempts(), [1, 1], "no attempt is charged");
    let counts = kit.report().await.counts;
    assert_eq!((counts.interrupted, counts.failed), (1, 0));
    assert_eq!(kit.drain().await.unwrap().ledger().returned, 1);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_succeeds_although_an_operator_cancels_it_is_acked() {
    let handling = Handling::new([], Step::SucceedWhenCancelled(SECOND / 2));
    let kit = Kit::start(QUICK, handling.clone()).await;
    kit.publish();
    handling.has_run(1).await;
    kit.cancel_in(Phase::Handling).await.unwrap();
    kit.cancel_in(Phase::Handling).await.unwrap();
    kit.finished().await;
    assert_eq!(handling.cancelled_for(), [CancelReason::Operator]);
    let ledger = kit.drain().await.unwrap().ledger();
    assert_eq!((ledger.acked, ledger.returned), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn an_operator_who_cancels_a_late_handler_changes_nothing() {
    let handling = Handling::new([Step::IgnoreCancellation], Step::Succeed);
    let settings = format!("cancel_grace = '10s'\n{QUICK}");
    let kit = Kit::start(&settings, handling.clone()).await;
    kit.publish();
    handling.has_run(1).await;
    tokio::time::sleep(7 * SECOND).await;
    kit.cancel_in(Phase::Handling).await.unwrap();
    kit.finished().await;
    assert_eq!(handling.cancelled_for(), [CancelReason::Timeout]);
    assert_eq!(handling.attempts(), [1, 2]);
    assert_eq!(kit.report().await.counts.timed_out, 1);
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_attempt_after_an_operators_cancellation_runs_as_long_as_it_may() {
    let steps = [Step::Hang, Step::Fail, Step::Take(4 * SECOND)];
    let handling = Handling::new(steps, Step::Succeed);
    let kit = Kit::start(QUICK, handling.clone()).await;
    kit.publish();
    handling.has_run(1).await;
    kit.cancel_in(Phase::Handling).await.unwrap();
    handling.has_run(3).await;
    let page = kit.worker.handle().in_flight(None, 0, 1).await.unwrap();
    assert_eq!(page.messages[0].phase, Phase::Handling);
    kit.finished().await;
    assert_eq!(handling.attempts(), [1, 1, 2]);
    assert_eq!(kit.drain().await.unwrap().ledger().acked, 1);
}

#[tokio::test(start_paused = true)]
async fn only_a_running_handler_can_be_cancelled() {
    let settings = "concurrency = 1\nretry = { base = '900ms', jitter = 0 }";
    let handling = Handling::new([Step::Fail], Step::WaitForGate);
    let kit = Kit::start(settings, handling.clone()).await;
    kit.publish_many(3);
    handling.has_run(2).await;
    for phase in [Phase::Waiting, Phase::Buffered] {
        let refused = kit.cancel_in(phase).await;
        assert_eq!(refused, Err(CancelError::NotHandling(phase)));
    }
    handling.open();
    kit.finished().await;
    assert_eq!(kit.drain().await.unwrap().ledger().acked, 3);
}

#[tokio::test(start_paused = true)]
async fn a_destructor_that_panics_when_an_operator_cancels_is_a_panic() {
    let handling = Handling::new([Step::HangThenPanicInDrop], Step::Succeed);
    let kit = Kit::start(&format!("concurrency = 1\n{QUICK}"), handling.clone()).await;
    kit.publish_many(2);
    handling.has_run(1).await;
    kit.cancel_in(Phase::Handling).await.unwrap();
    kit.finished().await;
    let counts = kit.report().await.counts;
    assert_eq!((counts.panicked, counts.interrupted), (1, 0));
    assert_eq!(kit.drain().await.unwrap().ledger().acked, 2);
}
