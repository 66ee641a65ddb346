//! The broker in memory, for tests of users.

use std::fmt;

use crate::{
    broker::{
        HeaderValue, Properties,
        fake::{Confirm, FakeBroker, Fault, Release, Stored},
    },
    chance,
};

/// A broker in memory, with the semantics of RabbitMQ 4.3 as far as a worker notices them. Clones are
/// the same broker.
#[derive(Clone)]
pub struct TestBroker(FakeBroker);

/// A message that is ready in a queue.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StoredMessage {
    /// The bytes of the body.
    pub body: Vec<u8>,
    /// Properties and headers.
    pub properties: Properties,
    /// Whether the broker delivered the message before.
    pub redelivered: bool,
}

impl StoredMessage {
    /// The text of a header; `None` if there is no such header, or it is not text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.properties.header(name).and_then(HeaderValue::as_str)
    }
}

impl From<Stored> for StoredMessage {
    fn from(stored: Stored) -> Self {
        Self {
            body: stored.body,
            properties: stored.properties,
            redelivered: stored.redelivered,
        }
    }
}

impl TestBroker {
    /// A broker without queues. A worker declares those of its consumers.
    #[must_use]
    pub fn new() -> Self {
        Self(FakeBroker::new(Release::V43))
    }

    /// A broker of another release.
    #[cfg(test)]
    pub(super) fn of(inner: FakeBroker) -> Self {
        Self(inner)
    }

    pub(super) fn inner(&self) -> FakeBroker {
        self.0.clone()
    }

    /// Publishes JSON to a queue, with a new message id. Returns the id.
    ///
    /// # Panics
    /// If there is no such queue.
    pub fn publish_json(&self, queue: &str, json: &str) -> String {
        self.publish(queue, json.as_bytes(), Some("application/json"), None)
    }

    /// Publishes bytes to a queue, with these `content-type` and `type` properties and a new message id.
    /// Returns the id.
    ///
    /// # Panics
    /// If there is no such queue.
    pub fn publish(
        &self,
        queue: &str,
        body: &[u8],
        content_type: Option<&str>,
        message_type: Option<&str>,
    ) -> String {
        let id = chance::message_id().to_string();
        let properties = Properties::new(&id, content_type, message_type, &[]);
        let stored = self.0.send(queue, body, properties);
        assert!(stored, "there is no queue {queue:?}");
        id
    }

    /// The messages that are ready in a queue, oldest first; none if there is no such queue.
    #[must_use]
    pub fn messages(&self, queue: &str) -> Vec<StoredMessage> {
        self.0.ready(queue).into_iter().map(Into::into).collect()
    }

    /// Breaks the connections. They stay down until [`reconnect`](Self::reconnect).
    pub fn disconnect(&self) {
        self.0.fail(Fault::ConnectionLost);
        self.0.fail(Fault::PublishingLost);
    }

    /// Lets connections be made again.
    pub fn reconnect(&self) {
        self.0.reconnect();
    }

    /// Closes the channels of all consumers. The broker delivers their unsettled messages again.
    pub fn close_channels(&self) {
        self.0.fail(Fault::ChannelLost);
    }

    /// Cancels the consumers of a queue.
    pub fn cancel_consumers(&self, queue: &str) {
        self.0.fail(Fault::ConsumerCancelled(queue.to_owned()));
    }

    /// Deletes a queue with its messages, and cancels its consumers.
    pub fn delete_queue(&self, queue: &str) {
        self.0.fail(Fault::QueueDeleted(queue.to_owned()));
    }

    /// Blocks publishing, as a memory alarm does, or ends the alarm.
    pub fn block(&self, blocked: bool) {
        if blocked {
            self.0.fail(Fault::Blocked);
        } else {
            self.0.unblock();
        }
    }

    /// Refuses the next publishes, as a full queue does.
    pub fn refuse_publishes(&self, count: usize) {
        self.0
            .answer_publishes(std::iter::repeat_n(Confirm::Nack, count));
    }
}

impl Default for TestBroker {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for TestBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TestBroker")
    }
}
