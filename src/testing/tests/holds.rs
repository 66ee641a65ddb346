//! A lane that cannot publish is held for a while, and counts possible duplicates.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::kit::{Handling, Kit, Step};
use crate::{
    ConsumerState, Ledger, Phase,
    broker::fake::{Confirm, Fault},
};

const SECOND: Duration = Duration::from_secs(1);
const BUDGET: &str = "[publish]\nbudget = '2s'\nhold = '5s'";

/// The number of failed publishes that uses up a budget of 2 s.
fn refuse(kit: &Kit) {
    kit.broker.answer_publishes([Confirm::Nack; 1_000]);
}

async fn held(settings: &str, handling: &Handling) -> Kit {
    let mut kit = Kit::start(&format!("{settings}\n{BUDGET}"), handling.clone()).await;
    kit.worker.broker().block(true);
    kit.publish();
    kit.until_state(ConsumerState::Held).await;
    kit
}

#[tokio::test(start_paused = true)]
async fn a_lane_is_held_after_the_budget_and_the_message_goes_back_after_the_hold() {
    let handling = Handling::new([], Step::FailForGood);
    let mut kit = Kit::start(BUDGET, handling.clone()).await;
    refuse(&kit);
    let began = Instant::now();
    kit.publish();
    kit.until_state(ConsumerState::Held).await;
    let budget = began.elapsed();
    // The lane gives up before the end of the budget: its next attempt would be too late.
    assert!(budget <= 2 * SECOND, "{budget:?}");
    assert!(budget > SECOND / 2, "{budget:?}");
    let readiness = kit.worker.handle().readiness();
    assert!(!readiness.ready);
    let reason = readiness.consumers["orders"].reason.clone().unwrap();
    assert!(reason.contains("not confirmed by the broker"), "{reason}");
    let held_at = Instant::now();
    assert_eq!((kit.broker.unacked(), handling.runs().len()), (1, 1));
    handling.has_run(2).await;
    let held = held_at.elapsed();
    assert!(5 * SECOND <= held && held < 6 * SECOND, "{held:?}");
    assert_eq!(handling.attempts(), [1, 1], "no attempt is charged");
    kit.until_state(ConsumerState::Held).await;
    kit.broker.forget_answers();
    kit.finished().await;
    assert_eq!(handling.attempts(), [1, 1, 1]);
    let expected = Ledger {
        received: 3,
        returned: 2,
        dead_lettered: 1,
        ..Ledger::default()
    };
    assert_eq!(kit.drain().await.unwrap().ledger(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_cannot_be_parked_goes_back_without_a_charge() {
    let handling = Handling::new([Step::Fail, Step::Fail], Step::Succeed);
    let settings = "retry = { base = '2s', jitter = 0 }";
    let kit = held(settings, &handling).await;
    kit.worker.broker().block(false);
    kit.finished().await;
    assert_eq!(handling.attempts(), [1, 1, 2]);
    let expected = Ledger {
        received: 3,
        returned: 1,
        parked: 1,
        acked: 1,
        ..Ledger::default()
    };
    assert_eq!(kit.drain().await.unwrap().ledger(), expected);
}

#[tokio::test(start_paused = true)]
async fn nothing_new_starts_during_a_hold() {
    let handling = Handling::new([Step::FailForGood], Step::Succeed);
    let kit = held("", &handling).await;
    let held_at = Instant::now();
    kit.publish_many(3);
    kit.worker.broker().block(false);
    sleep(4 * SECOND).await;
    assert_eq!(handling.runs().len(), 1);
    kit.finished().await;
    let runs = handling.runs();
    assert_eq!(runs.len(), 5);
    let starts = runs[1..].iter().map(|run| run.at - held_at);
    assert!(starts.clone().all(|start| start >= 5 * SECOND));
    assert!(starts.clone().all(|start| start < 6 * SECOND));
    assert_eq!(kit.drain().await.unwrap().ledger().acked, 4);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_runs_when_the_hold_begins_finishes_and_is_acked() {
    let steps = [Step::FailForGood, Step::Take(4 * SECOND)];
    let handling = Handling::new(steps, Step::Succeed);
    let mut kit = Kit::start(BUDGET, handling.clone()).await;
    kit.worker.broker().block(true);
    let began = Instant::now();
    kit.publish_many(2);
    kit.until_state(ConsumerState::Held).await;
    assert_eq!(handling.running(), 1);
    // The hold began within the budget of 2 s and lasts 5 s: at 4.5 s it is on.
    sleep_until(began + 9 * SECOND / 2).await;
    assert_eq!(kit.report().await.ledger.acked, 1);
    assert_eq!(kit.broker.unacked(), 1);
    kit.worker.broker().block(false);
    kit.finished().await;
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_message_that_waits_in_the_worker_runs_again_during_a_hold() {
    let steps = [Step::FailForGood, Step::Fail];
    let handling = Handling::new(steps, Step::Succeed);
    let settings = format!("retry = {{ base = '4s', jitter = 0, inline_below = '5s' }}\n{BUDGET}");
    let mut kit = Kit::start(&settings, handling.clone()).await;
    kit.worker.broker().block(true);
    let ids = kit.publish_many(2);
    kit.until_state(ConsumerState::Held).await;
    handling.has_run(3).await;
    assert_eq!(handling.runs()[2].id, ids[1]);
    kit.until_state(ConsumerState::Held).await;
    kit.worker.broker().block(false);
    kit.finished().await;
    assert_eq!(kit.drain().await.unwrap().ledger().acked, 2);
}

#[tokio::test(start_paused = true)]
async fn a_pause_ends_a_hold_and_the_message_goes_back_at_once() {
    let handling = Handling::new([Step::FailForGood], Step::Succeed);
    let mut kit = held("", &handling).await;
    let handle = kit.worker.handle().clone();
    handle.pause("orders").await.unwrap();
    assert_eq!(kit.ids("orders").len(), 1);
    kit.worker.broker().block(false);
    handle.resume("orders").await.unwrap();
    kit.until_state(ConsumerState::Consuming).await;
    kit.finished().await;
    let ledger = kit.drain().await.unwrap().ledger();
    assert_eq!((ledger.returned, ledger.acked), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_drains_during_a_hold_gives_the_message_back() {
    let handling = Handling::new([Step::FailForGood], Step::Succeed);
    let kit = held("", &handling).await;
    let broker = kit.broker.clone();
    let began = Instant::now();
    let report = kit.drain().await.unwrap();
    assert!(began.elapsed() < SECOND, "{:?}", began.elapsed());
    assert_eq!((report.ledger().returned, report.left()), (1, 0));
    assert_eq!(broker.ready("orders").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_parked_message_whose_ack_cannot_be_written_is_a_duplicate() {
    let handling = Handling::new([Step::Fail], Step::Succeed);
    let kit = Kit::start("retry = { base = '32s', jitter = 0 }", handling.clone()).await;
    kit.broker.stall(true);
    kit.publish();
    kit.until_in("orders.retry.32s", 1).await;
    handling.has_run(2).await;
    assert_eq!(handling.attempts(), [1, 1], "the broker delivers it again");
    kit.broker.stall(false);
    kit.finished().await;
    assert_eq!(handling.runs().len(), 3);
    let expected = Ledger {
        received: 3,
        stale: 1,
        duplicates: 1,
        acked: 2,
        ..Ledger::default()
    };
    assert_eq!(kit.drain().await.unwrap().ledger(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_whose_channel_is_lost_before_the_confirm_is_a_duplicate() {
    let handling = Handling::new([], Step::FailForGood);
    let kit = Kit::start("", handling.clone()).await;
    kit.broker.answer_publishes([Confirm::AckAfter(5 * SECOND)]);
    kit.publish();
    kit.until_in("orders.dead", 1).await;
    kit.broker.fail(Fault::ChannelLost);
    kit.until_in("orders.dead", 2).await;
    sleep(10 * SECOND).await;
    kit.finished().await;
    let expected = Ledger {
        received: 2,
        stale: 1,
        duplicates: 1,
        dead_lettered: 1,
        ..Ledger::default()
    };
    assert_eq!(kit.drain().await.unwrap().ledger(), expected);
}

#[tokio::test(start_paused = true)]
async fn no_copy_is_made_of_a_message_that_the_broker_has_back() {
    let handling = Handling::new([Step::FailForGood, Step::FailForGood], Step::Succeed);
    let kit = Kit::start("", handling.clone()).await;
    kit.broker.answer_publishes([Confirm::NeverWritten; 5]);
    kit.publish();
    handling.has_run(1).await;
    kit.broker.fail(Fault::ChannelLost);
    kit.finished().await;
    assert_eq!(kit.broker.ready("orders.dead").len(), 1);
    let ledger = kit.drain().await.unwrap().ledger();
    assert_eq!((ledger.stale, ledger.dead_lettered), (1, 1));
    assert_eq!(ledger.duplicates, 0);
}

#[tokio::test(start_paused = true)]
async fn a_message_is_settling_until_the_hold_begins_and_then_not_in_flight() {
    let handling = Handling::new([Step::FailForGood], Step::Succeed);
    let mut kit = Kit::start(BUDGET, handling.clone()).await;
    kit.worker.broker().block(true);
    kit.publish();
    handling.has_run(1).await;
    sleep(SECOND / 2).await;
    let handle = kit.worker.handle().clone();
    let page = handle.in_flight(None, 0, 1).await.unwrap();
    assert_eq!(page.messages[0].phase, Phase::Settling);
    kit.until_state(ConsumerState::Held).await;
    let page = handle.in_flight(None, 0, 1).await.unwrap();
    assert_eq!(page.total, 0, "its path has ended");
    kit.worker.broker().block(false);
    kit.finished().await;
    kit.drain().await.unwrap();
}
