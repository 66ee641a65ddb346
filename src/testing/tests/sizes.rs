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
async fn a_pause_and_a_drain_end_the_wait_for_memory() {
    let (mut kit, handling) = after_small_messages().await;
    publish(&kit, 50, 100_000);
    sleep(Duration::from_secs(60)).await;
    kit.worker
        .handle()
        .pause("orders")
        .await
        .expect("it answers");
    kit.worker
        .handle()
        .resume("orders")
        .await
        .expect("it answers");
    kit.until_state(ConsumerState::Consuming).await;
    handling.open();
    sleep(Duration::from_secs(1)).await;
    let report = kit.drain().await.unwrap();
    assert_eq!((report.left(), report.ledger().stale), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn decisions_that_are_kept_do_not_take_more_than_the_budget() {
    let handling = Handling::new([], Step::FailForGood);
    let settings = format!("{BUDGET}\n[publish]\nbudget = '1s'");
    let mut kit = Kit::start(&settings, handling.clone()).await;
    kit.broker.answer_publishes([Confirm::Nack; 10_000]);
    for n in 0..24 {
        kit.send(Letter::default().id(&format!("m{n}")), &[b'x'; 100_000]);
    }
    kit.until_state(ConsumerState::Held).await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(kit.broker.unacked(), 4);
    kit.broker.forget_answers();
    kit.until_in("orders.dead", 24).await;
    assert_eq!(kit.drain().await.unwrap().ledger().dead_lettered, 24);
}
