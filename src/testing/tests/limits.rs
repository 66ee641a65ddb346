//! The limits of unsettled messages and of running handlers.

use std::time::Duration;

use tokio::time::sleep;

use super::kit::{Handling, Kit, Step};
use crate::{ConcurrencyError, ConsumerState, broker::fake::Fault};

const FOUR: &str = "
    prefetch = 4
    concurrency = 2
    timeout = '1h'
";

async fn busy() -> Kit {
    let kit = Kit::start(FOUR, Handling::new([], Step::WaitForGate)).await;
    for _ in 0..20 {
        kit.publish();
    }
    kit.handling.has_run(2).await;
    kit
}

#[tokio::test(start_paused = true)]
async fn no_more_messages_are_unsettled_than_the_prefetch_allows() {
    let kit = busy().await;
    assert_eq!(kit.broker.unacked(), 4);
    kit.handling.open();
    kit.finished().await;
    assert_eq!(kit.broker.most_unacked(), 4);
    assert_eq!(kit.handling.most_running(), 2);
    assert_eq!(kit.drain().await.unwrap().ledger().acked, 20);
}

#[tokio::test(start_paused = true)]
async fn a_new_session_leaves_no_old_one_behind_that_holds_messages() {
    let mut kit = busy().await;
    for fault in [Fault::ChannelLost, Fault::ConnectionLost] {
        kit.broker.fail(fault);
        kit.until(ConsumerState::Connecting, None).await;
        kit.broker.reconnect();
        kit.until_state(ConsumerState::Consuming).await;
        kit.until_broker(|it| it.unacked() == 4).await;
    }
    kit.handling.open();
    kit.finished().await;
    assert_eq!(kit.broker.most_unacked(), 4);
    assert_eq!(kit.handling.most_running(), 2);
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn handlers_of_a_session_that_died_hold_their_slots() {
    let mut kit = busy().await;
    kit.broker.fail(Fault::ChannelLost);
    kit.until(ConsumerState::Connecting, None).await;
    kit.until_state(ConsumerState::Consuming).await;
    kit.until_broker(|it| it.unacked() == 4).await;
    sleep(Duration::from_secs(10)).await;
    assert_eq!(kit.handling.runs().len(), 2);
    let account = kit.account();
    assert_eq!((account.running, account.buffered), (2, 2));
    kit.handling.open();
    kit.finished().await;
    assert_eq!(kit.handling.most_running(), 2);
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn more_slots_start_what_waits_and_fewer_cancel_nothing() {
    let kit = busy().await;
    let handle = kit.worker.handle();
    assert_eq!(handle.set_concurrency("orders", 4), Ok(()));
    kit.handling.has_run(4).await;
    assert_eq!(handle.set_concurrency("orders", 1), Ok(()));
    assert_eq!(kit.account().running, 4);
    let outside = ConcurrencyError::OutOfRange { prefetch: 4 };
    assert_eq!(handle.set_concurrency("orders", 5), Err(outside));
    kit.handling.open();
    kit.finished().await;
    assert_eq!(kit.handling.most_running(), 4);
    assert_eq!(kit.handling.runs().len(), 20);
    assert_eq!(kit.drain().await.unwrap().ledger().acked, 20);
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_waits_holds_no_slot_and_at_most_half_of_the_prefetch_waits() {
    let settings = "
        prefetch = 4
        concurrency = 1
        retry = { base = '20s', jitter = 0.0, inline_below = '1m' }
    ";
    let fails = std::iter::repeat_n(Step::Fail, 3);
    let kit = Kit::start(settings, Handling::new(fails, Step::Succeed)).await;
    for _ in 0..6 {
        kit.publish();
    }
    kit.handling.has_run(6).await;
    kit.until_broker(|it| it.ready("orders.retry.32s").len() == 1)
        .await;
    assert_eq!(kit.account().waiting, 2);
    kit.finished().await;
    assert_eq!(kit.handling.runs().len(), 9);
    let ledger = kit.drain().await.unwrap().ledger();
    assert_eq!((ledger.acked, ledger.parked), (6, 1));
}
