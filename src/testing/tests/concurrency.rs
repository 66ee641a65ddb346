//! Bounded concurrency: how many handlers run at once, and whose turn it is.

use std::time::Duration;

use proptest::prelude::*;
use tokio::time::sleep;

use super::kit::{Handling, Kit, Step};
use crate::{
    ConcurrencyError, Failure, Phase,
    broker::fake::{Confirm, Letter},
};

const MILLISECOND: Duration = Duration::from_millis(1);

fn step() -> impl Strategy<Value = Step> {
    let millis = || (0u32..300).prop_map(|millis| MILLISECOND * millis);
    let after = |delay| Failure::retryable("test", "later").retry_after(delay);
    prop_oneof![
        4 => millis().prop_map(Step::Take),
        2 => millis().prop_map(move |delay| Step::FailWith(after(delay))),
        1 => millis().prop_map(Step::Snooze),
        1 => millis().prop_map(Step::SucceedWhenCancelled),
        1 => prop_oneof![
            Just(Step::Succeed),
            Just(Step::Drop),
            Just(Step::FailForGood),
            Just(Step::Panic),
            Just(Step::PanicAfterAwait),
            Just(Step::PanicInDrop),
            Just(Step::Hang),
            Just(Step::HangThenPanicInDrop),
            Just(Step::HeedCancellation),
            Just(Step::IgnoreCancellation),
        ],
    ]
}

/// Runs these steps, and changes the concurrency after each of these waits.
async fn run(steps: Vec<Step>, changes: Vec<(u32, u16)>) {
    let settings = "
        prefetch = 8
        concurrency = 4
        timeout = '100ms'
        cancel_grace = '50ms'
        retry = { base = '10ms', inline_below = '200ms', max_attempts = 3 }
    ";
    let count = steps.len();
    let handling = Handling::new(steps, Step::Take(MILLISECOND * 20));
    let kit = Kit::start(settings, handling.clone()).await;
    handling.set_limit(4);
    kit.publish_many(count);
    for (wait, limit) in changes {
        sleep(MILLISECOND * wait).await;
        let handle = kit.worker.handle();
        handle.set_concurrency("orders", limit).unwrap();
        handling.set_limit(limit);
    }
    kit.finished().await;
    assert_eq!(handling.over_limit(), 0);
    let report = kit.report().await;
    assert_eq!(
        (report.running, report.waiting, report.in_flight),
        (0, 0, 0)
    );
    assert_eq!(report.ledger.open(), 0);
    kit.drain().await.unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn no_more_handlers_start_than_the_concurrency_allows(
        steps in prop::collection::vec(step(), 1..40),
        changes in prop::collection::vec((0u32..60, 1u16..=8), 0..8),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(run(steps, changes));
    }
}

#[tokio::test(start_paused = true)]
async fn as_many_handlers_run_as_the_concurrency_allows_and_no_more() {
    let handling = Handling::new([], Step::WaitForGate);
    let kit = Kit::start("prefetch = 10\nconcurrency = 3", handling.clone()).await;
    kit.publish_many(20);
    handling.has_run(3).await;
    sleep(Duration::from_secs(10)).await;
    assert_eq!((handling.running(), handling.runs().len()), (3, 3));
    let report = kit.report().await;
    assert_eq!((report.running, report.buffered), (3, 7));
    assert_eq!(kit.broker.unacked(), 10, "the prefetch");
    handling.open();
    kit.finished().await;
    assert_eq!(handling.most_running(), 3);
    assert_eq!(kit.drain().await.unwrap().ledger().acked, 20);
}

