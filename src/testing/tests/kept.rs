//! A message whose retry or dead letter the broker does not take waits, and does not run again. Possible
//! duplicates are counted.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::kit::{Handling, Kit, Step};
use crate::{
    ConsumerState, Ledger, Phase,
    broker::fake::{Confirm, Fault, Letter},
    testing::TestBroker,
};

const SECOND: Duration = Duration::from_secs(1);
const BUDGET: &str = "[publish]\nbudget = '2s'";
const PARKS: &str = "retry = { base = '8s', jitter = 0 }";

/// A worker that declares nothing, on queues that exist. `settings` are lines of the consumer.
async fn verifying(settings: &str, handling: &Handling) -> (Kit, TestBroker) {
    let broker = TestBroker::new();
    let prepared = Kit::start_on(&broker, settings, Handling::new([], Step::Succeed));
    sleep(SECOND).await;
    prepared.drain().await.unwrap();
    let settings = format!("topology = 'verify'\n{settings}\n{BUDGET}");
    let mut kit = Kit::start_on(&broker, &settings, handling.clone());
    kit.until_state(ConsumerState::Consuming).await;
    (kit, broker)
}

fn reason(kit: &Kit) -> String {
    let readiness = kit.worker.handle().readiness();
    readiness.consumers["orders"]
        .reason
        .clone()
        .unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_copy_is_refused_waits_and_its_handler_does_not_run_again() {
    let handling = Handling::new([Step::FailForGood], Step::Succeed);
    let kit = Kit::start(BUDGET, handling.clone()).await;
    kit.broker.answer_publishes([Confirm::Nack; 1_000]);
    kit.publish();
    sleep(SECOND).await;
    assert_eq!(reason(&kit), "", "within the budget");
    sleep(60 * SECOND).await;
    let readiness = kit.worker.handle().readiness();
    assert!(readiness.ready && readiness.degraded, "{readiness:?}");
    let why = "1 retry or dead letter waits until the broker takes it: orders.dead: refused";
    assert!(reason(&kit).starts_with(why), "{}", reason(&kit));
    kit.publish();
    handling.has_run(2).await;
    sleep(60 * SECOND).await;
    assert_eq!((kit.broker.unacked(), handling.runs().len()), (1, 2));
    let tries = kit.report().await.counts.publish_failures;
    assert!(tries < 100, "{tries} attempts in two minutes");
    kit.broker.forget_answers();
    kit.finished().await;
    sleep(SECOND).await;
    assert_eq!((reason(&kit).as_str(), handling.runs().len()), ("", 2));
    let expected = Ledger {
        received: 2,
        acked: 1,
        dead_lettered: 1,
        ..Ledger::default()
    };
    assert_eq!(kit.drain().await.unwrap().ledger(), expected);
}

#[tokio::test(start_paused = true)]
async fn good_messages_flow_past_those_that_wait_for_a_missing_dead_letter_queue() {
    let bad = std::iter::repeat_n(Step::FailForGood, 100);
    let handling = Handling::new(bad, Step::Succeed);
    // So many failures in a row would count as those of the service.
    let (kit, broker) = verifying("breaker = { storms = false }", &handling).await;
    broker.delete_queue("orders.dead");
    kit.publish_many(100);
    handling.has_run(100).await;
    kit.publish_many(200);
    handling.has_run(300).await;
    sleep(60 * SECOND).await;
    assert_eq!((handling.done().len(), kit.broker.unacked()), (200, 100));
    assert_eq!(handling.runs().len(), 300, "each ran once");
    assert!(kit.broker.most_unacked() <= 128);
    broker.inner().declare("orders.dead");
    kit.until_in("orders.dead", 100).await;
    let ledger = kit.drain().await.unwrap().ledger();
    assert_eq!((ledger.acked, ledger.dead_lettered), (200, 100));
    assert_eq!((ledger.returned, ledger.stale), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_lane_whose_window_is_full_of_decisions_is_held_until_the_broker_takes_them() {
    let bad = std::iter::repeat_n(Step::FailForGood, 8);
    let handling = Handling::new(bad, Step::Succeed);
    let four = "prefetch = 4\nconcurrency = 2";
    let (mut kit, broker) = verifying(four, &handling).await;
    broker.delete_queue("orders.dead");
    kit.publish_many(20);
    kit.until_state(ConsumerState::Held).await;
    let readiness = kit.worker.handle().readiness();
    assert!(!readiness.ready, "{readiness:?}");
    assert!(
        reason(&kit).contains("8 retries or dead letters wait"),
        "{}",
        reason(&kit)
    );
    assert!(reason(&kit).contains("NO_ROUTE (312)"), "{}", reason(&kit));
    sleep(60 * SECOND).await;
    assert_eq!((kit.broker.unacked(), handling.runs().len()), (8, 8));
    broker.inner().declare("orders.dead");
    kit.until_state(ConsumerState::Consuming).await;
    kit.finished().await;
    assert_eq!((handling.runs().len(), kit.broker.most_unacked()), (20, 8));
    let ledger = kit.drain().await.unwrap().ledger();
    assert_eq!((ledger.acked, ledger.dead_lettered), (12, 8));
    assert_eq!((ledger.returned, ledger.stale), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn after_decisions_have_waited_the_prefetch_is_as_before() {
    let bad = std::iter::repeat_n(Step::FailForGood, 3);
    let handling = Handling::new(bad, Step::WaitForGate);
    let four = "prefetch = 4\nconcurrency = 4\ntimeout = '1h'";
    let (kit, broker) = verifying(four, &handling).await;
    broker.delete_queue("orders.dead");
    kit.publish_many(20);
    handling.has_run(7).await;
    sleep(10 * SECOND).await;
    assert_eq!(kit.broker.unacked(), 8, "three wait, one and four run");
    broker.inner().declare("orders.dead");
    handling.open();
    kit.finished().await;
    sleep(10 * SECOND).await;
    kit.publish_many(20);
    kit.finished().await;
    assert_eq!(kit.broker.most_unacked(), 8);
    assert_eq!(kit.drain().await.unwrap().ledger().acked, 37);
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_cannot_be_parked_waits_with_its_attempt_charged() {
    let handling = Handling::new([Step::Fail], Step::Succeed);
    let kit = Kit::start(&format!("{PARKS}\n{BUDGET}"), handling.clone()).await;
    kit.worker.broker().block(true);
    kit.publish();
    sleep(60 * SECOND).await;
    assert_eq!(handling.runs().len(), 1);
    kit.worker.broker().block(false);
    kit.finished().await;
    assert_eq!(handling.attempts(), [1, 2]);
    let expected = Ledger {
        received: 2,
        parked: 1,
        acked: 1,
        ..Ledger::default()
    };
    assert_eq!(kit.drain().await.unwrap().ledger(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_the_broker_refuses_for_its_reply_to_goes_without() {
    let handling = Handling::new([Step::Fail], Step::FailForGood);
    let kit = Kit::start(PARKS, handling.clone()).await;
    let reply_to = "amq.rabbitmq.reply-to";
    kit.send(Letter::default().id("a").reply_to(reply_to), b"");
    kit.until_in("orders.dead", 1).await;
    assert_eq!(handling.attempts(), [1, 2]);
    assert_eq!(
        kit.dead().properties.reply_to(),
        Some(reply_to),
        "set aside"
    );
    assert_eq!(
        kit.report().await.counts.publish_failures,
        1,
        "the second copy had none"
    );
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_every_copy_is_refused_is_rejected_where_the_queue_dead_letters_safely() {
    for topology in ["declare", "verify"] {
        let handling = Handling::new([], Step::FailForGood);
        let (kit, _broker) = match topology {
            "declare" => (Kit::start("", handling.clone()).await, TestBroker::new()),
            _ => verifying("", &handling).await,
        };
        kit.send(Letter::default().id("large"), &[b'x'; 100]);
        kit.broker.set_max_message_size(Some(10));
        kit.until_in("orders.dead", 1).await;
        assert_eq!(handling.runs().len(), 1, "{topology}");
        assert_eq!(kit.dead().body.len(), 100);
        let ledger = kit.drain().await.unwrap().ledger();
        assert_eq!(
            (ledger.dead_lettered, ledger.returned),
            (1, 0),
            "{topology}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_every_copy_is_refused_waits_where_a_reject_might_lose_it() {
    let missing = async || {
        let handling = Handling::new([], Step::FailForGood);
        let (kit, broker) = verifying("", &handling).await;
        broker.delete_queue("orders.dead");
        kit
    };
    let attached = async || {
        let broker = TestBroker::new();
        broker.inner().declare("orders");
        let attach = format!("topology = 'attach'\n{BUDGET}");
        let mut kit = Kit::start_on(&broker, &attach, Handling::new([], Step::FailForGood));
        kit.until_state(ConsumerState::Consuming).await;
        kit
    };
    for kit in [missing().await, attached().await] {
        kit.send(Letter::default().id("large"), &[b'x'; 100]);
        kit.broker.set_max_message_size(Some(10));
        sleep(300 * SECOND).await;
        assert_eq!((kit.broker.unacked(), kit.handling.runs().len()), (1, 1));
        assert!(
            reason(&kit).contains("message size 100 is larger"),
            "{}",
            reason(&kit)
        );
        let failures = kit.report().await.counts.publish_failures;
        assert!(failures < 10, "{failures}");
        kit.drain().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_paused_lane_keeps_its_decisions() {
    let handling = Handling::new([Step::FailForGood], Step::Succeed);
    let mut kit = Kit::start(BUDGET, handling.clone()).await;
    kit.worker.broker().block(true);
    kit.publish();
    handling.has_run(1).await;
    sleep(10 * SECOND).await;
    let handle = kit.worker.handle().clone();
    handle.pause("orders").await.unwrap();
    let page = handle.in_flight(None, 0, 1).await.unwrap();
    assert_eq!(page.messages[0].phase, Phase::Settling);
    assert_eq!(kit.broker.unacked(), 1);
    kit.worker.broker().block(false);
    kit.until_in("orders.dead", 1).await;
    handle.resume("orders").await.unwrap();
    kit.until_state(ConsumerState::Consuming).await;
    assert_eq!(handling.runs().len(), 1);
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_drains_gives_back_what_it_cannot_publish() {
    for blocks in [true, false] {
        let handling = Handling::new([Step::FailForGood], Step::Succeed);
        let kit = Kit::start(BUDGET, handling.clone()).await;
        match blocks {
            true => kit.worker.broker().block(true),
            false => kit.broker.answer_publishes([Confirm::Return; 1_000]),
        }
        kit.publish();
        sleep(10 * SECOND).await;
        let broker = kit.broker.clone();
        let began = Instant::now();
        let report = kit.drain().await.unwrap();
        assert!(began.elapsed() < 2 * SECOND, "{:?}", began.elapsed());
        assert_eq!((report.ledger().returned, report.left()), (1, 0));
        assert_eq!(broker.ready("orders").len(), 1);
    }
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
