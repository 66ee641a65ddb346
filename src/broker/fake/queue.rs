//! A queue of the fake broker.

use std::{collections::VecDeque, time::Duration};

use lapin::types::{AMQPValue, FieldArray, FieldTable};
use tokio::time::Instant;

use crate::broker::{
    Properties, QueueArgument,
    headers::{PERSISTENT, short},
    topology::QueuePlan,
};

/// The queue types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Quorum,
    Classic,
}

/// A queue: the arguments that matter to the fake, and its messages.
#[derive(Debug)]
pub(super) struct Queue {
    pub(super) kind: Type,
    ttl: Option<Duration>,
    pub(super) dead_letters_to: Option<String>,
    pub(super) delivery_limit: Option<u64>,
    /// The messages that are ready, oldest first.
    pub(super) ready: VecDeque<Stored>,
}

/// A message in a queue, or delivered to a consumer.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    /// The order of first arrival, over all queues.
    number: u64,
    pub(crate) body: Vec<u8>,
    pub(crate) properties: Properties,
    pub(crate) redelivered: bool,
    pub(crate) delivery_count: u64,
    expires_at: Option<Instant>,
}

impl Stored {
    pub(super) fn new(number: u64, body: Vec<u8>, properties: Properties) -> Self {
        Self {
            number,
            body,
            properties,
            redelivered: false,
            delivery_count: 0,
            expires_at: None,
        }
    }

    /// The message as the target queue of a dead-lettering gets it. RabbitMQ removes the
    /// expiration, so that the message does not expire again at once, and writes the source queue
    /// into `x-death` and similar headers.
    pub(super) fn dead_lettered(self, queue: &str, reason: &str) -> Self {
        let properties = self.properties.to_amqp();
        let text = |text: &str| AMQPValue::LongString(text.into());
        let mut death = FieldTable::default();
        death.insert(short("queue"), text(queue));
        death.insert(short("reason"), text(reason));
        death.insert(short("count"), AMQPValue::LongLongInt(1));
        if let Some(expiration) = properties.expiration() {
            death.insert(short("original-expiration"), text(expiration.as_str()));
        }
        let deaths = FieldArray::from(vec![AMQPValue::FieldTable(death)]);
        let mut headers: FieldTable = properties.headers().clone().unwrap_or_default();
        headers.insert(short("x-death"), AMQPValue::FieldArray(deaths));
        for name in ["x-first-death-queue", "x-last-death-queue"] {
            headers.insert(short(name), text(queue));
        }
        for name in ["x-first-death-reason", "x-last-death-reason"] {
            headers.insert(short(name), text(reason));
        }
        let mut kept = lapin::BasicProperties::default();
        macro_rules! keep {
            ($($get:ident => $set:ident),*) => {
                $(if let Some(value) = properties.$get().clone() { kept = kept.$set(value); })*
            };
        }
        keep!(
            content_type => with_content_type,
            content_encoding => with_content_encoding,
            delivery_mode => with_delivery_mode,
            priority => with_priority,
            correlation_id => with_correlation_id,
            reply_to => with_reply_to,
            message_id => with_message_id,
            timestamp => with_timestamp,
            kind => with_type,
            user_id => with_user_id,
            app_id => with_app_id
        );
        Self::new(self.number, self.body, kept.with_headers(headers).into())
    }

    /// The properties as a consumer gets them: with the delivery count of a quorum queue.
    pub(super) fn delivered_properties(&self) -> Properties {
        if self.delivery_count == 0 {
            return self.properties.clone();
        }
        let properties = self.properties.to_amqp();
        let mut headers: FieldTable = properties.headers().clone().unwrap_or_default();
        let count = i64::try_from(self.delivery_count).unwrap_or(i64::MAX);
        headers.insert(short("x-delivery-count"), AMQPValue::LongLongInt(count));
        properties.with_headers(headers).into()
    }

    /// Whether the message survives a restart of the broker.
    pub(crate) fn is_persistent(&self) -> bool {
        *self.properties.to_amqp().delivery_mode() == Some(PERSISTENT)
    }

    /// The `user-id` property itself.
    pub(crate) fn user_id(&self) -> Option<String> {
        let properties = self.properties.to_amqp();
        properties.user_id().as_ref().map(ToString::to_string)
    }

    /// A header's text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.properties.header(name)?.as_str()
    }

    /// A header's number.
    pub(crate) fn number(&self, name: &str) -> Option<i64> {
        self.properties.header(name)?.as_i64()
    }

    /// The `expiration` property.
    pub(crate) fn expiration(&self) -> Option<Duration> {
        let properties = self.properties.to_amqp();
        let milliseconds = properties.expiration().as_ref()?.as_str().parse().ok()?;
        Some(Duration::from_millis(milliseconds))
    }
}

impl Queue {
    pub(super) fn new(kind: Type) -> Self {
        Self {
            kind,
            ttl: None,
            dead_letters_to: None,
            delivery_limit: None,
            ready: VecDeque::new(),
        }
    }

    /// A queue with the arguments of this plan.
    pub(super) fn planned(plan: &QueuePlan) -> Self {
        let text = |key| match plan.argument(key) {
            Some(QueueArgument::Text(text)) => Some(text.clone()),
            _ => None,
        };
        let int = |key| match plan.argument(key) {
            Some(QueueArgument::Int(n)) => u64::try_from(*n).ok(),
            _ => None,
        };
        let kind = match text("x-queue-type").as_deref() {
            Some("classic") => Type::Classic,
            _ => Type::Quorum,
        };
        Self {
            ttl: int("x-message-ttl").map(Duration::from_millis),
            dead_letters_to: text("x-dead-letter-routing-key"),
            delivery_limit: int("x-delivery-limit"),
            ..Self::new(kind)
        }
    }

    /// Adds a message at the end. Returns the time at which it expires, if it does.
    pub(super) fn push(&mut self, mut message: Stored, now: Instant) -> Option<Instant> {
        let limits = [self.ttl, message.expiration()];
        let stay = limits.into_iter().flatten().min();
        message.expires_at = stay.map(|stay| now + stay);
        let expires_at = message.expires_at;
        self.ready.push_back(message);
        expires_at
    }

    /// Takes the message at the head if it has expired. As in RabbitMQ, a message behind one that
    /// stays longer waits for that one.
    pub(super) fn pop_expired(&mut self, now: Instant) -> Option<Stored> {
        let head = self.ready.front()?;
        let expired = head.expires_at.is_some_and(|at| at <= now);
        expired.then(|| self.ready.pop_front()).flatten()
    }

    /// Whether a message waits for its expiration.
    pub(super) fn will_expire(&self) -> bool {
        self.ready
            .iter()
            .any(|message| message.expires_at.is_some())
    }

    /// Puts a message back in its place.
    pub(super) fn put_back(&mut self, message: Stored) {
        let older = |other: &Stored| other.number < message.number;
        let place = self.ready.partition_point(older);
        self.ready.insert(place, message);
    }
}
