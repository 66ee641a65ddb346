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

/// The names of attributes.
pub mod attributes {
    /// Always `rabbitmq`.
    pub const SYSTEM: &str = "messaging.system";
    /// `process`, `publish`, `ack` or `nack`.
    pub const OPERATION: &str = "messaging.operation.name";
    /// `process`, `send` or `settle`.
    pub const OPERATION_TYPE: &str = "messaging.operation.type";
    /// The queue. A routing key could have many values.
    pub const DESTINATION: &str = "messaging.destination.name";
    /// The class of the failure.
    pub const ERROR_TYPE: &str = "error.type";
    /// The name of the consumer.
    pub const CONSUMER: &str = "lapwing.consumer";
    /// How a delivery ended: `acked`, `parked`, `dead-lettered`, `returned` or `stale`.
    pub const END: &str = "lapwing.end";
    /// The outcome of a handler run.
    pub const OUTCOME: &str = "lapwing.outcome";
    /// Why a message was dead-lettered.
    pub const REASON: &str = "lapwing.reason";
    /// The retry queue.
    pub const RETRY_QUEUE: &str = "lapwing.retry_queue";
    /// The state of the consumer.
    pub const STATE: &str = "lapwing.state";
    /// The purpose of a connection: `consume` or `publish`.
    pub const CONNECTION: &str = "lapwing.connection";
}

/// The bucket boundaries of every histogram, in seconds. Those up to 10 come from the conventions.
/// Those above are ours, for handlers near their timeout and for messages that wait for a retry.
pub(crate) const BUCKETS: [f64; 20] = [
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0,
    300.0, 600.0, 3600.0, 86_400.0,
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
        "Deliveries received.";
    SENT = Counter "messaging.client.sent.messages" "{message}" [SYSTEM, OPERATION, DESTINATION, ERROR_TYPE]
        "Copies published to retry and dead-letter queues, confirmed or not.";
    PROCESS_DURATION = Histogram "messaging.process.duration" "s" [SYSTEM, OPERATION, DESTINATION, CONSUMER, ERROR_TYPE]
        "Duration of a handler run.";
    OPERATION_DURATION = Histogram "messaging.client.operation.duration" "s" [SYSTEM, OPERATION, OPERATION_TYPE, DESTINATION, ERROR_TYPE]
        "Time from a publish to its confirm, and time to write acks.";
    SETTLED = Counter "lapwing.deliveries.settled" "{delivery}" [CONSUMER, END]
        "Deliveries by how they ended. All ends together, plus the deliveries in flight, are the deliveries received.";
    DROPPED = Counter "lapwing.messages.dropped" "{message}" [CONSUMER]
        "Messages that the handler dropped, and that were acked.";
    DUPLICATES = Counter "lapwing.duplicates.suspected" "{message}" [CONSUMER]
        "Messages that were handled, parked or dead-lettered but could not be acked: they will run again.";
    STALE_SETTLES = Counter "lapwing.settles.stale" "{delivery}" [CONSUMER]
        "Handler runs that ended too late: their channel had closed, or the consumer had settled their delivery.";
    ATTEMPTS = Counter "lapwing.attempts" "{attempt}" [CONSUMER, OUTCOME]
        "Handler runs by outcome.";
    STUCK = Counter "lapwing.handlers.stuck" "{handler}" [CONSUMER]
        "Handlers that ignored their cancellation or blocked their thread.";
    PARKED = Counter "lapwing.retries.parked" "{message}" [CONSUMER, RETRY_QUEUE]
        "Retries parked at the broker, by retry queue.";
    INLINE = Counter "lapwing.retries.inline" "{message}" [CONSUMER]
        "Retries that backed off in the worker.";
    DEAD_LETTERS = Counter "lapwing.dead_letters" "{message}" [CONSUMER, REASON]
        "Messages dead-lettered, by reason.";
    PUBLISH_FAILURES = Counter "lapwing.publish.failures" "{message}" [CONSUMER]
        "Attempts to publish a retry or dead letter that the broker did not confirm.";
    IN_FLIGHT = Gauge "lapwing.deliveries.in_flight" "{delivery}" [CONSUMER]
        "Deliveries received and not settled, including those that wait for a handler slot.";
    BUFFERED = Gauge "lapwing.deliveries.buffered" "{delivery}" [CONSUMER]
        "Deliveries that wait for a handler slot.";
    WAITING = Gauge "lapwing.retries.waiting" "{message}" [CONSUMER]
        "Retries that back off in the worker now.";
    CONCURRENCY = Gauge "lapwing.consumer.concurrency" "{handler}" [CONSUMER]
        "The most handlers that run at once.";
    PREFETCH = Gauge "lapwing.consumer.prefetch" "{delivery}" [CONSUMER]
        "The most deliveries that the broker sends to the consumer before they are settled.";
    RUNNING = Gauge "lapwing.handlers.running" "{handler}" [CONSUMER]
        "Handlers running now.";
    CONSUMER_STATE = Gauge "lapwing.consumer.state" "{consumer}" [CONSUMER, STATE]
        "1 for the current state of the consumer, 0 for the other states.";
    SESSIONS = Counter "lapwing.sessions" "{session}" [CONSUMER]
        "Subscriptions made. Each one after the first means that the consumer lost its subscription or was resumed.";
    CONNECTIONS = Counter "lapwing.connections" "{connection}" [CONNECTION]
        "Connections opened. Each one after the first means that a connection was lost.";
    PUBLISHER_BLOCKED = Gauge "lapwing.publisher.blocked" "{publisher}" []
        "1 while retries and dead letters cannot be published: there is no connection, or the broker blocks it.";
    LOG_LINES_DROPPED = Counter "lapwing.log.dropped" "{line}" []
        "Log lines that were dropped because standard error was read too slowly.";
    ADMIN_REFUSED = Counter "lapwing.admin.refused" "{request}" []
        "Requests that the admin server refused: a missing or wrong token, or another host or origin.";
    LATENCY = Histogram "lapwing.message.latency" "s" [CONSUMER]
        "Time from the publish of a message until its handler succeeded or dropped it. Only for messages with a `timestamp_in_ms` header or a `timestamp` property.";
    DRAIN_DURATION = Histogram "lapwing.drain.duration" "s" []
        "Duration of the drain.";
    MAILBOX = Gauge "lapwing.state.mailbox" "{command}" []
        "Commands that wait for the state actor.";
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = include_str!("../../docs/telemetry.md");

    fn row(instrument: &Instrument) -> String {
        let kind = match instrument.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
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
