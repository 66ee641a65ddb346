//! The JSON that the API returns. The OpenAPI document is made from the same types.
//!
//! Times are RFC 3339 in UTC, with milliseconds. Durations are in seconds.

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;
use utoipa::ToSchema;

use super::places::Place;
use crate::{
    Backlog, ConsumerHealth, ConsumerReport, InFlight, Ledger, OutcomeRecord,
    broker::{QueueType, Topology},
    handler::HandlerSettings,
    message::PastAttempt,
    status::Figures,
};

/// The worker as a whole.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Worker {
    /// The worker's name in the broker's list of connections: `broker.name`, host and process id.
    pub(super) name: String,
    /// The version of Lapwing.
    pub(super) version: &'static str,
    /// When the server started.
    #[schema(format = DateTime)]
    pub(super) started_at: String,
    /// The current time of the worker.
    #[schema(format = DateTime)]
    pub(super) now: String,
    /// Whether every consumer is subscribed or was paused on purpose, every handler can work, and no
    /// drain has begun.
    pub(super) ready: bool,
    /// Whether the service of a consumer is down. The worker stays ready.
    pub(super) degraded: bool,
    /// Whether a drain has begun.
    pub(super) draining: bool,
    /// When the drain cancels the handlers that still run; null before a drain.
    #[schema(format = DateTime)]
    pub(super) drain_ends_at: Option<String>,
    /// Why retries and dead letters cannot be published now; null if they can.
    pub(super) publishing: Option<String>,
    /// Whether a token is configured. Without one the API changes nothing.
    pub(super) can_change: bool,
    /// Whether a pause outlasts a restart: `admin.pause_file` is set.
    pub(super) keeps_pauses: bool,
    /// The URL of a trace, with `{trace_id}` for its id; null if none is configured.
    pub(super) trace_url: Option<String>,
    /// Messages in flight.
    pub(super) in_flight: usize,
    /// The sum of the ledgers of all consumers.
    pub(super) totals: Ledger,
}

/// One consumer.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Consumer {
    /// The name of the consumer.
    pub(super) name: String,
    /// The queue from which the consumer takes messages.
    pub(super) queue: String,
    /// The kind of the handler; `function` for a handler that the program registers, `routes` if only
    /// routes have handlers.
    pub(super) handler: &'static str,
    #[serde(flatten)]
    pub(super) health: ConsumerHealth,
    /// The most deliveries that the broker sends before they are settled.
    pub(super) prefetch: u16,
    /// The most handlers that run at once.
    pub(super) concurrency: usize,
    /// The most attempts in a time, such as `100/s`; null if there is no such limit.
    pub(super) rate: Option<String>,
    /// The type of the queue.
    pub(super) queue_type: QueueType,
    /// What the consumer does about its queues before it subscribes.
    pub(super) topology: Topology,
    /// The queue for messages that cannot succeed.
    pub(super) dead_letter_queue: String,
    /// The longest that one handler run may take.
    pub(super) timeout_seconds: f64,
    /// The most attempts: after this many failures the consumer dead-letters a message.
    pub(super) max_attempts: u32,
    #[serde(flatten)]
    pub(super) report: ConsumerReport,
    /// Whether the consumer keeps up with its queue.
    pub(super) backlog: Backlog,
    /// Rates over the last ten seconds.
    pub(super) rates: Rates,
    /// How long the handler runs of the last minute took.
    pub(super) latency: Latency,
    /// How the handler runs of the last minute ended.
    pub(super) recent: Recent,
    /// Whether at least three of the runs of the last minute failed, and at least half of them.
    pub(super) failing: bool,
    /// How much the consumer needs a person, 0 most: 0 it takes no messages, 1 its service is down or it drains,
    /// 2 most of its runs fail, 3 it is at its limit, 4 its queue grows, 5 it is paused or its service is unknown,
    /// 6 it is well.
    #[schema(minimum = 0, maximum = 6)]
    pub(super) need: u8,
}

