//! What can be changed, with the token.

use std::sync::Arc;

use axum::{
    Json,
    extract::{
        Path, State,
        rejection::{JsonRejection, PathRejection},
    },
    http::StatusCode,
};
use serde::Deserialize;
use tracing::info;
use utoipa::ToSchema;

use super::{
    api::App,
    error::{ApiError, ErrorBody},
    reads::{Answer, ConsumerPath, consumer_answer},
    refusals::{BadRequest, NoConsumer, Refused, Silent},
    views::{Cancelled, Consumer},
};
use crate::DeliveryId;

/// Pause a consumer
///
/// It takes nothing new and gives back what has not started; handlers that run finish. Lasts until
/// it is resumed or the process ends.
#[utoipa::path(post, path = "/api/v1/consumers/{consumer}/pause", tag = "changes",
    params(("consumer" = String, Path, description = "The consumer's name")),
    security(("token" = [])),
    responses((status = 200, description = "The consumer, as it is now", body = Consumer), NoConsumer, Refused, Silent),
)]
pub(super) async fn pause(State(app): State<Arc<App>>, consumer: ConsumerPath) -> Answer<Consumer> {
    let Path(name) = consumer?;
    app.worker.pause(&name).await?;
    consumer_answer(&app, &name)
}

/// Resume a paused consumer
#[utoipa::path(post, path = "/api/v1/consumers/{consumer}/resume", tag = "changes",
    params(("consumer" = String, Path, description = "The consumer's name")),
    security(("token" = [])),
    responses((status = 200, description = "The consumer, as it is now", body = Consumer), NoConsumer, Refused, Silent),
)]
pub(super) async fn resume(
    State(app): State<Arc<App>>,
    consumer: ConsumerPath,
) -> Answer<Consumer> {
    let Path(name) = consumer?;
    app.worker.resume(&name).await?;
    consumer_answer(&app, &name)
}

/// What is to be changed about a consumer.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Change {
    /// Handlers that may run at once: 1 to its prefetch.
    #[schema(minimum = 1, maximum = 65535)]
    concurrency: u16,
}

/// Change how many handlers of a consumer run at once
///
/// More run within 250 ms; fewer do as those that run end: none is cancelled. Lasts until the
/// process ends.
#[utoipa::path(patch, path = "/api/v1/consumers/{consumer}", tag = "changes",
    params(("consumer" = String, Path, description = "The consumer's name")),
    request_body = Change,
    security(("token" = [])),
    responses((status = 200, description = "The consumer, as it is now", body = Consumer),
        (status = 413, description = "The body is too long", body = ErrorBody),
        (status = 415, description = "The body is not application/json", body = ErrorBody),
        (status = 422, description = "Not 1 to the prefetch", body = ErrorBody),
        BadRequest, NoConsumer, Refused, Silent),
)]
pub(super) async fn change(
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
/// The outcome is `interrupted`: the message goes back to its queue, no attempt is charged, and it
/// runs again. A handler that finishes all the same is taken at its word; one that blocks its
/// thread sees nothing of it before its timeout.
#[utoipa::path(post, path = "/api/v1/in-flight/{consumer}/{delivery}/cancel", tag = "changes",
    params(
        ("consumer" = String, Path, description = "The consumer's name"),
        ("delivery" = String, Path, description = "The delivery, such as 3-17"),
    ),
    security(("token" = [])),
    responses((status = 200, description = "Its handler was told to end", body = Cancelled),
        (status = 404, description = "It is not in flight, or there is no such consumer", body = ErrorBody),
        (status = 409, description = "It is not at its handler", body = ErrorBody),
        Refused, Silent),
)]
pub(super) async fn cancel(
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
