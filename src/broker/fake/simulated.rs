//! What a simulation needs of the model: each message with its place, and the end of one channel.

use super::{FakeBroker, Stored};

impl FakeBroker {
    /// Shows each message with its queue, in it or with a consumer. The name is empty if the queue was
    /// deleted while a consumer had the message.
    pub(crate) fn each_message(&self, mut see: impl FnMut(&str, &Stored)) {
        let model = self.read();
        for (name, queue) in &model.queues {
            queue.messages().for_each(|message| see(name, message));
        }
        for channel in model.channels.values() {
            for unacked in channel.unacked.values() {
                if let Some(message) = &unacked.message {
                    see(&unacked.queue, message);
                }
            }
        }
    }

    /// Closes one channel. Its unsettled messages are ready again.
    pub(crate) fn close_one(&self, channel: u64, why: &str) {
        self.lock().close_channel(channel, why);
    }
}
