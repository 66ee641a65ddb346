//! Regression tests: each describes the right behaviour where lanes once had a fault.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::{
    kit::{Handling, Kit, SOON, Step},
    scene::{LATE, Scene, Situation},
};
use crate::{
    CallError, CancelError, ConsumerState, Phase, RunError,
    broker::{BrokerError, fake::Fault},
    testing::TestBroker,
};

const ONE: &str = "
    concurrency = 1
    timeout = '1h'
";

#[tokio::test(start_paused = true)]
async fn what_waited_for_a_handler_does_not_run_after_its_session_has_ended() {
    let mut kit = Kit::start(ONE, Handling::new([], Step::WaitForGate)).await;
    kit.publish();
    kit.publish();
    kit.handling.has_run(1).await;
    kit.broker.fail(Fault::ConnectionLost);
    kit.until(ConsumerState::Connecting, None).await;
    kit.handling.open();
    sleep(Duration::from_secs(10)).await;
    assert_eq!(kit.handling.runs().len(), 1);
    kit.broker.reconnect();
    kit.finished().await;
    assert_eq!(kit.handling.runs().len(), 2);
    assert_eq!(kit.drain().await.unwrap().ledger().acked, 2);
}

#[tokio::test(start_paused = true)]
async fn what_waited_for_a_handler_is_delivered_again_after_the_broker_cancelled_the_consumer() {
    let scene = Scene::set(Situation::Resubscribing).await;
    scene.kit.handling.open();
    sleep(LATE / 2).await;
    assert_eq!(scene.kit.handling.runs().len(), 2);
    scene.kit.handling.has_run(3).await;
    scene.works().await;
}

#[tokio::test(start_paused = true)]
async fn a_subscription_whose_answer_is_too_late_holds_no_messages() {
    let mut kit = Kit::start("", Handling::new([], Step::Succeed)).await;
    kit.broker.answer_after(Duration::from_secs(11));
    let orders = "orders".to_owned();
    kit.broker.fail(Fault::ConsumerCancelled(orders));
    kit.until(ConsumerState::Connecting, Some("subscribing took longer"))
        .await;
    kit.publish();
    assert_eq!(kit.broker.unacked(), 0);
    kit.broker.answer_after(Duration::ZERO);
    kit.finished().await;
    assert_eq!(kit.drain().await.unwrap().ledger().acked, 1);
}

#[tokio::test(start_paused = true)]
async fn a_pause_while_the_lane_subscribes_holds() {
    let mut scene = Scene::set(Situation::Resubscribing).await;
    let handle = scene.kit.worker.handle().clone();
    assert_eq!(handle.pause("orders").await, Ok(()));
    sleep(LATE * 2).await;
    assert_eq!(scene.kit.broker.late_requests(), 0);
    scene.kit.until_state(ConsumerState::Paused).await;
    scene.published.another(&scene.kit);
    assert_eq!(scene.kit.broker.ready("orders").len(), 4);
    assert_eq!(handle.resume("orders").await, Ok(()));
    // Who asked may look at the state at once.
    let state = handle.readiness().consumers["orders"].state;
    assert_ne!(state, ConsumerState::Paused);
    scene.works().await;
}

#[tokio::test(start_paused = true)]
async fn a_resume_before_the_pause_is_complete_ends_the_pause_and_answers_both() {
    let mut scene = Scene::set(Situation::Consuming).await;
    scene.kit.broker.answer_after(Duration::from_millis(500));
    let handle = scene.kit.worker.handle().clone();
    let pausing = {
        let handle = handle.clone();
        tokio::spawn(async move { handle.pause("orders").await })
    };
    scene.kit.until_state(ConsumerState::Paused).await;
    assert_eq!(handle.resume("orders").await, Ok(()));
    assert_eq!(pausing.await.unwrap(), Ok(()));
    scene.kit.until_state(ConsumerState::Consuming).await;
    scene.works().await;
}

