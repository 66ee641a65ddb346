//! The interface between the worker and a broker. [`Rabbit`](super::Rabbit) implements it with
//! lapin. The fake implements it with a model in memory, so that lanes and paths run in tests
//! without RabbitMQ.

use std::time::Duration;

use tokio::sync::watch;

use super::{
    Acks, BrokerError, Count, Delivery, Properties, Publication, PublishError, QueueSpec,
    Tolerance, Version,
};

/// A connection that consumes and one that publishes. Both are replaced when they are lost. Clones
/// share them and are cheap.
pub(crate) trait Broker: Clone + Send + Sync + 'static {
    /// A lane's session.
    type Session: Session;

    /// Whether the consuming connection is up.
    fn is_up(&self) -> bool;

    /// Waits until the consuming connection is up.
    fn up(&mut self) -> impl Future<Output = ()> + Send;

    /// Waits for the consuming connection, or for the next failure to get one. Then declares or
    /// compares the consumer's queues, sets the prefetch and subscribes as `tag`.
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

    /// Counts a queue; `None` if it does not exist. For counts that are made again and again: clones of this
    /// broker make them one after the other, on one channel.
    fn count(&self, queue: &str)
    -> impl Future<Output = Result<Option<Count>, BrokerError>> + Send;

    /// Publishes one message, persistent and mandatory, and waits for the broker's confirm.
    fn publish(
        &self,
        message: &Publication<'_>,
    ) -> impl Future<Output = Result<(), PublishError>> + Send;

    /// Waits until the broker has blocked publishing.
    fn blocked(&self) -> impl Future<Output = ()> + Send;

    /// Keeps `publishing` up to date: the reason why nothing can be published, or `None`.
    fn watch_publishing(
        self,
        publishing: watch::Sender<Option<String>>,
    ) -> impl Future<Output = ()> + Send + 'static;

    /// Declares one of the consumer's queues again, on the publishing connection; `None` while the
    /// publishing connection is down.
    fn restore(
        &self,
        spec: &QueueSpec,
        queue: &str,
    ) -> impl Future<Output = Option<Result<(), BrokerError>>> + Send;
}

/// What a tool needs that reads a queue which it does not own.
pub(crate) trait Reading: Broker {
    /// Waits for the consuming connection, or for the next failure to get one. Then subscribes as
    /// `tag` to a queue as it is, with this prefetch. Declares and compares nothing.
    fn look_into(
        &mut self,
        queue: &str,
        prefetch: u16,
        tag: &str,
    ) -> impl Future<Output = Result<Self::Session, BrokerError>> + Send;

    /// Waits for the consuming connection, or for the next failure to get one. Then declares a queue that
    /// only this connection can read. The broker deletes the queue when nobody reads it any more, or when
    /// the connection ends.
    fn declare_own(&mut self, queue: &str) -> impl Future<Output = Result<(), BrokerError>> + Send;

    /// Whether messages with this `user-id` are believed.
    fn vouches(&self, user: &str) -> bool;

    /// The broker's version, if there is a connection and the broker has named a version.
    fn version(&self) -> Option<Version>;

    /// How often a message of the queue may be returned before the broker takes it away, as far as
    /// the queue's arguments and the broker's release say; a policy cannot be seen. `None`: without
    /// limit.
    fn delivery_limit(
        &self,
        queue: &str,
    ) -> impl Future<Output = Result<Option<u64>, BrokerError>> + Send;

    /// The properties of a message that was read as it is, as a worker with this consumer believes
    /// them. `None` while there is no connection.
    fn believed(&self, spec: &QueueSpec, properties: &Properties) -> Option<Properties>;

    /// The user that parked a copy whose record a worker with the user of this connection does not
    /// believe; `None` for any other message, and while there is no connection.
    fn stranger(&self, properties: &Properties) -> Option<String>;

    /// Publishes messages one behind the other, and waits for all confirms. Returns how many of them,
    /// from the first one on, the broker has for sure, and why it is not all of them. The broker may
    /// have some of the others too.
    fn publish_in_order(
        &self,
        messages: &[Publication<'_>],
    ) -> impl Future<Output = (usize, Result<(), PublishError>)> + Send;
}

/// One live connection, channel and consumer. Requests return futures that do not borrow the
/// session, so that a lane can wait for them together with other events.
pub(crate) trait Session: Send + 'static {
    /// A new subscription of the session, to be passed to [`resume`](Self::resume).
    type Subscription: Send + 'static;

