//! Publishing on the fake broker: confirms, returns, and copies that are stored without the
//! publisher's knowledge.

use std::time::Duration;

use lapin::types::{AMQPValue, FieldTable};
use tokio::time::{Instant, sleep, sleep_until};

use super::{
    FakeBroker, Model, Release,
    dead_letters::Placed,
    message::Stored,
    objects::{DEFAULT_EXCHANGE, Permission},
    script::Confirm,
};
use crate::broker::{
    Properties, Publication, PublishError, Written,
    copies::{Terms, copy_properties},
    headers::short,
};

/// The frame size that copies must fit, in bytes: RabbitMQ's default.
const FRAME_MAX: usize = 131_072;

/// The longest wait of a publisher for a confirm: the default of `timeouts.confirm`.
const CONFIRM_LIMIT: Duration = Duration::from_secs(10);

/// The longest wait of a publisher until its message is written: the default of `timeouts.publish`.
const WRITE_LIMIT: Duration = Duration::from_secs(5);

/// The time after which a publishing connection that RabbitMQ has closed is replaced.
const RECONNECTED: Duration = Duration::from_millis(500);

/// The user of the worker's connections.
pub(super) const USER: &str = "guest";

/// The pseudo-queue of direct replies.
const REPLY_TO: &str = "amq.rabbitmq.reply-to";

/// Counts a copy that the broker has stored, if the publisher never learns of it.
struct Untold<'a> {
    broker: &'a FakeBroker,
    is_told: bool,
}

impl Drop for Untold<'_> {
    fn drop(&mut self) {
        if !self.is_told {
            self.broker.lock().untold_copies += 1;
        }
    }
}

impl FakeBroker {
    /// The number of copies that the broker has stored without the publisher's knowledge. Each of
    /// these messages may have a duplicate.
    pub(crate) fn untold_copies(&self) -> u64 {
        self.read().untold_copies
    }

    pub(super) async fn confirmed(&self, message: &Publication<'_>) -> Result<(), PublishError> {
        let confirm = {
            let mut model = self.lock();
            if !model.publishes(self.worker) {
                return Err(PublishError::NoChannel("not connected".to_owned()));
            }
            if *model.blocked.borrow() {
                return Err(PublishError::Blocked);
            }
            model.script.confirms.pop_front().unwrap_or_default()
        };
        let properties: Properties = match &message.properties {
            Written::Copy(original, headers) => {
                let terms = Terms {
                    frame_max: FRAME_MAX,
                    user: Some(USER.to_owned()),
                    priorities_delay: self.read().release == Release::V40,
                };
                copy_properties(original, headers, &terms).into()
            }
            Written::New(properties) => (*properties).clone(),
        };
        self.written(message.body.len()).await?;
        self.accepted(message, &properties)?;
        let key = message.routing_key;
        let store = || match self.lock().route(key, message.body, properties) {
            Routed::Stored => Ok(None),
            Routed::Late(queue) => Ok(Some(queue)),
            Routed::Refused => Err(PublishError::Nacked),
            Routed::Nowhere => Err(PublishError::Returned("NO_ROUTE (312)".to_owned())),
        };
        match confirm {
            Confirm::Ack => match store()? {
                None => Ok(()),
                Some(queue) => self.confirm_late(&queue).await,
            },
            Confirm::AckAfter(delay) => {
                let stored = store().map(drop);
                self.confirm_after(delay, stored).await
            }
            Confirm::Nack => Err(PublishError::Nacked),
            Confirm::Return => Err(PublishError::Returned("NO_ROUTE (312)".to_owned())),
            Confirm::Lost => {
                store()?;
                self.lock().untold_copies += 1;
                Err(lost())
            }
            Confirm::NeverWritten => Err(lost()),
        }
    }

    /// Waits until the bytes of a message are on a slow link. A message that takes too long is given
    /// up: then the client closes the channel in the middle of the message, and RabbitMQ closes the
    /// connection with 505 (measured).
    async fn written(&self, bytes: usize) -> Result<(), PublishError> {
        let until = {
            let mut model = self.lock();
            let Some(bandwidth) = model.script.bandwidth else {
                return Ok(());
            };
            let links = model.links(self.worker);
            let now = Instant::now();
            let from = links.writes_until.map_or(now, |until| until.max(now));
            let until = from + Duration::from_secs_f64(bytes as f64 / bandwidth.max(1) as f64);
            links.writes_until = Some(until);
            until
        };
        tokio::select! {
            biased;
            () = self.until(|it| !it.read().publishes(self.worker)) => Err(lost()),
            () = sleep_until(until.min(Instant::now() + WRITE_LIMIT)) => {
                if until <= Instant::now() {
                    return Ok(());
                }
                let mut model = self.lock();
                let links = model.links(self.worker);
                links.publishing = false;
                links.writes_until = None;
                drop(model);
                // The supervisor connects again; this wait stands for its first one.
                let broker = self.clone();
                tokio::spawn(async move {
                    sleep(RECONNECTED).await;
                    broker.lock().links(broker.worker).publishing = true;
                });
                Err(PublishError::Unconfirmed(format!("not written within {WRITE_LIMIT:?}")))
            }
        }
    }

