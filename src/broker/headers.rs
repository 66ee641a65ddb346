//! Properties and headers of messages: reading them, and writing the copies we publish.
//!
//! The header names here are Lapwing's contract with whoever reads its retries and dead letters.

use std::{borrow::Cow, collections::BTreeMap};

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldArray, FieldTable, ShortString},
};
use serde_json::{Value, json};

/// Header names that Lapwing writes.
pub mod names {
    /// Attempts charged so far (integer).
    pub const ATTEMPTS: &str = "lapwing-attempts";
    /// Times the process died while this message ran (integer).
    pub const CRASHES: &str = "lapwing-crashes";
    /// When a worker first saw the message (RFC 3339).
    pub const FIRST_SEEN: &str = "lapwing-first-seen";
    /// The message must not reach a handler before this time (RFC 3339).
    pub const NOT_BEFORE: &str = "lapwing-not-before";
    /// The last ten attempts (JSON array of `{at, attempt, error, kind, worker, trace}`).
    pub const HISTORY: &str = "lapwing-history";
    /// Why it was dead-lettered: a [`Reason`](crate::policy::Reason).
    pub const REASON: &str = "lapwing-reason";
    /// The last error's text, cut to fit.
    pub const ERROR: &str = "lapwing-error";
    /// The last error's class (`timeout`, `panic`, `http`, …).
    pub const ERROR_KIND: &str = "lapwing-error-kind";
    /// The last error's class and normalised text, hashed: equal for equal failures.
    pub const FINGERPRINT: &str = "lapwing-fingerprint";
    /// When it was dead-lettered (RFC 3339).
    pub const FAILED_AT: &str = "lapwing-failed-at";
    /// The queue it was consumed from.
    pub const SOURCE_QUEUE: &str = "lapwing-source-queue";
    /// The exchange its publisher used.
    pub const SOURCE_EXCHANGE: &str = "lapwing-source-exchange";
    /// The routing key its publisher used.
    pub const SOURCE_ROUTING_KEY: &str = "lapwing-source-routing-key";
    /// The worker that published this copy.
    pub const WORKER: &str = "lapwing-worker";
    /// Times it was replayed from the dead-letter queue (integer).
    pub const REPLAYS: &str = "lapwing-replays";
    /// The publisher's `user-id` property: a copy that keeps it is refused by the broker unless it
    /// names the connection's own user.
    pub const ORIGINAL_USER_ID: &str = "lapwing-original-user-id";
    /// The publisher's `expiration` property.
    pub const ORIGINAL_EXPIRATION: &str = "lapwing-original-expiration";
    /// The publisher's `CC` header, which would add routes to a copy.
    pub const ORIGINAL_CC: &str = "lapwing-original-cc";
    /// The publisher's `BCC` header.
    pub const ORIGINAL_BCC: &str = "lapwing-original-bcc";
    /// Names of headers that did not fit the frame beside our own and were left out.
    pub const CUT_HEADERS: &str = "lapwing-cut-headers";
    /// When the copy was parked (RFC 3339).
    pub const PARKED_AT: &str = "lapwing-parked-at";
    /// The span of the attempt before, as a W3C `traceparent`.
    pub const LAST_ATTEMPT: &str = "lapwing-last-attempt";
    /// When the message was published, in milliseconds since 1970 (integer), as RabbitMQ's
    /// `set_header_timestamp` interceptor writes it
    /// (<https://www.rabbitmq.com/docs/message-interceptors>).
    pub const TIMESTAMP_IN_MS: &str = "timestamp_in_ms";
    /// W3C baggage.
    pub const BAGGAGE: &str = "baggage";
    /// W3C trace context: of the span that created the message; in a dead letter, of its last
    /// attempt.
    pub const TRACEPARENT: &str = "traceparent";
    /// W3C trace context, vendor part.
    pub const TRACESTATE: &str = "tracestate";
}

/// Delivery mode 2.
const PERSISTENT: u8 = 2;

/// Headers the broker sets and a copy must not carry: 3.10 counts on from a client's `x-death`,
/// and 4.0 and 4.3 pass a client's `x-delivery-count` through, so that a copy which keeps it looks
/// as if it had already failed (measured).
pub(super) fn is_broker_header(name: &str) -> bool {
    matches!(
        name,
        "x-death" | "x-delivery-count" | "x-acquired-count" | "x-opt-enqueue-time"
    ) || name.starts_with("x-first-death-")
        || name.starts_with("x-last-death-")
}

