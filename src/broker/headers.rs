//! Properties and headers of messages that arrive, and those of new messages.
//!
//! The header names in this module are Lapwing's contract with every program that reads its retries
//! and dead letters.

use std::borrow::Cow;

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, ShortString},
};
use serde_json::{Value, json};

use super::seen;

/// Header names that Lapwing writes.
pub mod names {
    /// Attempts charged so far (integer).
    pub const ATTEMPTS: &str = "lapwing-attempts";
    /// Times the process died while this message ran (integer).
    pub const CRASHES: &str = "lapwing-crashes";
    /// When a worker first received the message (RFC 3339).
    pub const FIRST_SEEN: &str = "lapwing-first-seen";
    /// The message must not reach a handler before this time (RFC 3339). Each parked copy has it.
    pub const NOT_BEFORE: &str = "lapwing-not-before";
    /// The last ten attempts (JSON array of `{at, attempt, error, kind, worker, trace}`).
    pub const HISTORY: &str = "lapwing-history";
    /// Why the message was dead-lettered: a [`Reason`](crate::policy::Reason).
    pub const REASON: &str = "lapwing-reason";
    /// The last error's text, cut to fit.
    pub const ERROR: &str = "lapwing-error";
    /// The last error's class (`timeout`, `panic`, `http`, …).
    pub const ERROR_KIND: &str = "lapwing-error-kind";
    /// A hash of the last error's class and normalised text: equal for equal failures.
    pub const FINGERPRINT: &str = "lapwing-fingerprint";
    /// When the message was dead-lettered (RFC 3339).
    pub const FAILED_AT: &str = "lapwing-failed-at";
    /// The queue that the message was consumed from.
    pub const SOURCE_QUEUE: &str = "lapwing-source-queue";
    /// The exchange that the publisher used.
    pub const SOURCE_EXCHANGE: &str = "lapwing-source-exchange";
    /// The routing key that the publisher used.
    pub const SOURCE_ROUTING_KEY: &str = "lapwing-source-routing-key";
    /// The worker that published this copy.
    pub const WORKER: &str = "lapwing-worker";
    /// How often the message was replayed from the dead-letter queue (integer).
    pub const REPLAYS: &str = "lapwing-replays";
    /// The run of `lapwing dead replay` that published this copy (a UUID). After a run that was
    /// killed, two copies of a message with the same value are duplicates.
    pub const REPLAY: &str = "lapwing-replay";
    /// A canary of `lapwing dead replay --canary` (text `QUEUE NUMBER`): the worker reports the first
    /// outcome of this message to this queue, under this number. Believed only on a copy that names its
    /// user.
    pub const CANARY: &str = "lapwing-canary";
    /// The queue from which `lapwing topology migrate` moved the message.
    pub const MOVED_FROM: &str = "lapwing-moved-from";
    /// How an edited dead letter was changed (JSON object of `{at, by, from}`); `from` is a hash of
    /// the body before.
    pub const EDITED: &str = "lapwing-edited";
    /// The publisher's `user-id` property. The broker refuses a message whose `user-id` is not the
    /// connection's own user, so a copy carries the value in this header.
    pub const ORIGINAL_USER_ID: &str = "lapwing-original-user-id";
    /// When the publisher's `expiration` is over (RFC 3339).
    pub const EXPIRES_AT: &str = "lapwing-expires-at";
    /// The beginning of the name of each header that keeps what a copy cannot carry in its own place,
    /// such as another system's `x-death` while the copy is parked: `lapwing-original-x-death`.
    pub const ORIGINAL: &str = "lapwing-original-";
    /// The publisher's `priority` property, while the copy is parked (integer).
    pub const ORIGINAL_PRIORITY: &str = "lapwing-original-priority";
    /// The publisher's `expiration` property.
    pub const ORIGINAL_EXPIRATION: &str = "lapwing-original-expiration";
    /// The publisher's `reply-to`, where the broker refused a copy that has it.
    pub const ORIGINAL_REPLY_TO: &str = "lapwing-original-reply-to";
    /// The publisher's `CC` header, which would add routes to a copy.
    pub const ORIGINAL_CC: &str = "lapwing-original-cc";
    /// The publisher's `BCC` header.
    pub const ORIGINAL_BCC: &str = "lapwing-original-bcc";
    /// Names of headers that did not fit the frame together with our own and were dropped.
    pub const CUT_HEADERS: &str = "lapwing-cut-headers";
    /// When the copy was parked (RFC 3339).
    pub const PARKED_AT: &str = "lapwing-parked-at";
    /// The span of the previous attempt, as a W3C `traceparent`.
    pub const LAST_ATTEMPT: &str = "lapwing-last-attempt";
    /// When the message was published, in milliseconds since 1970 (integer), as RabbitMQ's
    /// `set_header_timestamp` interceptor writes it
    /// (<https://www.rabbitmq.com/docs/message-interceptors>).
    pub const TIMESTAMP_IN_MS: &str = "timestamp_in_ms";
    /// W3C baggage.
    pub const BAGGAGE: &str = "baggage";
    /// W3C trace context: that of the span that created the message. In a dead letter: that of the
    /// last attempt.
    pub const TRACEPARENT: &str = "traceparent";
    /// W3C trace context, the vendors' part.
    pub const TRACESTATE: &str = "tracestate";
}

