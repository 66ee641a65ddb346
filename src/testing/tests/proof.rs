//! What the ledger says of acks: never more than the broker has shown.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{
    kit::{Handling, Kit, Step},
    scene::{LATE, Scene, Situation},
    waits::{ack_through, nack_through},
};
use crate::{ConsumerState, broker::fake::Fault};

const A_DAY: Duration = Duration::from_hours(24);

fn no_leader() -> Fault {
    Fault::LeaderLost("orders".to_owned())
}

async fn gate(settings: &str, messages: usize) -> Kit {
    let kit = Kit::start(settings, Handling::new([], Step::WaitForGate)).await;
    kit.publish_many(messages);
    kit.handling.has_run(messages).await;
    kit
}

#[tokio::test(start_paused = true)]
async fn acks_that_a_queue_without_leader_never_applies_are_left() {
    let scene = Scene::set(Situation::Draining).await;
    let broker = scene.kit.broker.clone();
    broker.fail(no_leader());
    scene.kit.handling.open();
    let began = Instant::now();
    let report = scene.ends().await;
    assert!(began.elapsed() < Duration::from_secs(8));
    let ledger = report.ledger();
    assert_eq!((report.left(), ledger.acked), (2, 0), "{ledger:?}");
    assert_eq!((ledger.stale, ledger.duplicates), (2, 2));
    assert_eq!(broker.ready("orders").len(), 3, "they run again");
}

