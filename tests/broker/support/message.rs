//! Messages to publish and messages found in queues, in forms that are easy to write and to
//! compare.

use std::collections::BTreeMap;

use lapin::{
    BasicProperties,
    message::Delivery,
    types::{AMQPValue, FieldTable, ShortString},
};
use serde_json::Value;

/// A message to publish. The default is an empty body to nowhere, persistent, without an id.
#[derive(Clone, Debug)]
pub struct PublishSpec {
    /// The exchange; empty for the default one.
    pub exchange: String,
    /// The routing key: with the default exchange, the queue.
    pub routing_key: String,
    /// The body.
    pub body: Vec<u8>,
    /// The properties except the headers.
    pub properties: BasicProperties,
    /// The headers.
    pub headers: FieldTable,
}

impl Default for PublishSpec {
    fn default() -> Self {
        Self {
            exchange: String::new(),
            routing_key: String::new(),
            body: Vec::new(),
            properties: BasicProperties::default().with_delivery_mode(2),
            headers: FieldTable::default(),
        }
    }
}

impl PublishSpec {
    /// A message to `queue`, by the default exchange.
    pub fn to(queue: &str) -> Self {
        Self {
            routing_key: queue.to_owned(),
            ..Self::default()
        }
    }

    /// A message with this body, for [`super::VHost::publish_many`], which knows the queue.
    pub fn of(body: impl Into<Vec<u8>>) -> Self {
        Self::default().body(body)
    }

    /// With this body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// With this message id.
    pub fn id(self, id: &str) -> Self {
        let id = short(id);
        self.with(|properties| properties.with_message_id(id))
    }

    /// With this header.
    pub fn header(mut self, name: &str, value: impl IntoHeader) -> Self {
        self.headers.insert(short(name), value.into_header());
        self
    }

    /// With properties changed by `change`.
    pub fn with(mut self, change: impl FnOnce(BasicProperties) -> BasicProperties) -> Self {
        self.properties = change(self.properties);
        self
    }

    /// The message id; `None` where none is set.
    pub fn message_id(&self) -> Option<&str> {
        self.properties
            .message_id()
            .as_ref()
            .map(ShortString::as_str)
    }

    /// The properties as they go on the wire, headers included.
    pub(super) fn wire_properties(&self) -> BasicProperties {
        self.properties.clone().with_headers(self.headers.clone())
    }
}

/// A type that can be the value of a header.
pub trait IntoHeader {
    /// The value in AMQP's form.
    fn into_header(self) -> AMQPValue;
}

impl IntoHeader for &str {
    fn into_header(self) -> AMQPValue {
        AMQPValue::LongString(self.into())
    }
}

impl IntoHeader for i64 {
    fn into_header(self) -> AMQPValue {
        AMQPValue::LongLongInt(self)
    }
}

impl IntoHeader for bool {
    fn into_header(self) -> AMQPValue {
        AMQPValue::Boolean(self)
    }
}

impl IntoHeader for AMQPValue {
    fn into_header(self) -> AMQPValue {
        self
    }
}

/// `text` as an AMQP short string, which has at most 255 bytes.
pub fn short(text: &str) -> ShortString {
    ShortString::try_new(text).unwrap_or_else(|_| panic!("longer than 255 bytes: {text:?}"))
}

/// A message taken from a queue.
#[derive(Clone, Debug)]
pub struct Got {
    /// The body.
    pub body: Vec<u8>,
    /// The headers as plain JSON: integers of every width as numbers, texts as strings.
    pub headers: BTreeMap<String, Value>,
    /// The properties as lapin has them, headers included.
    pub properties: BasicProperties,
    /// The exchange of the message; empty for the default one.
    pub exchange: String,
    /// The routing key of the message.
    pub routing_key: String,
    /// Whether the broker had delivered the message before.
    pub redelivered: bool,
}

impl Got {
    /// The message in `delivery`.
    pub(super) fn new(delivery: Delivery) -> Self {
        let headers = delivery.properties.headers().as_ref();
        Self {
            headers: headers.map(plain_table).unwrap_or_default(),
            body: delivery.data,
            exchange: delivery.exchange.to_string(),
            routing_key: delivery.routing_key.to_string(),
            redelivered: delivery.redelivered,
            properties: delivery.properties,
        }
    }

    /// The message id; empty where none is set.
    pub fn id(&self) -> &str {
        self.properties
            .message_id()
            .as_ref()
            .map_or("", ShortString::as_str)
    }

    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is text")
    }

    /// A header; `Null` if it is missing, so that a test can compare it directly.
    pub fn header(&self, name: &str) -> &Value {
        self.headers.get(name).unwrap_or(&Value::Null)
    }
}

/// A table of headers as plain JSON values.
fn plain_table(table: &FieldTable) -> BTreeMap<String, Value> {
    let pairs = table.inner().iter();
    pairs
        .map(|(name, value)| (name.to_string(), plain(value)))
        .collect()
}

/// A header as plain JSON. Bytes that are not text become an array of numbers.
pub fn plain(value: &AMQPValue) -> Value {
    match value {
        AMQPValue::Boolean(value) => (*value).into(),
        AMQPValue::ShortShortInt(value) => (*value).into(),
        AMQPValue::ShortShortUInt(value) => (*value).into(),
        AMQPValue::ShortInt(value) => (*value).into(),
        AMQPValue::ShortUInt(value) => (*value).into(),
        AMQPValue::LongInt(value) => (*value).into(),
        AMQPValue::LongUInt(value) => (*value).into(),
        AMQPValue::LongLongInt(value) => (*value).into(),
        AMQPValue::Timestamp(value) => (*value).into(),
        AMQPValue::Float(value) => (*value).into(),
        AMQPValue::Double(value) => (*value).into(),
        AMQPValue::DecimalValue(value) => format!("{value:?}").into(),
        AMQPValue::ShortString(value) => value.as_str().into(),
        AMQPValue::LongString(value) => match std::str::from_utf8(value.as_bytes()) {
            Ok(text) => text.into(),
            Err(_) => value.as_bytes().into(),
        },
        AMQPValue::ByteArray(value) => value.as_slice().into(),
        AMQPValue::FieldArray(values) => values.as_slice().iter().map(plain).collect(),
        AMQPValue::FieldTable(table) => plain_table(table).into_iter().collect(),
        AMQPValue::Void => Value::Null,
    }
}
