//! What the API answers: its JSON, and by the same types its OpenAPI document.
//!
//! Times are RFC 3339 in UTC, with milliseconds; durations are seconds.

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    ConsumerHealth, ConsumerReport, Ledger, OutcomeRecord,
    broker::{QueueType, Topology},
    handler::HandlerSettings,
    status::Figures,
};

/// The worker as a whole.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Worker {
    /// Its name in the broker's list of connections: `broker.name`, host and process id.
    pub(super) name: String,
    /// The version of Lapwing.
    pub(super) version: &'static str,
    /// When the server started.
    #[schema(format = DateTime)]
    pub(super) started_at: String,
    /// Its clock.
    #[schema(format = DateTime)]
    pub(super) now: String,
    /// Every consumer consumes or was paused on purpose, and no drain has begun.
    pub(super) ready: bool,
    /// A drain has begun.
    pub(super) draining: bool,
    /// Why retries and dead letters cannot be published now, where they cannot.
    pub(super) publishing: Option<String>,
    /// A token is configured, with which things can be changed.
    pub(super) can_change: bool,
    /// Where a trace can be looked at, `{trace_id}` standing for its id.
    pub(super) trace_url: Option<String>,
    /// Messages in flight.
    pub(super) in_flight: usize,
    /// The ledgers of all consumers together.
    pub(super) totals: Ledger,
}

/// One consumer.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Consumer {
    /// Its name.
    pub(super) name: String,
    /// The queue it consumes.
    pub(super) queue: String,
    /// What runs for its messages: the kind of its handler, or `function` for one in the program.
    pub(super) handler: &'static str,
    #[serde(flatten)]
    pub(super) health: ConsumerHealth,
    /// Unsettled messages that the broker may have outstanding to it.
    pub(super) prefetch: u16,
    /// Handlers that may run at once.
    pub(super) concurrency: usize,
    /// The type of its queue.
    pub(super) queue_type: QueueType,
    /// What it does about queues before it consumes.
    pub(super) topology: Topology,
    /// Where messages go that cannot succeed.
    pub(super) dead_letter_queue: String,
    /// How long one handler run may take.
    pub(super) timeout_seconds: f64,
    /// Handler runs that may fail before a message is dead-lettered.
    pub(super) max_attempts: u32,
    #[serde(flatten)]
    pub(super) report: ConsumerReport,
    /// How much it does a second.
    pub(super) rates: Rates,
    /// How long its handlers take.
    pub(super) latency: Latency,
}

impl Consumer {
    pub(super) fn new(
        name: &str,
        figures: &Figures,
        health: ConsumerHealth,
        (rates, latency): (Rates, Latency),
    ) -> Self {
        let settings = &figures.settings;
        let handler = match &settings.handler {
            handler if figures.is_registered() || *handler == HandlerSettings::None => "function",
            handler => handler.kind(),
        };
        Self {
            name: name.to_owned(),
            queue: settings.queue.clone(),
            handler,
            health,
            prefetch: settings.prefetch,
            concurrency: figures.slots.limit(),
            queue_type: settings.queue_type,
            topology: settings.topology,
            dead_letter_queue: settings.dead_letter_queue(),
            timeout_seconds: settings.timeout.as_secs_f64(),
            max_attempts: settings.retry.max_attempts,
            report: figures.report(),
            rates,
            latency,
        }
    }
}

/// Numbers a second, over the last ten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, ToSchema)]
pub(super) struct Rates {
    /// Messages received.
    pub(super) received: f64,
    /// Handler runs that succeeded.
    pub(super) succeeded: f64,
    /// Handler runs that failed, timed out or panicked.
    pub(super) failed: f64,
}

/// How long handler runs took that ended in the last minute, to about 6 %; nulls where none did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, ToSchema)]
pub(super) struct Latency {
    /// Half of them took no longer.
    pub(super) p50_seconds: Option<f64>,
    /// 95 of 100 took no longer.
    pub(super) p95_seconds: Option<f64>,
    /// 99 of 100 took no longer.
    pub(super) p99_seconds: Option<f64>,
}

/// All consumers.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Consumers {
    /// By name.
    pub(super) consumers: Vec<Consumer>,
}

/// What a consumer did, step by step, oldest first: at most 300 steps.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct History {
    /// The length of a step.
    pub(super) step_seconds: f64,
    /// When the last step ended.
    #[schema(format = DateTime)]
    pub(super) until: String,
    /// Messages received within each step.
    pub(super) received: Vec<u64>,
    /// Handler runs that succeeded within each step.
    pub(super) succeeded: Vec<u64>,
    /// Handler runs that failed, timed out or panicked within each step.
    pub(super) failed: Vec<u64>,
    /// What half of the handler runs of each step did not exceed; null where none ended.
    pub(super) p50_seconds: Vec<Option<f64>>,
    /// What 95 of 100 handler runs of each step did not exceed; null where none ended.
    pub(super) p95_seconds: Vec<Option<f64>>,
    /// Messages in flight at the end of each step.
    pub(super) in_flight: Vec<usize>,
}

/// What waits for a consumer at the broker.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct RetryQueues {
    /// The retry queues, shortest delay first.
    pub(super) retry_queues: Vec<RetryQueue>,
    /// The dead-letter queue.
    pub(super) dead_letters: Depth,
    /// Why the broker could not be asked, where it could not.
    pub(super) error: Option<String>,
}

/// One retry queue.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct RetryQueue {
    /// The queue.
    pub(super) queue: String,
    /// How long messages stay at the most.
    pub(super) delay_seconds: f64,
    /// How many there are; null where the queue does not exist or could not be asked.
    pub(super) messages: Option<u32>,
}

/// One queue.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct Depth {
    /// The queue.
    pub(super) queue: String,
    /// How many messages there are; null where the queue does not exist or could not be asked.
    pub(super) messages: Option<u32>,
}

/// Outcomes, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OutcomeList {
    /// The outcomes.
    #[schema(value_type = Vec<OutcomeRecord>)]
    pub(super) outcomes: Vec<Record>,
}

/// Shared with the store; serde's own support for that is not switched on.
#[derive(Debug)]
pub(super) struct Record(pub(super) Arc<OutcomeRecord>);

impl Serialize for Record {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.as_ref().serialize(serializer)
    }
}

impl From<Vec<Arc<OutcomeRecord>>> for OutcomeList {
    fn from(outcomes: Vec<Arc<OutcomeRecord>>) -> Self {
        Self {
            outcomes: outcomes.into_iter().map(Record).collect(),
        }
    }
}

/// The event `state`.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct State {
    /// The worker.
    pub(super) worker: Worker,
    /// Its consumers.
    pub(super) consumers: Vec<Consumer>,
}

/// A message's handler was told to end.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Cancelled {
    /// True.
    pub(super) cancelled: bool,
}

/// Whether the process should go on living.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Live {
    /// Whether it should.
    pub(super) live: bool,
    /// The consumers that do not, and why.
    pub(super) dead: BTreeMap<String, String>,
    /// A consumer's loop that has not turned for so long counts as dead.
    pub(super) limit_seconds: f64,
}

/// Whether the worker has started.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Started {
    /// Every consumer has had a subscription, or was paused instead. Stays true.
    pub(super) started: bool,
    /// The consumers that have not, and why.
    pub(super) waiting: BTreeMap<String, String>,
}
