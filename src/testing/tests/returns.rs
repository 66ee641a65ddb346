//! Messages that go back to their queue.

use super::{
    kit::{Handling, Kit, Step},
    waits::nack_through,
};
use crate::{
    ConsumerState, Phase,
    broker::fake::{FakeBroker, Letter, Release},
    testing::TestBroker,
};

/// The delivery count of a message after a drain has returned it.
async fn count_after_return(release: Release) -> u64 {
    let broker = TestBroker::of(FakeBroker::new(release));
    let handling = Handling::new([], Step::Hang);
    let mut kit = Kit::start_on(&broker, "timeout = '1h'", handling.clone());
    kit.until_state(ConsumerState::Consuming).await;
    kit.publish();
    handling.has_run(1).await;
    let fake = kit.broker.clone();
    kit.drain().await.unwrap();
    fake.ready("orders")[0].delivery_count
}

#[tokio::test(start_paused = true)]
async fn a_return_counts_as_a_delivery_before_rabbitmq_4_3() {
    assert_eq!(count_after_return(Release::V3).await, 1);
    assert_eq!(count_after_return(Release::V40).await, 1);
    assert_eq!(count_after_return(Release::V43).await, 0);
}

#[tokio::test(start_paused = true)]
async fn messages_that_cannot_be_published_all_go_back_in_whatever_order_their_paths_ended() {
    let settings = "
        timeout = '1s'
        retry = { max_attempts = 1 }
        [publish]
        budget = '1s'
    ";
    // The first message times out, and ends after the second.
    let handling = Handling::new([Step::Hang, Step::FailForGood], Step::Succeed);
    let mut kit = Kit::start(settings, handling.clone()).await;
    kit.worker.broker().block(true);
    kit.publish();
    kit.publish();
    kit.until(
        ConsumerState::Consuming,
        Some("2 retries or dead letters wait"),
    )
    .await;
    let broker = kit.broker.clone();
    let report = kit.drain().await.unwrap();
    assert_eq!((report.ledger().returned, report.left()), (2, 0));
    assert_eq!(broker.commands(), [nack_through(2)]);
    assert_eq!(broker.ready("orders").len(), 2);
}

/// A lane that handles one message at a time, and lets three wait.
const ONE: &str = "
    concurrency = 1
    prefetch = 4
    timeout = '1h'
";

async fn kit_on(release: Release, settings: &str, handling: Handling) -> Kit {
    let broker = TestBroker::of(FakeBroker::new(release));
    let mut kit = Kit::start_on(&broker, &format!("{ONE}\n{settings}"), handling);
    kit.until_state(ConsumerState::Consuming).await;
    kit
}

/// Pauses and resumes the consumer again and again.
async fn pauses(kit: &mut Kit, times: usize) {
    let handle = kit.worker.handle().clone();
    for _ in 0..times {
        assert_eq!(handle.pause("orders").await, Ok(()));
        assert_eq!(handle.resume("orders").await, Ok(()));
        kit.until_state(ConsumerState::Consuming).await;
    }
}

#[tokio::test(start_paused = true)]
async fn messages_that_are_returned_again_and_again_stay() {
    let releases = [
        (Release::V3, true),
        (Release::V40, true),
        (Release::V43, false),
    ];
    for (release, are_copied) in releases {
        let handling = Handling::new([], Step::WaitForGate);
        let mut kit = kit_on(release, "delivery_limit = 8", handling.clone()).await;
        let mut ids = kit.publish_many(4);
        handling.has_run(1).await;
        pauses(&mut kit, 40).await;
        let ledger = kit.report().await.ledger;
        assert_eq!(ledger.copied > 0, are_copied, "{release:?}: {ledger:?}");
        assert_eq!(ledger.stale, 0);
        handling.open();
        kit.finished().await;
        let mut done = handling.done();
        (done.sort(), ids.sort());
        assert_eq!(done, ids, "{release:?}");
        assert_eq!(handling.attempts(), [1; 4], "an attempt was charged");
        assert_eq!(kit.broker.ready("orders.dead").len(), 0);
        kit.drain().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn messages_stay_over_any_number_of_restarts() {
    let broker = TestBroker::of(FakeBroker::new(Release::V40));
    broker.inner().declare("orders");
    let settings = format!("{ONE}\n topology = 'attach'\n [drain]\n grace = '0s'");
    for round in 0..60 {
        let handling = Handling::new([], Step::Hang);
        let mut kit = Kit::start_on(&broker, &settings, handling.clone());
        kit.until_state(ConsumerState::Consuming).await;
        if round == 0 {
            kit.publish_many(6);
        }
        handling.has_run(1).await;
        let fake = kit.broker.clone();
        let report = kit.worker.drain().await.unwrap();
        assert_eq!(report.ledger().open(), 0);
        let mut ids: Vec<_> = fake.ready("orders");
        ids.sort_by(|a, b| a.properties.message_id().cmp(&b.properties.message_id()));
        ids.dedup_by(|a, b| a.properties.message_id() == b.properties.message_id());
        assert_eq!((ids.len(), fake.ready("orders").len()), (6, 6), "{round}");
    }
    assert_eq!(broker.inner().dropped().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_copy_in_the_place_of_a_message_keeps_what_is_known_of_it() {
    let settings = "
        delivery_limit = 1
        retry = { base = '4s', factor = 1, jitter = 0 }
    ";
    let handling = Handling::new([Step::Fail, Step::Hang], Step::Succeed);
    let kit = kit_on(Release::V40, settings, handling.clone()).await;
    let letter = Letter::default().id("a").user_id("shop").transient(7);
    let deaths = [("x-first-death-queue", "theirs"), ("x-first-death-reason", "expired")];
    let letter = deaths
        .into_iter()
        .fold(letter, |it, (name, text)| it.header(name, text));
    kit.send(letter, b"body");
    handling.has_run(1).await;
    kit.until_in("orders.retry.4s", 1).await;
    let parked = kit.only("orders.retry.4s");
    handling.has_run(2).await;
    assert_eq!(kit.worker.handle().pause("orders").await, Ok(()));
    kit.cancel_in(Phase::Handling).await.unwrap();
    kit.until_in("orders", 1).await;
    let copy = kit.only("orders");
    assert_eq!((copy.delivery_count, copy.redelivered), (0, false));
    assert_eq!(copy.body, b"body");
    assert_eq!(copy.properties.priority(), Some(7));
    assert_eq!(copy.number("lapwing-attempts"), Some(1));
    for name in [
        "lapwing-first-seen",
        "lapwing-source-routing-key",
        "lapwing-history",
        "lapwing-original-x-first-death-queue",
    ] {
        assert_eq!(copy.header(name), parked.header(name), "{name}");
        assert!(copy.header(name).is_some(), "{name}");
    }
    kit.worker.handle().resume("orders").await.unwrap();
    kit.finished().await;
    assert_eq!(handling.attempts(), [1, 2, 2]);
    let report = kit.drain().await.unwrap();
    let ledger = report.ledger();
    assert_eq!((ledger.returned, ledger.copied, ledger.acked), (1, 1, 1));
}
