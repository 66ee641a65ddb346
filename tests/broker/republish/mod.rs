//! Retries and dead letters as messages: they reach their queue through every fault, and carry the
//! contents of the original.

mod copies;
mod kept;
mod obstacles;

use crate::support::{
    Consumers, HttpHandler, QueueType, RunningWorker, VHost, consumer, consumer::BrokerUrl,
};

const QUEUE: &str = "orders";
const RUNG: &str = "orders.retry.1s";
const DEAD: &str = "orders.dead";
const QUEUES: [&str; 3] = [QUEUE, RUNG, DEAD];

/// The consumer. Every retry goes to the rung of one second; what cannot be published counts as waiting
/// soon.
fn orders(broker: &(impl BrokerUrl + ?Sized), handler: &HttpHandler) -> Consumers {
    let consumer = consumer(broker, QUEUE).http(handler).quick();
    consumer.retry_at_broker().soon_waiting().at_once(64)
}

/// Starts a worker that declares nothing, and then deletes its rung.
async fn start_and_lose_the_rung(vhost: &VHost, orders: Consumers) -> RunningWorker {
    vhost.declare(QUEUE, QueueType::Quorum).await;
    vhost.declare_beside(QUEUE).await;
    let worker = orders.start().await;
    vhost.delete(RUNG).await;
    worker
}
