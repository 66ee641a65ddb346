//! A message: its content, and what its headers say about earlier attempts.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use crate::{
    broker::{Delivery, HeaderValue, Properties, headers::names},
    clock,
    dialect::{self, Dialect},
    text,
};

/// The message that a handler works on: the body's bytes, the properties, and the record of earlier
/// attempts.
///
/// A handler gets the body as the consumer's settings `body` say: unpacked, and the data of a CloudEvent.
/// Retries and dead letters have the publisher's bytes. The handler's extractors interpret the body.
#[derive(Debug)]
pub struct Message {
    pub(crate) queue: Arc<str>,
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
    pub(crate) redelivered: bool,
    pub(crate) properties: Properties,
    pub(crate) body: Vec<u8>,
    /// The record of earlier attempts, from the headers.
    pub(crate) past: Past,
    /// The time before which the publisher wants no attempt, in the words of its dialect.
    eta: Option<SystemTime>,
    /// The publisher's system would go on with other work after this message.
    pub(crate) has_sequel: bool,
}

/// The record of earlier attempts in a message's headers. A publisher can write any value there, so
/// every value is limited to its range.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Past {
    /// Attempts charged so far.
    pub(crate) attempts: u32,
    /// When a worker first received the message, if that is known and not in the future.
    pub(crate) first_seen: Option<SystemTime>,
    /// The message must not run before this time.
    pub(crate) not_before: Option<SystemTime>,
    /// When the message was parked.
    pub(crate) parked_at: Option<SystemTime>,
    /// When the message's `expiration` is over: the time that the first delivery decided.
    pub(crate) expires_at: Option<SystemTime>,
    /// The last attempts, oldest first.
    pub(crate) history: Vec<PastAttempt>,
}

/// One finished attempt in `lapwing-history`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct PastAttempt {
    /// When the attempt ended (RFC 3339).
    pub(crate) at: String,
    /// The number of the attempt, from 1.
    pub(crate) attempt: u32,
    /// The error's class.
    pub(crate) kind: String,
    /// The error's text, cut.
    pub(crate) error: String,
    /// The worker that ran the attempt.
    pub(crate) worker: String,
    /// The trace id of the attempt, if it was traced.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) trace: Option<String>,
}

impl Past {
    pub(crate) fn read(properties: &Properties) -> Self {
        if properties.headers().next().is_none() {
            return Self::default();
        }
        let text = |name| properties.header(name).and_then(HeaderValue::as_str);
        let time = |name| humantime::parse_rfc3339(text(name)?).ok();
        let now = clock::now();
        Self {
            attempts: attempts(properties),
            first_seen: time(names::FIRST_SEEN).filter(|seen| *seen <= now),
            not_before: time(names::NOT_BEFORE),
            parked_at: time(names::PARKED_AT),
            expires_at: time(names::EXPIRES_AT),
            history: text(names::HISTORY)
                .and_then(|json| serde_json::from_str(json).ok())
                .unwrap_or_default(),
        }
    }
}

impl Past {
    /// Adds what the message says in its dialect. What a worker has written comes first.
    fn add(&mut self, dialect: Dialect, facts: dialect::Facts, received: SystemTime) {
        /// The longest error text, in bytes.
        const ERROR_ROOM: usize = 512;
        self.not_before = self.not_before.or(facts.eta);
        self.expires_at = self.expires_at.or(facts.expires_at);
        if self.first_seen.is_some() {
            return;
        }
        self.attempts = self.attempts.max(facts.attempts);
        if let Some(failed) = facts.failure.filter(|_| self.history.is_empty()) {
            self.history.push(PastAttempt {
                at: text::rfc3339(received),
                attempt: self.attempts,
                kind: text::cut(&failed.class, 255).to_owned(),
                error: text::cut(&failed.error, ERROR_ROOM).to_owned(),
                worker: dialect.name().to_owned(),
                trace: None,
            });
        }
    }
}

/// Attempts charged to a message, from its headers.
pub(crate) fn attempts(properties: &Properties) -> u32 {
    let charged = properties
        .header(names::ATTEMPTS)
        .and_then(HeaderValue::as_i64);
    charged.map_or(0, |n| u32::try_from(n.max(0)).unwrap_or(u32::MAX - 1))
}

/// The trace id of a message's W3C context, if it has a valid one.
pub(crate) fn trace_id(properties: &Properties) -> Option<String> {
    let parent = properties.header(names::TRACEPARENT)?.as_str()?;
    let id = parent.split('-').nth(1)?;
    (id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit())).then(|| id.to_owned())
}

