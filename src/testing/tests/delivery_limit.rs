//! Messages that come back to their queue near its delivery limit.

use std::time::Duration;

use tokio::time::sleep;

use super::kit::{Handling, Kit, Step};
use crate::{
    ConsumerState, Ledger, Phase,
    broker::fake::{Arguments, FakeBroker, Letter, Release, Type},
    testing::TestBroker,
};

const SECOND: Duration = Duration::from_secs(1);
const RELEASES: [Release; 3] = [Release::V3, Release::V40, Release::V43];

/// A lane that handles one message at a time, and lets three wait.
const ONE: &str = "
    concurrency = 1
    prefetch = 4
    timeout = '1h'
";

async fn kit_on(release: Release, settings: &str, handling: Handling) -> Kit {
    Kit::start_at(release, &format!("{ONE}\n{settings}"), handling).await
}

/// Pauses and resumes the consumer again and again, each time with all messages delivered.
async fn pauses(kit: &mut Kit, times: usize) {
    let handle = kit.worker.handle().clone();
    let all = kit.broker.sent().len();
    for _ in 0..times {
        kit.broker.until(|it| it.unacked() == all).await;
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
        done.sort();
        ids.sort();
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
    let deaths = [
        ("x-first-death-queue", "theirs"),
        ("x-first-death-reason", "expired"),
    ];
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

/// The ledger of the lane.
async fn ledger(kit: &Kit) -> Ledger {
    kit.report().await.ledger
}

/// A message that its queue has delivered in vain this many times, as RabbitMQ 4 passes it on.
fn counted(id: &str, count: i64) -> Letter {
    Letter::default().id(id).number("x-delivery-count", count)
}

#[tokio::test(start_paused = true)]
async fn on_4_3_a_return_at_the_limit_is_free() {
    let handling = Handling::new([], Step::WaitForGate);
    let mut kit = kit_on(Release::V43, "delivery_limit = 1", handling.clone()).await;
    kit.publish_many(4);
    handling.has_run(1).await;
    pauses(&mut kit, 5).await;
    assert_eq!(ledger(&kit).await.copied, 0);
    handling.open();
    kit.finished().await;
    assert_eq!(kit.drain().await.unwrap().ledger().acked, 4);
}

#[tokio::test(start_paused = true)]
async fn messages_that_wait_outlive_any_number_of_lost_channels() {
    for release in RELEASES {
        let handling = Handling::new([], Step::WaitForGate);
        let mut kit = kit_on(release, "delivery_limit = 4", handling.clone()).await;
        let ids = kit.publish_many(4);
        handling.has_run(1).await;
        // The first handler keeps its slot, so the others wait.
        for lost in 1..=12 {
            kit.worker.broker().close_channels();
            kit.until_state(ConsumerState::Connecting).await;
            kit.until_state(ConsumerState::Consuming).await;
            // The channel shows that it has the acks, so they do not count as lost with it.
            sleep(5 * SECOND).await;
            assert_eq!(ledger(&kit).await.copied, lost / 4 * 3, "{release:?}");
        }
        let dead = kit.ids("orders.dead");
        assert_eq!(dead, ids[..1], "it ran each time: {release:?}");
        handling.open();
        kit.finished().await;
        assert_eq!(handling.done().len(), 4, "none ran twice: {release:?}");
        kit.drain().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_may_not_wait_runs_if_a_slot_is_free() {
    let handling = Handling::new([], Step::Take(SECOND));
    let kit = kit_on(Release::V40, "delivery_limit = 4", handling.clone()).await;
    kit.send(counted("a", 4), b"");
    kit.finished().await;
    assert_eq!(handling.done(), ["a"]);
    let report = kit.drain().await.unwrap();
    let ledger = report.ledger();
    assert_eq!((ledger.acked, ledger.copied), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn while_publishing_is_blocked_a_message_at_its_limit_stays_unsettled() {
    let handling = Handling::new([], Step::WaitForGate);
    let mut kit = kit_on(Release::V40, "delivery_limit = 1", handling.clone()).await;
    kit.publish();
    handling.has_run(1).await;
    kit.send(counted("a", 1), b"");
    kit.send(counted("b", 1), b"");
    kit.worker.broker().block(true);
    sleep(60 * SECOND).await;
    assert_eq!(kit.broker.commands(), []);
    assert_eq!(kit.broker.unacked(), 3);
    // The pause is complete when the copies are there.
    let handle = kit.worker.handle().clone();
    let pausing = tokio::spawn(async move { handle.pause("orders").await });
    kit.until_state(ConsumerState::Paused).await;
    assert_eq!(kit.broker.unacked(), 3);
    kit.worker.broker().block(false);
    kit.until_in("orders", 2).await;
    let _ = pausing.await;
    handling.open();
    let report = kit.drain().await.unwrap();
    let ledger = report.ledger();
    assert_eq!((ledger.acked, ledger.returned, ledger.copied), (1, 2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_drain_returns_what_it_cannot_copy_as_long_as_the_broker_keeps_it() {
    let settings = "delivery_limit = 4\n [drain]\n grace = '5s'";
    let handling = Handling::new([], Step::Hang);
    let kit = kit_on(Release::V40, settings, handling.clone()).await;
    kit.publish();
    handling.has_run(1).await;
    kit.send(counted("a", 3), b"");
    kit.worker.broker().block(true);
    let began = tokio::time::Instant::now();
    let broker = kit.broker.clone();
    let drain = tokio::spawn(kit.drain());
    broker.until(|it| it.ready("orders").len() == 1).await;
    assert!(began.elapsed() < 2 * SECOND, "before the grace is over");
    let report = drain.await.unwrap().unwrap();
    let ledger = report.ledger();
    assert_eq!((ledger.returned, ledger.copied, report.left()), (2, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_drain_waits_for_the_copy_of_a_message_at_its_limit_as_long_as_for_a_handler() {
    let settings = "delivery_limit = 4\n [drain]\n grace = '10s'";
    let handling = Handling::new([], Step::Hang);
    let kit = kit_on(Release::V40, settings, handling.clone()).await;
    kit.publish();
    handling.has_run(1).await;
    kit.send(counted("a", 4), b"");
    kit.worker.broker().block(true);
    let (broker, test_broker) = (kit.broker.clone(), kit.worker.broker().clone());
    let drain = tokio::spawn(kit.drain());
    sleep(8 * SECOND).await;
    assert_eq!(broker.commands(), []);
    test_broker.block(false);
    let report = drain.await.unwrap().unwrap();
    let ledger = report.ledger();
    assert_eq!((ledger.returned, ledger.copied, report.left()), (2, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_delivery_that_arrives_while_the_consumer_is_being_cancelled_goes_back_as_a_copy() {
    let handling = Handling::new([], Step::Succeed);
    let mut kit = kit_on(Release::V40, "delivery_limit = 4", handling).await;
    kit.broker.answer_after(5 * SECOND);
    let handle = kit.worker.handle().clone();
    let pausing = tokio::spawn(async move { handle.pause("orders").await });
    kit.until_state(ConsumerState::Paused).await;
    kit.send(counted("a", 3), b"");
    sleep(SECOND).await;
    assert_eq!((kit.broker.unacked(), kit.broker.commands()), (1, vec![]));
    let _ = pausing.await;
    kit.until_in("orders", 1).await;
    sleep(SECOND).await;
    let ledger = ledger(&kit).await;
    assert_eq!((ledger.received, ledger.returned, ledger.copied), (1, 1, 1));
    assert_eq!(kit.only("orders").number("x-delivery-count"), None);
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_message_with_which_a_queue_answers_a_drain_goes_back_as_a_copy_too() {
    let handling = Handling::new([], Step::WaitForGate);
    let kit = kit_on(Release::V40, "delivery_limit = 2", handling.clone()).await;
    kit.publish();
    handling.has_run(1).await;
    let id = kit.publish();
    // The return of the pause leaves the last one for lost channels.
    assert_eq!(kit.worker.handle().pause("orders").await, Ok(()));
    assert_eq!(kit.only("orders").delivery_count, 1);
    handling.open();
    let broker = kit.broker.clone();
    let report = kit.drain().await.unwrap();
    let ledger = report.ledger();
    assert_eq!((ledger.acked, ledger.returned, ledger.copied), (1, 2, 1));
    assert_eq!((ledger.received, report.left()), (3, 0));
    let left = broker.ready("orders");
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].properties.message_id(), Some(id.as_str()));
    assert_eq!(left[0].delivery_count, 1, "the copy was an answer too");
}

#[tokio::test(start_paused = true)]
async fn a_queue_of_the_users_has_its_own_limit_or_that_of_the_release() {
    let quorum = || Arguments::of(Type::Quorum);
    let own = quorum().int("x-delivery-limit", 8);
    let cases = [
        (Release::V40, own.clone(), 8),
        (Release::V40, quorum(), 20),
        (Release::V40, quorum().int("x-delivery-limit", -1), 0),
        (Release::V40, Arguments::of(Type::Classic), 0),
        (Release::V3, own, 8),
        (Release::V3, quorum(), 0),
    ];
    for (release, arguments, limit) in cases {
        let broker = FakeBroker::new(release);
        broker.declare_with("orders", arguments).unwrap();
        let settings = format!("{ONE}\n topology = 'attach'");
        let handling = Handling::new([], Step::WaitForGate);
        let broker = TestBroker::of(broker);
        let mut kit = Kit::start_on(&broker, &settings, handling.clone());
        kit.until_state(ConsumerState::Consuming).await;
        kit.publish_many(2);
        handling.has_run(1).await;
        let nacks = limit - limit / 4;
        pauses(&mut kit, nacks).await;
        assert_eq!(ledger(&kit).await.copied, 0, "{release:?}, {limit}");
        pauses(&mut kit, 10).await;
        let copied = ledger(&kit).await.copied;
        assert_eq!(copied > 0, limit > 0, "{release:?}, {limit}");
        handling.open();
        kit.finished().await;
        kit.drain().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_with_an_expiration_goes_back_as_a_copy_without_it() {
    for release in RELEASES {
        let handling = Handling::new([], Step::WaitForGate);
        let mut kit = kit_on(release, "", handling.clone()).await;
        for id in ["a", "b", "c"] {
            kit.send(Letter::default().id(id).expiration("2000"), b"");
        }
        handling.has_run(1).await;
        pauses(&mut kit, 1).await;
        sleep(3 * SECOND).await;
        pauses(&mut kit, 1).await;
        assert_eq!(kit.broker.dropped().len(), 0, "{release:?}");
        handling.open();
        kit.finished().await;
        assert_eq!(handling.done(), ["a"]);
        assert_eq!(kit.ids("orders.dead"), ["b", "c"], "they are decided once");
        for dead in kit.broker.ready("orders.dead") {
            assert_eq!(dead.header("lapwing-reason"), Some("expired"));
            assert_eq!(dead.header("lapwing-original-expiration"), Some("2000"));
        }
        kit.drain().await.unwrap();
    }
}