/// The properties of a message as it arrived.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Properties(BasicProperties);

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
        /// `reply-to`.
        reply_to,
        /// `message-id`.
        message_id,
        /// `app-id`.
        app_id,
    }

    /// `type`.
    #[must_use]
    pub fn message_type(&self) -> Option<&str> {
        self.0.kind().as_ref().map(ShortString::as_str)
    }

    /// `user-id`: the publisher's, also on a retry.
    #[must_use]
    pub fn user_id(&self) -> Option<&str> {
        let own = self.0.user_id().as_ref().map(ShortString::as_str);
        own.or_else(|| self.header(names::ORIGINAL_USER_ID)?.as_str())
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
    pub(super) fn new(
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
        // The property counts in seconds; RabbitMQ's own interceptor uses this name for the rest.
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

    pub(super) fn to_amqp(&self) -> BasicProperties {
        self.0.clone()
    }
}

impl From<BasicProperties> for Properties {
    fn from(inner: BasicProperties) -> Self {
        Self(inner)
    }
}

/// One header's value, as the broker sent it.
#[derive(Clone, Copy, Debug)]
pub struct HeaderValue<'a>(&'a AMQPValue);

impl<'a> HeaderValue<'a> {
    /// The value where it is text; `None` for text that is not UTF-8.
    #[must_use]
    pub fn as_str(self) -> Option<&'a str> {
        match self.0 {
            AMQPValue::LongString(text) => std::str::from_utf8(text.as_bytes()).ok(),
            AMQPValue::ShortString(text) => Some(text.as_str()),
            _ => None,
        }
    }

    /// The value where it is an integer of any width.
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

    /// The value as text for people and HTTP headers: text as it is (lossy where it is not UTF-8),
    /// scalars in decimal, tables and arrays as JSON.
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

    /// The value as JSON; bytes that are not UTF-8 are replaced by U+FFFD.
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

/// A header that we write.
#[derive(Clone, Debug, PartialEq)]
pub enum Header {
    /// Text.
    Text(String),
    /// A 64-bit integer.
    Int(i64),
}

impl From<Header> for AMQPValue {
    fn from(header: Header) -> Self {
        match header {
            Header::Text(text) => AMQPValue::LongString(text.into()),
            Header::Int(n) => AMQPValue::LongLongInt(n),
        }
    }
}

/// What a copy of a message carries beside what the message had.
#[derive(Clone, Debug, Default)]
pub struct CopyHeaders {
    /// The `expiration` property, in milliseconds.
    pub expiration: Option<u64>,
    /// Our headers; one that the message already had is replaced.
    pub set: Vec<(&'static str, Header)>,
    /// Our headers that this copy must not carry on.
    pub remove: &'static [&'static str],
}

/// The copy's properties: the message's own, less what would misroute or mislabel the copy, plus
/// ours; cut so that they fit `frame_max` bytes.
pub(super) fn copy_properties(
    original: &Properties,
    copy: &CopyHeaders,
    frame_max: usize,
) -> BasicProperties {
    let original = &original.0;
    let mut headers = BTreeMap::new();
    for (name, value) in original.headers().iter().flat_map(FieldTable::inner) {
        let name = match name.as_str() {
            "CC" => short(names::ORIGINAL_CC),
            "BCC" => short(names::ORIGINAL_BCC),
            broker if is_broker_header(broker) => continue,
            ours if copy.remove.contains(&ours) => continue,
            _ => name.clone(),
        };
        headers.insert(name, value.clone());
    }
    let mut aside = |name, value: &Option<ShortString>| {
        if let Some(value) = value {
            let value = AMQPValue::LongString(value.as_str().into());
            headers.entry(short(name)).or_insert(value);
        }
    };
    aside(names::ORIGINAL_USER_ID, original.user_id());
    // A retry's own expiration is not the publisher's; it is dead-lettered away by the broker, so
    // what is left here is the publisher's.
    aside(names::ORIGINAL_EXPIRATION, original.expiration());
    let mut ours = Vec::with_capacity(copy.set.len());
    for (name, value) in &copy.set {
        headers.insert(short(name), value.clone().into());
        ours.push(*name);
    }

    let mut properties = without_headers(original, copy.expiration);
    if properties.message_id().is_none() {
        properties = properties.with_message_id(short(&uuid::Uuid::now_v7().to_string()));
    }
    let room = frame_max.saturating_sub(fixed_len(&properties));
    fit(&mut headers, &ours, room);
    properties.with_headers(FieldTable::from(headers))
}