/// When the `expiration` of a message that arrives is over: counted from its publication if the
/// publisher wrote the time, and from the delivery otherwise.
fn expiry(properties: &Properties, received: SystemTime) -> Option<SystemTime> {
    // An expiration of 0 means: to a consumer that waits, or not at all. A consumer has waited.
    let millis = properties.expiration()?.parse().ok();
    let millis = millis.filter(|millis: &u64| *millis > 0)?;
    let expiration = Duration::from_millis(millis);
    let millis = properties.header(names::TIMESTAMP_IN_MS);
    let millis = millis.and_then(HeaderValue::as_i64);
    let millis = millis.and_then(|millis| u64::try_from(millis).ok());
    let published = match (millis, properties.timestamp()) {
        (Some(millis), _) => Some(Duration::from_millis(millis)),
        // The property counts whole seconds: the message may be from the end of its second.
        (None, Some(seconds)) => Some(Duration::from_secs(seconds.saturating_add(1))),
        (None, None) => None,
    };
    let published = published.and_then(|published| SystemTime::UNIX_EPOCH.checked_add(published));
    // A publisher's clock may be ahead of ours.
    let from = published.map_or(received, |published| published.min(received));
    from.checked_add(expiration)
}

fn source<'a>(properties: &'a Properties, name: &str, arrived: &'a str) -> &'a str {
    /// The longest exchange name or routing key, in bytes. A publisher can write a longer text into
    /// the header. A copy would carry that text twice and would not fit its frame.
    const LONGEST: usize = 255;
    let original = properties.header(name).and_then(HeaderValue::as_str);
    original
        .filter(|text| text.len() <= LONGEST)
        .unwrap_or(arrived)
}

