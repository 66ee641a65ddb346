//! Every instrument: name, unit, attributes and meaning. `docs/telemetry.md` has the same table, and
//! a test checks that the two are equal.
//!
//! `messaging.*` are names of OpenTelemetry's semantic conventions for messaging (v1.44). `lapwing.*`
//! are our own. Each attribute has few values: consumers and queues come from the settings, most
//! others from enumerations in this crate. A consumer has at most 32 error types; any further one
//! becomes `_OTHER`.

/// The kind of an instrument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// A number that only grows.
    Counter,
    /// A number that goes up and down.
    Gauge,
    /// A distribution, in seconds.
    Histogram,
    /// A distribution of whole numbers.
    Sizes,
}

/// One instrument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Instrument {
    /// The OpenTelemetry name. On `/metrics` dots become `_`, a unit of seconds adds `_seconds`, and a
    /// counter adds `_total`.
    pub name: &'static str,
    /// The kind of the instrument.
    pub kind: Kind,
    /// The unit, in UCUM notation.
    pub unit: &'static str,
    /// The attributes that its values may have.
    pub attributes: &'static [&'static str],
    /// What the instrument measures.
    pub meaning: &'static str,
}

/// The names of attributes. Values have underscores where the API, logs and settings have hyphens:
/// `timed_out` for the outcome `timed-out`.
pub mod attributes {
    /// Always `rabbitmq`.
    pub const SYSTEM: &str = "messaging.system";
    /// `consume`, `process`, `publish`, `ack` or `nack`.
    pub const OPERATION: &str = "messaging.operation.name";
    /// `process`, `send` or `settle`.
    pub const OPERATION_TYPE: &str = "messaging.operation.type";
    /// The queue. A routing key could have many values.
    pub const DESTINATION: &str = "messaging.destination.name";
    /// The class of the failure. For an answer over HTTP: its status, such as `503`.
    pub const ERROR_TYPE: &str = "error.type";
    /// The name of the consumer.
    pub const CONSUMER: &str = "consumer";
    /// How a delivery ended: `acked`, `parked`, `dead_lettered`, `returned` or `stale`.
    pub const END: &str = "end";
    /// The outcome of a handler run.
    pub const OUTCOME: &str = "outcome";
    /// Why a message was dead-lettered.
    pub const REASON: &str = "reason";
    /// The retry queue.
    pub const RETRY_QUEUE: &str = "retry_queue";
    /// The state of the consumer.
    pub const STATE: &str = "state";
    /// The purpose of a connection: `consume` or `publish`.
    pub const CONNECTION: &str = "connection";
    /// The version of the program.
    pub const VERSION: &str = "version";
}

/// The bucket boundaries of every duration, in seconds. Those up to 10 come from the conventions.
/// Those above are ours, for handlers near their timeout and for messages that wait for a retry.
pub(crate) const BUCKETS: [f64; 20] = [
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0,
    300.0, 600.0, 3600.0, 86_400.0,
];

/// The bucket boundaries of distributions of whole numbers.
pub(crate) const SIZES: [f64; 12] = [
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0,
];

macro_rules! instruments {
    ($($constant:ident = $kind:ident $name:literal $unit:literal [$($attribute:ident),*] $meaning:literal;)*) => {
        $(
            #[doc = $meaning]
            pub const $constant: Instrument = Instrument {
                name: $name,
                kind: Kind::$kind,
                unit: $unit,
                attributes: &[$(attributes::$attribute),*],
                meaning: $meaning,
            };
        )*
        /// All instruments.
        pub const INSTRUMENTS: &[Instrument] = &[$($constant),*];
    };
}

