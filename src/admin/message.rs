//! What the worker knows about one message: where it is, and where it spent its time.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
};
use serde::Deserialize;
use tokio::time::Instant;
use utoipa::IntoParams;

use super::{
    api::App,
    outcomes::{OutcomesQuery, search, yes},
    places::places,
    reads::Answer,
    refusals::BadRequest,
    views::{FlightStory, MessageStory, PastRun},
};
use crate::{InFlight, clock, flight::Flight, text::rfc3339};

/// Selects a message.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct MessageQuery {
    /// The `message-id` of the message.
    id: String,
    /// Whether to read `admin.failures_file` too.
    #[serde(default = "yes")]
    #[param(default = true)]
    file: bool,
}

/// What this worker knows about a message
///
/// Where the message is, as far as this worker knows: `places` has an entry for each consumer of this worker that
/// had it. Then the message in flight, with its earlier attempts as its headers have them, and its outcomes in this
/// worker, newest first. Without `places` no consumer of this worker has had the message since `acks_since` and
/// `failures_since`: it is at the broker, in another worker, or was forgotten.
#[utoipa::path(get, path = "/api/v1/message", tag = "messages", params(MessageQuery),
    responses((status = 200, description = "The message", body = MessageStory), BadRequest),
)]
pub(super) async fn message(
    State(app): State<Arc<App>>,
    query: Result<Query<MessageQuery>, QueryRejection>,
) -> Answer<MessageStory> {
    /// The most outcomes of a message.
    const OUTCOMES: usize = 200;
    let Query(MessageQuery { id, file }) = query?;
    let (flights, unanswered) = app.worker.flights_of(&id).await;
    let now = Instant::now();
    let in_flight: Vec<_> = flights.iter().map(|flight| story(flight, now)).collect();
    let wanted = OutcomesQuery {
        id: Some(id.clone()),
        limit: OUTCOMES,
        file,
        ..OutcomesQuery::default()
    };
    let page = search(&app, wanted).await;
    let (places, acks_since) = places(&app, &id, &in_flight, &page.outcomes, clock::now());
    Ok(Json(MessageStory {
        id,
        places,
        in_flight,
        unanswered,
        outcomes: page.outcomes,
        failures_since: page.failures_since,
        acks_since,
        file_error: page.file_error,
    }))
}

fn story(flight: &Flight, now: Instant) -> FlightStory {
    let history = flight.story(|past| past.history.clone());
    FlightStory {
        message: InFlight::of(flight, now),
        received_at: rfc3339(flight.received_at()),
        first_seen_at: rfc3339(flight.first_seen()),
        published_at: flight.message.published_at().map(rfc3339),
        history: history.into_iter().map(PastRun::from).collect(),
    }
}
