//! The queues of one consumer, for the broker.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, de};
use utoipa::ToSchema;

use crate::{
    config::{Findings, KeyPath},
    retry::Ladder,
};

/// A queue to consume, with its retry queues and its dead-letter queue.
#[derive(Clone, Debug, PartialEq)]
pub struct QueueSpec {
    /// The queue.
    pub queue: String,
    /// The number of unsettled messages that the broker may hand out.
    pub prefetch: u16,
    /// What to do about the queues before consuming.
    pub topology: Topology,
    /// The type of the queue. Retry queues and the dead-letter queue are always quorum queues.
    pub queue_type: QueueType,
    /// Further arguments of the queue.
    pub arguments: BTreeMap<String, QueueArgument>,
    /// Bindings of the queue.
    pub bindings: Vec<Binding>,
    /// The queue for messages that cannot succeed.
    pub dead_letter_queue: String,
    /// The number of redeliveries after which the broker dead-letters a message by itself.
    pub delivery_limit: u32,
    /// The retry queues.
    pub(crate) ladder: Ladder,
}

impl QueueSpec {
    /// Whether the queue is known to dead-letter with confirms to the dead-letter queue: the worker
    /// has declared or compared its arguments.
    pub(crate) fn dead_letters_safely(&self) -> bool {
        let is_known = matches!(self.topology, Topology::Declare | Topology::Verify);
        is_known && self.queue_type == QueueType::Quorum
    }
}

/// What to do about queues before consuming.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Topology {
    /// Create what is missing. Refuse to start if something exists with other arguments.
    Declare,
    /// Leave the queue to consume as it is, whatever its arguments. Refuse to start if that queue is
    /// missing. Create missing retry queues and the dead-letter queue as `declare` does.
    Attach,
    /// Create nothing. Refuse to start if a queue or the exchange of a binding is missing, or if
    /// something exists with other arguments.
    Verify,
    /// Create nothing and compare no arguments. Refuse to start if a queue is missing.
    None,
}

impl Topology {
    /// Whether the worker may create a queue that is missing, apart from the queue to consume.
    pub(crate) fn creates(self) -> bool {
        matches!(self, Self::Declare | Self::Attach)
    }
}

/// The types of queue that a consumer can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum QueueType {
    /// Replicated, with a delivery count.
    Quorum,
    /// Durable, on one node.
    Classic,
}

/// The value of a queue's argument.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum QueueArgument {
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A text.
    Text(String),
}

impl JsonSchema for QueueArgument {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "QueueArgument".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["boolean", "integer", "string"] })
    }
}

impl<'de> Deserialize<'de> for QueueArgument {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Written)
    }
}

struct Written;

impl de::Visitor<'_> for Written {
    type Value = QueueArgument;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("true, false, a whole number or a string")
    }

    fn visit_bool<E: de::Error>(self, is: bool) -> Result<QueueArgument, E> {
        Ok(QueueArgument::Bool(is))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<QueueArgument, E> {
        Ok(QueueArgument::Int(number))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<QueueArgument, E> {
        let number = i64::try_from(number);
        number
            .map(QueueArgument::Int)
            .map_err(|_| E::custom("expected a whole number of at most 63 bits"))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<QueueArgument, E> {
        Ok(QueueArgument::Text(text.to_owned()))
    }
}

/// A binding of the consumer's queue to an exchange.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["exchange"]))]
pub struct Binding {
    /// The exchange. It must exist. Required.
    pub exchange: String,
    /// The routing key or pattern. Default: empty.
    pub routing_key: String,
}

impl Binding {
    pub(crate) fn check(&self, findings: &mut Findings, path: &KeyPath) {
        findings.name(path.key("exchange"), &self.exchange);
        if !self.routing_key.is_empty() {
            findings.name(path.key("routing_key"), &self.routing_key);
        }
    }
}

/// The reason why the settings may not give a queue this argument; `None` if they may.
pub(crate) fn argument_is_ours(argument: &str, queue_type: QueueType) -> Option<&'static str> {
    match (argument, queue_type) {
        ("x-queue-type", _) => Some("has a setting of its own: `queue_type`"),
        ("x-delivery-limit", _) => Some("has a setting of its own: `delivery_limit`"),
        ("x-dead-letter-exchange" | "x-dead-letter-routing-key" | "x-dead-letter-strategy", _) => {
            Some("is set by the worker, which sends dead letters to `dead_letter_queue`")
        }
        ("x-overflow", QueueType::Quorum) => Some(
            "is set by the worker: a quorum queue dead-letters with confirms only if it is `reject-publish`",
        ),
        ("x-expires", _) => Some("is not allowed: a queue that expires takes its messages along"),
        _ => None,
    }
}