instruments! {
    CONSUMED = Counter "messaging.client.consumed.messages" "{message}" [SYSTEM, OPERATION, DESTINATION, CONSUMER]
        "Messages that RabbitMQ delivered to the worker. A message counts again each time it is delivered again.";
    SENT = Counter "messaging.client.sent.messages" "{message}" [SYSTEM, OPERATION, DESTINATION, ERROR_TYPE]
        "Retries, dead letters and results that the worker published, confirmed by RabbitMQ or not.";
    PROCESS_DURATION = Histogram "messaging.process.duration" "s" [SYSTEM, OPERATION, DESTINATION, CONSUMER, ERROR_TYPE]
        "How long one run of a handler took. A run that failed has error_type.";
    OPERATION_DURATION = Histogram "messaging.client.operation.duration" "s" [SYSTEM, OPERATION, OPERATION_TYPE, DESTINATION, ERROR_TYPE]
        "How long it took to publish a copy until RabbitMQ confirmed it (publish), and to write acks (ack).";
    SETTLED = Counter "lapwing.deliveries.settled" "{delivery}" [CONSUMER, END]
        "Deliveries by how they ended: acked, parked (a retry waits at RabbitMQ), dead_lettered, returned to the queue, or stale (the channel had closed). Their sum, plus the deliveries in flight, is the number of deliveries received.";
    DROPPED = Counter "lapwing.messages.dropped" "{message}" [CONSUMER]
        "Messages that the handler did not want. They are acked, and run no more.";
    DUPLICATES = Counter "lapwing.duplicates.suspected" "{message}" [CONSUMER]
        "Messages that were done but could not be acked, because their channel had closed. RabbitMQ delivers them again, so they run twice.";
    STALE_SETTLES = Counter "lapwing.settles.stale" "{delivery}" [CONSUMER]
        "Handler runs that ended too late to count: their channel had closed, or the worker had given up waiting for them.";
    ATTEMPTS = Counter "lapwing.attempts" "{attempt}" [CONSUMER, OUTCOME]
        "Runs of handlers by how they ended. A message that is retried runs once for each attempt.";
    STUCK = Counter "lapwing.handlers.stuck" "{handler}" [CONSUMER]
        "Handlers that ran on after their timeout or cancellation: they ignore it, or block their thread.";
    PARKED = Counter "lapwing.retries.parked" "{message}" [CONSUMER, RETRY_QUEUE]
        "Retries that wait at RabbitMQ, by the retry queue in which they wait.";
    PROBES = Counter "lapwing.service.probes" "{probe}" [CONSUMER]
        "Messages that the worker tried while the service behind the handler was down, to see whether it is back.";
    INLINE = Counter "lapwing.retries.inline" "{message}" [CONSUMER]
        "Retries that waited in the worker, because their delay was short.";
    DEAD_LETTERS = Counter "lapwing.dead_letters" "{message}" [CONSUMER, REASON]
        "Messages that failed for good and went to the dead-letter queue, by reason.";
    PUBLISH_FAILURES = Counter "lapwing.publish.failures" "{message}" [CONSUMER]
        "Attempts to publish a retry, a dead letter or a result that RabbitMQ did not confirm. The worker tries again, and no message is lost.";
    IN_FLIGHT = Gauge "lapwing.deliveries.in_flight" "{delivery}" [CONSUMER]
        "Messages that the worker holds now: delivered by RabbitMQ and not settled yet, whether they wait or run.";
    BUFFERED = Gauge "lapwing.deliveries.buffered" "{delivery}" [CONSUMER]
        "Messages in the worker that wait for a free handler slot.";
    WAITING = Gauge "lapwing.retries.waiting" "{message}" [CONSUMER]
        "Messages in the worker that wait for their next attempt.";
    CONCURRENCY = Gauge "lapwing.consumer.concurrency" "{handler}" [CONSUMER]
        "The most handlers that may run at once (setting concurrency).";
    PREFETCH = Gauge "lapwing.consumer.prefetch" "{delivery}" [CONSUMER]
        "The most messages that RabbitMQ sends to the worker before they are settled (setting prefetch).";
    RUNNING = Gauge "lapwing.handlers.running" "{handler}" [CONSUMER]
        "Handlers that run now.";
    CONSUMER_STATE = Gauge "lapwing.consumer.state" "{consumer}" [CONSUMER, STATE]
        "1 for the state in which the consumer is, 0 for all others.";
    QUEUE_READY = Gauge "lapwing.queue.ready" "{message}" [CONSUMER]
        "Messages that wait in the queue of the consumer, and that no worker holds. Every worker of the queue counts the same messages.";
    QUEUE_OLDEST = Gauge "lapwing.queue.oldest_seconds" "{second}" [CONSUMER]
        "About the age of the oldest of these messages: the time since the publish of the last message that was not a redelivery, or since the queue was empty.";
    DEAD_LETTERS_NOW = Gauge "lapwing.dead_letter_queue.messages" "{message}" [CONSUMER]
        "Messages in the dead-letter queue of the consumer now.";
    AT_LIMIT = Gauge "lapwing.consumer.at_limit" "{consumer}" [CONSUMER]
        "1 while the queue grows although the consumer runs as much as its concurrency, its rate or its prefetch allows; 0 otherwise. Absent if this is not known, and while the queue grows and the consumer does no work.";
    SESSIONS = Counter "lapwing.sessions" "{session}" [CONSUMER]
        "Subscriptions to the queue. Each one after the first means that the subscription was lost, or that the consumer was paused and resumed. New subscriptions on the same channel, for probes of a service or with another prefetch, do not count.";
    CONNECTIONS = Counter "lapwing.connections" "{connection}" [CONNECTION]
        "Connections to RabbitMQ that were opened, by purpose. Each one after the first of a purpose means that a connection was lost.";
    PUBLISHER_BLOCKED = Gauge "lapwing.publisher.blocked" "{publisher}" []
        "1 while the worker cannot publish retries and dead letters: it has no connection, or RabbitMQ blocks it because of a memory or disk alarm.";
    LOG_LINES_DROPPED = Counter "lapwing.log.dropped" "{line}" []
        "Log lines that were dropped because standard error was read too slowly.";
    ADMIN_REFUSED = Counter "lapwing.admin.refused" "{request}" []
        "Requests that the admin server refused: a missing or wrong token, or another host or origin.";
    LATENCY = Histogram "lapwing.message.latency" "s" [CONSUMER]
        "Time from the publish of a message until its handler succeeded: waiting in the queue, all attempts and the delays between them. Only for messages that say when they were published (property timestamp or header timestamp_in_ms).";
    BATCH_SIZE = Sizes "lapwing.batch.size" "{message}" [CONSUMER]
        "How many messages one call of the handler had. Only for handlers with batch. The halves of a call that failed do not count.";
    DRAIN_DURATION = Histogram "lapwing.drain.duration" "s" []
        "How long the worker took to stop, from the signal until every delivery was settled.";
    BUILD = Gauge "lapwing.build.info" "{build}" [VERSION]
        "Always 1. The label has the version of the program that runs.";
    MAILBOX = Gauge "lapwing.state.mailbox" "{command}" []
        "Commands that wait for the state that handlers share.";
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = include_str!("../../docs/telemetry.md");

    fn row(instrument: &Instrument) -> String {
        let kind = match instrument.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram | Kind::Sizes => "histogram",
        };
        let attributes: Vec<_> = instrument
            .attributes
            .iter()
            .map(|name| format!("`{name}`"))
            .collect();
        let attributes = match attributes.is_empty() {
            true => "–".to_owned(),
            false => attributes.join(", "),
        };
        let Instrument {
            name,
            unit,
            meaning,
            ..
        } = instrument;
        format!("| `{name}` | {kind} | `{unit}` | {attributes} | {meaning} |")
    }

    #[test]
    fn the_document_has_the_same_table() {
        let wanted: Vec<_> = INSTRUMENTS.iter().map(row).collect();
        let found: Vec<_> = DOCUMENT
            .lines()
            .filter(|line| line.starts_with("| `messaging.") || line.starts_with("| `lapwing."))
            .filter(|line| line.matches(" | ").count() == 4)
            .collect();
        assert_eq!(
            found,
            wanted,
            "docs/telemetry.md should have these rows:\n{}",
            wanted.join("\n")
        );
    }

    #[test]
    fn names_are_unique_and_units_are_ucum() {
        let mut names: Vec<_> = INSTRUMENTS.iter().map(|one| one.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), INSTRUMENTS.len());
        for Instrument {
            name, kind, unit, ..
        } in INSTRUMENTS
        {
            let fits = match kind {
                Kind::Histogram => *unit == "s",
                // With unit `1` the Prometheus exporter names a gauge `_ratio`; none of these is one.
                _ => unit.starts_with('{') && unit.ends_with('}'),
            };
            assert!(fits, "{name}: {unit}");
        }
    }
}