    /// Confirms when the queue has a leader again.
    async fn confirm_late(&self, queue: &str) -> Result<(), PublishError> {
        let mut untold = Untold {
            broker: self,
            is_told: false,
        };
        let waits = |it: &Self| it.read().queues.get(queue).is_some_and(|it| it.leaderless);
        tokio::select! {
            biased;
            () = self.until(|it| !it.read().publishes(self.worker)) => Err(lost()),
            () = self.until(|it| !waits(it)) => {
                untold.is_told = true;
                Ok(())
            }
            () = sleep(CONFIRM_LIMIT) => {
                Err(PublishError::Unconfirmed("no confirm in time".to_owned()))
            }
        }
    }

    /// Confirms after this time, unless the publisher stops waiting earlier or its connection is
    /// lost.
    async fn confirm_after(
        &self,
        delay: Duration,
        stored: Result<(), PublishError>,
    ) -> Result<(), PublishError> {
        let mut untold = Untold {
            broker: self,
            is_told: stored.is_err(),
        };
        tokio::select! {
            biased;
            () = self.until(|it| !it.read().publishes(self.worker)) => Err(lost()),
            () = sleep(delay.min(CONFIRM_LIMIT)) => {
                if delay > CONFIRM_LIMIT {
                    return Err(PublishError::Unconfirmed("no confirm in time".to_owned()));
                }
                untold.is_told = true;
                stored
            }
        }
    }

    /// Refuses what RabbitMQ closes the channel of a publisher for.
    fn accepted(
        &self,
        message: &Publication<'_>,
        properties: &Properties,
    ) -> Result<(), PublishError> {
        let model = self.read();
        if let Some(text) = model.refused(Permission::Write, DEFAULT_EXCHANGE) {
            return Err(PublishError::Refused { code: 403, text });
        }
        // The fake has only the default exchange.
        if !message.exchange.is_empty() {
            let text = format!("NOT_FOUND - no exchange '{}'", message.exchange);
            return Err(PublishError::Refused { code: 404, text });
        }
        let size = message.body.len();
        if let Some(max) = model.script.max_message_size.filter(|max| size > *max) {
            let text = format!(
                "PRECONDITION_FAILED - message size {size} is larger than configured max size {max}"
            );
            return Err(PublishError::Refused { code: 406, text });
        }
        drop(model);
        // Only the channel that consumes the replies may publish with this `reply-to`.
        if properties
            .to_amqp()
            .reply_to()
            .as_ref()
            .is_some_and(|it| it.as_str() == REPLY_TO)
        {
            let text = "PRECONDITION_FAILED - fast reply consumer does not exist".to_owned();
            return Err(PublishError::Refused { code: 406, text });
        }
        self.check_user(properties)
    }

    /// RabbitMQ closes the channel of a publish whose `user-id` is not the connection's user.
    fn check_user(&self, properties: &Properties) -> Result<(), PublishError> {
        let properties = properties.to_amqp();
        let Some(user) = properties.user_id().as_ref().map(|user| user.as_str()) else {
            return Ok(());
        };
        if user == USER {
            return Ok(());
        }
        let text = format!("PRECONDITION_FAILED - user_id property set to '{user}'");
        self.lock().violations.push(text.clone());
        Err(PublishError::Refused { code: 406, text })
    }
}

/// Where a published message went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Routed {
    /// To at least one queue.
    Stored,
    /// To a queue without a leader, which stores it later.
    Late(String),
    /// To at least one queue that refuses it.
    Refused,
    /// To no queue.
    Nowhere,
}

impl Model {
    /// Stores a message in the queue and in the queues of its `CC` and `BCC` headers, and delivers
    /// it to consumers that have room.
    pub(super) fn route(&mut self, queue: &str, body: &[u8], properties: Properties) -> Routed {
        let (others, properties) = carbon_copies(properties);
        let mut routed = Routed::Nowhere;
        for name in [queue].into_iter().chain(others.iter().map(String::as_str)) {
            let message = Stored::new(queue, body, properties.clone());
            match self.store(name, message) {
                Placed::NoQueue => {}
                Placed::Refused => routed = Routed::Refused,
                Placed::Late if routed != Routed::Refused => routed = Routed::Late(name.to_owned()),
                Placed::Stored if routed == Routed::Nowhere => routed = Routed::Stored,
                Placed::Late | Placed::Stored => {}
            }
        }
        routed
    }
}

fn lost() -> PublishError {
    PublishError::Unconfirmed("connection lost".to_owned())
}

/// The additional queues that a message names in its `CC` and `BCC` headers, and the properties
/// with which it is stored: RabbitMQ removes the `BCC` header.
pub(super) fn carbon_copies(properties: Properties) -> (Vec<String>, Properties) {
    let inner = properties.to_amqp();
    let Some(headers) = inner.headers() else {
        return (Vec::new(), properties);
    };
    let names = |header: &str| match headers.inner().get(header) {
        Some(AMQPValue::FieldArray(names)) => {
            let text = |name: &AMQPValue| match name {
                AMQPValue::LongString(name) => Some(name.to_string()),
                _ => None,
            };
            names.as_slice().iter().filter_map(text).collect()
        }
        _ => Vec::new(),
    };
    let queues = [names("CC"), names("BCC")].concat();
    let mut kept = headers.inner().clone();
    if queues.is_empty() || kept.remove(&short("BCC")).is_none() {
        return (queues, properties);
    }
    (queues, inner.with_headers(FieldTable::from(kept)).into())
}