#[tokio::test(start_paused = true)]
async fn acks_that_a_new_leader_applies_in_time_are_settled() {
    let scene = Scene::set(Situation::Draining).await;
    let broker = scene.kit.broker.clone();
    broker.fail(no_leader());
    scene.kit.handling.open();
    tokio::spawn(async move {
        sleep(Duration::from_secs(2)).await;
        broker.elect("orders");
    });
    let report = scene.ends().await;
    assert_eq!((report.left(), report.ledger().acked), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn acks_that_stay_on_a_silent_line_at_the_end_of_a_drain_are_left() {
    let scene = Scene::set(Situation::Draining).await;
    scene.kit.broker.set_latency(A_DAY);
    scene.kit.handling.open();
    let report = scene.kit.drain().await.unwrap();
    let ledger = report.ledger();
    assert_eq!((report.left(), ledger.acked), (2, 0), "{ledger:?}");
}

#[tokio::test(start_paused = true)]
async fn acks_before_a_drain_whose_cancellation_gets_no_answer_are_left() {
    let kit = gate("", 20).await;
    kit.broker.set_latency(A_DAY);
    kit.handling.open();
    while kit.report().await.in_flight > 0 {
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(kit.report().await.ledger.acked, 20, "nothing else is known");
    let report = kit.drain().await.unwrap();
    let ledger = report.ledger();
    assert_eq!((report.left(), ledger.duplicates), (20, 20), "{ledger:?}");
    assert_eq!(ledger.acked, 0);
}

#[tokio::test(start_paused = true)]
async fn a_channel_that_says_nothing_after_acks_is_replaced() {
    let mut kit = gate("", 3).await;
    kit.broker.set_latency(A_DAY);
    let began = Instant::now();
    kit.handling.open();
    kit.until(ConsumerState::Connecting, Some("an answer of the channel"))
        .await;
    assert!(began.elapsed() < Duration::from_secs(15));
    kit.broker.set_latency(Duration::ZERO);
    kit.until_state(ConsumerState::Consuming).await;
    let report = kit.report().await;
    assert_eq!((report.ledger.acked, report.ledger.duplicates), (0, 3));
    assert_eq!(report.counts.sessions, 2);
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn acks_that_the_channel_has_answered_for_outlive_their_session() {
    let mut kit = gate("", 3).await;
    kit.handling.open();
    kit.finished().await;
    sleep(Duration::from_secs(5)).await;
    kit.broker.fail(Fault::ChannelLost);
    kit.until_state(ConsumerState::Connecting).await;
    let ledger = kit.report().await.ledger;
    assert_eq!((ledger.acked, ledger.stale), (3, 0));
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn acks_that_nothing_answered_are_lost_with_their_session() {
    let mut kit = gate("", 3).await;
    kit.broker.set_latency(Duration::from_secs(1));
    kit.handling.open();
    while kit.report().await.in_flight > 0 {
        sleep(Duration::from_millis(10)).await;
    }
    kit.broker.fail(Fault::ChannelLost);
    kit.until_state(ConsumerState::Connecting).await;
    let ledger = kit.report().await.ledger;
    assert_eq!((ledger.acked, ledger.stale, ledger.duplicates), (0, 3, 3));
    kit.finished().await;
    assert_eq!(kit.handling.runs().len(), 6, "they run again");
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn deliveries_prove_acks_without_a_question() {
    let settings = "
        prefetch = 1
        concurrency = 1
    ";
    let mut kit = gate(settings, 1).await;
    kit.publish_many(3);
    kit.handling.open();
    kit.finished().await;
    // The fourth delivery shows that the first three are settled. Nothing shows the fourth ack.
    kit.broker.fail(Fault::ChannelLost);
    kit.until_state(ConsumerState::Connecting).await;
    let ledger = kit.report().await.ledger;
    assert_eq!((ledger.acked, ledger.duplicates), (3, 1));
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_message_that_the_queue_answers_with_goes_back() {
    let settings = "
        prefetch = 1
        concurrency = 1
    ";
    let mut kit = gate(settings, 1).await;
    kit.publish();
    kit.begin_drain().await;
    kit.report().await;
    kit.handling.open();
    let broker = kit.broker.clone();
    let report = kit.drain().await.unwrap();
    assert_eq!(broker.commands(), [ack_through(1), nack_through(2)]);
    let ledger = report.ledger();
    let told = (ledger.received, ledger.acked, ledger.returned);
    assert_eq!(told, (1, 1, 0), "it is no delivery of the consumer");
    assert_eq!(report.left(), 0);
    assert_eq!(broker.ready("orders").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_single_active_consumer_proves_its_acks_too() {
    let settings = "arguments = { x-single-active-consumer = true }";
    let mut kit = gate(settings, 1).await;
    kit.publish();
    kit.handling.has_run(2).await;
    kit.begin_drain().await;
    kit.report().await;
    kit.handling.open();
    let report = kit.drain().await.unwrap();
    assert_eq!((report.left(), report.ledger().acked), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn a_drain_without_acks_asks_nothing() {
    let kit = Kit::start("", Handling::new([], Step::Hang)).await;
    kit.publish_many(2);
    kit.handling.has_run(2).await;
    kit.worker.handle().stop_now();
    let broker = kit.broker.clone();
    let report = kit.drain().await.unwrap();
    assert_eq!(report.ledger().received, 2);
    assert_eq!(broker.ready("orders").len(), 2);
}

#[tokio::test(start_paused = true)]
async fn messages_handled_in_a_drain_for_a_session_that_is_gone_are_left() {
    let mut kit = gate("", 2).await;
    kit.broker.fail(Fault::ConnectionLost);
    kit.until_state(ConsumerState::Connecting).await;
    kit.begin_drain().await;
    kit.handling.open();
    let report = kit.drain().await.unwrap();
    let ledger = report.ledger();
    assert_eq!((ledger.stale, ledger.duplicates), (2, 2));
    assert_eq!(report.left(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_pause_proves_the_acks_before_it() {
    let kit = gate("", 2).await;
    kit.handling.open();
    kit.until_told(1).await;
    let handle = kit.worker.handle();
    assert_eq!(handle.pause("orders").await, Ok(()));
    kit.broker.fail(Fault::ChannelLost);
    sleep(LATE).await;
    let ledger = kit.report().await.ledger;
    assert_eq!((ledger.acked, ledger.stale), (2, 0));
    kit.drain().await.unwrap();
}
