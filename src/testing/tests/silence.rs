//! A consumer that gets no messages although its queue has some.

use std::time::Duration;

use tokio::time::sleep;

use super::kit::{Handling, Kit, Step};
use crate::{ConsumerState, broker::fake::Fault, testing::TestBroker};

const HOUR: Duration = Duration::from_secs(3600);
const SILENT: Option<&str> = Some("no message has come for 15s although the queue has 3");
const SETTINGS: &str = "idle_check = '10s'";
const SINGLE: &str = "arguments = { x-single-active-consumer = true }";

async fn sessions(kit: &Kit) -> u64 {
    kit.report().await.counts.sessions
}

#[tokio::test(start_paused = true)]
async fn a_consumer_whose_channel_stands_still_takes_a_new_one() {
    let settings = format!("{SETTINGS}\nprefetch = 2\nconcurrency = 2");
    let mut kit = Kit::start(&settings, Handling::new([], Step::Succeed)).await;
    kit.publish();
    kit.finished().await;
    kit.broker.fail(Fault::ChannelsStandStill);
    // The channel's process keeps two of them.
    kit.publish_many(5);
    kit.until(ConsumerState::Connecting, SILENT).await;
    assert_eq!(kit.handling.runs().len(), 1);
    kit.finished().await;
    assert_eq!(kit.handling.runs().len(), 6);
    kit.until_state(ConsumerState::Consuming).await;
    let health = kit.worker.handle().readiness();
    assert_eq!(
        health.consumers["orders"].reason, None,
        "a message has come"
    );
    assert_eq!(sessions(&kit).await, 2);
    assert_eq!(kit.drain().await.unwrap().ledger().acked, 6);
}

#[tokio::test(start_paused = true)]
async fn a_consumer_whose_queue_is_empty_keeps_its_channel() {
    let kit = Kit::start(SETTINGS, Handling::new([], Step::Succeed)).await;
    sleep(HOUR).await;
    kit.publish_many(3);
    kit.finished().await;
    assert_eq!(sessions(&kit).await, 1);
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_consumer_with_a_full_prefetch_keeps_its_channel() {
    let settings = format!("{SETTINGS}\ntimeout = '12h'\nprefetch = 2\nconcurrency = 1");
    let kit = Kit::start(&settings, Handling::new([], Step::WaitForGate)).await;
    kit.publish_many(3);
    sleep(HOUR).await;
    assert_eq!(sessions(&kit).await, 1);
    kit.handling.open();
    kit.finished().await;
    kit.drain().await.unwrap();
}

/// A worker that waits behind the single active consumer, which takes one message and keeps it. Three more
/// messages are ready.
async fn standby(settings: &str) -> (Kit, Kit) {
    let one = |more: &str| format!("timeout = '12h'\nprefetch = 1\nconcurrency = 1\n{more}");
    let broker = TestBroker::new();
    let active = one(&format!("{SETTINGS}\n{SINGLE}"));
    let mut active = Kit::start_on(&broker, &active, Handling::new([], Step::WaitForGate));
    active.until_state(ConsumerState::Consuming).await;
    let other = TestBroker::of(broker.inner().another_worker());
    let mut standby = Kit::start_on(&other, &one(settings), Handling::new([], Step::Succeed));
    standby.until_state(ConsumerState::Consuming).await;
    active.publish_many(4);
    active.handling.has_run(1).await;
    (active, standby)
}

async fn end(active: Kit, standby: Kit) {
    standby.worker.drain().await.unwrap();
    active.handling.open();
    active.finished().await;
    active.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_waits_behind_the_single_active_one_keeps_its_channel() {
    let known = format!("{SETTINGS}\n{SINGLE}");
    let (active, standby) = standby(&known).await;
    sleep(HOUR).await;
    assert_eq!(sessions(&standby).await, 1);
    end(active, standby).await;
}

#[tokio::test(start_paused = true)]
async fn a_consumer_that_may_wait_behind_another_one_takes_new_channels_ever_more_seldom() {
    let unknown = format!("{SETTINGS}\ntopology = 'attach'");
    let (active, mut standby) = standby(&unknown).await;
    standby.until(ConsumerState::Connecting, SILENT).await;
    standby.until(ConsumerState::Consuming, SILENT).await;
    let readiness = standby.worker.handle().readiness();
    assert!(readiness.ready && readiness.degraded, "{readiness:?}");
    sleep(HOUR).await;
    let taken = sessions(&standby).await;
    assert!((3..=10).contains(&taken), "{taken} sessions in an hour");
    end(active, standby).await;
}
