//! Queues of a virtual host: declare, inspect, empty, delete.

use std::time::Duration;

use futures_util::StreamExt;
use lapin::{
    Consumer,
    message::Delivery,
    options::{
        BasicCancelOptions, BasicConsumeOptions, ExchangeDeclareOptions, QueueBindOptions,
        QueueDeclareOptions, QueueDeleteOptions, QueuePurgeOptions,
    },
    types::{AMQPValue, FieldTable},
};

use tokio::time::timeout;

use super::counts::Counts;
use super::message::{Got, short};
use super::vhost::VHost;
use super::wait::{DEADLINE, wait_until, within};

/// The queue types that a worker consumes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueType {
    /// On one node, without a delivery count.
    Classic,
    /// Replicated; counts deliveries.
    Quorum,
}

impl QueueType {
    /// Both, for tests that hold for either.
    pub const ALL: [Self; 2] = [Self::Classic, Self::Quorum];

    /// The value of `x-queue-type`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Quorum => "quorum",
        }
    }
}

impl VHost {
    /// Declares a durable queue without further arguments.
    pub async fn declare(&self, queue: &str, kind: QueueType) {
        self.declare_with(queue, kind, &[]).await;
    }

    /// Declares a durable queue with these arguments in addition to its type.
    pub async fn declare_with(&self, queue: &str, kind: QueueType, args: &[(&str, AMQPValue)]) {
        let mut table = FieldTable::default();
        table.insert(
            "x-queue-type".into(),
            AMQPValue::LongString(kind.name().into()),
        );
        for (name, value) in args {
            table.insert(short(name), value.clone());
        }
        let channel = self.channel().await;
        let declaring = channel.queue_declare(short(queue), QueueDeclareOptions::durable(), table);
        let declared = within("declaring a queue", declaring).await;
        declared.unwrap_or_else(|error| panic!("declaring queue {queue}: {error}"));
    }

    /// Declares the queues beside `queue` that a worker needs whose longest delay is a second, as its
    /// user would who has `topology = "none"`.
    pub async fn declare_beside(&self, queue: &str) {
        let text = |text: &str| AMQPValue::LongString(text.into());
        let args = [
            ("x-message-ttl", AMQPValue::LongLongInt(1000)),
            ("x-dead-letter-exchange", text("")),
            ("x-dead-letter-routing-key", text(queue)),
            ("x-dead-letter-strategy", text("at-least-once")),
            ("x-overflow", text("reject-publish")),
        ];
        let rung = format!("{queue}.retry.1s");
        self.declare_with(&rung, QueueType::Quorum, &args).await;
        let dead = format!("{queue}.dead");
        let kept = [("x-delivery-limit", AMQPValue::LongLongInt(100_000))];
        self.declare_with(&dead, QueueType::Quorum, &kept).await;
    }

    /// Declares a durable exchange of this kind (`direct`, `fanout`, `topic`, `headers`).
    pub async fn declare_exchange(&self, exchange: &str, kind: lapin::ExchangeKind) {
        let channel = self.channel().await;
        let options = ExchangeDeclareOptions {
            durable: true,
            ..Default::default()
        };
        let none = FieldTable::default();
        let declaring = channel.exchange_declare(short(exchange), kind, options, none);
        let declared = within("declaring an exchange", declaring).await;
        declared.unwrap_or_else(|error| panic!("declaring exchange {exchange}: {error}"));
    }

    /// Binds a queue to an exchange.
    pub async fn bind(&self, queue: &str, exchange: &str, routing_key: &str) {
        let channel = self.channel().await;
        let (queue, exchange, key) = (short(queue), short(exchange), short(routing_key));
        let options = QueueBindOptions::default();
        let binding = channel.queue_bind(queue, exchange, key, options, FieldTable::default());
        within("binding a queue", binding)
            .await
            .expect("the queue and the exchange exist");
    }

    /// Deletes a queue and its messages.
    pub async fn delete(&self, queue: &str) {
        let channel = self.channel().await;
        let deleting = channel.queue_delete(short(queue), QueueDeleteOptions::default());
        within("deleting a queue", deleting)
            .await
            .expect("deleting a queue does not fail");
    }

