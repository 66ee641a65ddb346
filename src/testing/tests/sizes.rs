//! The memory budget: large messages lower the prefetch, small ones raise it again.

use std::time::Duration;

use tokio::time::sleep;

use super::kit::{Handling, Kit, Step};
use crate::{
    broker::fake::{Confirm, Letter},
    status::ConsumerState,
};

/// Four bodies of 100,000 bytes fit.
const BUDGET: &str = "concurrency = 20\nprefetch = 20\nprefetch_bytes = 420000\ntimeout = '1h'";

fn publish(kit: &Kit, count: usize, bytes: usize) {
    for _ in 0..count {
        kit.send(Letter::default(), &vec![b'x'; bytes]);
    }
}

/// The same with ids, for messages that are parked or dead-lettered.
fn publish_named(kit: &Kit, count: usize, bytes: usize) {
    for n in 0..count {
        kit.send(Letter::default().id(&format!("m{n}")), &vec![b'x'; bytes]);
    }
}

/// A worker that has handled 240 small messages. The next ones wait.
async fn after_small_messages() -> (Kit, Handling) {
    let small = std::iter::repeat_n(Step::Succeed, 240);
    let handling = Handling::new(small, Step::WaitForGate);
    let kit = Kit::start(BUDGET, handling.clone()).await;
    for _ in 0..8 {
        publish(&kit, 30, 10);
        sleep(Duration::from_secs(1)).await;
    }
    kit.finished().await;
    (kit, handling)
}

#[tokio::test(start_paused = true)]
async fn large_messages_come_a_few_at_a_time() {
    let handling = Handling::new([], Step::WaitForGate);
    let kit = Kit::start(BUDGET, handling.clone()).await;
    publish(&kit, 24, 100_000);
    sleep(Duration::from_secs(10)).await;
    assert_eq!(
        kit.broker.unacked(),
        4,
        "the first is known as the others come"
    );
    handling.open();
    kit.finished().await;
    assert!(kit.broker.most_unacked() <= 4);
    assert_eq!(kit.drain().await.unwrap().ledger().acked, 24);
}

#[tokio::test(start_paused = true)]
async fn small_messages_fill_the_whole_prefetch_after_a_while() {
    let (kit, handling) = after_small_messages().await;
    publish(&kit, 30, 10);
    sleep(Duration::from_secs(10)).await;
    assert_eq!(kit.broker.unacked(), 20);
    assert_eq!(
        kit.broker.most_unacked(),
        20,
        "never more than the prefetch"
    );
    let sessions = kit.report().await.counts.sessions;
    assert_eq!(sessions, 1, "another prefetch is no lost subscription");
    handling.open();
    kit.finished().await;
    let ledger = kit.drain().await.unwrap().ledger();
    assert_eq!((ledger.acked, ledger.returned, ledger.stale), (270, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn after_small_messages_large_ones_are_held_up_until_half_of_the_memory_is_free() {
    let (mut kit, handling) = after_small_messages().await;
    publish(&kit, 50, 100_000);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(kit.broker.unacked(), 20, "the prefetch of that time");
    kit.until_state(ConsumerState::Consuming).await;
    let readiness = kit.worker.handle().readiness();
    assert!(readiness.ready, "{readiness:?}");
    handling.open();
    kit.finished().await;
    handling.close();
    publish(&kit, 50, 100_000);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(kit.broker.unacked(), 4);
    handling.open();
    kit.finished().await;
    let ledger = kit.drain().await.unwrap().ledger();
    assert_eq!((ledger.acked, ledger.returned, ledger.stale), (340, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_pause_ends_the_wait_for_memory() {
    let (kit, handling) = after_small_messages().await;
    publish(&kit, 50, 100_000);
    sleep(Duration::from_secs(60)).await;
    let handle = kit.worker.handle();
    handle.pause("orders").await.expect("it answers");
    handle.resume("orders").await.expect("it answers");
    // The new subscription brings one message more, although no memory is free.
    kit.until_broker(|it| it.unacked() == 21).await;
    handling.open();
    kit.finished().await;
    assert_eq!(kit.drain().await.unwrap().ledger().stale, 0);
}

#[tokio::test(start_paused = true)]
async fn a_drain_ends_the_wait_for_memory() {
    let (kit, handling) = after_small_messages().await;
    publish(&kit, 50, 100_000);
    sleep(Duration::from_secs(60)).await;
    let broker = kit.worker.broker().clone();
    let drain = tokio::spawn(kit.drain());
    sleep(Duration::from_secs(1)).await;
    handling.open();
    let report = drain.await.unwrap().unwrap();
    assert_eq!((report.left(), report.ledger().stale), (0, 0));
    assert_eq!(broker.messages("orders").len(), 30, "it takes no more");
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_is_always_busy_reaches_its_whole_prefetch_and_stays_ready() {
    let handling = Handling::new([], Step::Take(Duration::from_secs(1)));
    let kit = Kit::start(BUDGET, handling.clone()).await;
    kit.broker.answer_after(Duration::from_millis(100));
    publish(&kit, 2_000, 10);
    let mut handle = kit.worker.handle().clone();
    let unready = tokio::spawn(async move { handle.until(|it| !it.ready).await });
    sleep(Duration::from_secs(30)).await;
    assert_eq!(handling.running(), 20);
    assert!(!unready.is_finished());
    assert!(kit.broker.most_unacked() <= 40, "twice the prefetch");
    kit.finished().await;
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn large_messages_that_wait_in_the_worker_leave_room_for_others() {
    let handling = Handling::new([], Step::Fail);
    let retry = "retry = { base = '900ms', jitter = 0, inline_below = '1s' }";
    let kit = Kit::start(&format!("{BUDGET}\n{retry}"), handling.clone()).await;
    publish_named(&kit, 24, 100_000);
    handling.has_run(24).await;
    assert!(kit.report().await.counts.inline_retries < 12);
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn decisions_that_are_kept_do_not_take_more_than_the_budget() {
    let handling = Handling::new([], Step::FailForGood);
    let settings = format!("{BUDGET}\n[publish]\nbudget = '1s'");
    let mut kit = Kit::start(&settings, handling.clone()).await;
    kit.broker.answer_publishes([Confirm::Nack; 10_000]);
    publish_named(&kit, 24, 100_000);
    kit.until_state(ConsumerState::Held).await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(kit.broker.unacked(), 4);
    kit.broker.forget_answers();
    kit.until_in("orders.dead", 24).await;
    assert_eq!(kit.drain().await.unwrap().ledger().dead_lettered, 24);
}
