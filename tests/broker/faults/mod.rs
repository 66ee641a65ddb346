//! What fails around a running worker: nodes, networks, queues, channels, alarms.
//!
//! Each time the worker says so, comes back by itself, and nothing is lost.

mod broker;
mod network;
mod queue;

use crate::support::{Gate, HttpHandler, PublishSpec, Reply, VHost, lane_config};

/// The queue of these tests, and their lane.
const QUEUE: &str = "orders";

/// Quick to come back, with every retry at the broker and few messages in hand.
const QUICK: &str = "
    [broker.reconnect]
    base = '200ms'
    cap = '500ms'
    [consumers.orders]
    prefetch = 16
    concurrency = 8
    [consumers.orders.retry]
    base = '100ms'
    cap = '1s'
    inline_below = '0s'
";

/// A lane at `url`, with these changes over [`QUICK`].
fn config(url: &str, handler: &HttpHandler, changes: &str) -> String {
    let quick = lane_config(url, QUEUE, &handler.url(), QUICK);
    crate::support::config::changed(&quick, changes)
}

/// Every queue a message of these tests can be in.
const QUEUES: [&str; 3] = [QUEUE, "orders.retry.1s", "orders.dead"];

/// A handler that takes a moment, so that a fault meets messages in hand.
async fn slow_handler() -> HttpHandler {
    HttpHandler::answering(|_| Reply::ok().after(std::time::Duration::from_millis(20))).await
}

/// Publishes `n` messages whose ids begin with `name`.
async fn publish(vhost: &VHost, name: &str, n: usize) -> Vec<String> {
    let spec = |index| PublishSpec::of("{}").id(&format!("{name}-{index:03}"));
    vhost.publish_many(QUEUE, n, spec).await
}

/// A handler that holds back all messages of a run but the first 40.
async fn first_forty_pass(gate: &Gate) -> HttpHandler {
    let held = gate.clone();
    HttpHandler::answering_async(move |request| {
        let held = held.clone();
        async move {
            let (_, index) = request.message_id().split_once('-').expect("as published");
            if index >= "040" {
                held.passed().await;
            }
            Reply::ok()
        }
    })
    .await
}