impl Message {
    /// A message in the words of AMQP alone.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn new(delivery: Delivery, queue: Arc<str>) -> Self {
        Self::read(delivery, queue, None, false)
    }

    /// A message whose publisher's system speaks this dialect. `with_sequel`: looks for a sequel too.
    pub(crate) fn read(
        mut delivery: Delivery,
        queue: Arc<str>,
        dialect: Option<Dialect>,
        with_sequel: bool,
    ) -> Self {
        let facts = dialect.map(|dialect| {
            let (properties, body) = (&mut delivery.properties, &delivery.body);
            (dialect, dialect.read(properties, body, &queue, with_sequel))
        });
        let mut past = Past::read(&delivery.properties);
        let (mut eta, mut has_sequel) = (None, false);
        if let Some((dialect, facts)) = facts {
            (eta, has_sequel) = (facts.eta, facts.has_sequel);
            past.add(dialect, facts, delivery.received.time);
        }
        past.expires_at = past
            .expires_at
            .or_else(|| expiry(&delivery.properties, delivery.received.time));
        Self {
            queue,
            exchange: delivery.exchange,
            routing_key: delivery.routing_key,
            redelivered: delivery.redelivered,
            properties: delivery.properties,
            body: delivery.body,
            past,
            eta,
            has_sequel,
        }
    }

    /// When a message that a worker first saw at this time may have its first attempt.
    pub(crate) fn due_since(&self, first_seen: SystemTime) -> SystemTime {
        self.eta.map_or(first_seen, |eta| eta.max(first_seen))
    }

    /// The message as its handler sees it, with these properties and this body.
    pub(crate) fn with_body(&self, properties: Properties, body: Vec<u8>) -> Self {
        Self {
            queue: Arc::clone(&self.queue),
            exchange: self.exchange.clone(),
            routing_key: self.routing_key.clone(),
            redelivered: self.redelivered,
            properties,
            body,
            past: self.past.clone(),
            eta: self.eta,
            has_sequel: self.has_sequel,
        }
    }

    /// When the message was published, if that is known: to the millisecond from RabbitMQ's header
    /// `timestamp_in_ms`, or to the second from the property `timestamp`.
    pub(crate) fn published_at(&self) -> Option<SystemTime> {
        let millis = self.properties.header(names::TIMESTAMP_IN_MS);
        let millis = millis.and_then(HeaderValue::as_i64);
        let millis = millis.and_then(|millis| u64::try_from(millis).ok());
        let seconds = || self.properties.timestamp().map(Duration::from_secs);
        let since_epoch = millis.map(Duration::from_millis).or_else(seconds)?;
        SystemTime::UNIX_EPOCH.checked_add(since_epoch)
    }

    /// Whether no worker has seen the message before, as far as it says: the time since it was published is a
    /// time in the queue.
    pub(crate) fn is_first_delivery(&self) -> bool {
        let is_replay = || self.properties.header(names::REPLAYS).is_some();
        !self.redelivered && self.past.first_seen.is_none() && !is_replay()
    }

    /// Whether this is another delivery of the same message: everything but the broker's counts of its
    /// deliveries is equal.
    pub(crate) fn is_delivered_again_by(
        &self,
        delivery: &Delivery,
        dialect: Option<Dialect>,
    ) -> bool {
        let are_of_the_same = || match dialect {
            None => self.properties.are_of_the_same(&delivery.properties),
            Some(dialect) => {
                let mut properties = delivery.properties.clone();
                dialect.read(&mut properties, &delivery.body, &self.queue, false);
                self.properties.are_of_the_same(&properties)
            }
        };
        self.body == delivery.body
            && self.exchange == delivery.exchange
            && self.routing_key == delivery.routing_key
            && are_of_the_same()
    }

    /// The body's bytes.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Properties and headers, as the worker received them. If the consumer has a `dialect`, missing
    /// properties are filled in.
    #[must_use]
    pub fn properties(&self) -> &Properties {
        &self.properties
    }

    /// The `message-id` property. A publisher that sets it can find its messages in logs and
    /// traces.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.properties.message_id()
    }

    /// The `type` property.
    #[must_use]
    pub fn message_type(&self) -> Option<&str> {
        self.properties.message_type()
    }

    /// The queue that the message was consumed from.
    #[must_use]
    pub fn queue(&self) -> &str {
        &self.queue
    }

    /// The exchange that the publisher used, also on a retry; empty for the default exchange.
    #[must_use]
    pub fn exchange(&self) -> &str {
        source(&self.properties, names::SOURCE_EXCHANGE, &self.exchange)
    }

    /// The routing key that the publisher used, also on a retry.
    #[must_use]
    pub fn routing_key(&self) -> &str {
        source(
            &self.properties,
            names::SOURCE_ROUTING_KEY,
            &self.routing_key,
        )
    }

    /// Whether a worker has parked or dead-lettered the message before, or has cut its headers: it may lack
    /// what its publisher wrote.
    pub(crate) fn is_copy(&self) -> bool {
        let has = |name| self.properties.header(name).is_some();
        self.past.first_seen.is_some() || has(names::REPLAYS) || has(names::CUT_HEADERS)
    }

    /// Whether the publisher's routing key is lost: the message came back by the name of its queue, and no
    /// worker that this one believes says what it was before.
    pub(crate) fn has_lost_its_routing_key(&self) -> bool {
        self.is_copy()
            && self.exchange.is_empty()
            && self.routing_key == *self.queue
            && self.properties.header(names::SOURCE_ROUTING_KEY).is_none()
    }

    /// The broker's `redelivered` flag: the broker has delivered the message before, and the
    /// delivery was not acked.
    #[must_use]
    pub fn redelivered(&self) -> bool {
        self.redelivered
    }

    /// Attempts charged before this delivery.
    #[must_use]
    pub fn attempts_before(&self) -> u32 {
        self.past.attempts
    }

    /// How long until the message may run. Zero, except for delays longer than the longest retry
    /// queue, and for retry queues whose time-to-live a policy shortens. Zero too if the clock is
    /// behind the time at which the message was parked: then it cannot tell, and the retry queue has
    /// held the message for its time.
    pub(crate) fn early_by(&self) -> Duration {
        let Some(not_before) = self.past.not_before else {
            return Duration::ZERO;
        };
        let now = clock::now();
        match self.past.parked_at {
            Some(parked_at) if now < parked_at => Duration::ZERO,
            _ => not_before.duration_since(now).unwrap_or_default(),
        }
    }

    /// The trace id of the message's W3C context, if it has a valid one.
    #[cfg(any(test, fuzzing))]
    pub(crate) fn trace_id(&self) -> Option<String> {
        trace_id(&self.properties)
    }

    /// How long the publisher's `expiration` has been over; `None` if it is not.
    pub(crate) fn expired_by(&self) -> Option<Duration> {
        // Reading the clock costs time, and few messages have an expiration.
        let expires_at = self.past.expires_at?;
        clock::now().duration_since(expires_at).ok()
    }

    /// When the publisher's `expiration` is over, if the message has one.
    pub(crate) fn expires_at(&self) -> Option<SystemTime> {
        self.past.expires_at
    }
}
