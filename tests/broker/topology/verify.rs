//! `topology = "verify"` compares the existing queues, and creates nothing.

use lapin::{ExchangeKind, types::AMQPValue};

use super::{SHORT_LADDER, assert_says, consuming, queue, queues, refusal, set};
use crate::support::{Broker, DEADLINE, QueueType, VHost, vhost};

fn verify() -> String {
    format!("[consumers.orders]\ntopology = 'verify'\n{SHORT_LADDER}")
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

#[tokio::test]
async fn everything_that_is_missing_is_named_and_nothing_is_made() {
    let vhost = vhost().await;

    let error = refusal(&vhost, &verify()).await;

    let missing = "consumer \"orders\": queues \"orders.retry.1s\", \"orders.retry.2s\", \
                   \"orders.retry.4s\", \"orders.dead\", \"orders\": missing";
    assert_eq!(error, missing);
    assert_eq!(queues(&vhost).await, set(&[]));
}

/// A virtual host in which a worker has declared all queues.
async fn complete() -> VHost {
    let vhost = Broker::shared().await.vhost_with_a_short_name().await;
    let (_handler, mut worker) = consuming(&vhost, SHORT_LADDER).await;
    worker.drain(DEADLINE).await;
    vhost
}

#[tokio::test]
async fn what_is_missing_and_what_differs_in_several_queues_is_said_at_once() {
    let vhost = complete().await;
    vhost.delete("orders.retry.2s").await;
    vhost.delete("orders.retry.4s").await;
    let elsewhere = [
        ("x-message-ttl", AMQPValue::LongLongInt(4_000)),
        ("x-dead-letter-exchange", text("amq.direct")),
        ("x-dead-letter-routing-key", text("others")),
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-overflow", text("reject-publish")),
    ];
    vhost
        .declare_with("orders.retry.4s", QueueType::Quorum, &elsewhere)
        .await;
    vhost.delete("orders").await;
    let other = [
        ("x-single-active-consumer", AMQPValue::Boolean(true)),
        ("x-dead-letter-exchange", text("")),
        ("x-max-length-bytes", AMQPValue::LongLongInt(1_000_000)),
        ("x-expires", AMQPValue::LongLongInt(3_600_000)),
    ];
    vhost
        .declare_with("orders", QueueType::Quorum, &other)
        .await;
    let before = queues(&vhost).await;
    let arguments = queue(&vhost, "orders").await["arguments"].clone();

    let error = refusal(&vhost, &verify()).await;

    let problems = [
        "queue \"orders.retry.2s\": missing",
        "queue \"orders.retry.4s\": x-dead-letter-",
        "x-dead-letter-exchange is 'amq.direct', wanted ''",
        "x-dead-letter-routing-key is 'others', wanted 'orders'",
        "queue \"orders\": x-",
        "x-single-active-consumer is 'true', wanted not set",
        "x-dead-letter-routing-key is not set, wanted 'orders.dead'",
        "x-max-length-bytes is '1000000', wanted not set",
        "x-expires is '3600000', wanted not set",
        "x-delivery-limit is not set, wanted '100'",
    ];
    assert_says(&error, &problems);
    assert_eq!(error.lines().count(), 3, "three queues to mend: {error}");
    assert!(
        !error.contains("orders.retry.1s"),
        "that one is as it should be: {error}"
    );
    assert!(!error.contains("orders.dead\":"), "that one too: {error}");
    assert_eq!(queues(&vhost).await, before);
    assert_eq!(queue(&vhost, "orders").await["arguments"], arguments);
}

#[tokio::test]
async fn where_names_are_long_the_queue_and_each_argument_are_named_all_the_same() {
    // The broker cuts its answers at 255 bytes, and the name of this test's virtual host is long.
    let vhost = vhost().await;
    vhost.declare("orders", QueueType::Quorum).await;

    let error = refusal(&vhost, &verify()).await;

    let problems = [
        "queue \"orders\": x-",
        "x-dead-letter-exchange differs from the settings",
        "x-dead-letter-routing-key differs from the settings",
        "x-delivery-limit differs from the settings",
    ];
    assert_says(&error, &problems);
}

#[tokio::test]
async fn a_queue_of_another_type_is_refused() {
    let vhost = complete().await;
    vhost.delete("orders").await;
    vhost.declare("orders", QueueType::Classic).await;

    let error = refusal(&vhost, &verify()).await;

    assert_says(
        &error,
        &["queue \"orders\": x-queue-type is 'classic', wanted 'quorum'"],
    );
}

/// AMQP cannot look at a binding, but it can tell whether the binding's exchange exists.
#[tokio::test]
async fn each_exchange_of_a_binding_that_is_missing_is_named_with_all_else() {
    let vhost = complete().await;
    vhost.declare_exchange("shop", ExchangeKind::Topic).await;
    vhost.delete("orders.retry.2s").await;
    let bindings = |exchanges: &[&str]| {
        let of = |exchange: &&str| format!("{{ exchange = '{exchange}', routing_key = '#' }}");
        let list: Vec<String> = exchanges.iter().map(of).collect();
        let list = list.join(", ");
        format!("[consumers.orders]\ntopology = 'verify'\nbindings = [{list}]\n{SHORT_LADDER}")
    };

    let error = refusal(&vhost, &bindings(&["gone", "shop", "lost", "gone"])).await;

    let problems = [
        "queue \"orders.retry.2s\": missing",
        "exchanges \"gone\", \"lost\": missing",
    ];
    assert_says(&error, &problems);
    assert_eq!(error.matches("gone").count(), 1, "{error}");
    assert!(!error.contains("shop"), "that one is there: {error}");

    let (_handler, mut worker) = consuming(&vhost, SHORT_LADDER).await;
    worker.drain(DEADLINE).await;
    let (_handler, mut worker) = consuming(&vhost, &bindings(&["shop"])).await;
    worker.drain(DEADLINE).await;
}
