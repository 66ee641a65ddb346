//! A consumer that the broker has cancelled.

use std::time::Duration;

use tracing::warn;

use super::{
    LaneActor, Request,
    subscription::{Opened, Task},
};
use crate::broker::Broker;

/// Whether the queue does not exist any more.
async fn is_deleted<B: Broker>(broker: &B, queue: Vec<String>) -> bool {
    let depths = broker.depths(queue).await;
    depths.is_ok_and(|found| found.iter().all(|(_, depth)| depth.is_none()))
}

impl<B: Broker> LaneActor<B> {
    /// The broker has cancelled the consumer: its queue was deleted, or a delivery has waited too long
    /// for its ack. In the second case RabbitMQ 4.3 keeps the channel open, but has the messages back.
    /// A late ack there revives the cancelled consumer, and the broker delivers to it although nobody
    /// takes the deliveries (measured). So unless the queue was deleted, a channel with unsettled
    /// deliveries is closed. Messages whose handlers run are delivered again, and settled with the outcome
    /// of that run. The messages of a deleted queue are not delivered again: their copies are published.
    ///
    /// The first attempt follows at once: if the queue was deleted, messages and expired retries have
    /// nowhere to go until it is declared again.
    pub(super) fn consumer_cancelled(&mut self) {
        let reason = self.why_cancelled();
        let reason = reason.as_str();
        self.subscription.is_in_doubt = !self.unsettled.is_empty();
        if !self.subscription.was_stable() {
            return self.subscribe_later(reason, false);
        }
        warn!(consumer = %self.lane.name, reason, "not consuming, subscribing again at once");
        self.subscription.reason = Some(reason.to_owned());
        self.subscription.subscribe_now();
    }

    fn why_cancelled(&self) -> String {
        /// The shortest consumer timeout that the reason tells of.
        const LONG: Duration = Duration::from_secs(10);
        let ages = self
            .unsettled
            .flights()
            .map(|flight| flight.received.elapsed());
        let oldest = ages.max().filter(|age| *age >= LONG);
        let because = oldest.map_or_else(String::new, |age| {
            format!(
                ": a message has waited {} s for its ack, maybe longer than the broker's \
                 consumer_timeout",
                age.as_secs()
            )
        });
        format!("the broker cancelled the consumer{because}")
    }

    /// Looks whether the queue of the cancelled consumer was deleted.
    pub(super) fn ask_why_cancelled(&mut self) {
        let broker = self.broker.clone();
        let queue = vec![self.lane.settings.queue.clone()];
        let asking: Request<_> = Box::pin(async move {
            Ok(match is_deleted(&broker, queue).await {
                true => Opened::QueueDeleted,
                false => Opened::Outlived,
            })
        });
        self.subscription.task = Task::Opening(asking);
    }
}
