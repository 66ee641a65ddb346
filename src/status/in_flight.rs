//! Messages in flight: delivered and not settled.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Serialize, Serializer};
use tokio::time::Instant;
use utoipa::ToSchema;

use crate::flight::{Flight, Phase, SessionId};

/// Names a delivery while it is in flight: the number of its session and its tag, as in `3-17`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeliveryId {
    pub(crate) session: SessionId,
    pub(crate) tag: u64,
}

/// The text is not a [`DeliveryId`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a delivery such as 3-17")]
pub struct InvalidDeliveryId;

impl fmt::Display for DeliveryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.session, self.tag)
    }
}

impl FromStr for DeliveryId {
    type Err = InvalidDeliveryId;

    fn from_str(text: &str) -> Result<Self, InvalidDeliveryId> {
        // Accept only the text that `Display` prints: no sign, no leading zero.
        let (session, tag) = text.split_once('-').ok_or(InvalidDeliveryId)?;
        let id = Self {
            session: session.parse().map_err(|_| InvalidDeliveryId)?,
            tag: tag.parse().map_err(|_| InvalidDeliveryId)?,
        };
        match id.to_string() == text {
            true => Ok(id),
            false => Err(InvalidDeliveryId),
        }
    }
}

impl Serialize for DeliveryId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A message in flight.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[non_exhaustive]
pub struct InFlight {
    /// The consumer.
    pub consumer: String,
    /// The name of the delivery, by which its handler can be cancelled.
    #[schema(value_type = String, example = "3-17")]
    pub delivery: DeliveryId,
    /// The `message-id` property.
    pub id: Option<String>,
    /// The `type` property.
    #[serde(rename = "type")]
    pub message_type: Option<String>,
    /// The routing key that the publisher used.
    pub routing_key: String,
    /// The phase of the delivery.
    pub phase: Phase,
    /// Time since the worker received the delivery.
    pub age_seconds: f64,
    /// How long the message was at the broker before this delivery: since it was parked, or since it was
    /// published if this is its first delivery. Nothing if the message does not say so.
    pub queued_seconds: Option<f64>,
    /// Time since the handler started; nothing while no handler runs.
    pub handling_seconds: Option<f64>,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// The id of the trace that the message belongs to.
    pub trace_id: Option<String>,
}

/// Some of the messages in flight, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
#[non_exhaustive]
pub struct InFlightPage {
    /// The number of all messages in flight.
    pub total: usize,
    /// The messages of this page.
    pub messages: Vec<InFlight>,
    /// Consumers that did not answer in time. Their messages are missing.
    pub unanswered: Vec<String>,
}

/// A lane's answer: the number of its flights, and some of them, oldest first. The caller makes
/// texts of them, so that the lane does not have to.
#[derive(Debug, Default)]
pub(crate) struct Window {
    pub(crate) total: usize,
    pub(crate) runs: Vec<Arc<Flight>>,
}

impl InFlight {
    /// A flight at the time `now`, which all messages of a page share.
    pub(crate) fn of(flight: &Flight, now: Instant) -> Self {
        let age = now.saturating_duration_since(flight.received);
        let message = &flight.message;
        Self {
            consumer: flight.consumer.to_string(),
            delivery: DeliveryId {
                session: flight.session(),
                tag: flight.tag(),
            },
            id: message.id().map(str::to_owned),
            message_type: message.message_type().map(str::to_owned),
            routing_key: message.routing_key().to_owned(),
            phase: flight.phase(),
            age_seconds: age.as_secs_f64(),
            queued_seconds: flight.queued().map(|queued| queued.as_secs_f64()),
            // `handling_for` reads the clock after `now`, so it could exceed the age.
            handling_seconds: flight
                .handling_for()
                .map(|time| time.min(age).as_secs_f64()),
            attempt: flight.attempt(),
            trace_id: flight.trace_id(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_is_read_as_it_is_printed() {
        let id: DeliveryId = "3-17".parse().unwrap();
        assert_eq!(id.tag, 17);
        assert_eq!(id.to_string(), "3-17");
        for text in [
            "", "3", "3-", "0-17", "-17", "3-17-1", "+3-17", "3-017", "a-b", "3--17",
        ] {
            assert_eq!(text.parse::<DeliveryId>(), Err(InvalidDeliveryId), "{text}");
        }
    }
}
