//! Drains: messages that have not started go back, running handlers may finish, and retries that back off
//! are parked, all within the time for the drain.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{
    kit::{Handling, Kit, Step},
    places::Published,
    scene::LATE,
    waits::{ack_through, nack, nack_through},
};
use crate::{ConsumerState, Report, broker::fake::Fault, clock, testing::TestBroker};

/// A grace of ten seconds.
const GRACE: &str = "
    concurrency = 1
    cancel_grace = '2s'
    timeout = '1h'
    [drain]
    grace = '10s'
";

fn when_cancelled(step: Step) -> Step {
    Step::WhenCancelled(Box::new(step))
}

/// Runs one message with this step, and drains. Returns the report and the duration of the drain.
async fn drained(settings: &str, step: Step) -> (Report, Duration, TestBroker) {
    let kit = Kit::start(settings, Handling::new([], step)).await;
    kit.publish();
    kit.handling.has_run(1).await;
    let (broker, began) = (kit.worker.broker().clone(), Instant::now());
    let report = kit.drain().await.unwrap();
    (report, began.elapsed(), broker)
}

/// The number of the attempt that another worker makes with the message.
async fn next_attempt(broker: &TestBroker) -> u32 {
    let handling = Handling::new([], Step::Succeed);
    let mut kit = Kit::start_on(broker, "", handling.clone());
    kit.until_state(ConsumerState::Consuming).await;
    handling.has_run(1).await;
    kit.finished().await;
    // `Kit::drain` would check the account, but this broker has served two workers.
    kit.worker.drain().await.unwrap();
    handling.runs()[0].attempt
}

#[tokio::test(start_paused = true)]
async fn what_arrives_while_the_consumer_is_cancelled_goes_back_by_one_command() {
    let mut kit = Kit::start("", Handling::new([], Step::Succeed)).await;
    kit.broker.answer_after(LATE);
    kit.begin_drain().await;
    kit.until_broker(|it| it.late_requests() == 1).await;
    let published = Published::to(&kit, 5);
    assert_eq!(kit.broker.unacked(), 5);
    let (broker, handling) = (kit.broker.clone(), kit.handling.clone());
    let report = kit.drain().await.unwrap();
    assert_eq!(broker.commands(), [nack_through(5)]);
    assert_eq!(report.ledger().returned, 5);
    assert_eq!(handling.runs(), []);
    published.are_kept(&broker, &handling, &report);
}

