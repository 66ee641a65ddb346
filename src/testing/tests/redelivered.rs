//! A message that is delivered again while its first run goes on is settled with the outcome of that run.

use std::time::Duration;

use tokio::time::sleep;

use super::kit::{Handling, Kit, Step};
use crate::{
    ConsumerState, Ledger, Phase,
    broker::fake::{Confirm, Fault, Letter, Release},
    testing::TestBroker,
};

const SECOND: Duration = Duration::from_secs(1);
const LONG: &str = "timeout = '1h'";
const RELEASES: [Release; 3] = [Release::V3, Release::V40, Release::V43];

/// Loses the connection, and gets another one.
async fn lose_connection(kit: &mut Kit) {
    kit.broker.fail(Fault::ConnectionLost);
    kit.until(ConsumerState::Connecting, None).await;
    kit.broker.reconnect();
    kit.until_state(ConsumerState::Consuming).await;
}

/// One delivery was stale, and the next one of the same message ended as `end` says.
fn once_stale(end: impl FnOnce(&mut Ledger)) -> Ledger {
    let mut ledger = Ledger {
        received: 2,
        stale: 1,
        ..Ledger::default()
    };
    end(&mut ledger);
    ledger
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_outlives_its_connections_runs_once_and_its_message_is_acked() {
    for release in RELEASES {
        let handling = Handling::new([], Step::WaitForGate);
        let mut kit = Kit::start_at(release, LONG, handling.clone()).await;
        kit.publish();
        handling.has_run(1).await;
        for _ in 0..3 {
            lose_connection(&mut kit).await;
            kit.until_broker(|it| it.unacked() == 1).await;
        }
        handling.open();
        kit.finished().await;
        assert_eq!(handling.runs().len(), 1, "{release:?}");
        let ledger = kit.drain().await.unwrap().ledger();
        assert_eq!((ledger.acked, ledger.stale, ledger.duplicates), (1, 3, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_ends_before_the_next_delivery_settles_it() {
    type Book = fn(&mut Ledger);
    let ends: [(Step, Book); 4] = [
        (Step::Succeed, |it| it.acked = 1),
        (Step::Drop, |it| (it.acked, it.dropped) = (1, 1)),
        (Step::FailForGood, |it| it.dead_lettered = 1),
        (Step::Snooze(30 * SECOND), |it| it.parked = 1),
    ];
    for (step, end) in ends {
        let step = Step::AtGate(Box::new(step));
        let handling = Handling::new([step.clone()], Step::Hang);
        let mut kit = Kit::start(LONG, handling.clone()).await;
        kit.publish();
        handling.has_run(1).await;
        kit.broker.fail(Fault::ConnectionLost);
        kit.until(ConsumerState::Connecting, None).await;
        handling.open();
        sleep(300 * SECOND).await;
        let copies = kit.broker.everything().len();
        assert_eq!(copies, 1, "no copy while the broker has the message");
        kit.broker.reconnect();
        kit.until_broker(|it| it.unacked() == 0 && it.ready("orders").is_empty())
            .await;
        assert_eq!(handling.runs().len(), 1, "{step:?}");
        assert_eq!(
            kit.drain().await.unwrap().ledger(),
            once_stale(end),
            "{step:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_is_confirmed_after_the_session_is_lost_is_the_only_one() {
    let handling = Handling::new([], Step::FailForGood);
    let mut kit = Kit::start("", handling.clone()).await;
    kit.broker.answer_publishes([Confirm::AckAfter(5 * SECOND)]);
    kit.publish();
    kit.until_in("orders.dead", 1).await;
    lose_connection(&mut kit).await;
    kit.finished().await;
    sleep(10 * SECOND).await;
    assert_eq!(kit.broker.ready("orders.dead").len(), 1);
    assert_eq!(handling.runs().len(), 1);
    let expected = once_stale(|it| it.dead_lettered = 1);
    assert_eq!(kit.drain().await.unwrap().ledger(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_kept_decision_outlives_its_session() {
    for release in RELEASES {
        let handling = Handling::new([], Step::FailForGood);
        let settings = "[publish]\nbudget = '1s'";
        let mut kit = Kit::start_at(release, settings, handling.clone()).await;
        kit.broker.answer_publishes([Confirm::Return; 1_000]);
        kit.publish();
        let why = Some("1 retry or dead letter waits");
        kit.until(ConsumerState::Consuming, why).await;
        lose_connection(&mut kit).await;
        sleep(60 * SECOND).await;
        assert_eq!(kit.broker.unacked(), 1);
        kit.broker.forget_answers();
        kit.until_in("orders.dead", 1).await;
        assert_eq!(handling.runs().len(), 1, "{release:?}");
        let expected = once_stale(|it| it.dead_lettered = 1);
        assert_eq!(kit.drain().await.unwrap().ledger(), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_waits_in_the_worker_runs_as_the_next_attempt_of_the_next_delivery() {
    let handling = Handling::new([Step::Fail], Step::Succeed);
    let settings = "retry = { base = '10s', jitter = 0, inline_below = '1m' }";
    let mut kit = Kit::start(settings, handling.clone()).await;
    kit.publish();
    handling.has_run(1).await;
    lose_connection(&mut kit).await;
    kit.finished().await;
    assert_eq!(handling.attempts(), [1, 2]);
    let expected = once_stale(|it| it.acked = 1);
    assert_eq!(kit.drain().await.unwrap().ledger(), expected);
}

#[tokio::test(start_paused = true)]
async fn two_equal_messages_are_two_messages() {
    for running in [1, 2] {
        let settings = format!("{LONG}\nconcurrency = {running}\nprefetch = 2");
        let handling = Handling::new([], Step::WaitForGate);
        let mut kit = Kit::start(&settings, handling.clone()).await;
        for _ in 0..2 {
            kit.send(Letter::default().id("same").header("h", "1"), b"same");
        }
        handling.has_run(running).await;
        lose_connection(&mut kit).await;
        kit.until_broker(|it| it.unacked() == 2).await;
        handling.open();
        kit.finished().await;
        assert_eq!(handling.runs().len(), 2, "{running} ran at the loss");
        assert_eq!(kit.drain().await.unwrap().ledger().acked, 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_differs_or_comes_for_the_first_time_runs_by_itself() {
    let letter = || Letter::default().id("a").header("h", "1");
    let others = [
        (letter().header("h", "2"), &b"body"[..]),
        (letter().correlation_id("other"), b"body"),
        (letter(), b"other"),
        (letter(), b"body"),
    ];
    for (other, body) in others {
        let handling = Handling::new([], Step::WaitForGate);
        let mut kit = Kit::start(LONG, handling.clone()).await;
        kit.send(letter(), b"body");
        handling.has_run(1).await;
        kit.broker.fail(Fault::ConnectionLost);
        kit.until(ConsumerState::Connecting, None).await;
        // Another worker takes the message.
        let theirs = TestBroker::of(kit.broker.another_worker());
        let theirs = Kit::start_on(&theirs, LONG, Handling::new([], Step::Succeed));
        kit.finished().await;
        theirs.worker.drain().await.unwrap();
        kit.handling_took("a");

        kit.send(other, body);
        kit.broker.reconnect();
        handling.has_run(2).await;
        handling.open();
        kit.finished().await;
        sleep(100 * SECOND).await;
        let ledger = kit.drain().await.unwrap().ledger();
        assert_eq!((ledger.acked, ledger.stale, ledger.duplicates), (1, 1, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn a_drain_does_not_wait_for_another_delivery() {
    let handling = Handling::new([], Step::WaitForGate);
    let mut kit = Kit::start(LONG, handling.clone()).await;
    kit.publish();
    handling.has_run(1).await;
    kit.broker.fail(Fault::ConnectionLost);
    kit.until(ConsumerState::Connecting, None).await;
    handling.open();
    sleep(SECOND).await;
    let began = tokio::time::Instant::now();
    let report = kit.drain().await.unwrap();
    assert!(began.elapsed() < SECOND);
    let ledger = report.ledger();
    assert_eq!((ledger.stale, ledger.duplicates, report.left()), (1, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_ack_was_not_written_before_the_session_was_lost_does_not_run_again() {
    let handling = Handling::new([Step::WaitForGate], Step::Succeed);
    let settings = "timeout = '1h'\nack = { delay = '1s' }\nconcurrency = 2";
    let mut kit = Kit::start(settings, handling.clone()).await;
    kit.publish_many(2);
    handling.has_run(2).await;
    sleep(Duration::from_millis(100)).await;
    assert_eq!(kit.broker.unacked(), 2, "the second one waits for its ack");
    lose_connection(&mut kit).await;
    kit.until_broker(|it| it.unacked() == 1).await;
    handling.open();
    kit.finished().await;
    assert_eq!(handling.runs().len(), 2);
    let ledger = kit.drain().await.unwrap().ledger();
    assert_eq!((ledger.acked, ledger.stale, ledger.duplicates), (2, 2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_lane_that_is_paused_just_after_the_broker_cancelled_its_consumer_settles_nothing_there()
{
    let handling = Handling::new([], Step::WaitForGate);
    let mut kit = Kit::start(LONG, handling.clone()).await;
    kit.publish();
    handling.has_run(1).await;
    kit.broker
        .fail(Fault::ConsumerCancelled("orders".to_owned()));
    let why = Some("the broker cancelled the consumer");
    kit.until(ConsumerState::Connecting, why).await;
    let handle = kit.worker.handle();
    assert_eq!(handle.pause("orders").await, Ok(()));
    handling.open();
    kit.until_broker(|it| it.ready("orders").len() == 1).await;
    assert_eq!(handle.resume("orders").await, Ok(()));
    kit.finished().await;
    assert_eq!(handling.runs().len(), 1);
    let expected = once_stale(|it| it.acked = 1);
    assert_eq!(kit.drain().await.unwrap().ledger(), expected);
}

/// Each message runs once although deliveries outlast the consumer timeout, and the broker has the ack of
/// each. The ledger shows an ack as a duplicate if its channel ended before the broker had shown the ack.
async fn each_runs_once(settings: &str, first: Option<Step>, limit: Duration, messages: usize) {
    for release in RELEASES {
        let handling = Handling::new(first.clone(), Step::Take(2 * SECOND));
        let kit = Kit::start_at(release, settings, handling.clone()).await;
        kit.broker.set_consumer_timeout(Some(limit));
        kit.publish_many(messages);
        kit.finished().await;
        assert_eq!(handling.runs().len(), messages, "{release:?}");
        assert!(kit.broker.everything().is_empty(), "{release:?}");
        let ledger = kit.drain().await.unwrap().ledger();
        let settled = ledger.acked + ledger.duplicates;
        assert_eq!(settled, messages as u64, "{release:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_takes_longer_than_the_consumer_timeout_runs_once() {
    let settings = "timeout = '1h'\nprefetch = 10\nconcurrency = 2";
    let first = Step::Take(275 * SECOND);
    each_runs_once(settings, Some(first), 60 * SECOND, 40).await;
}

/// Deliveries that wait for a slot are delivered again after a consumer timeout, and do not run twice.
#[tokio::test(start_paused = true)]
async fn what_waits_longer_than_the_consumer_timeout_runs_once() {
    each_runs_once("prefetch = 10\nconcurrency = 1", None, 15 * SECOND, 24).await;
}

#[tokio::test(start_paused = true)]
async fn a_consumer_timeout_is_told_and_leaves_no_consumer_that_nobody_serves() {
    let handling = Handling::new([Step::Take(100 * SECOND)], Step::Succeed);
    let mut kit = Kit::start_at(Release::V43, LONG, handling.clone()).await;
    kit.broker.set_consumer_timeout(Some(60 * SECOND));
    kit.publish();
    handling.has_run(1).await;
    kit.broker.answer_after(SECOND);
    let why = Some("maybe longer than the broker's consumer_timeout");
    kit.until(ConsumerState::Connecting, why).await;
    kit.broker.answer_after(Duration::ZERO);
    for _ in 0..20 {
        sleep(10 * SECOND).await;
        kit.publish_many(3);
        sleep(SECOND).await;
        assert!(kit.broker.unacked() <= 1, "messages went to nobody");
    }
    kit.finished().await;
    assert_eq!(handling.runs().len(), 61);
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_run_whose_message_came_near_the_delivery_limit_gives_it_back_as_a_copy() {
    let handling = Handling::new([Step::Hang], Step::Succeed);
    let settings = format!("{LONG}\ndelivery_limit = 4");
    let mut kit = Kit::start_at(Release::V40, &settings, handling.clone()).await;
    kit.publish();
    handling.has_run(1).await;
    for _ in 0..4 {
        lose_connection(&mut kit).await;
        kit.until_broker(|it| it.unacked() == 1).await;
    }
    kit.cancel_in(Phase::Handling).await.unwrap();
    kit.finished().await;
    let ledger = kit.report().await.ledger;
    assert_eq!((ledger.copied, ledger.acked), (1, 1), "{ledger:?}");
    assert_eq!(handling.runs().len(), 2);
    assert!(kit.ids("orders.dead").is_empty());
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_message_that_comes_again_while_its_consumer_pauses_is_settled_by_its_run() {
    let handling = Handling::new([], Step::WaitForGate);
    let mut kit = Kit::start_at(Release::V43, LONG, handling.clone()).await;
    kit.publish();
    handling.has_run(1).await;
    kit.broker.fail(Fault::ConnectionLost);
    kit.until(ConsumerState::Connecting, None).await;
    kit.broker.reconnect();
    let handle = kit.worker.handle();
    let (paused, ()) = tokio::join!(handle.pause("orders"), async { handling.open() });
    paused.expect("it answers");
    handle.resume("orders").await.expect("it answers");
    kit.finished().await;
    assert_eq!(handling.runs().len(), 1);
    assert_eq!(kit.drain().await.unwrap().ledger().duplicates, 0);
}