#[tokio::test(start_paused = true)]
async fn a_paused_lane_whose_dead_letter_is_not_confirmed_stays_paused_and_keeps_the_decision() {
    let settings = "[publish]\nbudget = '1s'";
    let step = Step::AtGate(Box::new(Step::FailForGood));
    let mut kit = Kit::start(settings, Handling::new([step], Step::Succeed)).await;
    kit.publish();
    kit.handling.has_run(1).await;
    assert_eq!(kit.worker.handle().pause("orders").await, Ok(()));
    kit.broker.fail(Fault::PublishingLost);
    kit.handling.open();
    sleep(Duration::from_secs(60)).await;
    assert_eq!(kit.broker.unacked(), 1);
    kit.until(ConsumerState::Paused, Some("paused by an operator"))
        .await;
    kit.broker.reconnect();
    kit.until_in("orders.dead", 1).await;
    assert_eq!(kit.worker.handle().resume("orders").await, Ok(()));
    kit.finished().await;
    assert_eq!(kit.handling.runs().len(), 1);
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_a_lane_subscribes_as_soon_as_the_connection_is_up() {
    let mut kit = Kit::start("", Handling::new([], Step::Succeed)).await;
    kit.broker.fail(Fault::ConnectionLost);
    kit.until(ConsumerState::Connecting, None).await;
    sleep(Duration::from_hours(1)).await;
    kit.broker.reconnect();
    let back = Instant::now();
    kit.until_state(ConsumerState::Consuming).await;
    assert!(back.elapsed() < Duration::from_millis(10));
    kit.drain().await.unwrap();
}

/// The broker may answer a request with an error that ends the connection, such as 541, before the
/// worker sees its end.
#[tokio::test(start_paused = true)]
async fn a_lane_whose_request_failed_just_before_an_outage_subscribes_as_soon_as_it_is_over() {
    let slow = "[broker]\nreconnect = { base = '50s', cap = '60s' }";
    let broker = TestBroker::new();
    broker.disconnect();
    let mut kit = Kit::start_on(&broker, slow, Handling::new([], Step::Succeed));
    kit.until(ConsumerState::Connecting, Some("not connected"))
        .await;
    let refused = BrokerError::Lost("INTERNAL_ERROR (541)".to_owned());
    kit.broker.refuse_subscriptions([refused]);
    kit.broker.reconnect();
    kit.until(ConsumerState::Connecting, Some("541")).await;
    kit.broker.fail(Fault::ConnectionLost);
    sleep(Duration::from_secs(2)).await;
    kit.broker.reconnect();
    let back = Instant::now();
    kit.until_state(ConsumerState::Consuming).await;
    assert!(back.elapsed() < Duration::from_millis(10));
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_pause_outlasts_an_outage() {
    let mut scene = Scene::set(Situation::Paused).await;
    scene.kit.broker.fail(Fault::ConnectionLost);
    sleep(Duration::from_secs(10)).await;
    scene.kit.broker.reconnect();
    sleep(Duration::from_secs(10)).await;
    scene.kit.until_state(ConsumerState::Paused).await;
    assert_eq!(scene.kit.broker.unacked(), 0);
    let resumed = scene.kit.worker.handle().resume("orders").await;
    assert_eq!(resumed, Ok(()));
    scene.works().await;
}

#[tokio::test(start_paused = true)]
async fn a_deleted_queue_is_declared_again_at_once() {
    let kit = Kit::start("", Handling::new([], Step::Succeed)).await;
    kit.publish();
    kit.finished().await;
    // Longer than a subscription that ends at once, again and again.
    sleep(Duration::from_secs(2)).await;
    kit.worker.broker().delete_queue("orders");
    sleep(Duration::from_millis(1)).await;
    // Publishing fails while there is no queue.
    kit.publish();
    kit.finished().await;
    assert_eq!(kit.drain().await.unwrap().ledger().acked, 2);
}

/// A stand-in for a user who deletes the queue in a loop.
#[tokio::test(start_paused = true)]
async fn a_consumer_that_is_cancelled_again_and_again_does_not_subscribe_in_a_loop() {
    let kit = Kit::start("", Handling::new([], Step::Succeed)).await;
    sleep(Duration::from_secs(2)).await;
    for _ in 0..1000 {
        let orders = "orders".to_owned();
        kit.broker.fail(Fault::ConsumerCancelled(orders));
        sleep(Duration::from_millis(1)).await;
    }
    let sessions = kit.report().await.counts.sessions;
    // The first one, one at once, and one after each wait of at least half a second.
    assert!(sessions <= 4, "{sessions} subscriptions in a second");
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn with_attach_the_queue_must_exist_and_those_beside_it_are_made() {
    let broker = TestBroker::new();
    let handling = Handling::new([], Step::FailForGood);
    let attach = "topology = 'attach'\nretry_queue_prefix = 'later'";
    let kit = Kit::start_on(&broker, attach, handling.clone());
    let ended = timeout(SOON, kit.worker.running).await.unwrap().unwrap();
    let error = ended.unwrap_err();
    assert_eq!(
        error.lines(),
        ["consumer \"orders\": queue \"orders\": missing"]
    );

    let mut kit = Kit::start_on(&broker, attach, handling);
    kit.broker.declare("orders");
    kit.until_state(ConsumerState::Consuming).await;
    kit.publish();
    kit.until_in("orders.dead", 1).await;
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_differs_ends_the_worker_at_whichever_attempt() {
    let broker = TestBroker::new();
    broker.disconnect();
    let mut kit = Kit::start_on(&broker, "", Handling::new([], Step::Succeed));
    kit.until(ConsumerState::Connecting, Some("not connected"))
        .await;
    let differs = BrokerError::Topology(Vec::new());
    kit.broker.refuse_subscriptions([differs]);
    kit.broker.reconnect();
    let ended = timeout(SOON, kit.worker.running).await.unwrap().unwrap();
    assert!(matches!(ended, Err(RunError::Queues(_))), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn an_attempt_after_a_time_out_in_the_worker_may_wait() {
    let settings = "
        timeout = '5s'
        retry = { base = '100ms', inline_below = '1s' }
    ";
    let handling = Handling::new([Step::Hang], Step::WaitForGate);
    let kit = Kit::start(settings, handling).await;
    kit.publish();
    kit.handling.has_run(2).await;
    sleep(Duration::from_secs(1)).await;
    kit.handling.open();
    kit.finished().await;
    assert_eq!(kit.handling.runs()[1].attempt, 2);
    assert_eq!(kit.handling.runs().len(), 2);
    assert_eq!(kit.drain().await.unwrap().ledger().acked, 1);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_fails_because_an_operator_cancels_it_is_charged_no_attempt() {
    let handling = Handling::new([Step::HeedCancellation], Step::Succeed);
    let kit = Kit::start("", handling).await;
    kit.publish();
    kit.handling.has_run(1).await;
    kit.cancel(&kit.in_flight().await[0]).await.unwrap();
    kit.finished().await;
    assert_eq!(kit.handling.runs()[1].attempt, 1);
    let ledger = kit.drain().await.unwrap().ledger();
    assert_eq!((ledger.returned, ledger.acked), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_drops_its_message_after_its_cancellation_is_taken_at_its_word() {
    let step = Step::WhenCancelled(Box::new(Step::Drop));
    let kit = Kit::start("", Handling::new([], step)).await;
    kit.publish();
    kit.handling.has_run(1).await;
    kit.cancel(&kit.in_flight().await[0]).await.unwrap();
    kit.finished().await;
    let ledger = kit.drain().await.unwrap().ledger();
    assert_eq!((ledger.dropped, ledger.returned), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_value_that_panics_when_it_is_dropped_costs_neither_the_message_nor_the_slot() {
    let settings = "
        concurrency = 1
        timeout = '5s'
    ";
    let handling = Handling::new([Step::HangThenPanicInDrop], Step::Succeed);
    let kit = Kit::start(settings, handling).await;
    kit.publish();
    kit.publish();
    kit.finished().await;
    assert_eq!(kit.handling.runs().len(), 3);
    assert_eq!(kit.account().running, 0);
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_snooze_for_ever_is_parked() {
    let handling = Handling::new([], Step::Snooze(Duration::MAX));
    let kit = Kit::start("", handling).await;
    kit.publish();
    kit.until_broker(|it| it.commands().len() == 1).await;
    assert_eq!(kit.drain().await.unwrap().ledger().parked, 1);
}

#[tokio::test(start_paused = true)]
async fn messages_of_a_session_that_died_are_not_in_flight() {
    let mut kit = Kit::start("", Handling::new([], Step::WaitForGate)).await;
    kit.publish();
    kit.handling.has_run(1).await;
    let before = kit.in_flight().await;
    assert_eq!(before[0].phase, Phase::Handling);
    kit.broker.fail(Fault::ConnectionLost);
    kit.until(ConsumerState::Connecting, None).await;
    assert_eq!(kit.in_flight().await, []);
    assert_eq!(kit.cancel(&before[0]).await, Err(CancelError::Gone));
    kit.broker.reconnect();
    kit.handling.open();
    kit.finished().await;
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_message_that_waits_for_its_retry_cannot_be_cancelled() {
    let settings = "retry = { base = '10s', inline_below = '1m' }";
    let kit = Kit::start(settings, Handling::new([Step::Fail], Step::Succeed)).await;
    kit.publish();
    kit.handling.has_run(1).await;
    let waiting = kit.in_flight().await;
    let refused = CancelError::NotHandling(Phase::Waiting);
    assert_eq!(kit.cancel(&waiting[0]).await, Err(refused));
    kit.finished().await;
    assert_eq!(kit.drain().await.unwrap().ledger().acked, 1);
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_has_ended_says_so_to_who_asks() {
    let kit = Kit::start("", Handling::new([], Step::Succeed)).await;
    let handle = kit.worker.handle().clone();
    assert_eq!(handle.pause("none").await, Err(CallError::NoSuchConsumer));
    kit.drain().await.unwrap();
    assert_eq!(handle.pause("orders").await, Err(CallError::NotRunning));
    // It has no messages, so none are missing from the list.
    let page = handle.in_flight(None, 0, 10).await.unwrap();
    assert_eq!((page.total, page.unanswered), (0, vec![]));
    let (found, unanswered) = handle.flights_of("any").await;
    assert_eq!((found.len(), unanswered), (0, vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_busy_lane_that_loses_its_session_stands_still_until_it_has_another() {
    let kit = Kit::start("prefetch = 250", Handling::new([], Step::Succeed)).await;
    kit.publish();
    kit.handling.has_run(1).await;
    sleep(Duration::from_millis(2)).await;
    kit.broker.stall(true);
    // With this many messages at once the lane lets the next deliveries gather for a moment. In that
    // moment it writes an ack, and learns of the lost session.
    let ids: Vec<_> = (0..20).map(|_| kit.publish()).collect();
    kit.handling.has_run(1 + ids.len()).await;
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
    kit.broker.fail(Fault::ConnectionLost);
    kit.broker.stall(false);
    // The paused clock advances only while no task is busy: a loop that spins would stop the clock.
    sleep(Duration::from_secs(3600)).await;
    kit.broker.reconnect();
    kit.finished().await;
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_cancel_by_the_broker_that_comes_with_deliveries_is_seen() {
    let mut kit = Kit::start("", Handling::new([], Step::Succeed)).await;
    kit.publish();
    kit.publish();
    kit.broker
        .fail(Fault::ConsumerCancelled("orders".to_owned()));
    let why = Some("the broker cancelled the consumer");
    kit.until(ConsumerState::Connecting, why).await;
    kit.finished().await;
    assert_eq!(kit.drain().await.unwrap().ledger().acked, 2);
}

#[tokio::test(start_paused = true)]
async fn a_channel_whose_cancellation_is_not_answered_gives_its_messages_back() {
    let kit = Kit::start("", Handling::new([], Step::Hang)).await;
    kit.publish();
    kit.handling.has_run(1).await;
    kit.broker.answer_after(Duration::from_hours(1));
    let handle = kit.worker.handle().clone();
    assert_eq!(handle.pause("orders").await, Err(CallError::TimedOut));
    let given_back = timeout(SOON, kit.broker.until(|it| it.unacked() == 0)).await;
    assert!(given_back.is_ok(), "the channel holds the message");
    assert_eq!(kit.broker.ready("orders").len(), 1);
}
