//! The only code that publishes: parked retries, dead letters, and `lapwing publish`.
//!
//! A publish succeeds only when the broker has confirmed it and has not returned the message. lapin
//! reports an unroutable publish as a confirm that carries the returned message. When several
//! publishes are under way on one channel, lapin attaches the return to the wrong one (measured, 6
//! runs of 6). So each channel has one publish under way at a time, and a deadpool holds many
//! channels.

mod in_order;

use std::{sync::Arc, time::Duration};

use deadpool::{
    Runtime,
    managed::{Manager, Metrics, Object, Pool, PoolError, RecycleError, RecycleResult, Timeouts},
};
use lapin::{
    BasicProperties, Channel, Confirmation, ErrorKind, PublisherConfirm,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    protocol::AMQPErrorKind,
};
use tokio::sync::watch;

use super::{
    TimeoutSettings,
    connection::{Connection, Link},
    copies::{CopyHeaders, copy_properties, length},
    error::{BrokerError, within},
    headers::{Properties, short},
    trust::is_about_the_user,
};

/// Reply codes of AMQP 0-9-1: content too large, and precondition failed.
const TOO_LARGE: u16 = 311;
const PRECONDITION: u16 = 406;

/// Why a publish failed. After [`Unconfirmed`](Self::Unconfirmed) the broker may have the message
/// all the same. After every other error the broker does not have it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublishError {
    /// There is no connection to publish on, or no channel within the deadline.
    #[error("no channel to publish on: {0}")]
    NoChannel(String),
    /// The broker has blocked publishing, because of a memory or disk alarm.
    #[error("the broker has blocked publishing")]
    Blocked,
    /// No queue takes this routing key.
    #[error("unroutable: {0}")]
    Returned(String),
    /// The broker refused the message, for instance because a queue is full.
    #[error("refused by the broker")]
    Nacked,
    /// The broker closed the channel because of the message, with this reply.
    #[error("refused by the broker: {text} ({code})")]
    Refused {
        /// The AMQP reply code.
        code: u16,
        /// The broker's text.
        text: String,
    },
    /// No confirm came.
    #[error("not confirmed: {0}")]
    Unconfirmed(String),
}

impl PublishError {
    /// A word for the error, from a small fixed set.
    pub(crate) fn class(&self) -> &'static str {
        match self {
            Self::NoChannel(_) => "no-channel",
            Self::Blocked => "blocked",
            Self::Returned(_) => "returned",
            Self::Nacked => "nacked",
            Self::Refused { .. } => "refused",
            Self::Unconfirmed(_) => "unconfirmed",
        }
    }

    /// Whether the broker refuses this message, and would take others: 311 content too large, 406
    /// precondition failed (its size, its `reply-to`). A copy that names the wrong user says nothing
    /// about the message.
    pub(crate) fn is_about_the_message(&self) -> bool {
        match self {
            Self::Refused { code, .. } if *code == TOO_LARGE => true,
            Self::Refused { code, text } => *code == PRECONDITION && !is_about_the_user(text),
            _ => false,
        }
    }

    /// The error of a publish that lapin reports.
    fn of(error: &lapin::Error) -> Self {
        match error.kind() {
            // A soft error closes the channel of this publish. A hard one closes the connection, and
            // says nothing about this publish.
            ErrorKind::ProtocolError(refusal)
                if matches!(refusal.kind(), AMQPErrorKind::Soft(_)) =>
            {
                Self::Refused {
                    code: refusal.get_id(),
                    text: refusal.get_message().to_string(),
                }
            }
            _ => Self::Unconfirmed(error.to_string()),
        }
    }
}

/// A message to publish.
#[derive(Clone, Debug)]
pub(crate) struct Publication<'a> {
    /// Empty for the default exchange.
    pub(crate) exchange: &'a str,
    /// The routing key.
    pub(crate) routing_key: &'a str,
    /// The bytes.
    pub(crate) body: &'a [u8],
    /// Properties and headers.
    pub(crate) properties: Written<'a>,
}

/// Where the properties of a publication come from.
#[derive(Clone, Debug)]
pub(crate) enum Written<'a> {
    /// From a message of which this is a copy, with our headers.
    Copy(&'a Properties, CopyHeaders),
    /// From a new message.
    New(&'a Properties),
}

impl Written<'_> {
    /// Leaves out of a copy what the broker may refuse it for. False: nothing was left to leave out.
    pub(crate) fn make_bare(&mut self) -> bool {
        match self {
            Self::Copy(_, headers) => !std::mem::replace(&mut headers.bare, true),
            Self::New(_) => false,
        }
    }
}

