//! The facts about RabbitMQ that the design relies on, checked on the running release.
//!
//! If one of these tests fails on a new release, code in `src/` relies on a fact that has changed.

#![expect(
    clippy::disallowed_methods,
    reason = "the tests settle by hand to see what the broker makes of it"
)]

use lapin::{
    Channel, Connection, ConnectionProperties,
    message::BasicGetMessage,
    options::{BasicGetOptions, BasicNackOptions, BasicRejectOptions},
    types::AMQPValue,
};

use crate::support::{
    DEADLINE, HttpHandler, Proxy, PublishSpec, QueueType, Release, Reply, VHost, WorkerProcess,
    consumer, message::plain, vhost, wait_until, within,
};

/// More rejections than any default delivery limit.
const MANY: u32 = 40;

async fn quorum(queue: &str, args: &[(&str, AMQPValue)]) -> VHost {
    let vhost = vhost().await;
    vhost.declare_with(queue, QueueType::Quorum, args).await;
    vhost
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

/// The next message of a queue, which must have one.
async fn take(channel: &Channel, queue: &str) -> BasicGetMessage {
    let get = async || try_take(channel, queue).await;
    let taken = wait_until("the queue gives a message", DEADLINE, get, Option::is_some).await;
    taken.expect("it was waited for")
}

async fn try_take(channel: &Channel, queue: &str) -> Option<BasicGetMessage> {
    let get = channel.basic_get(queue.into(), BasicGetOptions::default());
    within("a get", get).await.expect("the queue exists")
}

/// The broker's delivery count; an absent header is 0.
fn count(message: &BasicGetMessage) -> i64 {
    let headers = message.delivery.properties.headers().as_ref();
    let count = headers.and_then(|table| table.inner().get("x-delivery-count"));
    count.map_or(0, |count| plain(count).as_i64().expect("it is a number"))
}

async fn nack(message: &BasicGetMessage) {
    let requeue = BasicNackOptions {
        requeue: true,
        ..BasicNackOptions::default()
    };
    let nack = within("a nack", message.delivery.nack(requeue)).await;
    assert!(nack.expect("the channel is open"));
}

async fn reject(message: &BasicGetMessage, requeue: bool) {
    let options = BasicRejectOptions { requeue };
    let reject = within("a reject", message.delivery.reject(options)).await;
    assert!(reject.expect("the channel is open"));
}

#[tokio::test]
async fn a_nack_with_requeue_counts_as_a_delivery_until_4_3() {
    let vhost = quorum("q", &[]).await;
    vhost.publish("q", "x").await;
    let channel = vhost.channel().await;

    nack(&take(&channel, "q").await).await;
    let again = take(&channel, "q").await;

    let counted = vhost.broker().release() < Release::V4_3;
    assert_eq!(count(&again), i64::from(counted));
    assert!(again.delivery.redelivered);
}

#[tokio::test]
async fn a_reject_with_requeue_counts_as_a_delivery() {
    let vhost = quorum("q", &[]).await;
    vhost.publish("q", "x").await;
    let channel = vhost.channel().await;

    reject(&take(&channel, "q").await, true).await;

    assert_eq!(count(&take(&channel, "q").await), 1);
}

#[tokio::test]
async fn a_connection_that_is_lost_counts_for_all_that_was_unsettled_on_it() {
    let vhost = quorum("q", &[]).await;
    vhost.publish("q", "x").await;
    vhost.publish("q", "y").await;
    let proxy = Proxy::to(&vhost).await;
    let url = proxy.url(&vhost);
    let connecting = Connection::connect(&url, ConnectionProperties::default());
    let lost = within("connecting", connecting).await.expect("it connects");
    let channel = lost.create_channel().await.expect("a channel");
    take(&channel, "q").await;
    take(&channel, "q").await;

    proxy.cut().await;

    let channel = vhost.channel().await;
    assert_eq!(count(&take(&channel, "q").await), 1);
    assert_eq!(count(&take(&channel, "q").await), 1);
}

#[tokio::test]
async fn the_default_delivery_limit_is_20_from_4_0_on() {
    let vhost = quorum("q", &[]).await;
    vhost.publish("q", "x").await;
    let channel = vhost.channel().await;

    let mut rejected = 0;
    while rejected < MANY && vhost.counts("q").await.total() > 0 {
        reject(&take(&channel, "q").await, true).await;
        rejected += 1;
        let settled = async || vhost.counts("q").await.unacked;
        wait_until("the reject is applied", DEADLINE, settled, |n| *n == 0).await;
    }

    let expected = match vhost.broker().release() {
        Release::V3_10 => MANY,
        _ => 21,
    };
    assert_eq!(rejected, expected);
}

#[tokio::test]
async fn dead_lettering_by_the_broker_does_not_start_the_delivery_count_afresh_from_4_0_on() {
    let vhost = quorum("dead", &[]).await;
    let net = [
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text("dead")),
    ];
    vhost.declare_with("q", QueueType::Quorum, &net).await;
    vhost.publish("q", "x").await;
    let channel = vhost.channel().await;
    for _ in 0..5 {
        reject(&take(&channel, "q").await, true).await;
    }

    reject(&take(&channel, "q").await, false).await;

    let carried = count(&take(&channel, "dead").await);
    let expected = match vhost.broker().release() {
        Release::V3_10 => 0,
        Release::V4_0 => 1,
        _ => 6,
    };
    assert_eq!(carried, expected);
}

