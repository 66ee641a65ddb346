//! `[consumers.NAME]`: one lane.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{handler::HandlerSettings, retry::RetrySettings};

/// `[consumers.NAME]`: a queue, its limits, its policy and its handler.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ConsumerSettings {
    /// The queue to consume. Required; 1 to 255 bytes.
    pub queue: String,
    /// What to do about the queue, its retry rungs and its dead-letter queue at start and after
    /// each reconnect. Default: `declare`.
    pub topology: Topology,
    /// The queue's type where it is declared or verified. Default: `quorum`.
    pub queue_type: QueueType,
    /// Bindings to declare or rely on. Default: none (the default exchange reaches the queue by
    /// its name). `topology = "verify"` looks only whether their exchanges exist.
    pub bindings: Vec<Binding>,
    /// Where messages go that cannot succeed. Default: the queue's name with `.dead`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dead_letter_queue: Option<String>,
    /// How often the broker may redeliver a message of a quorum queue before it dead-letters it
    /// by itself: the net for messages that kill the process. Default: 100. Too low: a message
    /// that was often returned by drains is dead-lettered by the broker, without our record.
    pub delivery_limit: u32,
    /// Unsettled messages the broker may have outstanding to this consumer. Default: 64. Too low:
    /// handlers wait for the broker. Too high: memory, and messages that other replicas could run.
    pub prefetch: u16,
    /// Handlers that run at once; at most `prefetch`. Default: 32. Too low: the queue grows. Too
    /// high: whatever the handlers call is overrun.
    pub concurrency: u16,
    /// How long one handler run may take. Default: 30 s. Too low: slow work is retried for ever.
    /// Too high: a hung handler holds its slot for so long. Keep well below the broker's consumer
    /// timeout (30 min by default).
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// How long a handler that asked for its cancellation may take to heed it, before it is
    /// dropped. Default: 1 s.
    #[serde(with = "humantime_serde")]
    pub cancel_grace: Duration,
    /// How bodies are understood. Default: `auto`.
    pub decode: Decode,
    /// How acks are coalesced.
    pub ack: AckSettings,
    /// What happens after a failure.
    pub retry: RetrySettings,
    /// What runs for each message. The library can register a handler in code instead.
    pub handler: HandlerSettings,
    /// Handlers by message type (the `type` property); other types go to `handler`, or, where
    /// that is `none`, to the dead-letter queue as `unroutable-type`. Default: none.
    pub types: BTreeMap<String, HandlerSettings>,
}

impl Default for ConsumerSettings {
    fn default() -> Self {
        Self {
            queue: String::new(),
            topology: Topology::Declare,
            queue_type: QueueType::Quorum,
            bindings: Vec::new(),
            dead_letter_queue: None,
            delivery_limit: 100,
            prefetch: 64,
            concurrency: 32,
            timeout: Duration::from_secs(30),
            cancel_grace: Duration::from_secs(1),
            decode: Decode::Auto,
            ack: AckSettings::default(),
            retry: RetrySettings::default(),
            handler: HandlerSettings::default(),
            types: BTreeMap::new(),
        }
    }
}

impl ConsumerSettings {
    /// The dead-letter queue's name.
    #[must_use]
    pub fn dead_letter_queue(&self) -> String {
        self.dead_letter_queue
            .clone()
            .unwrap_or_else(|| format!("{}.dead", self.queue))
    }
}

/// What to do about queues before consuming.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Topology {
    /// Create what is missing; refuse to start where something exists with other arguments.
    Declare,
    /// Create nothing; refuse to start where something is missing or has other arguments. Of a
    /// binding only the exchange is looked for: AMQP has no way to look at the binding itself.
    Verify,
    /// Look at nothing.
    None,
}

/// The broker's queue types that a lane can consume.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum QueueType {
    /// Replicated, with a delivery count. The retry rungs and dead letters are quorum queues too.
    Quorum,
    /// A classic durable queue. The retry rungs are classic too.
    Classic,
}

/// A binding from an exchange that exists to the lane's queue.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Binding {
    /// The exchange; it must exist.
    pub exchange: String,
    /// The routing key or pattern. Default: empty.
    pub routing_key: String,
}

/// How bodies are understood before a handler sees them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Decode {
    /// JSON where the content type says so (`application/json`, `…+json`) and no content encoding
    /// hides it, bytes otherwise.
    Auto,
    /// JSON always: a body that is not JSON is dead-lettered as `decode`.
    Json,
    /// Bytes always.
    Bytes,
}

/// `[consumers.NAME.ack]`: acks are sent together, as one `multiple` ack over neighbouring
/// finished messages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AckSettings {
    /// Finished messages that make an ack go out at once. Default: 64. Too low: an ack a message,
    /// which costs broker and worker. Too high: nothing but a crash notices.
    pub batch: u16,
    /// The longest that a finished message waits for its ack. Default: 2 ms. Too high: the
    /// prefetch fills with finished messages, and a crash runs more of them again.
    #[serde(with = "humantime_serde")]
    pub delay: Duration,
}

impl Default for AckSettings {
    fn default() -> Self {
        Self {
            batch: 64,
            delay: Duration::from_millis(2),
        }
    }
}