/// Delivery mode 2.
pub(super) const PERSISTENT: u8 = 2;

/// The properties of a message as it arrived.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Properties(pub(super) BasicProperties);

macro_rules! text_properties {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        $($(#[$doc])* #[must_use] pub fn $name(&self) -> Option<&str> {
            self.0.$name().as_ref().map(ShortString::as_str)
        })*
    };
}

impl Properties {
    text_properties! {
        /// `content-type`.
        content_type,
        /// `content-encoding`.
        content_encoding,
        /// `correlation-id`.
        correlation_id,
        /// `message-id`.
        message_id,
        /// `app-id`.
        app_id,
    }

    /// `reply-to`: the publisher's, also on a retry.
    #[must_use]
    pub fn reply_to(&self) -> Option<&str> {
        let own = self.0.reply_to().as_ref().map(ShortString::as_str);
        own.or_else(|| self.header(names::ORIGINAL_REPLY_TO)?.as_str())
    }

    /// `type`.
    #[must_use]
    pub fn message_type(&self) -> Option<&str> {
        self.0.kind().as_ref().map(ShortString::as_str)
    }

    /// `user-id`: the publisher's, also on a retry. The broker has checked it.
    #[must_use]
    pub fn user_id(&self) -> Option<&str> {
        self.0.user_id().as_ref().map(ShortString::as_str)
    }

    /// `expiration`, in milliseconds as text: the publisher's, also on a retry.
    #[must_use]
    pub fn expiration(&self) -> Option<&str> {
        let own = self.0.expiration().as_ref().map(ShortString::as_str);
        own.or_else(|| self.header(names::ORIGINAL_EXPIRATION)?.as_str())
    }

    /// `timestamp`, in seconds since 1970.
    #[must_use]
    pub fn timestamp(&self) -> Option<u64> {
        *self.0.timestamp()
    }

    /// `priority`.
    #[must_use]
    pub fn priority(&self) -> Option<u8> {
        *self.0.priority()
    }

    /// One header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<HeaderValue<'_>> {
        let table = self.0.headers().as_ref()?;
        table.inner().get(name).map(HeaderValue)
    }

    /// All headers, by name.
    pub fn headers(&self) -> impl Iterator<Item = (&str, HeaderValue<'_>)> {
        let table = self.0.headers().as_ref();
        table
            .into_iter()
            .flat_map(|table| table.inner().iter())
            .map(|(name, value)| (name.as_str(), HeaderValue(value)))
    }
}

impl Properties {
    /// Properties of a new message: persistent, with a message-id and the time.
    pub(crate) fn new(
        message_id: &str,
        content_type: Option<&str>,
        message_type: Option<&str>,
        headers: &[(String, String)],
    ) -> Self {
        let now = std::time::UNIX_EPOCH.elapsed().unwrap_or_default();
        let mut inner = BasicProperties::default()
            .with_delivery_mode(PERSISTENT)
            .with_timestamp(now.as_secs())
            .with_message_id(short(message_id));
        if let Some(content_type) = content_type {
            inner = inner.with_content_type(short(content_type));
        }
        if let Some(message_type) = message_type {
            inner = inner.with_type(short(message_type));
        }
        let mut table = FieldTable::default();
        // The `timestamp` property counts whole seconds. This header has the milliseconds, under
        // the name that RabbitMQ's own interceptor uses.
        let millis = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
        table.insert(
            short(names::TIMESTAMP_IN_MS),
            AMQPValue::LongLongInt(millis),
        );
        for (name, value) in headers {
            table.insert(short(name), AMQPValue::LongString(value.as_str().into()));
        }
        Self(inner.with_headers(table))
    }

    /// Whether these properties are equal, apart from the broker's counts of deliveries.
    pub(crate) fn are_of_the_same(&self, other: &Self) -> bool {
        fn own(table: Option<&FieldTable>) -> impl Iterator<Item = (&ShortString, &AMQPValue)> {
            let all = table.into_iter().flat_map(|table| table.inner());
            all.filter(|(name, _)| {
                !matches!(name.as_str(), "x-delivery-count" | "x-acquired-count")
            })
        }
        let bare = |it: &Self| it.0.clone().with_headers(FieldTable::default());
        self.message_id() == other.message_id()
            && own(self.0.headers().as_ref()).eq(own(other.0.headers().as_ref()))
            && bare(self) == bare(other)
    }

    /// Whether the broker drops the message from its queue after a time.
    pub(super) fn expires(&self) -> bool {
        self.0.expiration().is_some()
    }

    pub(super) fn to_amqp(&self) -> BasicProperties {
        self.0.clone()
    }
}

