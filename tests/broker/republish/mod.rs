//! Retries and dead letters as messages: they reach their queue whatever happens to it, and carry
//! what the original carried.

mod copies;
mod held;
mod obstacles;

use lapin::types::AMQPValue;

use crate::support::{HttpHandler, Lanes, QueueType, VHost, lane, lane::BrokerUrl};

const QUEUE: &str = "orders";
const RUNG: &str = "orders.retry.1s";
const DEAD: &str = "orders.dead";
const QUEUES: [&str; 3] = [QUEUE, RUNG, DEAD];

/// The lane. Every retry goes to the rung of one second; a lane that cannot publish is held soon.
fn orders(broker: &(impl BrokerUrl + ?Sized), handler: &HttpHandler) -> Lanes {
    let lane = lane(broker, QUEUE).http(handler).quick();
    lane.retry_at_broker().soon_held().at_once(64)
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
