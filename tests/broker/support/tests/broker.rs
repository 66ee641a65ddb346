//! Brokers, virtual hosts and queues.

use std::time::Instant;

use futures_util::StreamExt;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicGetOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Connection, ConnectionProperties, tcp::OwnedTLSConfig};
use serde_json::json;

use super::stranger;
use crate::support::{
    Account, Broker, Counts, DEADLINE, PublishSpec, QueueType, exchange::Seen, get, require, vhost,
    wait_until, within,
};

#[tokio::test]
async fn a_virtual_host_is_there_for_its_test_and_gone_after_it() {
    let broker = Broker::shared().await;
    let vhost = broker.vhost().await;
    let path = format!(
        "vhosts/{}",
        crate::support::management::encode(vhost.name())
    );
    vhost.declare("orders", QueueType::Classic).await;
    assert!(vhost.exists("orders").await);
    assert!(!vhost.exists("others").await);

    drop(vhost);

    let (status, _) = broker
        .management()
        .try_call(reqwest::Method::GET, &path, None)
        .await
        .expect("management answers");
    assert_eq!(status, 404);
}

#[tokio::test]
async fn a_message_comes_back_as_it_was_published() {
    let vhost = vhost().await;
    vhost.declare("orders", QueueType::Quorum).await;
    let spec = PublishSpec::to("orders")
        .id("order-1")
        .body("{}")
        .header("tries", 3)
        .header("who", "me")
        .header("urgent", true)
        .with(|properties| properties.with_content_type("application/json".into()));

    vhost.publish_with(spec).await;

    let got = vhost.drain_all("orders").await.pop().expect("it is there");
    assert_eq!(
        (got.id(), got.text(), got.redelivered),
        ("order-1", "{}", false)
    );
    assert_eq!(got.header("tries"), 3);
    assert_eq!(got.header("who"), "me");
    assert_eq!(got.header("urgent"), &json!(true));
    assert_eq!(got.header("missing"), &json!(null));
    let content_type = got
        .properties
        .content_type()
        .as_ref()
        .map(|kind| kind.to_string());
    assert_eq!(content_type.as_deref(), Some("application/json"));
}

#[tokio::test]
#[should_panic(expected = "it reached no queue")]
async fn a_publish_that_reaches_no_queue_fails_the_test() {
    let vhost = vhost().await;
    vhost.publish("nowhere", "lost").await;
}

#[tokio::test]
async fn twenty_thousand_messages_are_published_and_drained_in_order() {
    let vhost = vhost().await;
    for kind in QueueType::ALL {
        let queue = kind.name();
        vhost.declare(queue, kind).await;

        let started = Instant::now();
        let ids = vhost
            .publish_many(queue, 20_000, |i| PublishSpec::of(format!("{i}")))
            .await;
        let published = started.elapsed();
        assert_eq!(vhost.ready(queue).await, 20_000);
        let got = vhost.drain_all(queue).await;
        println!(
            "{queue}: published in {published:?}, drained by {:?}",
            started.elapsed()
        );

        assert!(
            got.iter()
                .map(|got| got.id())
                .eq(ids.iter().map(String::as_str))
        );
        assert_eq!(vhost.counts(queue).await, Counts::default());
    }
}

#[tokio::test]
#[expect(
    clippy::disallowed_methods,
    reason = "the test is a consumer of its own here"
)]
async fn counts_are_exact_at_once_on_both_queue_types() {
    let vhost = vhost().await;
    require!(Rabbitmqctl, vhost.broker().has_rabbitmqctl());
    for kind in QueueType::ALL {
        let queue = kind.name();
        vhost.declare(queue, kind).await;
        vhost
            .publish_many(queue, 10, |_| PublishSpec::of("x"))
            .await;
        assert_eq!(vhost.counts(queue).await, Counts::of(10, 0));

        let holder = stranger(&vhost.amqp_url()).await;
        let channel = holder.create_channel().await.expect("a channel");
        let get = || channel.basic_get(queue.into(), BasicGetOptions::default());
        let first = get()
            .await
            .expect("the queue exists")
            .expect("it has messages");
        get()
            .await
            .expect("the queue exists")
            .expect("it has messages");
        assert_eq!(vhost.counts(queue).await, Counts::of(8, 2));

        first
            .delivery
            .ack(BasicAckOptions::default())
            .await
            .expect("the channel is open");
        vhost.wait_for_counts(queue, 8, 1, DEADLINE).await;
        holder.close(200, "done".into()).await.expect("it is open");
        vhost.wait_for_counts(queue, 9, 0, DEADLINE).await;
    }
}

