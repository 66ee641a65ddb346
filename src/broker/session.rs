//! A session: one live connection, channel and consumer. When one of them fails, the session is
//! replaced whole.

use std::{future::poll_fn, sync::Arc, task::Context, time::Duration};

use futures_util::{FutureExt, StreamExt};
use lapin::{
    Channel, Consumer,
    options::{BasicCancelOptions, BasicConsumeOptions, BasicGetOptions, BasicQosOptions},
    types::FieldTable,
};

use super::{
    QueueSpec, TimeoutSettings, Tolerance, Topology,
    connection::Connection,
    delivery::{Delivery, Moment},
    error::{BrokerError, reply_code, says_there_is_no, within},
    headers::short,
    management::Watched,
    seam::{Returns, Session},
    settle::{self, Acks},
    topology,
    trust::Rungs,
    wire::Gated,
};

/// A new subscription of a session.
pub(crate) struct Subscription(Consumer);

/// A lane's session with RabbitMQ.
pub(crate) struct RabbitSession {
    connection: Arc<Connection>,
    channel: Channel,
    consumer: Consumer,
    gated: Gated,
    /// `None`: the messages are read as they are.
    rungs: Option<Rungs>,
    /// When the last delivery arrived that the lane had to wait for.
    woken: Moment,
    queue: String,
    /// `None`: nobody asks.
    tolerance: Option<Watched>,
    /// The first subscription's tag. Later subscriptions append a number.
    tag: String,
    subscriptions: u64,
    timeouts: Arc<TimeoutSettings>,
    /// The prefetch of the next subscription on this channel.
    prefetch: u16,
    cancelled: bool,
    ended: bool,
}

impl RabbitSession {
    /// Verifies or declares the lane's queues, sets the prefetch and subscribes.
    pub(crate) async fn open(
        connection: Arc<Connection>,
        queue: &QueueSpec,
        timeouts: Arc<TimeoutSettings>,
        tag: &str,
    ) -> Result<Self, BrokerError> {
        topology::ensure(&connection, queue, timeouts.declare).await?;
        let tolerance = Tolerance {
            limit: topology::consumed_limit(&connection, queue, timeouts.declare).await?,
            version: connection.version(),
        };
        let tolerance = Watched::new(&connection, &queue.queue, tolerance).await;
        let session = Self::read(connection, &queue.queue, queue.prefetch, timeouts, tag);
        Ok(Self {
            rungs: Some(Rungs::of(queue)),
            tolerance: Some(tolerance),
            ..session.await?
        })
    }

