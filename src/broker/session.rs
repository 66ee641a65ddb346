//! A session: one live connection, channel and consumer, replaced whole on failure.

use std::{future::poll_fn, sync::Arc, task::Context, time::Duration};

use futures_util::{FutureExt, StreamExt};
use lapin::{
    Channel, Consumer,
    options::{BasicCancelOptions, BasicConsumeOptions, BasicQosOptions},
    types::FieldTable,
};

use super::{
    QueueSpec, TimeoutSettings,
    connection::Connection,
    delivery::{Delivery, Moment},
    error::{BrokerError, within},
    headers::short,
    settle::{self, Acks},
    topology,
    wire::Gated,
};

/// A new subscription of a session.
pub(crate) struct Subscription(Consumer);

/// A lane's live subscription.
pub(crate) struct Session {
    connection: Arc<Connection>,
    channel: Channel,
    consumer: Consumer,
    gated: Gated,
    /// When the last delivery was waited for and came.
    woken: Moment,
    /// The first subscription's tag; later ones number theirs.
    tag: String,
    subscriptions: u64,
    timeouts: Arc<TimeoutSettings>,
    cancelled: bool,
    ended: bool,
}

impl Session {
    /// Verifies or declares the lane's queues, sets the prefetch and subscribes.
    pub(crate) async fn open(
        connection: Arc<Connection>,
        queue: &QueueSpec,
        timeouts: Arc<TimeoutSettings>,
        tag: &str,
    ) -> Result<Self, BrokerError> {
        let limit = timeouts.declare;
        topology::ensure(&connection, queue, limit).await?;
        let channel = connection.channel(limit).await?;
        // Per consumer, not global: quorum queues refuse global prefetch, and 4.3 turns it into
        // this silently.
        let qos = channel.basic_qos(queue.prefetch, BasicQosOptions { global: false });
        within(limit, "setting the prefetch", qos).await?;
        let consumer = subscribe(&channel, &queue.queue, tag, limit).await?;
        Ok(Self {
            gated: connection.gated(),
            woken: Moment::now(),
            connection,
            channel,
            consumer,
            tag: tag.to_owned(),
            subscriptions: 1,
            timeouts,
            cancelled: false,
            ended: false,
        })
    }

    /// The next delivery; `None` when the subscription has ended, for good.
    pub(crate) async fn next(&mut self) -> Option<Result<Delivery, BrokerError>> {
        // lapin's stream is not fused: after its end it would be pending for ever.
        if self.ended {
            return None;
        }
        let (consumer, gated) = (&mut self.consumer, &mut self.gated);
        let next = poll_fn(|cx| {
            let waker = gated.waker(cx.waker());
            consumer.poll_next_unpin(&mut Context::from_waker(waker))
        });
        let next = next.await;
        self.woken = Moment::now();
        self.seen(next)
    }

    /// The next delivery, if it is here already.
    pub(crate) fn try_next(&mut self) -> Option<Result<Delivery, BrokerError>> {
        if self.ended {
            return None;
        }
        let next = self.consumer.next().now_or_never()?;
        self.seen(next)
    }

    fn seen(
        &mut self,
        next: Option<lapin::Result<lapin::message::Delivery>>,
    ) -> Option<Result<Delivery, BrokerError>> {
        match next {
            Some(Ok(delivery)) => Some(Ok(Delivery::new(delivery, self.woken))),
            Some(Err(error)) => {
                self.ended = true;
                Some(Err(error.into()))
            }
            None => {
                self.ended = true;
                None
            }
        }
    }

    /// Whether the channel is open: deliveries of one that is not are dead, and the broker has
    /// them back already.
    pub(crate) fn is_usable(&self) -> bool {
        self.channel.status().connected()
    }

