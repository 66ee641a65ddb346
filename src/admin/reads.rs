//! The routes that read. They need no token.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::{StatusCode, header},
    response::IntoResponse,
};
use serde::Deserialize;
use tokio::time::Instant;
use utoipa::IntoParams;

use super::{
    api::App,
    error::{ApiError, NoQuery},
    refusals::{BadRequest, NoConsumer, Silent},
    views::{Consumer, Consumers, Depth, History, RetryQueue, RetryQueues, Worker},
};
use crate::{CallError, InFlightPage, status::Figures};

pub(super) type Answer<T> = Result<Json<T>, ApiError>;
pub(super) type ConsumerPath = Result<Path<String>, PathRejection>;

/// The worker as a whole
#[utoipa::path(get, path = "/api/v1/worker", tag = "state", responses((status = 200, description = "The worker", body = Worker), BadRequest))]
pub(super) async fn worker(_: NoQuery, State(app): State<Arc<App>>) -> Json<Worker> {
    Json(app.worker())
}

/// All consumers, those that need a person first
#[utoipa::path(get, path = "/api/v1/consumers", tag = "state", responses((status = 200, description = "The consumers", body = Consumers), BadRequest))]
pub(super) async fn consumers(_: NoQuery, State(app): State<Arc<App>>) -> Json<Consumers> {
    Json(Consumers::by_need(app.consumers()))
}

/// One consumer
#[utoipa::path(get, path = "/api/v1/consumers/{consumer}", tag = "state",
    params(("consumer" = String, Path, description = "The consumer's name")),
    responses((status = 200, description = "The consumer", body = Consumer), BadRequest, NoConsumer),
)]
pub(super) async fn consumer(
    _: NoQuery,
    State(app): State<Arc<App>>,
    consumer: ConsumerPath,
) -> Answer<Consumer> {
    let Path(name) = consumer?;
    consumer_answer(&app, &name)
}

/// A consumer as it is now.
pub(super) fn consumer_answer(app: &App, name: &str) -> Answer<Consumer> {
    Ok(Json(app.consumer(name).ok_or(CallError::NoSuchConsumer)?))
}

/// The figures of a consumer; an error if there is no such consumer.
pub(super) fn figures<'a>(app: &'a App, consumer: &str) -> Result<&'a Figures, CallError> {
    app.worker
        .figures(consumer)
        .ok_or(CallError::NoSuchConsumer)
}

/// The last five minutes of a consumer, second by second
#[utoipa::path(get, path = "/api/v1/consumers/{consumer}/history", tag = "state",
    params(("consumer" = String, Path, description = "The consumer's name")),
    responses((status = 200, description = "The history of the consumer", body = History), BadRequest, NoConsumer),
)]
pub(super) async fn history(
    _: NoQuery,
    State(app): State<Arc<App>>,
    consumer: ConsumerPath,
) -> Answer<History> {
    let Path(name) = consumer?;
    figures(&app, &name)?;
    Ok(Json(app.monitor.history(&name)))
}

/// The depth of a consumer's retry queues and of its dead-letter queue
///
/// The worker asks the broker, at most every two seconds.
#[utoipa::path(get, path = "/api/v1/consumers/{consumer}/retry-queues", tag = "state",
    params(("consumer" = String, Path, description = "The consumer's name")),
    responses((status = 200, description = "The queues of the consumer", body = RetryQueues), BadRequest, NoConsumer),
)]
pub(super) async fn retry_queues(
    _: NoQuery,
    State(app): State<Arc<App>>,
    consumer: ConsumerPath,
) -> Answer<RetryQueues> {
    /// The time for which an answer is reused.
    const FRESH: Duration = Duration::from_secs(2);
    let Path(name) = consumer?;
    let kept = app
        .retry_queues
        .get(&name)
        .ok_or(CallError::NoSuchConsumer)?;
    // Keep the lock while the broker is asked: concurrent requests wait for the same answer.
    let mut kept = kept.lock().await;
    let fresh = kept.as_ref().filter(|(at, _)| at.elapsed() < FRESH);
    if let Some((_, queues)) = fresh {
        return Ok(Json(queues.clone()));
    }
    let queues = ask_retry_queues(&app, &name).await?;
    *kept = Some((Instant::now(), queues.clone()));
    Ok(Json(queues))
}

