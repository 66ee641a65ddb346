//! An outcome as people see it: in lists, in the API and in the file with failures.

use std::time::{Duration, SystemTime};

use serde::{Serialize, Serializer};
use utoipa::ToSchema;

use crate::{
    clock, dead_letters,
    flight::Flight,
    outcome::{Ending, OutcomeKind},
    policy::{Settlement, SettlementKind},
    text::{as_rfc3339, ends, fingerprint},
};

/// The most bytes kept of an error's text: of its beginning, and of its end.
const ERROR_ROOM: (usize, usize) = (395, 100);

/// The outcome of one handler run, and the settlement that followed.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = Outcome)]
#[non_exhaustive]
pub struct OutcomeRecord {
    /// The number of the outcome, in the order in which the worker kept them.
    pub seq: u64,
    /// When the run ended.
    #[serde(serialize_with = "as_rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub at: SystemTime,
    /// The consumer.
    pub consumer: String,
    /// The message's `message-id` property.
    pub id: Option<String>,
    /// The message's `type` property.
    #[serde(rename = "type")]
    pub message_type: Option<String>,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// The kind of outcome.
    pub kind: OutcomeKind,
    /// The settlement. A retry or dead letter that cannot be published is returned later.
    pub settlement: SettlementKind,
    /// The delay before the next attempt, if there is one.
    #[serde(rename = "retry_seconds", serialize_with = "as_seconds")]
    #[schema(value_type = Option<f64>)]
    pub retry: Option<Duration>,
    /// Why the message was dead-lettered, if it was.
    pub reason: Option<&'static str>,
    /// The failure's class.
    pub class: Option<String>,
    /// The failure's status, such as the status of an HTTP response.
    pub status: Option<u16>,
    /// The failure's text, or why the message was dropped; at most 500 bytes.
    pub error: Option<String>,
    /// The cause of a failure, as `lapwing dead groups` names it: a hash of its class and its text.
    /// Failures that differ only in numbers and ids have the same cause.
    pub cause: Option<String>,
    /// The retry queue in which the next attempt waits, if it waits at the broker.
    pub retry_queue: Option<String>,
    /// When the worker received the delivery.
    #[serde(serialize_with = "as_rfc3339")]
    #[schema(value_type = String, format = DateTime)]
    pub received_at: SystemTime,
    /// How long the message was at the broker before this delivery: since it was parked, or since it was
    /// published if this is its first delivery. Nothing if the message does not say so.
    #[serde(rename = "queued_seconds", serialize_with = "as_seconds")]
    #[schema(value_type = Option<f64>)]
    pub queued: Option<Duration>,
    /// How long the handler ran; nothing if no handler ran.
    #[serde(rename = "handling_seconds", serialize_with = "as_seconds")]
    #[schema(value_type = Option<f64>)]
    pub handling: Option<Duration>,
    /// The id of the trace that the message belongs to.
    pub trace_id: Option<String>,
}

fn as_seconds<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(|time| time.as_secs_f64()).serialize(serializer)
}

impl OutcomeRecord {
    /// The outcome of a message in flight. It has no number and no retry queue yet.
    pub(super) fn of(
        consumer: &str,
        flight: &Flight,
        ending: &Ending,
        settlement: &Settlement,
    ) -> Self {
        let failure = ending.failure();
        let error = failure.as_ref().map(|failure| failure.error.as_str());
        let error = error.or_else(|| ending.drop_reason());
        Self {
            seq: 0,
            at: clock::now(),
            consumer: consumer.to_owned(),
            id: flight.message.id().map(str::to_owned),
            message_type: flight.message.message_type().map(str::to_owned),
            attempt: flight.attempt(),
            kind: ending.kind(),
            settlement: settlement.kind(),
            retry: match settlement {
                Settlement::Retry { after, .. } | Settlement::Defer { after } => Some(*after),
                _ => None,
            },
            reason: match settlement {
                Settlement::DeadLetter { reason } => Some(reason.name()),
                _ => None,
            },
            class: failure
                .as_ref()
                .map(|failure| dead_letters::class(failure).to_owned()),
            status: failure.as_ref().and_then(|failure| failure.status),
            error: error.map(|error| ends(error, ERROR_ROOM.0, ERROR_ROOM.1).into_owned()),
            cause: failure
                .as_ref()
                .map(|failure| fingerprint(&failure.class, &failure.error)),
            retry_queue: None,
            received_at: flight.received_at(),
            queued: flight.queued(),
            handling: flight.handled_for(),
            trace_id: flight.trace_id(),
        }
    }
}

#[cfg(test)]
impl OutcomeRecord {
    /// A record for tests.
    pub(crate) fn sample(kind: OutcomeKind, settlement: SettlementKind) -> Self {
        Self {
            seq: 0,
            at: SystemTime::UNIX_EPOCH,
            consumer: "orders".to_owned(),
            id: None,
            message_type: None,
            attempt: 1,
            kind,
            settlement,
            retry: Some(Duration::from_millis(1500)),
            reason: None,
            class: None,
            status: None,
            error: None,
            cause: None,
            retry_queue: None,
            received_at: SystemTime::UNIX_EPOCH,
            queued: None,
            handling: None,
            trace_id: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339_and_durations_seconds() {
        let json = serde_json::to_value(OutcomeRecord::sample(
            OutcomeKind::TimedOut,
            SettlementKind::Ack,
        ))
        .unwrap();
        assert_eq!(json["at"], "1970-01-01T00:00:00.000Z");
        assert_eq!(json["retry_seconds"], 1.5);
        assert_eq!(json["kind"], "timed-out");
        assert!(json["handling_seconds"].is_null());
    }
}