#[tokio::test]
async fn a_delivery_count_that_a_client_sends_is_passed_on_from_4_0_on() {
    let vhost = quorum("q", &[]).await;
    let sent = PublishSpec::to("q").body("x").header("x-delivery-count", 7);
    vhost.publish_with(sent).await;
    let channel = vhost.channel().await;

    let first = take(&channel, "q").await;

    // For this reason the worker publishes copies without this header.
    let expected = match vhost.broker().release() {
        Release::V3_10 => 0,
        _ => 7,
    };
    assert_eq!(count(&first), expected);
}

/// A worker on `orders` whose handler fails `attempts` times, after which the worker dead-letters.
/// All retries wait in one retry queue.
async fn failing_worker(vhost: &VHost, attempts: u32) -> (HttpHandler, WorkerProcess) {
    let handler = HttpHandler::answering(|_| Reply::status(500)).await;
    let retry = format!(
        "[consumers.orders.retry]\nmax_attempts = {attempts}\nbase = '10ms'\nfactor = 1.0\n\
         cap = '1s'\njitter = 0.0\ninline_below = '0s'\n"
    );
    let config = consumer(&vhost, "orders")
        .http(&handler)
        .with(&retry)
        .toml();
    let worker = WorkerProcess::start(&config);
    worker.wait_for_consumers(vhost, "orders", 1).await;
    (handler, worker)
}

#[tokio::test]
async fn ten_rounds_through_one_rung_are_no_cycle_to_the_broker() {
    let vhost = vhost().await;
    let (handler, mut worker) = failing_worker(&vhost, 11).await;
    vhost.publish("orders", "x").await;

    vhost.wait_for_counts("orders.dead", 1, 0, DEADLINE).await;

    let ledger = worker.drain(DEADLINE).await;
    assert_eq!((ledger.parked, ledger.dead_lettered), (10, 1));
    let attempts: Vec<_> = handler.seen().exchanges;
    let attempts: Vec<_> = attempts.iter().map(|seen| seen.request.attempt()).collect();
    assert_eq!(attempts, (1..=11).collect::<Vec<_>>());
    let dead = vhost.drain_all("orders.dead").await;
    assert!(dead[0].header("x-death").is_null());
}

#[tokio::test]
async fn our_copies_start_with_a_delivery_count_of_none() {
    let vhost = vhost().await;
    let (_handler, mut first) = failing_worker(&vhost, 2).await;
    first.drain(DEADLINE).await;
    vhost.publish("orders", "x").await;
    let channel = vhost.channel().await;
    for _ in 0..3 {
        reject(&take(&channel, "orders").await, true).await;
    }
    vhost.wait_for_counts("orders", 1, 0, DEADLINE).await;

    let (handler, mut worker) = failing_worker(&vhost, 2).await;
    vhost.wait_for_counts("orders.dead", 1, 0, DEADLINE).await;
    worker.drain(DEADLINE).await;

    let seen = handler.seen();
    let counts: Vec<_> = seen
        .exchanges
        .iter()
        .map(|seen| {
            seen.request
                .header("lapwing-header-x-delivery-count")
                .to_owned()
        })
        .collect();
    assert_eq!(counts[0], "3", "what came from the queue had been rejected");
    assert!(
        ["", "0"].contains(&counts[1].as_str()),
        "the retry: {counts:?}"
    );
    assert_eq!(count(&take(&channel, "orders.dead").await), 0);
}

#[tokio::test]
async fn our_dead_letters_stay_however_often_somebody_looks_at_them() {
    let vhost = vhost().await;
    let (_handler, mut worker) = failing_worker(&vhost, 1).await;
    vhost.publish("orders", "x").await;
    vhost.wait_for_counts("orders.dead", 1, 0, DEADLINE).await;
    worker.drain(DEADLINE).await;
    let channel = vhost.channel().await;

    for _ in 0..MANY {
        reject(&take(&channel, "orders.dead").await, true).await;
    }

    assert_eq!(count(&take(&channel, "orders.dead").await), i64::from(MANY));
}
