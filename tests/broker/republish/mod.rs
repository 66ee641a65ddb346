//! Retries and dead letters as messages: they reach their queue whatever happens to it, and carry
//! what the original carried.

mod copies;
mod held;
mod obstacles;

use lapin::types::AMQPValue;

use crate::support::{HttpHandler, QueueType, VHost, lane_config};

const QUEUE: &str = "orders";
const RUNG: &str = "orders.retry.1s";
const DEAD: &str = "orders.dead";
const QUEUES: [&str; 3] = [QUEUE, RUNG, DEAD];

/// Every retry goes to the rung of one second; a lane that cannot publish is held soon.
const QUICK: &str = "
    [publish]
    budget = '300ms'
    hold = '500ms'
    [broker.reconnect]
    base = '100ms'
    cap = '500ms'
    [consumers.orders]
    prefetch = 64
    concurrency = 64
    [consumers.orders.retry]
    base = '100ms'
    cap = '1s'
    inline_below = '0s'
";

fn config(url: &str, handler: &HttpHandler, changes: &str) -> String {
    let quick = lane_config(url, QUEUE, &handler.url(), QUICK);
    crate::support::config::changed(&quick, changes)
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