impl Consumer {
    pub(super) fn new(name: &str, figures: &Figures, health: ConsumerHealth, pace: Pace) -> Self {
        let settings = &figures.settings;
        let backlog = figures.looks.backlog();
        let failing = pace.recent.is_failing();
        let handler = match &settings.handler {
            HandlerSettings::None if !settings.routes.is_empty() => "routes",
            handler if figures.is_registered() || *handler == HandlerSettings::None => "function",
            handler => handler.kind(),
        };
        Self {
            name: name.to_owned(),
            queue: settings.queue.clone(),
            handler,
            need: Self::need_of(health.state, failing, backlog.load),
            health,
            prefetch: settings.prefetch,
            concurrency: figures.slots.limit(),
            rate: settings.rate.map(|rate| rate.to_string()),
            queue_type: settings.queue_type,
            topology: settings.topology,
            dead_letter_queue: settings.dead_letter_queue(),
            timeout_seconds: settings.timeout.as_secs_f64(),
            max_attempts: settings.retry.attempts(),
            report: figures.report(),
            backlog,
            rates: pace.rates,
            latency: pace.latency,
            recent: pace.recent,
            failing,
        }
    }
}

/// Numbers per second, over the last ten seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, ToSchema)]
pub(super) struct Rates {
    /// Messages received.
    pub(super) received: f64,
    /// Handler runs that succeeded.
    pub(super) succeeded: f64,
    /// Handler runs that failed, timed out or panicked.
    pub(super) failed: f64,
}

/// How long the handler runs that ended in the last minute took, to about 6 %. Null if none ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, ToSchema)]
pub(super) struct Latency {
    /// The median.
    pub(super) p50_seconds: Option<f64>,
    /// The 95th percentile.
    pub(super) p95_seconds: Option<f64>,
    /// The 99th percentile.
    pub(super) p99_seconds: Option<f64>,
}

/// How the handler runs that ended in the last minute ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(super) struct Recent {
    /// Runs that succeeded.
    pub(super) succeeded: u64,
    /// Runs that failed, timed out or panicked.
    pub(super) failed: u64,
}

/// How fast a consumer works, and how its handler runs ended.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Pace {
    pub(super) rates: Rates,
    pub(super) latency: Latency,
    pub(super) recent: Recent,
}

/// All consumers.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Consumers {
    /// The consumers. Those that need a person come first, as their `need` says; then by name.
    pub(super) consumers: Vec<Consumer>,
}

/// The history of a consumer in steps, oldest first, at most 300 steps.
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
    /// The median duration of the handler runs that ended in the 30 seconds up to the end of each step;
    /// null if none ended.
    pub(super) p50_seconds: Vec<Option<f64>>,
    /// The 95th percentile of the same runs.
    pub(super) p95_seconds: Vec<Option<f64>>,
    /// Messages in flight at the end of each step.
    pub(super) in_flight: Vec<usize>,
    /// Messages that waited in the queue when the worker last counted them; null if it could not.
    pub(super) ready: Vec<Option<u32>>,
}

/// The depth of a consumer's retry queues and of its dead-letter queue.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct RetryQueues {
    /// The retry queues, shortest delay first.
    pub(super) retry_queues: Vec<RetryQueue>,
    /// The dead-letter queue.
    pub(super) dead_letters: Depth,
    /// Why the worker could not ask the broker; null if it could.
    pub(super) error: Option<String>,
}

/// One retry queue.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct RetryQueue {
    /// The name of the queue.
    pub(super) queue: String,
    /// The longest that a message stays in the queue.
    pub(super) delay_seconds: f64,
    /// The number of messages; null if the queue does not exist or the broker could not be asked. Without
    /// messages that have expired, and that the work queue has not taken yet.
    pub(super) messages: Option<u32>,
}

/// The depth of one queue.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct Depth {
    /// The name of the queue.
    pub(super) queue: String,
    /// The number of messages; null if the queue does not exist or the broker could not be asked.
    pub(super) messages: Option<u32>,
}

/// Outcomes, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OutcomeList {
    /// The outcomes.
    #[schema(value_type = Vec<OutcomeRecord>)]
    pub(super) outcomes: Vec<Record>,
}

