//! Messages in flight: delivered and not settled.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Serialize, Serializer};
use tokio::time::Instant;
use utoipa::ToSchema;

use crate::flight::{Flight, Phase, SessionId};

/// Names a delivery for as long as it is in flight: its session's number and its tag, `3-17`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeliveryId {
    pub(crate) session: SessionId,
    pub(crate) tag: u64,
}

/// The text is not that of a [`DeliveryId`].
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
        // Only what is printed is read: no sign, no leading zero.
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
    /// Names it: to cancel it.
    #[schema(value_type = String, example = "3-17")]
    pub delivery: DeliveryId,
    /// Its `message-id` property.
    pub id: Option<String>,
    /// Its `type` property.
    #[serde(rename = "type")]
    pub message_type: Option<String>,
    /// The routing key its publisher used.
    pub routing_key: String,
    /// Where it stands.
    pub phase: Phase,
    /// Time since this worker got it.
    pub age_seconds: f64,
    /// Time since its handler was started, where that runs.
    pub handling_seconds: Option<f64>,
    /// The number of the attempt: 1 the first time.
    pub attempt: u32,
    /// The trace it belongs to.
    pub trace_id: Option<String>,
}

/// Some of the messages in flight, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
#[non_exhaustive]
pub struct InFlightPage {
    /// How many there are.
    pub total: usize,
    /// Those of this page.
    pub messages: Vec<InFlight>,
    /// Consumers that did not answer in time; theirs are missing.
    pub unanswered: Vec<String>,
}

/// What a consumer answers: how many it has, and some of them, oldest first. Making texts of them is
/// left to whoever asked.
#[derive(Debug, Default)]
pub(crate) struct Window {
    pub(crate) total: usize,
    pub(crate) runs: Vec<Arc<Flight>>,
}

impl InFlight {
    /// As it stood at `now`, which the messages of a page share.
    pub(crate) fn of(flight: &Flight, now: Instant) -> Self {
        let age = now.saturating_duration_since(flight.received);
        let message = &flight.message;
        Self {
            consumer: flight.consumer.to_string(),
            delivery: DeliveryId {
                session: flight.session,
                tag: flight.tag,
            },
            id: message.id().map(str::to_owned),
            message_type: message.message_type().map(str::to_owned),
            routing_key: message.routing_key().to_owned(),
            phase: flight.phase(),
            age_seconds: age.as_secs_f64(),
            // It is a look at the clock later.
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