#[tokio::test(start_paused = true)]
async fn each_handler_gives_its_slot_back_whatever_it_does() {
    let steps = [
        Step::Succeed,
        Step::Fail,
        Step::FailForGood,
        Step::Snooze(Duration::from_secs(2)),
        Step::Drop,
        Step::Panic,
        Step::PanicAfterAwait,
        Step::PanicInDrop,
        Step::Hang,
        Step::HangThenPanicInDrop,
        Step::HeedCancellation,
        Step::IgnoreCancellation,
        Step::SucceedWhenCancelled(MILLISECOND),
    ];
    for step in steps {
        let handling = Handling::new([step.clone()], Step::Succeed);
        let kit = Kit::start("prefetch = 1\nconcurrency = 1", handling.clone()).await;
        kit.publish();
        let second = kit.publish();
        kit.finished().await;
        assert!(handling.done().contains(&second), "{step:?}");
        assert_eq!(kit.report().await.running, 0, "{step:?}");
        kit.drain().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_waits_for_its_retry_holds_no_slot() {
    let settings = "concurrency = 1\nretry = { base = '900ms', jitter = 0 }";
    let handling = Handling::new([Step::Fail], Step::Succeed);
    let kit = Kit::start(settings, handling.clone()).await;
    kit.publish_many(5);
    handling.has_run(5).await;
    let runs = handling.runs();
    assert!(runs[4].at - runs[0].at < MILLISECOND * 100, "{runs:?}");
    assert_eq!(kit.report().await.waiting, 1);
    kit.finished().await;
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_message_that_is_being_published_holds_no_slot() {
    let handling = Handling::new([Step::FailForGood], Step::Succeed);
    let kit = Kit::start("concurrency = 1", handling.clone()).await;
    kit.broker
        .answer_publishes([Confirm::AckAfter(MILLISECOND * 5_000)]);
    kit.publish_many(5);
    handling.has_run(5).await;
    let runs = handling.runs();
    assert!(runs[4].at - runs[0].at < MILLISECOND * 100, "{runs:?}");
    kit.finished().await;
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_message_that_snoozes_again_and_again_lets_others_start() {
    let snooze = Handling::new([], Step::Snooze(MILLISECOND));
    let take = Handling::new([], Step::Take(MILLISECOND * 10));
    let typed = [("snooze", snooze.clone()), ("take", take.clone())];
    let kit = Kit::start_typed("concurrency = 1", typed).await;
    let letter = |id: String| Letter::default().id(&id);
    kit.send(letter("again".to_owned()).message_type("snooze"), b"");
    for n in 0..20 {
        kit.send(letter(n.to_string()).message_type("take"), b"");
    }
    take.has_run(20).await;
    let snoozed = snooze.runs().len();
    assert!((15..=22).contains(&snoozed), "they take turns: {snoozed}");
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_retry_need_not_wait_until_all_others_have_started() {
    let settings = "concurrency = 1\nretry = { base = '25ms', jitter = 0 }";
    let handling = Handling::new([Step::Fail], Step::Take(MILLISECOND * 10));
    let kit = Kit::start(settings, handling.clone()).await;
    kit.publish_many(40);
    kit.finished().await;
    let retry = handling.attempts().iter().position(|it| *it == 2).unwrap();
    assert!(retry <= 5, "it was run number {retry}");
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn first_attempts_start_in_the_order_of_their_arrival() {
    let handling = Handling::new([], Step::Take(MILLISECOND));
    let kit = Kit::start("prefetch = 5\nconcurrency = 1", handling.clone()).await;
    let published = kit.publish_many(20);
    kit.finished().await;
    let runs: Vec<_> = handling.runs().into_iter().map(|run| run.id).collect();
    assert_eq!(runs, published);
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn more_handlers_run_soon_after_the_concurrency_was_raised() {
    let handling = Handling::new([], Step::WaitForGate);
    let kit = Kit::start("concurrency = 1", handling.clone()).await;
    kit.publish_many(5);
    handling.has_run(1).await;
    kit.worker.handle().set_concurrency("orders", 4).unwrap();
    sleep(MILLISECOND * 260).await;
    assert_eq!((handling.running(), handling.runs().len()), (4, 4));
    handling.open();
    kit.finished().await;
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn fewer_handlers_run_as_they_end_after_the_concurrency_was_lowered() {
    let times = [100, 200, 300, 1_000, 1_000].map(|millis| Step::Take(MILLISECOND * millis));
    let handling = Handling::new(times, Step::Succeed);
    let kit = Kit::start("concurrency = 3", handling.clone()).await;
    kit.publish_many(5);
    handling.has_run(3).await;
    kit.worker.handle().set_concurrency("orders", 1).unwrap();
    sleep(MILLISECOND * 10).await;
    assert_eq!(handling.running(), 3, "none is interrupted");
    sleep(MILLISECOND * 240).await;
    assert_eq!((handling.running(), handling.runs().len()), (1, 3));
    sleep(MILLISECOND * 100).await;
    assert_eq!((handling.running(), handling.runs().len()), (1, 4));
    kit.finished().await;
    assert_eq!(kit.report().await.counts.interrupted, 0);
    assert_eq!(kit.drain().await.unwrap().ledger().acked, 5);
}

#[tokio::test(start_paused = true)]
async fn a_concurrency_that_cannot_be_is_refused() {
    let kit = Kit::start(
        "prefetch = 8\nconcurrency = 1",
        Handling::new([], Step::Hang),
    )
    .await;
    let handle = kit.worker.handle().clone();
    for concurrency in [0, 9] {
        let refused = handle.set_concurrency("orders", concurrency);
        assert_eq!(refused, Err(ConcurrencyError::OutOfRange { prefetch: 8 }));
    }
    let refused = handle.set_concurrency("mails", 1);
    assert_eq!(refused, Err(ConcurrencyError::NoSuchConsumer));
    assert_eq!(handle.set_concurrency("orders", 8), Ok(()));
    kit.publish_many(9);
    kit.handling.has_run(8).await;
    assert_eq!(kit.handling.running(), 8);
    kit.cancel_in(Phase::Handling).await.unwrap();
    let broker = kit.broker.clone();
    kit.worker.handle().stop_now();
    kit.drain().await.unwrap();
    assert_eq!(broker.ready("orders").len(), 9);
}
