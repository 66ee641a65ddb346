//! What the worker asks of a broker. [`Rabbit`](super::Rabbit) answers by lapin; the fake answers
//! from a model in memory, so that lanes and paths run in tests without RabbitMQ.

use std::time::Duration;

use tokio::sync::watch;

use super::{Acks, BrokerError, Delivery, Publication, PublishError, QueueSpec};

/// A connection that consumes and one that publishes, both replaced whenever they are lost. Cheap to
/// clone.
pub(crate) trait Broker: Clone + Send + Sync + 'static {
    /// A lane's session.
    type Session: Session;

    /// Whether the consuming connection is up.
    fn is_up(&self) -> bool;

    /// Waits until the consuming connection is up.
    fn up(&mut self) -> impl Future<Output = ()> + Send;

    /// Waits for the consuming connection, or the next failure to get one; makes or compares the
    /// consumer's queues; sets the prefetch; and subscribes as `tag`.
    fn open(
        &mut self,
        spec: &QueueSpec,
        tag: &str,
    ) -> impl Future<Output = Result<Self::Session, BrokerError>> + Send;

    /// The messages that are ready in each of these queues; `None` for a queue that does not exist.
    fn depths(
        &self,
        queues: Vec<String>,
    ) -> impl Future<Output = Result<Vec<(String, Option<u32>)>, BrokerError>> + Send;

    /// Publishes one message, persistent and mandatory, and waits for the broker's confirm.
    fn publish(
        &self,
        message: &Publication<'_>,
    ) -> impl Future<Output = Result<(), PublishError>> + Send;

    /// Waits until the broker has blocked publishing.
    fn blocked(&self) -> impl Future<Output = ()> + Send;

    /// Keeps `publishing` at the reason why nothing can be published, `None` while something can.
    fn watch_publishing(
        self,
        publishing: watch::Sender<Option<String>>,
    ) -> impl Future<Output = ()> + Send + 'static;

    /// Declares one of the consumer's queues again, on the publishing connection; `None` while that
    /// is down.
    fn restore(
        &self,
        spec: &QueueSpec,
        queue: &str,
    ) -> impl Future<Output = Option<Result<(), BrokerError>>> + Send;
}

/// One live connection, channel and consumer. Requests give futures that do not borrow the session,
/// so that a lane waits for them as one event among others.
pub(crate) trait Session: Send + 'static {
    /// A new subscription of the session, to be passed to [`resume`](Self::resume).
    type Subscription: Send + 'static;

    /// The next delivery; `None` when the subscription has ended, for good.
    fn next(&mut self) -> impl Future<Output = Option<Result<Delivery, BrokerError>>> + Send;

    /// The next delivery, if it is here already.
    fn try_next(&mut self) -> Option<Result<Delivery, BrokerError>>;

    /// Whether the channel is open. Deliveries of a channel that is not are dead: the broker has
    /// them back already.
    fn is_usable(&self) -> bool;

    /// Whether the broker sends deliveries: the subscription was neither cancelled nor has it ended.
    fn is_subscribed(&self) -> bool;

    /// Writes these acks. `Ok` means that they were written to the socket: AMQP has no reply to an
    /// ack. An error means that the channel was gone, and that the broker redelivers.
    fn ack(
        &self,
        acks: Acks,
    ) -> impl Future<Output = (Acks, Result<(), BrokerError>)> + Send + 'static;

    /// Returns deliveries to the queue, where they keep their place if they can.
    fn give_back(
        &self,
        returns: Returns,
    ) -> impl Future<Output = (Returns, Result<(), BrokerError>)> + Send + 'static;

    /// Stops the deliveries, and waits for the broker's cancel-ok. What arrives until then, up to the
    /// end of the stream, must be settled.
    fn cancel(&mut self) -> impl Future<Output = Result<(), BrokerError>> + Send + 'static;

    /// Subscribes again, on the same channel, so that what is unsettled on it can still be settled.
    fn subscribe_again(
        &mut self,
        spec: &QueueSpec,
    ) -> impl Future<Output = Result<Self::Subscription, BrokerError>> + Send + 'static;

    /// Goes on with a new subscription.
    fn resume(&mut self, subscription: Self::Subscription);

    /// Closes the channel. Whatever is unsettled on it goes back to the queue.
    fn close(self) -> impl Future<Output = ()> + Send;

    /// Ends the whole connection without a farewell: for one that takes no acks any more.
    fn kill(&self);

    /// The broker's host and port.
    fn server(&self) -> (&str, u16);

    /// How long each request may take.
    fn request_limit(&self) -> Duration;
}

/// Deliveries that go back to their queue together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Returns {
    /// These tags, each by a command of its own.
    Single(Vec<u64>),
    /// Every unsettled delivery up to and with the last of these tags, by one command.
    Through(Vec<u64>),
}

impl Returns {
    /// The tags, oldest first.
    pub(crate) fn tags(&self) -> &[u64] {
        match self {
            Self::Single(tags) | Self::Through(tags) => tags,
        }
    }

    /// Commands that the broker has to apply.
    pub(crate) fn commands(&self) -> usize {
        match self {
            Self::Single(tags) => tags.len(),
            Self::Through(_) => 1,
        }
    }
}