#[tokio::test]
async fn a_connection_of_the_worker_is_listed_and_can_be_closed() {
    let vhost = vhost().await;
    vhost.declare("orders", QueueType::Classic).await;
    let worker = stranger(&vhost.amqp_url()).await;
    let channel = worker.create_channel().await.expect("a channel");
    let none = FieldTable::default();
    let mut consumer = channel
        .basic_consume(
            "orders".into(),
            "tag".into(),
            BasicConsumeOptions::default(),
            none,
        )
        .await
        .expect("the queue exists");
    assert_eq!(vhost.consumers("orders").await, 1);

    let peers = wait_until(
        "the connection is listed",
        DEADLINE,
        async || vhost.connections().await,
        // It is listed first, and described a moment later.
        |peers| peers.len() == 1 && peers[0].state == "running",
    )
    .await;
    assert_eq!(peers[0].client_name, "stranger");
    assert_eq!(vhost.close_connections().await, 1);

    let seen = within("the consumer's error", consumer.next())
        .await
        .expect("an error first");
    assert!(
        seen.expect_err("the connection was closed")
            .to_string()
            .contains("FORCED")
    );
    vhost.wait_for_consumers("orders", 0, DEADLINE).await;
}

/// The arguments of a queue that hands its messages to `orders` after `ttl` milliseconds.
fn rung_args(ttl: i64) -> [(&'static str, AMQPValue); 5] {
    let text = |text: &str| AMQPValue::LongString(text.into());
    [
        ("x-message-ttl", AMQPValue::LongLongInt(ttl)),
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text("orders")),
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-overflow", text("reject-publish")),
    ]
}

#[tokio::test]
async fn messages_that_expired_with_nowhere_to_go_are_counted_aside() {
    let vhost = vhost().await;
    require!(Rabbitmqctl, vhost.broker().has_rabbitmqctl());
    let rung = rung_args(1);
    vhost.declare_with("rung", QueueType::Quorum, &rung).await;

    vhost
        .publish_many("rung", 5, |_| PublishSpec::of("x"))
        .await;

    let expired = Counts {
        aside: 5,
        ..Counts::default()
    };
    let count = async || vhost.counts("rung").await;
    wait_until("all are aside", DEADLINE, count, |seen| *seen == expired).await;
    assert_eq!(vhost.ready("rung").await, 0);
}

#[tokio::test]
async fn taking_stock_while_messages_move_misses_none() {
    let vhost = vhost().await;
    let rung = rung_args(200);
    vhost.declare("orders", QueueType::Quorum).await;
    vhost.declare_with("rung", QueueType::Quorum, &rung).await;
    let ids = vhost
        .publish_many("rung", 2_000, |_| PublishSpec::of("x"))
        .await;

    let queues = ["orders", "rung", "orders.dead"];
    let account = Account::take(&vhost, ids, &Seen::default(), &queues).await;

    account.assert_nothing_lost();
    println!("{} of 2000 had moved", account.left_in("orders"));
}

#[tokio::test]
async fn the_tls_listener_takes_clients_that_trust_its_authority() {
    let vhost = vhost().await;
    let (url, tls) = require!(Tls, vhost.tls());
    let ca = std::fs::read_to_string(&tls.ca).expect("the script made it");
    assert!(tls.client_certificate.exists() && tls.client_key.exists());

    let config = OwnedTLSConfig {
        cert_chain: Some(ca),
        identity: None,
    };
    let runtime = lapin::runtime::default_runtime().expect("a test runs in tokio");
    let properties = ConnectionProperties::default();
    let connecting = Connection::connect_with_config(&url, properties, config, runtime);
    let connection = within("connecting by TLS", connecting)
        .await
        .expect("it is trusted");
    assert!(connection.status().connected());
}

#[tokio::test]
async fn own_node_keeps_durable_messages_over_a_kill_and_a_stop() {
    let broker = require!(OwnNode, Broker::own("harness").await);
    let vhost = broker.vhost().await;
    for kind in QueueType::ALL {
        vhost.declare(kind.name(), kind).await;
        vhost
            .publish_many(kind.name(), 100, |_| PublishSpec::of("kept"))
            .await;
    }

    broker.kill().await;
    broker.start().await;
    for kind in QueueType::ALL {
        vhost.wait_for_counts(kind.name(), 100, 0, DEADLINE).await;
    }
    broker.stop().await;
    broker.start().await;
    for kind in QueueType::ALL {
        vhost.wait_for_counts(kind.name(), 100, 0, DEADLINE).await;
        assert_eq!(vhost.drain_all(kind.name()).await.len(), 100);
    }
}