async fn ask_retry_queues(app: &App, name: &str) -> Result<RetryQueues, ApiError> {
    let figures = figures(app, name)?;
    let timeouts = &app.settings.worker.timeouts;
    let asked = app
        .worker
        .depths(name, timeouts.declare + timeouts.call)
        .await;
    let (depths, error) = match asked {
        Ok(Ok(depths)) => (depths, None),
        Ok(Err(error)) => (Vec::new(), Some(error.to_string())),
        Err(error) => (Vec::new(), Some(error.to_string())),
    };
    let messages = |queue: &str| {
        let found = depths.iter().find(|(name, _)| name == queue);
        found.and_then(|(_, messages)| *messages)
    };
    let rungs = figures.rungs().map(|(rung, _)| RetryQueue {
        messages: messages(&rung.queue),
        delay_seconds: rung.length.as_secs_f64(),
        queue: rung.queue.clone(),
    });
    let queue = figures.settings.dead_letter_queue();
    Ok(RetryQueues {
        retry_queues: rungs.collect(),
        dead_letters: Depth {
            messages: messages(&queue),
            queue,
        },
        error,
    })
}

/// Selects messages in flight.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct InFlightQuery {
    /// Only messages of this consumer.
    consumer: Option<String>,
    /// The most entries to return, 1 to 1000.
    #[serde(default = "hundred")]
    #[param(default = 100, minimum = 1, maximum = 1000)]
    limit: usize,
    /// Skip this many of the oldest messages, 0 to 100000.
    #[serde(default)]
    #[param(default = 0, minimum = 0, maximum = 100_000)]
    offset: usize,
}

pub(super) fn hundred() -> usize {
    100
}

pub(super) fn within(
    name: &str,
    value: usize,
    range: std::ops::RangeInclusive<usize>,
) -> Result<(), ApiError> {
    if range.contains(&value) {
        return Ok(());
    }
    let (low, high) = range.into_inner();
    let text = format!("{name} must be {low} to {high}");
    Err(ApiError::new(StatusCode::BAD_REQUEST, text))
}

/// Messages in flight, oldest first
#[utoipa::path(get, path = "/api/v1/in-flight", tag = "messages", params(InFlightQuery),
    responses((status = 200, description = "A page of messages in flight", body = InFlightPage), BadRequest, NoConsumer, Silent),
)]
pub(super) async fn in_flight(
    State(app): State<Arc<App>>,
    query: Result<Query<InFlightQuery>, QueryRejection>,
) -> Answer<InFlightPage> {
    let Query(query) = query?;
    within("limit", query.limit, 1..=1000)?;
    within("offset", query.offset, 0..=100_000)?;
    let consumer = query.consumer.as_deref();
    let page = app.worker.in_flight(consumer, query.offset, query.limit);
    Ok(Json(page.await?))
}

/// The settings in force, secrets hidden
///
/// The settings as `lapwing config show` prints them. A concurrency that was changed by the API does
/// not appear here.
#[utoipa::path(get, path = "/api/v1/config", tag = "state",
    responses((status = 200, description = "The settings", body = serde_json::Value), BadRequest),
)]
pub(super) async fn config(_: NoQuery, State(app): State<Arc<App>>) -> Json<serde_json::Value> {
    Json(app.settings.shown.clone())
}

/// The OpenAPI document of this API
#[utoipa::path(get, path = "/api/v1/openapi.json", tag = "state",
    responses((status = 200, description = "OpenAPI 3.1", body = serde_json::Value), BadRequest),
)]
pub(super) async fn document(_: NoQuery, State(app): State<Arc<App>>) -> impl IntoResponse {
    let document = app.document.get().cloned().unwrap_or_default();
    ([(header::CONTENT_TYPE, "application/json")], document)
}
