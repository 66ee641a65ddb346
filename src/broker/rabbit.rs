//! RabbitMQ as a [`Broker`]: one supervised connection that consumes, one that publishes.

use std::sync::Arc;

use lapin::{
    options::QueueDeclareOptions,
    types::{AMQPValue, FieldTable},
};
use tokio::sync::watch;

use super::{
    BrokerError, Link, LinkState, Properties, Publication, PublishError, Publisher, QueueSpec,
    TimeoutSettings, Version,
    connection::Connection,
    depths::{Count, Counting, depths},
    error::within,
    headers::short,
    seam::{Broker, Reading},
    session::RabbitSession,
    topology,
    trust::Rungs,
};

/// The worker's two connections. Clones share them and are cheap.
#[derive(Clone)]
pub(crate) struct Rabbit {
    consuming: Link,
    publisher: Publisher,
    counting: Counting,
    timeouts: Arc<TimeoutSettings>,
}

impl Rabbit {
    pub(crate) fn new(
        consuming: Link,
        publisher: Publisher,
        timeouts: Arc<TimeoutSettings>,
    ) -> Self {
        Self {
            consuming,
            publisher,
            counting: Counting::default(),
            timeouts,
        }
    }

    /// The connection that consumes.
    pub(super) fn consuming(&self) -> &Link {
        &self.consuming
    }

    /// The deadlines of requests.
    pub(super) fn timeouts(&self) -> &TimeoutSettings {
        &self.timeouts
    }

    /// The consuming connection, or the next failure to get one.
    async fn connected(&mut self) -> Result<Arc<Connection>, BrokerError> {
        match self.consuming.connected().await {
            Some(connected) => connected,
            // The supervisor has ended, because the program is ending.
            None => std::future::pending().await,
        }
    }
}

impl Broker for Rabbit {
    type Session = RabbitSession;

    fn is_up(&self) -> bool {
        self.consuming.is_up()
    }

    async fn up(&mut self) {
        self.consuming.up().await;
    }

    async fn open(&mut self, spec: &QueueSpec, tag: &str) -> Result<RabbitSession, BrokerError> {
        let connection = self.connected().await?;
        RabbitSession::open(connection, spec, Arc::clone(&self.timeouts), tag).await
    }

    /// Uses the consuming connection, because the broker may have blocked the publishing one.
    async fn depths(&self, queues: Vec<String>) -> Result<Vec<(String, Option<u32>)>, BrokerError> {
        let connection = self.consuming.current();
        let connection = connection.ok_or_else(|| BrokerError::Lost("not connected".to_owned()))?;
        depths(&connection, queues, self.timeouts.declare).await
    }

    async fn count(&self, queue: &str) -> Result<Option<Count>, BrokerError> {
        let connection = self.consuming.current();
        let connection = connection.ok_or_else(|| BrokerError::Lost("not connected".to_owned()))?;
        let limit = self.timeouts.declare;
        self.counting.count(&connection, queue, limit).await
    }

    async fn publish(&self, message: &Publication<'_>) -> Result<(), PublishError> {
        self.publisher.publish(message).await
    }

    async fn blocked(&self) {
        self.publisher.blocked().await;
    }

    async fn restore(&self, spec: &QueueSpec, queue: &str) -> Option<Result<(), BrokerError>> {
        let connection = self.publisher.link().current()?;
        let limit = self.timeouts.declare;
        Some(topology::restore(&connection, spec, queue, limit).await)
    }

    async fn watch_publishing(self, publishing: watch::Sender<Option<String>>) {
        let mut link = self.publisher.link().clone();
        loop {
            match link.state() {
                LinkState::Down(error) => {
                    let reason =
                        error.map_or_else(|| "not connected".to_owned(), |e| e.to_string());
                    publishing.send_replace(Some(reason));
                    if !link.changed().await {
                        return;
                    }
                }
                LinkState::Up(connection) => {
                    let mut blocked = connection.blocked();
                    let reason = blocked
                        .borrow_and_update()
                        .then(|| "blocked by the broker".to_owned());
                    publishing.send_replace(reason);
                    tokio::select! {
                        biased;
                        changed = link.changed() => if !changed { return },
                        // When the connection is gone, the link reports it.
                        Ok(()) = blocked.changed() => {}
                    }
                }
            }
        }
    }
}

impl Reading for Rabbit {
    async fn look_into(
        &mut self,
        queue: &str,
        prefetch: u16,
        tag: &str,
    ) -> Result<RabbitSession, BrokerError> {
        let connection = self.connected().await?;
        let timeouts = Arc::clone(&self.timeouts);
        RabbitSession::read(connection, queue, prefetch, timeouts, tag).await
    }

    async fn declare_own(&mut self, queue: &str) -> Result<(), BrokerError> {
        let connection = self.connected().await?;
        let limit = self.timeouts.declare;
        let channel = connection.channel(limit).await?;
        let options = QueueDeclareOptions {
            exclusive: true,
            auto_delete: true,
            ..QueueDeclareOptions::default()
        };
        // The virtual host may have another type as its default.
        let mut classic = FieldTable::default();
        classic.insert(
            short("x-queue-type"),
            AMQPValue::LongString("classic".into()),
        );
        let declare = channel.queue_declare(short(queue), options, classic);
        within(limit, "declaring a queue", declare).await?;
        let close = channel.close(200, "done".into());
        within(limit, "closing a channel", close).await
    }

    fn vouches(&self, user: &str) -> bool {
        let connection = self.consuming.current();
        connection.is_some_and(|connection| connection.trust().vouches(user))
    }

    fn version(&self) -> Option<Version> {
        self.consuming.current()?.version()
    }

    async fn delivery_limit(&self, queue: &str) -> Result<Option<u64>, BrokerError> {
        let connection = self.consuming.current();
        let connection = connection.ok_or_else(|| BrokerError::Lost("not connected".to_owned()))?;
        let limit = self.timeouts.declare;
        let asked = topology::delivery_limit(&connection, queue, limit).await?;
        Ok(asked.or_default(connection.version()))
    }

    fn believed(&self, spec: &QueueSpec, properties: &Properties) -> Option<Properties> {
        let connection = self.consuming.current()?;
        let trust = connection.trust();
        Some(trust.read(&Rungs::of(spec), properties.to_amqp()))
    }

    fn stranger(&self, properties: &Properties) -> Option<String> {
        let connection = self.consuming.current()?;
        connection.trust().stranger(&properties.to_amqp())
    }

    async fn publish_in_order(
        &self,
        messages: &[Publication<'_>],
    ) -> (usize, Result<(), PublishError>) {
        self.publisher.publish_in_order(messages).await
    }
}
