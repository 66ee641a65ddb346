//! Acks: the consumer sends few frames, none too late, none twice, and none too early.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{
    kit::{Handling, Kit, Step},
    scene::{LATE, Scene, Situation},
    waits::{ack, ack_through, nack},
};

/// The consumer sends the acks of neighbouring messages together: after 100 ms, or at 4 acks.
const SLOW_ACKS: &str = "
    prefetch = 16
    concurrency = 8
    ack = { batch = 4, delay = '100ms' }
";

fn first_waits() -> Handling {
    Handling::new([Step::WaitForGate], Step::Succeed)
}

#[tokio::test(start_paused = true)]
async fn messages_that_end_together_are_acked_by_one_command() {
    let kit = Kit::start("concurrency = 32", Handling::new([], Step::WaitForGate)).await;
    for _ in 0..10 {
        kit.publish();
    }
    kit.handling.has_run(10).await;
    kit.handling.open();
    kit.finished().await;
    assert_eq!(kit.broker.commands(), [ack_through(10)]);
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_finished_message_waits_for_the_one_before_it() {
    let kit = Kit::start(SLOW_ACKS, first_waits()).await;
    kit.publish();
    kit.publish();
    kit.handling.has_run(2).await;
    sleep(Duration::from_millis(400)).await;
    assert_eq!(kit.broker.commands(), []);
    kit.handling.open();
    kit.finished().await;
    assert_eq!(kit.broker.commands(), [ack_through(2)]);
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_finished_message_behind_one_that_runs_on_gets_an_ack_of_its_own() {
    let kit = Kit::start(SLOW_ACKS, first_waits()).await;
    kit.publish();
    kit.publish();
    kit.handling.has_run(2).await;
    let since = Instant::now();
    assert_eq!(kit.until_told(1).await, [ack(2)]);
    let waited = since.elapsed().as_millis();
    assert!((495..620).contains(&waited), "{waited} ms");
    kit.handling.open();
    kit.finished().await;
    assert_eq!(kit.broker.commands(), [ack(2), ack_through(1)]);
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_full_batch_is_acked_at_once() {
    let kit = Kit::start(SLOW_ACKS, first_waits()).await;
    for _ in 0..5 {
        kit.publish();
    }
    kit.handling.has_run(5).await;
    let since = Instant::now();
    assert_eq!(kit.until_told(4).await, [ack(2), ack(3), ack(4), ack(5)]);
    assert!(since.elapsed() < Duration::from_millis(50));
    kit.handling.open();
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_finished_message_before_one_that_runs_on_is_acked_after_the_delay() {
    let handling = Handling::new([Step::Succeed], Step::WaitForGate);
    let kit = Kit::start(SLOW_ACKS, handling).await;
    let since = Instant::now();
    kit.publish();
    kit.publish();
    assert_eq!(kit.until_told(1).await, [ack_through(1)]);
    let waited = since.elapsed().as_millis();
    assert!((95..120).contains(&waited), "{waited} ms");
    kit.handling.open();
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_small_prefetch_does_not_fill_with_finished_messages() {
    let settings = "
        prefetch = 4
        concurrency = 4
        ack = { batch = 64, delay = '1s' }
    ";
    let steps = [Step::Succeed, Step::Succeed];
    let kit = Kit::start(settings, Handling::new(steps, Step::WaitForGate)).await;
    let since = Instant::now();
    kit.publish_many(3);
    assert_eq!(kit.until_told(1).await, [ack_through(2)]);
    assert!(since.elapsed() < Duration::from_millis(50));
    kit.handling.open();
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_drain_writes_no_ack_before_the_broker_has_answered_to_the_cancellation() {
    let scene = Scene::set(Situation::Cancelling).await;
    scene.kit.handling.open();
    let waited = scene.kit.until_broker(|it| !it.commands().is_empty()).await;
    assert!(waited > LATE - Duration::from_secs(1), "{waited:?}");
    assert_eq!(scene.ends().await.ledger().acked, 2);
}

#[tokio::test(start_paused = true)]
async fn a_drain_whose_cancellation_gets_no_answer_counts_its_messages_as_left() {
    let mut kit = Kit::start("", Handling::new([], Step::WaitForGate)).await;
    kit.publish();
    kit.handling.has_run(1).await;
    kit.broker.answer_after(Duration::from_mins(1));
    kit.begin_drain().await;
    kit.handling.open();
    let (broker, began) = (kit.broker.clone(), Instant::now());
    let report = kit.drain().await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(11));
    assert_eq!((report.left(), report.ledger().duplicates), (1, 1));
    assert_eq!(broker.ready("orders").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_write_that_hangs_for_a_while_costs_no_session() {
    let kit = Kit::start("", Handling::new([], Step::Succeed)).await;
    kit.broker.stall(true);
    kit.publish();
    kit.handling.has_run(1).await;
    kit.publish();
    kit.publish();
    sleep(Duration::from_secs(4)).await;
    assert_eq!(kit.handling.runs().len(), 3, "the lane stands still");
    kit.broker.stall(false);
    kit.finished().await;
    assert_eq!(kit.account().counts.sessions, 1);
    let ledger = kit.drain().await.unwrap().ledger();
    assert_eq!((ledger.acked, ledger.stale), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn a_session_that_takes_no_acks_is_replaced() {
    let mut kit = Kit::start("", Handling::new([], Step::Succeed)).await;
    kit.broker.stall(true);
    kit.publish();
    kit.until(crate::ConsumerState::Connecting, Some("writing acks"))
        .await;
    assert_eq!(kit.broker.unacked(), 0, "the channel is open");
    kit.broker.stall(false);
    kit.finished().await;
    assert_eq!(kit.account().counts.sessions, 2);
    let ledger = kit.drain().await.unwrap().ledger();
    assert_eq!((ledger.acked, ledger.duplicates), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn no_ack_covers_a_message_before_its_nack_is_written() {
    let step = Step::WhenCancelled(Box::new(Step::Fail));
    let kit = Kit::start("", Handling::new([step], Step::WaitForGate)).await;
    for _ in 0..3 {
        kit.publish();
    }
    kit.handling.has_run(3).await;
    kit.broker.stall(true);
    let messages = kit.in_flight().await;
    kit.cancel(&messages[0]).await.unwrap();
    kit.handling.open();
    sleep(Duration::from_secs(1)).await;
    kit.broker.stall(false);
    kit.finished().await;
    let mut told = kit.broker.commands();
    assert_eq!(told.pop(), Some(ack_through(4)), "the message comes again");
    told.sort_unstable_by_key(|it| it.tag);
    assert_eq!(told, [nack(1), ack(2), ack(3)]);
    let ledger = kit.drain().await.unwrap().ledger();
    assert_eq!((ledger.acked, ledger.returned), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn a_burst_of_acks_in_a_drain_is_paced() {
    // The first message keeps running, so each of the others needs its own ack.
    let hangs = Step::WhenCancelled(Box::new(Step::Succeed));
    let handling = Handling::new([hangs], Step::WaitForGate);
    let settings = "
        prefetch = 64
        concurrency = 64
        ack = { batch = 64, delay = '2ms' }
        [drain]
        grace = '1s'
    ";
    let mut kit = Kit::start(settings, handling).await;
    for _ in 0..49 {
        kit.publish();
    }
    kit.handling.has_run(49).await;
    kit.begin_drain().await;
    kit.handling.open();
    let took = kit.until_broker(|it| it.commands().len() >= 48).await;
    assert!(took >= Duration::from_millis(10), "48 acks within {took:?}");
    assert_eq!(kit.drain().await.unwrap().ledger().acked, 49);
}
