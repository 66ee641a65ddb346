//! The routes that change something. They need the token.

use std::{io, sync::Arc};

use axum::{
    Json,
    extract::{
        Path, State,
        rejection::{JsonRejection, PathRejection},
    },
    http::StatusCode,
};
use futures_util::future::join_all;
use serde::Deserialize;
use tracing::info;
use utoipa::ToSchema;

use super::{
    api::App,
    error::{ApiError, ErrorBody, NoQuery},
    reads::{Answer, ConsumerPath, consumer_answer},
    refusals::{BadRequest, NoConsumer, Refused, Silent},
    views::{Cancelled, Consumer, Consumers},
};
use crate::{CallError, DeliveryId};

/// Pause a consumer
///
/// The consumer takes no new messages and returns those that have not started. Running handlers
/// finish. The pause lasts until the consumer is resumed or, without `admin.pause_file`, the process ends.
#[utoipa::path(post, path = "/api/v1/consumers/{consumer}/pause", tag = "changes",
    params(("consumer" = String, Path, description = "The consumer's name")),
    security(("token" = [])),
    responses((status = 200, description = "The consumer after the change", body = Consumer), BadRequest, NoConsumer, Refused, Silent),
)]
pub(super) async fn pause(
    _: NoQuery,
    State(app): State<Arc<App>>,
    consumer: ConsumerPath,
) -> Answer<Consumer> {
    let Path(name) = consumer?;
    let changed = app.worker.pause(&name).await;
    settle(&app, vec![(name.clone(), changed)], true).await?;
    consumer_answer(&app, &name)
}

/// Resume a paused consumer
#[utoipa::path(post, path = "/api/v1/consumers/{consumer}/resume", tag = "changes",
    params(("consumer" = String, Path, description = "The consumer's name")),
    security(("token" = [])),
    responses((status = 200, description = "The consumer after the change", body = Consumer), BadRequest, NoConsumer, Refused, Silent),
)]
pub(super) async fn resume(
    _: NoQuery,
    State(app): State<Arc<App>>,
    consumer: ConsumerPath,
) -> Answer<Consumer> {
    let Path(name) = consumer?;
    let changed = app.worker.resume(&name).await;
    settle(&app, vec![(name.clone(), changed)], false).await?;
    consumer_answer(&app, &name)
}

/// A consumer, and its answer to a pause or a resume.
type Changed = (String, Result<(), CallError>);

/// Keeps pauses or their ends in `admin.pause_file`, and says which consumers gave no answer. One that obeys
/// later is kept by the monitor.
async fn settle(app: &App, changed: Vec<Changed>, paused: bool) -> Result<(), ApiError> {
    let limit = app.settings.worker.timeouts.call;
    let kept = tokio::time::timeout(limit, app.pauses.keep(&app.worker)).await;
    let kept = kept.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    let mut failed = changed.iter().filter_map(|(name, answer)| {
        let error = answer.as_ref().err()?;
        Some((name, *error))
    });
    if let Some((name, error)) = failed.next() {
        if changed.len() == 1 {
            return Err(error.into());
        }
        let others = failed.map(|(name, error)| format!("; {name}: {error}"));
        let text = format!("{name}: {error}{}", others.collect::<String>());
        return Err(ApiError::new(StatusCode::GATEWAY_TIMEOUT, text));
    }
    kept.map_err(|error| {
        let (done, next) = match paused {
            true => ("paused", "take messages"),
            false => ("resumed", "be paused"),
        };
        let text = format!(
            "{done}, but a restart makes the consumers {next} again: admin.pause_file cannot be written: {error}"
        );
        ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, text)
    })
}

/// Pause all consumers
///
/// As for one consumer. The answer comes when all are paused.
#[utoipa::path(post, path = "/api/v1/pause", tag = "changes",
    security(("token" = [])),
    responses((status = 200, description = "The consumers after the change", body = Consumers), BadRequest, Refused, Silent),
)]
pub(super) async fn pause_all(_: NoQuery, State(app): State<Arc<App>>) -> Answer<Consumers> {
    change_all(&app, true).await
}