    /// A future that writes these acks; it does not borrow the session.
    pub(crate) fn ack(
        &self,
        acks: Acks,
    ) -> impl Future<Output = (Acks, Result<(), BrokerError>)> + Send + 'static {
        let channel = self.channel.clone();
        let limit = self.timeouts.ack;
        async move {
            let result = settle::ack(&channel, &acks, limit).await;
            (acks, result)
        }
    }

    /// Returns single deliveries to the queue.
    pub(crate) async fn give_back(&self, tags: &[u64]) -> Result<(), BrokerError> {
        settle::give_back(&self.channel, tags, self.timeouts.ack).await
    }

    /// Returns every unsettled delivery up to and with `tag` to the queue.
    pub(crate) async fn give_back_through(&self, tag: u64) -> Result<(), BrokerError> {
        settle::give_back_through(&self.channel, tag, self.timeouts.ack).await
    }

    /// Stops the deliveries, and waits until the broker says that it has. What has arrived until
    /// then is still there to be taken, and must be settled.
    pub(crate) async fn cancel(&mut self) -> Result<(), BrokerError> {
        if self.cancelled || self.ended {
            return Ok(());
        }
        self.cancelled = true;
        let tag = self.consumer.tag();
        let cancel = self
            .channel
            .basic_cancel(tag, BasicCancelOptions::default());
        within(self.timeouts.declare, "cancelling the consumer", cancel).await
    }

    /// A future that subscribes again, on the same channel, so that what is unsettled on it can
    /// still be settled. It does not borrow the session; its result goes to
    /// [`resume`](Self::resume).
    ///
    /// Under a new tag: to a quorum queue a consumer that comes back under its old one is the same
    /// consumer, and gets what it still holds a second time (measured on 3.10).
    pub(crate) fn subscribe_again(
        &mut self,
        queue: &QueueSpec,
    ) -> impl Future<Output = Result<Subscription, BrokerError>> + Send + 'static {
        let (connection, channel) = (Arc::clone(&self.connection), self.channel.clone());
        self.subscriptions += 1;
        let tag = format!("{}#{}", self.tag, self.subscriptions);
        let queue = queue.clone();
        let limit = self.timeouts.declare;
        async move {
            topology::ensure(&connection, &queue, limit).await?;
            let consumer = subscribe(&channel, &queue.queue, &tag, limit).await?;
            Ok(Subscription(consumer))
        }
    }

    /// Goes on with a new subscription.
    pub(crate) fn resume(&mut self, subscription: Subscription) {
        self.consumer = subscription.0;
        self.cancelled = false;
        self.ended = false;
    }

    /// Whether the subscription has ended, by our wish or the broker's.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended || self.cancelled
    }

    /// Closes the channel. Whatever is unsettled on it goes back to the queue.
    pub(crate) async fn close(self) {
        if !self.is_usable() {
            return;
        }
        let close = self.channel.close(200, "done".into());
        if within(self.timeouts.close, "closing the channel", close)
            .await
            .is_err()
        {
            tracing::debug!("channel not closed in order");
        }
    }

    /// The broker's host and port.
    pub(crate) fn server(&self) -> (&str, u16) {
        let (host, port) = &self.connection.server;
        (host, *port)
    }

    /// Ends the whole connection the hard way: for one that takes no acks any more.
    pub(crate) fn kill(&self) {
        self.connection.kill();
    }

    /// How long each request may take.
    pub(crate) fn request_limit(&self) -> Duration {
        self.timeouts.declare
    }
}

async fn subscribe(
    channel: &Channel,
    queue: &str,
    tag: &str,
    limit: Duration,
) -> Result<Consumer, BrokerError> {
    let abandoned = CloseWhenDropped(Some(channel.clone()));
    let consume = channel.basic_consume(
        short(queue),
        short(tag),
        BasicConsumeOptions::default(),
        FieldTable::default(),
    );
    let consumer = within(limit, "subscribing", consume).await?;
    abandoned.keep();
    Ok(consumer)
}

/// For a subscription that nobody waits for any more. The broker makes it all the same, and lapin
/// keeps it, and the channel open for it: messages would go there, and nobody would take them.
struct CloseWhenDropped(Option<Channel>);

impl CloseWhenDropped {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for CloseWhenDropped {
    fn drop(&mut self) {
        let Some(channel) = self.0.take().filter(|channel| channel.status().connected()) else {
            return;
        };
        // Without a runtime the connection ends as well.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                // It is written, or the channel is gone; the broker's answer changes nothing.
                let _ = channel.close(200, "subscription abandoned".into()).await;
            });
        }
    }
}
