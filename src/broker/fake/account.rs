//! The fake broker's account of all its messages, for checks that no message is lost.

use super::{FakeBroker, Stored};
use crate::broker::Properties;

impl FakeBroker {
    /// The properties of all messages that other clients have published, oldest first.
    pub(crate) fn sent(&self) -> Vec<Properties> {
        self.read().sent.clone()
    }

    /// Messages that were in a queue when it was deleted, or that expired in a queue without a
    /// dead-letter target.
    pub(crate) fn dropped(&self) -> Vec<Stored> {
        self.read().dropped.clone()
    }

    /// The messages in all queues, ready or with a consumer.
    pub(crate) fn everything(&self) -> Vec<Stored> {
        let model = self.read();
        let ready = model.queues.values().flat_map(|queue| queue.messages());
        let channels = model.channels.values();
        let unacked = channels.flat_map(|channel| channel.unacked.values());
        ready
            .chain(unacked.filter_map(|unacked| unacked.message.as_ref()))
            .cloned()
            .collect()
    }
}
