//! Retries and dead letters as messages: they reach their queue through every fault, and carry the
//! contents of the original.

mod copies;
mod held;
mod obstacles;

use lapin::types::AMQPValue;

use crate::support::{Consumers, HttpHandler, QueueType, VHost, consumer, consumer::BrokerUrl};

const QUEUE: &str = "orders";
const RUNG: &str = "orders.retry.1s";
const DEAD: &str = "orders.dead";
const QUEUES: [&str; 3] = [QUEUE, RUNG, DEAD];

/// The consumer. Every retry goes to the rung of one second; a consumer that cannot publish is held
/// soon.
fn orders(broker: &(impl BrokerUrl + ?Sized), handler: &HttpHandler) -> Consumers {
    let consumer = consumer(broker, QUEUE).http(handler).quick();
    consumer.retry_at_broker().soon_held().at_once(64)
}

/// Declares the rung as its user would who has `topology = "none"`.
async fn declare_rung(vhost: &VHost) {
    let text = |text: &str| AMQPValue::LongString(text.into());
    let args = [
        ("x-message-ttl", AMQPValue::LongLongInt(1000)),
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text(QUEUE)),
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-overflow", text("reject-publish")),
    ];
    vhost.declare_with(RUNG, QueueType::Quorum, &args).await;
}