/// Resume all consumers
#[utoipa::path(post, path = "/api/v1/resume", tag = "changes",
    security(("token" = [])),
    responses((status = 200, description = "The consumers after the change", body = Consumers), BadRequest, Refused, Silent),
)]
pub(super) async fn resume_all(_: NoQuery, State(app): State<Arc<App>>) -> Answer<Consumers> {
    change_all(&app, false).await
}

/// Pauses or resumes all consumers at once. One that does not answer does not stop the others.
async fn change_all(app: &App, paused: bool) -> Answer<Consumers> {
    let changes = app.worker.consumers().map(|name| async move {
        let changed = match paused {
            true => app.worker.pause(name).await,
            false => app.worker.resume(name).await,
        };
        (name.to_owned(), changed)
    });
    settle(app, join_all(changes).await, paused).await?;
    Ok(Json(Consumers::by_need(app.consumers())))
}

/// A change of a consumer.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Change {
    /// The most handlers that run at once: 1 to the consumer's prefetch.
    #[schema(minimum = 1, maximum = 65535)]
    concurrency: u16,
}

/// Change how many handlers of a consumer run at once
///
/// A higher number takes effect within 250 ms. A lower one cancels no handler: it takes effect as
/// running handlers end. The change lasts until the process ends.
#[utoipa::path(patch, path = "/api/v1/consumers/{consumer}", tag = "changes",
    params(("consumer" = String, Path, description = "The consumer's name")),
    request_body = Change,
    security(("token" = [])),
    responses((status = 200, description = "The consumer after the change", body = Consumer),
        (status = 413, description = "The body is too long", body = ErrorBody),
        (status = 415, description = "The body is not application/json", body = ErrorBody),
        (status = 422, description = "The concurrency is not between 1 and the prefetch", body = ErrorBody),
        BadRequest, NoConsumer, Refused, Silent),
)]
pub(super) async fn change(
    _: NoQuery,
    State(app): State<Arc<App>>,
    consumer: ConsumerPath,
    change: Result<Json<Change>, JsonRejection>,
) -> Answer<Consumer> {
    let Path(name) = consumer?;
    let Json(Change { concurrency }) = change?;
    app.worker.set_concurrency(&name, concurrency)?;
    info!(consumer = name, concurrency, "concurrency changed");
    consumer_answer(&app, &name)
}

/// Cancel the handler of a message in flight
///
/// The outcome is `interrupted`: the message goes back to its queue and runs again, and the attempt
/// is not counted. If the handler finishes all the same, its own outcome counts. For a handler
/// that blocks its thread, the cancellation has no effect before its timeout.
#[utoipa::path(post, path = "/api/v1/in-flight/{consumer}/{delivery}/cancel", tag = "changes",
    params(
        ("consumer" = String, Path, description = "The consumer's name"),
        ("delivery" = String, Path, description = "The delivery, such as 3-17"),
    ),
    security(("token" = [])),
    responses((status = 200, description = "The handler was cancelled", body = Cancelled), BadRequest,
        (status = 404, description = "The message is not in flight, or there is no such consumer", body = ErrorBody),
        (status = 409, description = "The handler of this message is not running", body = ErrorBody),
        Refused, Silent),
)]
pub(super) async fn cancel(
    _: NoQuery,
    State(app): State<Arc<App>>,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Answer<Cancelled> {
    let Path((consumer, delivery)) = path?;
    let delivery: DeliveryId = delivery
        .parse()
        .map_err(|_| ApiError::new(StatusCode::NOT_FOUND, "no such delivery"))?;
    app.worker.cancel(&consumer, delivery).await?;
    Ok(Json(Cancelled { cancelled: true }))
}