    /// Deletes the ready messages of a queue.
    pub async fn purge(&self, queue: &str) {
        let channel = self.channel().await;
        let purging = channel.queue_purge(short(queue), QueuePurgeOptions::default());
        within("purging a queue", purging)
            .await
            .expect("the queue exists");
    }

    /// Ready messages and consumers of a queue, from a passive declare; `None` if there is no such
    /// queue.
    async fn look(&self, queue: &str) -> Option<(u32, u32)> {
        // A separate channel, because a passive declare of a missing queue closes its channel.
        let channel = self.channel().await;
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::durable()
        };
        let looking = channel.queue_declare(short(queue), options, FieldTable::default());
        let seen = within("a passive declare", looking).await.ok()?;
        let closing = channel.close(200, "looked".into());
        within("closing a channel", closing)
            .await
            .expect("an open channel closes");
        Some((seen.message_count(), seen.consumer_count()))
    }

    /// Whether there is such a queue.
    pub async fn exists(&self, queue: &str) -> bool {
        self.look(queue).await.is_some()
    }

    /// The number of ready messages in a queue. Always exact.
    pub async fn ready(&self, queue: &str) -> u32 {
        self.look(queue)
            .await
            .unwrap_or_else(|| panic!("there is no queue {queue}"))
            .0
    }

    /// The number of consumers of a queue; a missing queue has none. Always exact.
    pub async fn consumers(&self, queue: &str) -> u32 {
        self.look(queue).await.map_or(0, |(_, consumers)| consumers)
    }

    /// Takes every message of a queue, oldest first, and acknowledges it.
    ///
    /// Waits for messages that other consumers hold or that are on their way to a dead-letter
    /// target, so the queue has no messages at all when this returns. Panics if a consumer still
    /// holds messages after [`DEADLINE`].
    pub async fn drain_all(&self, queue: &str) -> Vec<Got> {
        let mut taken = Vec::new();
        let what = format!("queue {queue} gives out what it holds");
        loop {
            let movable = |seen: &Counts| seen.ready > 0 || seen.total() == 0;
            let seen =
                wait_until(&what, DEADLINE, async || self.counts(queue).await, movable).await;
            match seen.ready {
                0 => return taken,
                ready => self.take(queue, ready, &mut taken).await,
            }
        }
    }

    /// The next message; `None` if the queue has none any more, because the rest has expired.
    async fn next_of(&self, queue: &str, consumer: &mut Consumer) -> Option<Delivery> {
        for _ in 0..DEADLINE.as_secs() {
            if let Ok(next) = timeout(Duration::from_secs(1), consumer.next()).await {
                let next = next.expect("the consumer is ours");
                return Some(next.expect("the channel is open"));
            }
            if self.counts(queue).await.ready == 0 {
                return None;
            }
        }
        panic!("queue {queue} has messages and gives none out")
    }

    /// Takes `ready` messages with a consumer, or fewer if some expire meanwhile. Also takes all others
    /// that the broker sends until the consumer is cancelled. `basic.get` would cost a round trip and an
    /// fsync for each message.
    async fn take(&self, queue: &str, ready: u32, taken: &mut Vec<Got>) {
        let channel = self.channel().await;
        let options = BasicConsumeOptions {
            no_ack: true,
            ..Default::default()
        };
        let tag = short("drain");
        let consuming =
            channel.basic_consume(short(queue), tag.clone(), options, FieldTable::default());
        let mut consumer: Consumer = within("a consume", consuming)
            .await
            .expect("the queue exists and is not exclusive");
        for _ in 0..ready {
            let Some(next) = self.next_of(queue, &mut consumer).await else {
                break;
            };
            taken.push(Got::new(next));
        }
        let cancelling = channel.basic_cancel(tag, BasicCancelOptions::default());
        within("a cancel", cancelling)
            .await
            .expect("the channel is open");
        while let Some(rest) = within("the end of a cancelled consumer", consumer.next()).await {
            taken.push(Got::new(rest.expect("the channel is open")));
        }
        let closing = channel.close(200, "drained".into());
        within("closing a channel", closing)
            .await
            .expect("an open channel closes");
    }
}
