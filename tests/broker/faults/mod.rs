//! Faults around a running worker: nodes, networks, queues, channels, alarms.
//!
//! Each time the worker reports the fault and recovers by itself, and no message is lost.

mod broker;
mod network;
mod queue;

use crate::support::{
    Consumers, Gate, HttpHandler, PublishSpec, Reply, Request, VHost, consumer, consumer::BrokerUrl,
};

/// The queue of these tests, and their consumer.
const QUEUE: &str = "orders";

/// The consumer: reconnects quickly, parks every retry at the broker, and has a small prefetch.
fn orders(broker: &(impl BrokerUrl + ?Sized), handler: &HttpHandler) -> Consumers {
    let few = "consumers.orders = { prefetch = 16, concurrency = 8 }";
    let consumer = consumer(broker, QUEUE).http(handler).quick();
    consumer.retry_at_broker().with(few)
}

/// Every queue that can hold a message of these tests.
const QUEUES: [&str; 3] = [QUEUE, "orders.retry.1s", "orders.dead"];

/// A handler that takes a moment, so that messages are in flight at each fault.
async fn slow_handler() -> HttpHandler {
    HttpHandler::answering(|_| Reply::ok().after(std::time::Duration::from_millis(20))).await
}

/// Publishes `n` messages whose ids begin with `name`.
async fn publish(vhost: &VHost, name: &str, n: usize) -> Vec<String> {
    let spec = |index| PublishSpec::of("{}").id(&format!("{name}-{index:03}"));
    vhost.publish_many(QUEUE, n, spec).await
}

/// A handler that holds back all messages except the first 40.
async fn first_forty_pass(gate: &Gate) -> HttpHandler {
    let later = |request: &Request| {
        let (_, index) = request.message_id().split_once('-').expect("as published");
        index >= "040"
    };
    HttpHandler::holding(gate, later, |_| Reply::ok()).await
}