    /// Sets the prefetch and subscribes to a queue as it is.
    pub(crate) async fn read(
        connection: Arc<Connection>,
        queue: &str,
        prefetch: u16,
        timeouts: Arc<TimeoutSettings>,
        tag: &str,
    ) -> Result<Self, BrokerError> {
        let limit = timeouts.declare;
        let channel = connection.channel(limit).await?;
        set_prefetch(&channel, prefetch, limit).await?;
        let consumer = subscribe(&channel, queue, tag, limit).await?;
        Ok(Self {
            prefetch,
            queue: queue.to_owned(),
            gated: connection.gated(),
            rungs: None,
            tolerance: None,
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

    /// Waits until the channel has read everything that was written on it before.
    #[cfg(test)]
    pub(super) async fn barrier(&self, prefetch: u16) {
        let qos = self
            .channel
            .basic_qos(prefetch, BasicQosOptions { global: false });
        // A channel that the broker closed has read it too.
        let _ = within(self.timeouts.declare, "setting the prefetch", qos).await;
    }

    async fn closed(&self) -> Result<(), BrokerError> {
        if !self.is_usable() {
            return Ok(());
        }
        let close = self.channel.close(200, "done".into());
        within(self.timeouts.close, "closing the channel", close).await
    }

    fn seen(
        &mut self,
        next: Option<lapin::Result<lapin::message::Delivery>>,
    ) -> Option<Result<Delivery, BrokerError>> {
        match next {
            Some(Ok(delivery)) => {
                let trust = self.connection.trust();
                let delivery = Delivery::new(delivery, self.woken, trust, self.rungs.as_ref());
                Some(Ok(delivery))
            }
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
}

impl Session for RabbitSession {
    type Subscription = Subscription;

    async fn next(&mut self) -> Option<Result<Delivery, BrokerError>> {
        // lapin's stream is not fused: polled after its end, it would stay pending without end.
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

    fn try_next(&mut self) -> Option<Result<Delivery, BrokerError>> {
        if self.ended {
            return None;
        }
        let next = self.consumer.next().now_or_never()?;
        self.seen(next)
    }

    fn is_usable(&self) -> bool {
        self.channel.status().connected()
    }

    fn is_subscribed(&self) -> bool {
        !self.ended && !self.cancelled
    }

    fn ack(
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

    fn give_back(
        &self,
        returns: Returns,
    ) -> impl Future<Output = (Returns, Result<(), BrokerError>)> + Send + 'static {
        let channel = self.channel.clone();
        let limit = self.timeouts.ack;
        async move {
            let result = settle::give_back(&channel, &returns, limit).await;
            (returns, result)
        }
    }

    /// Sets the prefetch that is set already. The channel's process answers, and no queue is asked.
    fn ask_channel(&self) -> impl Future<Output = Result<(), BrokerError>> + Send + 'static {
        let (channel, prefetch) = (self.channel.clone(), self.prefetch);
        let limit = self.timeouts.declare;
        async move {
            let qos = channel.basic_qos(prefetch, BasicQosOptions { global: false });
            within(limit, "an answer of the channel", qos).await
        }
    }

    fn ask_queue(
        &self,
    ) -> impl Future<Output = Result<Option<Delivery>, BrokerError>> + Send + 'static {
        let (channel, queue) = (self.channel.clone(), self.queue.clone());
        let (connection, rungs) = (Arc::clone(&self.connection), self.rungs.clone());
        let limit = self.timeouts.declare;
        async move {
            let get = channel.basic_get(short(&queue), BasicGetOptions::default());
            match tokio::time::timeout(limit, get).await {
                Ok(Ok(message)) => {
                    let delivery = message.map(|message| message.delivery);
                    let (trust, rungs) = (connection.trust(), rungs.as_ref());
                    Ok(delivery.map(|it| Delivery::new(it, Moment::now(), trust, rungs)))
                }
                Ok(Err(error)) if is_answer_of_queue(&error) => Ok(None),
                Ok(Err(error)) => Err(error.into()),
                Err(_) => Err(BrokerError::TimedOut {
                    step: "an answer of the queue",
                    limit,
                }),
            }
        }
    }

    fn cancel(&mut self) -> impl Future<Output = Result<(), BrokerError>> + Send + 'static {
        self.cancelled = true;
        let (channel, tag) = (self.channel.clone(), self.consumer.tag());
        let limit = self.timeouts.declare;
        async move {
            let cancel = channel.basic_cancel(tag, BasicCancelOptions::default());
            within(limit, "cancelling the consumer", cancel).await
        }
    }

    /// Uses a new tag. A quorum queue takes a consumer with the old tag for the same consumer, and
    /// sends it the messages that it still holds a second time (measured on 3.10).
    fn subscribe_again(
        &mut self,
        queue: &QueueSpec,
    ) -> impl Future<Output = Result<Subscription, BrokerError>> + Send + 'static {
        let (connection, channel) = (Arc::clone(&self.connection), self.channel.clone());
        self.subscriptions += 1;
        let tag = format!("{}#{}", self.tag, self.subscriptions);
        let queue = queue.clone();
        let limit = self.timeouts.declare;
        self.prefetch = queue.prefetch;
        async move {
            // The queue may have been deleted. With `none` the worker would not declare it again, and
            // the broker says that it is missing.
            if queue.topology != Topology::None {
                topology::ensure(&connection, &queue, limit).await?;
            }
            set_prefetch(&channel, queue.prefetch, limit).await?;
            let consumer = subscribe(&channel, &queue.queue, &tag, limit).await?;
            Ok(Subscription(consumer))
        }
    }

    fn resume(&mut self, subscription: Subscription) {
        self.consumer = subscription.0;
        self.cancelled = false;
        self.ended = false;
    }

    async fn close(self) {
        if self.closed().await.is_err() {
            tracing::debug!("failed to close the channel");
        }
    }

    async fn close_or_kill(self) {
        if let Err(error @ BrokerError::TimedOut { .. }) = self.closed().await {
            tracing::warn!(%error, "the channel does not answer, ending its connection");
            self.kill();
        }
    }

    fn tolerance(&self) -> Tolerance {
        let watched = self.tolerance.as_ref();
        watched.map_or(Tolerance::ENDLESS, Watched::tolerance)
    }

    fn server(&self) -> (&str, u16) {
        let (host, port) = &self.connection.server;
        (host, *port)
    }

    fn kill(&self) {
        self.connection.kill();
    }

    fn request_limit(&self) -> Duration {
        self.timeouts.declare
    }
}

/// Whether a refused `basic.get` is the answer of the queue. A quorum queue with a single active consumer
/// applies what it was given before, and refuses. The messages of a queue that does not exist are gone.
fn is_answer_of_queue(error: &lapin::Error) -> bool {
    let text = error.to_string();
    match reply_code(error) {
        // A reply text has at most 255 bytes, so long names cut off "with single active consumer". The
        // channel itself refuses a queue that was "originally declared on another connection".
        Some(405) => !text.contains("originally declared"),
        _ => says_there_is_no("queue", error),
    }
}

/// Sets the prefetch of later subscriptions: per consumer, not per channel. Quorum queues refuse a
/// global prefetch, and RabbitMQ 4.3 silently turns a global prefetch into one per consumer.
async fn set_prefetch(
    channel: &Channel,
    prefetch: u16,
    limit: Duration,
) -> Result<(), BrokerError> {
    let abandoned = CloseWhenDropped(Some(channel.clone()));
    let qos = channel.basic_qos(prefetch, BasicQosOptions { global: false });
    within(limit, "setting the prefetch", qos).await?;
    abandoned.keep();
    Ok(())
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

/// Closes the channel of a subscription request that was dropped before its answer. The broker
/// creates the subscription all the same, and lapin keeps it and its channel open: messages would
/// go there, and nobody would take them.
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
                // The close was written, or the channel is gone; the broker's answer changes
                // nothing.
                let _ = channel.close(200, "subscription abandoned".into()).await;
            });
        }
    }
}