impl Properties {
    /// The same properties with this correlation id.
    pub(super) fn with_correlation_id(self, id: &str) -> Self {
        Self(self.0.with_correlation_id(short(id)))
    }
}

#[cfg(test)]
impl Properties {
    /// The same properties with this content encoding.
    pub(crate) fn with_content_encoding(self, encoding: &str) -> Self {
        Self(self.0.with_content_encoding(short(encoding)))
    }

    /// The same properties with this `user-id`.
    pub(crate) fn with_user(self, user: &str) -> Self {
        Self(self.0.with_user_id(short(user)))
    }

    /// The same properties, with every other one that AMQP has.
    pub(crate) fn with_every_other(self) -> Self {
        let every = self.0.with_correlation_id(short("c1"));
        let every = every.with_reply_to(short("answers"));
        let every = every.with_app_id(short("shop"));
        let every = every.with_user_id(short("guest"));
        let every = every.with_timestamp(1_700_000_000);
        let every = every.with_priority(7);
        Self(every.with_expiration(short("60000")))
    }
}

impl From<BasicProperties> for Properties {
    fn from(inner: BasicProperties) -> Self {
        Self(inner)
    }
}

/// One header's value, as the broker sent it.
#[derive(Clone, Copy, Debug)]
pub struct HeaderValue<'a>(pub(super) &'a AMQPValue);

impl<'a> HeaderValue<'a> {
    /// The value, if it is text in UTF-8.
    #[must_use]
    pub fn as_str(self) -> Option<&'a str> {
        match self.0 {
            AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
            AMQPValue::ShortString(text) => Some(text.as_str()),
            _ => None,
        }
    }

    /// The value, if it is an integer of any width.
    #[must_use]
    pub fn as_i64(self) -> Option<i64> {
        match *self.0 {
            AMQPValue::ShortShortInt(n) => Some(n.into()),
            AMQPValue::ShortShortUInt(n) => Some(n.into()),
            AMQPValue::ShortInt(n) => Some(n.into()),
            AMQPValue::ShortUInt(n) => Some(n.into()),
            AMQPValue::LongInt(n) => Some(n.into()),
            AMQPValue::LongUInt(n) => Some(n.into()),
            AMQPValue::LongLongInt(n) => Some(n),
            _ => None,
        }
    }

    /// The value as text for people and HTTP headers. Text stays as it is (bytes that are not UTF-8
    /// are replaced), scalars are written in decimal, tables and arrays as JSON.
    #[must_use]
    pub fn to_text(self) -> Cow<'a, str> {
        match self.0 {
            AMQPValue::LongString(text) => String::from_utf8_lossy(text.as_bytes()),
            AMQPValue::ShortString(text) => Cow::Borrowed(text.as_str()),
            AMQPValue::ByteArray(bytes) => String::from_utf8_lossy(bytes.as_slice()),
            AMQPValue::Void => Cow::Borrowed(""),
            _ => Cow::Owned(self.to_json().to_string()),
        }
    }

    /// The value as JSON. Bytes that are not UTF-8 are replaced by U+FFFD.
    #[must_use]
    pub fn to_json(self) -> Value {
        to_json(self.0)
    }
}

fn to_json(value: &AMQPValue) -> Value {
    match value {
        AMQPValue::Boolean(b) => json!(b),
        AMQPValue::Float(f) => json!(f),
        AMQPValue::Double(f) => json!(f),
        AMQPValue::DecimalValue(d) => {
            json!(f64::from(d.value) / 10f64.powi(i32::from(d.scale)))
        }
        AMQPValue::Timestamp(seconds) => json!(seconds),
        AMQPValue::FieldArray(items) => items.as_slice().iter().map(to_json).collect(),
        AMQPValue::FieldTable(table) => table
            .inner()
            .iter()
            .map(|(name, value)| (name.to_string(), to_json(value)))
            .collect(),
        AMQPValue::Void => Value::Null,
        text @ (AMQPValue::LongString(_) | AMQPValue::ShortString(_) | AMQPValue::ByteArray(_)) => {
            json!(HeaderValue(text).to_text())
        }
        integer => json!(HeaderValue(integer).as_i64()),
    }
}

/// A count in a header. A publisher can write the header too, so anything else counts as 0.
pub(super) fn count(value: &AMQPValue) -> i64 {
    HeaderValue(value).as_i64().unwrap_or(0).max(0)
}

/// The properties without the headers, and with these in place of their own. `bare`: without those that
/// the broker may refuse a message for.
pub(super) fn rebuilt(
    properties: &BasicProperties,
    user_id: Option<ShortString>,
    expiration: Option<ShortString>,
    priority: Option<u8>,
    bare: bool,
) -> BasicProperties {
    let body = (
        properties.content_type().clone(),
        properties.content_encoding().clone(),
    );
    seen::rebuilt_for(body, properties, user_id, expiration, priority, bare)
}

/// A short string from text that we know to be short. Longer text is cut, because lapin would
/// panic.
pub(super) fn short(text: &str) -> ShortString {
    ShortString::from(crate::text::cut(text, 255))
}