/// All properties but headers, user-id and the old expiration; persistent.
fn without_headers(original: &BasicProperties, expiration: Option<u64>) -> BasicProperties {
    let mut copy = BasicProperties::default().with_delivery_mode(PERSISTENT);
    macro_rules! keep {
        ($($get:ident => $set:ident),*) => {
            $(if let Some(value) = original.$get().clone() { copy = copy.$set(value); })*
        };
    }
    keep!(
        content_type => with_content_type,
        content_encoding => with_content_encoding,
        priority => with_priority,
        correlation_id => with_correlation_id,
        reply_to => with_reply_to,
        message_id => with_message_id,
        timestamp => with_timestamp,
        kind => with_type,
        app_id => with_app_id,
        cluster_id => with_cluster_id
    );
    if let Some(milliseconds) = expiration {
        copy = copy.with_expiration(short(&milliseconds.to_string()));
    }
    copy
}

/// A short string from text that we know to be short; longer text is cut, as lapin would panic.
pub(super) fn short(text: &str) -> ShortString {
    ShortString::from(crate::text::cut(text, 255))
}

/// Bytes of a content header frame apart from its header table: frame, class, weight, body size,
/// flags, and the other properties at their longest.
fn fixed_len(properties: &BasicProperties) -> usize {
    const FRAME: usize = 7 + 1 + 2 + 2 + 8 + 2 + 4;
    let text = |value: &Option<ShortString>| value.as_ref().map_or(0, |v| 1 + v.as_str().len());
    FRAME
        + text(properties.content_type())
        + text(properties.content_encoding())
        + text(properties.correlation_id())
        + text(properties.reply_to())
        + text(properties.expiration())
        + text(properties.message_id())
        + text(properties.kind())
        + text(properties.app_id())
        + text(properties.cluster_id())
        + 1 // delivery mode
        + 1 // priority
        + 8 // timestamp
}

/// Makes the headers fit `room` bytes: first our own texts are cut, then our history goes, then
/// the publisher's largest headers, whose names are kept.
fn fit(headers: &mut BTreeMap<ShortString, AMQPValue>, ours: &[&str], room: usize) {
    const SHORTEST_ERROR: usize = 256;
    const CUT_LIST: usize = 1024;
    if table_len(headers) <= room {
        return;
    }
    if let Some(AMQPValue::LongString(text)) = headers.get(names::ERROR) {
        let cut = crate::text::cut(&text.to_string(), SHORTEST_ERROR).to_owned();
        headers.insert(short(names::ERROR), AMQPValue::LongString(cut.into()));
    }
    if table_len(headers) > room {
        headers.remove(names::HISTORY);
    }
    // What earlier copies lacked is still to be known; a publisher can write there as well.
    let mut cut = match headers.remove(names::CUT_HEADERS) {
        Some(AMQPValue::LongString(text)) if text.len() <= CUT_LIST => text.to_string(),
        _ => String::new(),
    };
    loop {
        if !cut.is_empty() {
            let listed = AMQPValue::LongString(crate::text::cut(&cut, CUT_LIST).into());
            headers.insert(short(names::CUT_HEADERS), listed);
        }
        if table_len(headers) <= room {
            return;
        }
        let largest = headers
            .iter()
            .filter(|(name, _)| {
                !ours.contains(&name.as_str()) && name.as_str() != names::CUT_HEADERS
            })
            .max_by_key(|(_, value)| value_len(value))
            .map(|(name, _)| name.clone());
        let Some(name) = largest else { return };
        headers.remove(&name);
        if !cut.is_empty() {
            cut.push(' ');
        }
        cut.push_str(name.as_str());
    }
}

fn table_len(headers: &BTreeMap<ShortString, AMQPValue>) -> usize {
    headers
        .iter()
        .map(|(name, value)| 1 + name.as_str().len() + value_len(value))
        .sum()
}

/// Bytes of a value on the wire, its type octet included (AMQP 0-9-1, 4.2.5.5, with RabbitMQ's
/// errata).
fn value_len(value: &AMQPValue) -> usize {
    1 + match value {
        AMQPValue::Void => 0,
        AMQPValue::Boolean(_) | AMQPValue::ShortShortInt(_) | AMQPValue::ShortShortUInt(_) => 1,
        AMQPValue::ShortInt(_) | AMQPValue::ShortUInt(_) => 2,
        AMQPValue::LongInt(_) | AMQPValue::LongUInt(_) | AMQPValue::Float(_) => 4,
        AMQPValue::DecimalValue(_) => 5,
        AMQPValue::LongLongInt(_) | AMQPValue::Double(_) | AMQPValue::Timestamp(_) => 8,
        AMQPValue::ShortString(text) => 4 + text.as_str().len(),
        AMQPValue::LongString(text) => 4 + text.len(),
        AMQPValue::ByteArray(bytes) => 4 + bytes.as_slice().len(),
        AMQPValue::FieldArray(items) => 4 + array_len(items),
        AMQPValue::FieldTable(table) => 4 + table_len(table.inner()),
    }
}

fn array_len(items: &FieldArray) -> usize {
    items.as_slice().iter().map(value_len).sum()
}
