//! Publishing with confirms: one message, or many quickly.

use std::collections::VecDeque;

use futures_util::future::{JoinAll, join_all};
use lapin::{Channel, Confirmation, PublisherConfirm, options::BasicPublishOptions};
use uuid::Uuid;

use super::message::{PublishSpec, short};
use super::vhost::VHost;
use super::wait::within;

/// The number of messages that [`VHost::publish_many`] publishes as one batch.
const BATCH: usize = 250;

/// How many batches may wait for their confirms.
const BATCHES: usize = 8;

impl VHost {
    /// Publishes a persistent message with a fresh id, waits for its confirm, and returns the id.
    pub async fn publish(&self, queue: &str, body: impl Into<Vec<u8>>) -> String {
        let id = Uuid::now_v7().to_string();
        self.publish_with(PublishSpec::to(queue).body(body).id(&id))
            .await;
        id
    }

    /// Publishes one message and waits for its confirm. It must reach a queue.
    pub async fn publish_with(&self, spec: PublishSpec) {
        let channel = self.publisher().await;
        let confirm = within("a publish", send(&channel, &spec)).await;
        check(within("a confirm", confirm).await);
    }

    /// Publishes `n` messages to `queue` as fast as one channel allows, waits for all confirms, and
    /// returns the ids.
    ///
    /// `make` returns the i-th message. A message without exchange and routing key goes to `queue`,
    /// and a message without an id gets `queue-i`.
    pub async fn publish_many(
        &self,
        queue: &str,
        n: usize,
        make: impl Fn(usize) -> PublishSpec,
    ) -> Vec<String> {
        let channel = self.publisher().await;
        let mut ids = Vec::with_capacity(n);
        let mut pending = VecDeque::new();
        for first in (0..n).step_by(BATCH) {
            let specs: Vec<_> = (first..n.min(first + BATCH))
                .map(|index| addressed(make(index), queue, index))
                .collect();
            ids.extend(
                specs
                    .iter()
                    .filter_map(|spec| spec.message_id().map(str::to_owned)),
            );
            let sends = join_all(specs.iter().map(|spec| send(&channel, spec)));
            pending.push_back(join_all(within("a batch of publishes", sends).await));
            if pending.len() > BATCHES {
                settle_oldest(&mut pending).await;
            }
        }
        while !pending.is_empty() {
            settle_oldest(&mut pending).await;
        }
        ids
    }
}

/// The `index`-th of many messages to `queue`, with an address and an id if it had none.
fn addressed(mut spec: PublishSpec, queue: &str, index: usize) -> PublishSpec {
    if spec.exchange.is_empty() && spec.routing_key.is_empty() {
        queue.clone_into(&mut spec.routing_key);
    }
    if spec.message_id().is_none() {
        spec = spec.id(&format!("{queue}-{index:05}"));
    }
    spec
}

/// Publishes one message, without waiting for its confirm.
async fn send(channel: &Channel, spec: &PublishSpec) -> PublisherConfirm {
    // Mandatory, although lapin may assign a return to the wrong confirm when publishes are
    // pipelined. This helper panics on any return, so it only matters that the return appears.
    let options = BasicPublishOptions {
        mandatory: true,
        ..Default::default()
    };
    let (exchange, key) = (short(&spec.exchange), short(&spec.routing_key));
    let publishing =
        channel.basic_publish(exchange, key, options, &spec.body, spec.wire_properties());
    publishing.await.expect("the channel takes a publish")
}

/// Waits for the confirms of the oldest batch.
async fn settle_oldest(pending: &mut VecDeque<JoinAll<PublisherConfirm>>) {
    let Some(oldest) = pending.pop_front() else {
        return;
    };
    for confirmation in within("the confirms of a batch", oldest).await {
        check(confirmation);
    }
}

/// Waits for a confirm, which must say that the message is in a queue.
fn check(confirmation: lapin::Result<Confirmation>) {
    match confirmation.expect("the channel is open until it confirmed") {
        Confirmation::Ack(None) => {}
        Confirmation::Ack(Some(returned)) => panic!(
            "published to exchange {:?} with key {:?}, and it reached no queue",
            returned.delivery.exchange.as_str(),
            returned.delivery.routing_key.as_str(),
        ),
        other => panic!("the broker did not take a publish: {other:?}"),
    }
}