#[tokio::test(start_paused = true)]
async fn what_has_not_started_goes_back_singly_beside_what_runs() {
    let mut kit = Kit::start(GRACE, Handling::new([], Step::WaitForGate)).await;
    let published = Published::to(&kit, 3);
    kit.handling.has_run(1).await;
    let began = Instant::now();
    kit.begin_drain().await;
    assert_eq!(kit.until_told(2).await, [nack(2), nack(3)]);
    assert!(began.elapsed() < Duration::from_millis(50), "not at once");
    kit.handling.open();
    let (broker, handling) = (kit.broker.clone(), kit.handling.clone());
    let report = kit.drain().await.unwrap();
    // The last question to the queue brings a message, which goes back.
    let told = [nack(2), nack(3), ack_through(1), nack_through(4)];
    assert_eq!(broker.commands(), told);
    assert_eq!(handling.runs().len(), 1);
    published.are_kept(&broker, &handling, &report);
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_cannot_publish_returns_what_waits_by_one_command() {
    let settings = "
        concurrency = 1
        [publish]
        budget = '1s'
    ";
    let mut kit = Kit::start(settings, Handling::new([], Step::FailForGood)).await;
    kit.broker.fail(Fault::PublishingLost);
    let step = Published::to(&kit, 1);
    kit.until(
        ConsumerState::Consuming,
        Some("1 retry or dead letter waits"),
    )
    .await;
    let (broker, handling) = (kit.broker.clone(), kit.handling.clone());
    let report = kit.drain().await.unwrap();
    assert_eq!(broker.commands(), [nack_through(1)]);
    step.are_kept(&broker, &handling, &report);
}

#[tokio::test(start_paused = true)]
async fn a_drain_lets_handlers_finish_within_the_grace() {
    let mut kit = Kit::start(GRACE, Handling::new([], Step::WaitForGate)).await;
    kit.publish();
    kit.handling.has_run(1).await;
    kit.begin_drain().await;
    sleep(Duration::from_secs(9)).await;
    kit.handling.open();
    let began = Instant::now();
    let report = kit.drain().await.unwrap();
    assert!(began.elapsed() < Duration::from_millis(200));
    assert_eq!((report.ledger().acked, report.left()), (1, 0));
    assert_eq!(report.cut_off(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_drain_tells_when_it_cancels_handlers() {
    let mut kit = Kit::start(GRACE, Handling::new([], Step::WaitForGate)).await;
    kit.publish();
    kit.handling.has_run(1).await;
    assert_eq!(kit.worker.handle().readiness().drain_ends_at, None);
    let before = clock::now();
    kit.begin_drain().await;
    let ends = kit.worker.handle().readiness().drain_ends_at.unwrap();
    let left = ends.duration_since(before).unwrap();
    // tokio's clock and the time of day are rounded differently.
    let left = left + Duration::from_millis(1);
    assert!((10_000..10_500).contains(&left.as_millis()), "{left:?}");
    kit.handling.open();
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_waits_in_the_worker_is_parked_for_what_is_left_of_its_delay() {
    let settings = "
        retry = { base = '10s', jitter = 0.0, inline_below = '1m' }
    ";
    let kit = Kit::start(settings, Handling::new([], Step::Fail)).await;
    kit.publish();
    kit.handling.has_run(1).await;
    sleep(Duration::from_secs(4)).await;
    let broker = kit.worker.broker().clone();
    let report = kit.drain().await.unwrap();
    assert_eq!(report.ledger().parked, 1);
    assert_eq!(broker.messages("orders.retry.8s").len(), 1);
    let began = Instant::now();
    assert_eq!(next_attempt(&broker).await, 2);
    let waited = began.elapsed().as_secs_f64();
    assert!((5.5..7.0).contains(&waited), "{waited} s");
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_waits_for_a_slot_is_parked_with_no_attempt_charged() {
    let settings = "
        concurrency = 1
        retry = { base = '500ms', jitter = 0.0, inline_below = '1m' }
    ";
    let handling = Handling::new([Step::Fail], Step::WaitForGate);
    let mut kit = Kit::start(settings, handling).await;
    kit.publish();
    kit.publish();
    kit.handling.has_run(2).await;
    sleep(Duration::from_secs(5)).await;
    let began = Instant::now();
    kit.begin_drain().await;
    kit.until_broker(|it| it.ready("orders.retry.1s").len() == 1)
        .await;
    assert!(began.elapsed() < Duration::from_millis(50), "not at once");
    kit.handling.open();
    let broker = kit.worker.broker().clone();
    let ledger = kit.drain().await.unwrap().ledger();
    assert_eq!((ledger.parked, ledger.acked), (1, 1));
    assert_eq!(next_attempt(&broker).await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_failure_in_a_drain_is_parked_however_short_its_delay() {
    let step = Step::AtGate(Box::new(Step::Fail));
    let mut kit = Kit::start("", Handling::new([], step)).await;
    kit.publish();
    kit.handling.has_run(1).await;
    kit.begin_drain().await;
    kit.handling.open();
    let broker = kit.worker.broker().clone();
    assert_eq!(kit.drain().await.unwrap().ledger().parked, 1);
    assert_eq!(next_attempt(&broker).await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_outlasts_the_grace_is_dropped_and_its_message_returned() {
    let (report, took, broker) = drained(GRACE, Step::Hang).await;
    assert!((10_000..10_500).contains(&took.as_millis()), "{took:?}");
    assert_eq!((report.ledger().returned, report.left()), (1, 0));
    assert_eq!(report.cut_off(), 1);
    assert_eq!(next_attempt(&broker).await, 1, "an attempt was charged");
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_fails_because_it_heeds_the_drain_is_charged_no_attempt() {
    let (report, took, broker) = drained(GRACE, Step::HeedCancellation).await;
    assert!((10_000..10_500).contains(&took.as_millis()), "{took:?}");
    assert_eq!(report.ledger().returned, 1);
    assert_eq!(next_attempt(&broker).await, 1, "an attempt was charged");
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_succeeds_after_its_cancellation_is_taken_at_its_word() {
    let (report, _, broker) = drained(GRACE, when_cancelled(Step::Succeed)).await;
    assert_eq!((report.ledger().acked, report.cut_off()), (1, 0));
    assert_eq!(broker.messages("orders").len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_ignores_its_cancellation_is_dropped_after_the_cancel_grace() {
    let (report, took, broker) = drained(GRACE, when_cancelled(Step::Hang)).await;
    assert!((12_000..12_500).contains(&took.as_millis()), "{took:?}");
    assert_eq!((report.ledger().returned, report.left()), (1, 0));
    assert_eq!(next_attempt(&broker).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_second_signal_does_not_wait_for_the_grace() {
    let mut kit = Kit::start(GRACE, Handling::new([], Step::Hang)).await;
    kit.publish();
    kit.handling.has_run(1).await;
    kit.begin_drain().await;
    let began = Instant::now();
    kit.worker.handle().stop_now();
    let report = kit.drain().await.unwrap();
    assert!(began.elapsed() < Duration::from_millis(200));
    assert_eq!((report.ledger().returned, report.left()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_although_acks_hang_and_tells_what_it_leaves() {
    let mut kit = Kit::start(GRACE, Handling::new([], Step::WaitForGate)).await;
    kit.publish();
    kit.handling.has_run(1).await;
    kit.broker.stall(true);
    kit.begin_drain().await;
    kit.handling.open();
    kit.worker.handle().stop_now();
    let (broker, began) = (kit.broker.clone(), Instant::now());
    let report = kit.drain().await.unwrap();
    let took = began.elapsed();
    // Enough for the cancel grace, the last chance, a tick, and the time to apply acks.
    assert!(took < Duration::from_secs(5), "{took:?}");
    assert_eq!((report.left(), report.ledger().duplicates), (1, 1));
    assert_eq!(broker.ready("orders").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_drain_under_an_alarm_returns_what_cannot_be_published_at_once() {
    let kit = Kit::start("", Handling::new([], Step::FailForGood)).await;
    kit.broker.fail(Fault::Blocked);
    kit.publish();
    kit.handling.has_run(1).await;
    let (broker, began) = (kit.broker.clone(), Instant::now());
    let report = kit.drain().await.unwrap();
    assert!(began.elapsed() < Duration::from_millis(200));
    assert_eq!((report.ledger().returned, report.left()), (1, 0));
    assert_eq!(broker.ready("orders").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_drain_without_a_publishing_connection_gives_up_soon() {
    let kit = Kit::start("", Handling::new([], Step::FailForGood)).await;
    kit.broker.fail(Fault::PublishingLost);
    kit.publish();
    kit.handling.has_run(1).await;
    let (broker, began) = (kit.broker.clone(), Instant::now());
    let report = kit.drain().await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(4));
    assert_eq!((report.ledger().returned, report.left()), (1, 0));
    assert_eq!(broker.ready("orders").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_subscription_made_in_a_drain_brings_goes_back() {
    let mut kit = Kit::start("", Handling::new([], Step::Succeed)).await;
    kit.broker.answer_after(Duration::from_secs(5));
    let orders = "orders".to_owned();
    kit.broker.fail(Fault::ConsumerCancelled(orders));
    kit.broker.until(|it| it.late_requests() == 1).await;
    kit.publish();
    kit.begin_drain().await;
    let (broker, handling) = (kit.broker.clone(), kit.handling.clone());
    let report = kit.drain().await.unwrap();
    assert_eq!(broker.commands(), [nack_through(1)]);
    assert_eq!((report.ledger().returned, report.left()), (1, 0));
    assert_eq!(handling.runs().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_died_before_the_drain_does_not_count_as_left() {
    let mut kit = Kit::start("", Handling::new([], Step::WaitForGate)).await;
    kit.publish();
    kit.handling.has_run(1).await;
    kit.broker.fail(Fault::ChannelLost);
    kit.until(ConsumerState::Connecting, Some("channel lost"))
        .await;
    kit.handling.open();
    kit.finished().await;
    let report = kit.drain().await.unwrap();
    let ledger = report.ledger();
    assert_eq!((ledger.acked, ledger.stale, report.left()), (1, 1, 0));
}