/// Publishes with confirms, on a supervised connection of its own. Clones share it and are cheap.
#[derive(Clone)]
pub(crate) struct Publisher {
    pool: Pool<Channels>,
    link: Link,
    timeouts: Arc<TimeoutSettings>,
}

impl Publisher {
    /// A publisher with a pool of `channels` channels.
    pub(crate) fn new(link: Link, channels: usize, timeouts: Arc<TimeoutSettings>) -> Self {
        let manager = Channels {
            link: link.clone(),
            limit: timeouts.checkout,
        };
        let checkout = Some(timeouts.checkout);
        let pool = Pool::builder(manager)
            .max_size(channels)
            .runtime(Runtime::Tokio1)
            .timeouts(Timeouts {
                wait: checkout,
                create: checkout,
                recycle: checkout,
            })
            .build()
            .expect("a pool with a runtime and timeouts can be built");
        Self {
            pool,
            link,
            timeouts,
        }
    }

    /// The connection that the publisher uses.
    pub(crate) fn link(&self) -> &Link {
        &self.link
    }

    /// Waits until the broker has blocked publishing.
    pub(crate) async fn blocked(&self) {
        let mut link = self.link.clone();
        loop {
            link.up().await;
            if let Some(connection) = link.current()
                && connection.blocked().wait_for(|is| *is).await.is_ok()
            {
                return;
            }
            if !link.changed().await {
                std::future::pending().await
            }
        }
    }

    /// A channel to publish on.
    async fn channel(&self) -> Result<Object<Channels>, PublishError> {
        let connection = self.link.current();
        let connection =
            connection.ok_or_else(|| PublishError::NoChannel("not connected".into()))?;
        // lapin writes nothing while the connection is blocked. A message given to lapin now would
        // be published at some later time, when nobody expects it.
        if *connection.blocked().borrow() {
            return Err(PublishError::Blocked);
        }
        self.pool.get().await.map_err(no_channel)
    }

    /// Publishes one message, persistent and mandatory, and waits for the broker's confirm.
    pub(crate) async fn publish(&self, message: &Publication<'_>) -> Result<(), PublishError> {
        let channel = self.channel().await?;
        // The channel may belong to a later connection, because waiting for a channel takes a
        // while.
        let connection = &channel.connection;
        let named = connection.trust().user();
        let properties = properties_of(message, connection)?;
        let confirmed = self.confirmed(&channel, message, properties, connection.blocked());
        // If this future is dropped here, the channel goes back to the pool with a publish under
        // way. `recycle` checks for that.
        let outcome = confirmed.await;
        if let Err(PublishError::Unconfirmed(_) | PublishError::Refused { .. }) = outcome {
            // A late confirm must not be taken for the confirm of the next publish, so the channel
            // is thrown away.
            let connection = Arc::clone(connection);
            drop(Object::take(channel));
            // The copy named another user than the broker knows. With the right one it is not the same
            // copy.
            if let Err(PublishError::Refused { code, text }) = &outcome
                && *code == PRECONDITION
                && connection.trust().learn(text, named.as_deref())
            {
                return Box::pin(self.publish(message)).await;
            }
        }
        outcome
    }

    async fn confirmed(
        &self,
        channel: &PooledChannel,
        message: &Publication<'_>,
        properties: BasicProperties,
        blocked: watch::Receiver<bool>,
    ) -> Result<(), PublishError> {
        let busy = channel.busy();
        let confirm = self.write(channel, message, properties, &blocked).await?;
        let confirm = self.confirm(confirm, &blocked).await?;
        busy.done();
        result_of(confirm)
    }

    /// Writes a message.
    async fn write(
        &self,
        channel: &PooledChannel,
        message: &Publication<'_>,
        properties: BasicProperties,
        blocked: &watch::Receiver<bool>,
    ) -> Result<PublisherConfirm, PublishError> {
        let options = BasicPublishOptions {
            mandatory: true,
            immediate: false,
        };
        let write = channel.channel.basic_publish(
            short(message.exchange),
            short(message.routing_key),
            options,
            message.body,
            properties,
        );
        let limit = self.timeouts.publish;
        // If an alarm begins while the message waits to be written, lapin writes it when the alarm
        // ends.
        patiently(limit, blocked.clone(), write)
            .await
            .ok_or_else(|| PublishError::Unconfirmed(format!("not written within {limit:?}")))?
            .map_err(|error| PublishError::of(&error))
    }

