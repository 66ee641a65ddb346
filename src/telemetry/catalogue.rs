//! Every instrument: name, unit, attributes and meaning. `docs/telemetry.md` has the same table,
//! and a test holds the two equal.
//!
//! `messaging.*` are OpenTelemetry's semantic conventions for messaging (v1.44), `lapwing.*` are
//! ours. Attributes have few values by construction: consumers and queues come from the settings, the
//! others from the enumerations in this crate; error types beyond the first 32 of a consumer become
//! `_OTHER`.

/// What kind of instrument it is.
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
    /// Its OpenTelemetry name; on `/metrics` dots become `_`, and seconds and counters get their
    /// suffix.
    pub name: &'static str,
    /// What kind it is.
    pub kind: Kind,
    /// Its unit, as UCUM writes it.
    pub unit: &'static str,
    /// The attributes it may have.
    pub attributes: &'static [&'static str],
    /// What it says.
    pub meaning: &'static str,
}

/// Attribute names.
pub mod attributes {
    /// `rabbitmq`.
    pub const SYSTEM: &str = "messaging.system";
    /// `process`, `publish`, `ack` or `nack`.
    pub const OPERATION: &str = "messaging.operation.name";
    /// `process`, `send` or `settle`.
    pub const OPERATION_TYPE: &str = "messaging.operation.type";
    /// The queue, where routing keys could be many.
    pub const DESTINATION: &str = "messaging.destination.name";
    /// The failure's class.
    pub const ERROR_TYPE: &str = "error.type";
    /// The consumer.
    pub const CONSUMER: &str = "lapwing.consumer";
    /// How a delivery ended: acked, parked, dead-lettered, returned or stale.
    pub const END: &str = "lapwing.end";
    /// What a handler run ended in.
    pub const OUTCOME: &str = "lapwing.outcome";
    /// Why a message was dead-lettered.
    pub const REASON: &str = "lapwing.reason";
    /// The delay queue.
    pub const RUNG: &str = "lapwing.rung";
    /// What a consumer is doing.
    pub const STATE: &str = "lapwing.state";
    /// What a connection is for: consume or publish.
    pub const CONNECTION: &str = "lapwing.connection";
}

/// The bucket boundaries of every histogram, in seconds, as the conventions give them; those above
/// 10 are ours, for handlers near their timeout and messages that wait for a retry.
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
        /// All of them.
        pub const INSTRUMENTS: &[Instrument] = &[$($constant),*];
    };
}

instruments! {
    CONSUMED = Counter "messaging.client.consumed.messages" "{message}" [SYSTEM, OPERATION, DESTINATION, CONSUMER]
        "Deliveries received.";
    SENT = Counter "messaging.client.sent.messages" "{message}" [SYSTEM, OPERATION, DESTINATION, ERROR_TYPE]
        "Copies published to retry and dead-letter queues, confirmed or not.";
    PROCESS_DURATION = Histogram "messaging.process.duration" "s" [SYSTEM, OPERATION, DESTINATION, CONSUMER, ERROR_TYPE]
        "Time that a handler run took.";
    OPERATION_DURATION = Histogram "messaging.client.operation.duration" "s" [SYSTEM, OPERATION, OPERATION_TYPE, DESTINATION, ERROR_TYPE]
        "Time from a publish to its confirm, and that to write acks.";
    SETTLED = Counter "lapwing.deliveries.settled" "{delivery}" [CONSUMER, END]
        "Deliveries by how they ended; the ends add up to those received.";
    DROPPED = Counter "lapwing.messages.dropped" "{message}" [CONSUMER]
        "Messages acked because their handler did not want them.";
    DUPLICATES = Counter "lapwing.duplicates.suspected" "{message}" [CONSUMER]
        "Messages that were handled, parked or dead-lettered and could not be acked: they will run again.";
    STALE_SETTLES = Counter "lapwing.settles.stale" "{delivery}" [CONSUMER]
        "Ends that came after their channel had died.";
    ATTEMPTS = Counter "lapwing.attempts" "{attempt}" [CONSUMER, OUTCOME]
        "Handler runs by what they ended in.";
    STUCK = Counter "lapwing.handlers.stuck" "{handler}" [CONSUMER]
        "Handlers that ignored their cancellation or blocked their thread.";
    PARKED = Counter "lapwing.retries.parked" "{message}" [CONSUMER, RUNG]
        "Retries parked at the broker, by delay queue.";
    INLINE = Counter "lapwing.retries.inline" "{message}" [CONSUMER]
        "Retries that waited in the worker.";
    DEAD_LETTERS = Counter "lapwing.dead_letters" "{message}" [CONSUMER, REASON]
        "Messages dead-lettered, by reason.";
    PUBLISH_FAILURES = Counter "lapwing.publish.failures" "{message}" [CONSUMER]
        "Publishes of retries and dead letters that did not count and were tried again.";
    IN_FLIGHT = Gauge "lapwing.deliveries.in_flight" "{delivery}" [CONSUMER]
        "Deliveries received and not settled; those that wait for a handler slot are among them.";
    BUFFERED = Gauge "lapwing.deliveries.buffered" "{delivery}" [CONSUMER]
        "Deliveries that wait for a handler slot.";
    WAITING = Gauge "lapwing.retries.waiting" "{message}" [CONSUMER]
        "Retries that wait in the worker now.";
    CONCURRENCY = Gauge "lapwing.consumer.concurrency" "{handler}" [CONSUMER]
        "Handlers that may run at once.";
    PREFETCH = Gauge "lapwing.consumer.prefetch" "{delivery}" [CONSUMER]
        "Deliveries that the broker may have outstanding to the consumer.";
    RUNNING = Gauge "lapwing.handlers.running" "{handler}" [CONSUMER]
        "Handlers that run now.";
    CONSUMER_STATE = Gauge "lapwing.consumer.state" "{consumer}" [CONSUMER, STATE]
        "1 for the state that the consumer is in, 0 for the others.";
    SESSIONS = Counter "lapwing.sessions" "{session}" [CONSUMER]
        "Subscriptions made; one more than the first means that one was lost or resumed.";
    CONNECTIONS = Counter "lapwing.connections" "{connection}" [CONNECTION]
        "Connections opened; one more than the first means that one was lost.";
    PUBLISHER_BLOCKED = Gauge "lapwing.publisher.blocked" "{publisher}" []
        "1 while retries and dead letters cannot be published: not connected, or blocked by the broker.";
    LATENCY = Histogram "lapwing.message.latency" "s" [CONSUMER]
        "Time from publishing (`timestamp_in_ms` header or `timestamp` property, where there is one) to the end of a message that was handled.";
    DRAIN_DURATION = Histogram "lapwing.drain.duration" "s" []
        "Time that the drain took.";
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
            "docs/telemetry.md; should be:\n{}",
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
                // Prometheus would call a gauge of unit `1` a ratio, which none of these is.
                _ => unit.starts_with('{') && unit.ends_with('}'),
            };
            assert!(fits, "{name}: {unit}");
        }
    }
}