/// An outcome that is shared with the store. serde's feature `rc` is off, so this type serialises
/// the `Arc`.
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

/// Outcomes that a search has found, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct OutcomePage {
    /// The outcomes.
    #[schema(value_type = Vec<OutcomeRecord>)]
    pub(super) outcomes: Vec<serde_json::Value>,
    /// Whether there are more than `limit`.
    pub(super) has_more: bool,
    /// The worker has all failures since this time. Some of those before may be missing, and the log has them.
    #[schema(format = DateTime)]
    pub(super) failures_since: String,
    /// Why `admin.failures_file` could not be read in time. Then only the memory was searched.
    pub(super) file_error: Option<String>,
}

/// What the worker knows about a message.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct MessageStory {
    /// The `message-id` property.
    pub(super) id: String,
    /// Where the message is, for each consumer that had it, as far as this worker knows.
    pub(super) places: Vec<Place>,
    /// The message in flight: empty if it is not in this worker.
    pub(super) in_flight: Vec<FlightStory>,
    /// Consumers that did not answer in time. The message may be there.
    pub(super) unanswered: Vec<String>,
    /// The outcomes of its handler runs, newest first. Every failure is kept, and few other outcomes.
    #[schema(value_type = Vec<OutcomeRecord>)]
    pub(super) outcomes: Vec<serde_json::Value>,
    /// The worker has all failures since this time. Some of those before may be missing.
    #[schema(format = DateTime)]
    pub(super) failures_since: String,
    /// Each consumer remembers the messages with an id that it acked since this time. Some of those before are
    /// forgotten.
    #[schema(format = DateTime)]
    pub(super) acks_since: String,
    /// Why `admin.failures_file` could not be read in time. Then only the memory was searched.
    pub(super) file_error: Option<String>,
}

/// A message in flight, with its past.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct FlightStory {
    #[serde(flatten)]
    pub(super) message: InFlight,
    /// When the worker received the delivery.
    #[schema(format = DateTime)]
    pub(super) received_at: String,
    /// When a worker first received the message.
    #[schema(format = DateTime)]
    pub(super) first_seen_at: String,
    /// When the message was published, if it says so.
    #[schema(format = DateTime)]
    pub(super) published_at: Option<String>,
    /// The last attempts, oldest first, in this worker and in others.
    pub(super) history: Vec<PastRun>,
}

/// An earlier attempt, as a header of the message has it.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct PastRun {
    /// When the attempt ended.
    #[schema(format = DateTime)]
    at: String,
    /// The number of the attempt, from 1.
    attempt: u32,
    /// The failure's class.
    class: String,
    /// The failure's text.
    error: String,
    /// The worker that ran the attempt.
    worker: String,
    /// The id of the trace, if the attempt was traced.
    trace_id: Option<String>,
}

impl From<PastAttempt> for PastRun {
    fn from(past: PastAttempt) -> Self {
        Self {
            at: past.at,
            attempt: past.attempt,
            class: past.kind,
            error: past.error,
            worker: past.worker,
            trace_id: past.trace,
        }
    }
}

/// The data of the event `state`.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct State {
    /// The worker.
    pub(super) worker: Worker,
    /// The consumers.
    pub(super) consumers: Vec<Consumer>,
}

/// The answer to a cancellation.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Cancelled {
    /// Always true.
    pub(super) cancelled: bool,
}

/// The answer of the liveness probe.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Live {
    /// Whether the worker is alive. If not, restart it.
    pub(super) live: bool,
    /// The consumers that are dead, and why.
    pub(super) dead: BTreeMap<String, String>,
    /// A consumer whose loop has not run for this long counts as dead.
    pub(super) limit_seconds: f64,
}

/// The answer of the startup probe.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Started {
    /// Whether every consumer has had its first subscription or was paused. Once true, stays true.
    pub(super) started: bool,
    /// The consumers without a first subscription, and why.
    pub(super) waiting: BTreeMap<String, String>,
}
