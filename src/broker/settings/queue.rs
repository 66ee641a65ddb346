//! The queues of one consumer, for the broker.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
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
    /// The type of the queue and of its retry queues.
    pub queue_type: QueueType,
    /// Bindings of the queue.
    pub bindings: Vec<Binding>,
    /// The queue for messages that cannot succeed.
    pub dead_letter_queue: String,
    /// The number of redeliveries after which the broker dead-letters a message by itself.
    pub delivery_limit: u32,
    /// The retry queues.
    pub(crate) ladder: Ladder,
}

/// What to do about queues before consuming.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Topology {
    /// Create what is missing. Refuse to start if something exists with other arguments.
    Declare,
    /// Create nothing. Refuse to start if a queue or the exchange of a binding is missing, or if
    /// something exists with other arguments.
    Verify,
    /// Check nothing. The retry queues and the dead-letter queue must exist all the same.
    None,
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
