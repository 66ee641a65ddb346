//! Publishes new messages, with the same confirms as retries and dead letters.

use std::sync::Arc;

use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    broker::{
        BrokerError, Link, NewMessage, Publication, PublishError, Publisher, Purpose, Scouting,
        Written,
    },
    chance,
    settings::Settings,
    telemetry::PublishTrace,
};

/// Publishes messages and waits for the broker's confirm of each. Clones share one connection and
/// are cheap. The connection closes with the last clone, or by [`close`](Self::close).
#[derive(Clone)]
pub struct Client {
    publisher: Publisher,
    closing: CancellationToken,
    _close_with_last: Arc<DropGuard>,
}

impl Client {
    /// Connects, on the current runtime. At most `channels` publishes are under way at a time. The
    /// client replaces a connection that is lost later; publishes fail until then.
    ///
    /// # Errors
    /// When the first attempt fails.
    pub async fn connect(
        settings: &Settings,
        channels: usize,
    ) -> Result<(Self, JoinHandle<()>), BrokerError> {
        let timeouts = Arc::new(settings.timeouts.clone());
        let closing = CancellationToken::new();
        // From here on the guard stops the supervisor: without it, a failed attempt or a dropped
        // future would leave a supervisor that tries without end.
        let close_with_last = Arc::new(closing.clone().drop_guard());
        let (mut link, closed) = Link::start(
            Purpose::Publish,
            Arc::new(settings.broker.clone()),
            Arc::clone(&timeouts),
            settings.broker.name.clone(),
            Scouting::default(),
            Arc::default(),
            closing.clone(),
        );
        let first = link.connected().await;
        first.ok_or_else(|| BrokerError::Lost("closed".to_owned()))??;
        let publisher = Publisher::new(link, channels, timeouts);
        let client = Self {
            publisher,
            closing,
            _close_with_last: close_with_last,
        };
        Ok((client, closed))
    }

    /// Publishes one message. `Ok` means that the broker has stored it in a queue. If the process
    /// traces, this makes a span, and the message carries the span's context.
    ///
    /// # Errors
    /// When the message is not confirmed. If no answer came, the broker may have stored it all the
    /// same.
    pub async fn publish(&self, message: &NewMessage) -> Result<(), PublishError> {
        let id = message.message_id.clone();
        let id = id.unwrap_or_else(|| chance::message_id().to_string());
        let mut headers = message.headers.clone();
        let connection = self.publisher.link().current();
        let broker = connection.as_ref().map(|connection| {
            let (host, port) = &connection.server;
            (host.as_str(), *port)
        });
        let trace = PublishTrace::begin(
            broker,
            &message.exchange,
            &message.routing_key,
            &id,
            &mut headers,
        );
        let published = self.publish_with(message, &id, &headers).await;
        trace.end(&published);
        published
    }

    async fn publish_with(
        &self,
        message: &NewMessage,
        id: &str,
        headers: &[(String, String)],
    ) -> Result<(), PublishError> {
        let properties = message.properties(id, headers);
        let publication = Publication {
            exchange: &message.exchange,
            routing_key: &message.routing_key,
            body: &message.body,
            properties: Written::New(&properties),
        };
        self.publisher.publish(&publication).await
    }

    /// Waits until the broker has blocked publishing, because of a memory or disk alarm. Publishes
    /// that are under way then are confirmed when the alarm ends. Later publishes fail with
    /// [`PublishError::Blocked`].
    pub async fn blocked(&self) {
        self.publisher.blocked().await;
    }

    /// Waits while the broker blocks publishing on this connection.
    pub async fn unblocked(&self) {
        if let Some(connection) = self.publisher.link().current() {
            // An error means that the connection is lost, and with it the block.
            let _ = connection.blocked().wait_for(|blocked| !*blocked).await;
        }
    }

    /// Closes the connection. The handle that [`connect`](Self::connect) returned completes when it
    /// is closed.
    pub fn close(&self) {
        self.closing.cancel();
    }
}