    /// Waits for the broker's answer to a message.
    async fn confirm(
        &self,
        confirm: PublisherConfirm,
        blocked: &watch::Receiver<bool>,
    ) -> Result<Confirmation, PublishError> {
        patiently(self.timeouts.confirm, blocked.clone(), confirm)
            .await
            .ok_or_else(|| PublishError::Unconfirmed("no confirm in time".to_owned()))?
            .map_err(|error| PublishError::of(&error))
    }
}

/// What the broker's answer says of the message.
fn result_of(confirm: Confirmation) -> Result<(), PublishError> {
    match confirm {
        Confirmation::Ack(None) => Ok(()),
        Confirmation::Ack(Some(returned)) => {
            let text = format!("{} ({})", returned.reply_text, returned.reply_code);
            Err(PublishError::Returned(text))
        }
        Confirmation::Nack(_) => Err(PublishError::Nacked),
        Confirmation::NotRequested => Err(PublishError::Unconfirmed("confirms are off".to_owned())),
    }
}

/// The properties with which a message is written.
fn properties_of(
    message: &Publication<'_>,
    connection: &Connection,
) -> Result<BasicProperties, PublishError> {
    let properties = match &message.properties {
        Written::Copy(original, headers) => copy_properties(original, headers, &connection.terms()),
        Written::New(properties) => properties.to_amqp(),
    };
    // The broker ends the connection for a header frame that is too long.
    if length(&properties) > connection.frame_max() {
        let text = "the headers do not fit into a frame".to_owned();
        return Err(PublishError::Refused {
            code: TOO_LARGE,
            text,
        });
    }
    Ok(properties)
}

fn no_channel(error: PoolError<BrokerError>) -> PublishError {
    PublishError::NoChannel(error.to_string())
}

/// Waits for `future` for at most `limit`. The time during which the broker blocks the connection
/// does not count: the confirm comes when the alarm ends, and a second copy would help nobody.
async fn patiently<T>(
    limit: Duration,
    mut blocked: watch::Receiver<bool>,
    future: impl Future<Output = T>,
) -> Option<T> {
    let mut future = std::pin::pin!(future);
    loop {
        tokio::select! {
            biased;
            done = &mut future => return Some(done),
            () = tokio::time::sleep(limit), if !*blocked.borrow() => return None,
            // The sender ends with the connection, and then `future` ends by itself.
            Ok(()) = blocked.changed() => {}
        }
    }
}

/// Creates the pool's channels and checks them before each use.
struct Channels {
    link: Link,
    limit: Duration,
}

/// A channel in confirm mode, with the connection that it belongs to.
pub(crate) struct PooledChannel {
    channel: Channel,
    connection: Arc<Connection>,
    busy: Arc<std::sync::atomic::AtomicBool>,
}

/// Marks the channel as having a publish under way until [`Busy::done`].
struct Busy(Arc<std::sync::atomic::AtomicBool>);

impl PooledChannel {
    fn busy(&self) -> Busy {
        self.busy.store(true, std::sync::atomic::Ordering::Relaxed);
        Busy(Arc::clone(&self.busy))
    }
}

impl Busy {
    fn done(self) {
        self.0.store(false, std::sync::atomic::Ordering::Relaxed);
    }
}

impl Manager for Channels {
    type Type = PooledChannel;
    type Error = BrokerError;

    async fn create(&self) -> Result<PooledChannel, BrokerError> {
        let connection = self.link.current();
        let connection = connection.ok_or_else(|| BrokerError::Lost("not connected".into()))?;
        let channel = connection.channel(self.limit).await?;
        let select = channel.confirm_select(ConfirmSelectOptions::default());
        within(self.limit, "turning confirms on", select).await?;
        Ok(PooledChannel {
            channel,
            connection,
            busy: Arc::default(),
        })
    }

    async fn recycle(&self, pooled: &mut PooledChannel, _: &Metrics) -> RecycleResult<BrokerError> {
        let current = self.link.current();
        let is_current = current.is_some_and(|current| Arc::ptr_eq(&current, &pooled.connection));
        if !is_current || !pooled.channel.status().connected() {
            return Err(RecycleError::message("its connection or channel is closed"));
        }
        if pooled.busy.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(RecycleError::message(
                "an abandoned publish is under way on the channel",
            ));
        }
        Ok(())
    }
}