    /// Waits for the next delivery. `None` when the subscription has ended.
    fn next(&mut self) -> impl Future<Output = Option<Result<Delivery, BrokerError>>> + Send;

    /// The next delivery, if it has already arrived.
    fn try_next(&mut self) -> Option<Result<Delivery, BrokerError>>;

    /// Whether the channel is open. The deliveries of a closed channel are stale: the broker
    /// already has their messages back.
    fn is_usable(&self) -> bool;

    /// Whether the broker sends deliveries: the subscription has neither been cancelled nor ended.
    fn is_subscribed(&self) -> bool;

    /// Writes these acks. `Ok` means that they were written to the socket, because AMQP has no
    /// reply to an ack: see [`ask_queue`](Self::ask_queue). An error means that the channel was closed and that the broker redelivers
    /// the messages.
    fn ack(
        &self,
        acks: Acks,
    ) -> impl Future<Output = (Acks, Result<(), BrokerError>)> + Send + 'static;

    /// Returns deliveries to the queue, where the messages keep their place if possible, or rejects
    /// them.
    fn give_back(
        &self,
        returns: Returns,
    ) -> impl Future<Output = (Returns, Result<(), BrokerError>)> + Send + 'static;

    /// Waits for an answer of the channel: everything written on it before has reached the channel's
    /// process at the broker.
    fn ask_channel(&self) -> impl Future<Output = Result<(), BrokerError>> + Send + 'static;

    /// Waits for an answer of the queue: the queue has applied everything that was written on the
    /// channel before. The queue may answer with a message, which must be settled. Only without a
    /// subscription: some queues close the channel over this question, which answers it too.
    fn ask_queue(
        &self,
    ) -> impl Future<Output = Result<Option<Delivery>, BrokerError>> + Send + 'static;

    /// Stops the deliveries and waits for the broker's cancel-ok. Every delivery that arrives
    /// before the end of the stream must still be settled.
    fn cancel(&mut self) -> impl Future<Output = Result<(), BrokerError>> + Send + 'static;

    /// Sets the prefetch and subscribes again on the same channel, so that its unsettled deliveries can still be settled.
    fn subscribe_again(
        &mut self,
        spec: &QueueSpec,
    ) -> impl Future<Output = Result<Self::Subscription, BrokerError>> + Send + 'static;

    /// Continues with a new subscription.
    fn resume(&mut self, subscription: Self::Subscription);

    /// Closes the channel. The broker puts unsettled messages back in their queue.
    fn close(self) -> impl Future<Output = ()> + Send;

    /// Closes the channel. If it does not answer, ends the whole connection: a process that stands still
    /// holds messages that nobody gets.
    fn close_or_kill(self) -> impl Future<Output = ()> + Send;

    /// Ends the whole connection by shutting its socket down: for a connection that takes no acks
    /// any more.
    fn kill(&self);

    /// How many failed deliveries of a message the queue tolerates, as far as is known by now.
    fn tolerance(&self) -> Tolerance;

    /// The broker's host and port.
    fn server(&self) -> (&str, u16);

    /// How long each request may take.
    fn request_limit(&self) -> Duration;
}

/// Deliveries that are returned to their queue together, or rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Returns {
    /// These tags, one nack for each.
    Single(Vec<u64>),
    /// Every unsettled delivery up to and including the last of these tags, with one nack.
    Through(Vec<u64>),
    /// These tags, one nack for each, without requeue: the broker dead-letters the messages.
    Reject(Vec<u64>),
}

impl Returns {
    /// The tags, oldest first.
    pub(crate) fn tags(&self) -> &[u64] {
        match self {
            Self::Single(tags) | Self::Through(tags) | Self::Reject(tags) => tags,
        }
    }

    /// The number of nacks that the broker has to apply.
    pub(crate) fn commands(&self) -> usize {
        match self {
            Self::Single(tags) | Self::Reject(tags) => tags.len(),
            Self::Through(_) => 1,
        }
    }
}
