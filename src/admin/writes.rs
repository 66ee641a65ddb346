//! The routes that change something. They need the token.

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
/// The consumer takes no new messages and returns those that have not started. Running handlers
/// finish. The pause lasts until the consumer is resumed or the process ends.
#[utoipa::path(post, path = "/api/v1/consumers/{consumer}/pause", tag = "changes",
    params(("consumer" = String, Path, description = "The consumer's name")),
    security(("token" = [])),
    responses((status = 200, description = "The consumer after the change", body = Consumer), NoConsumer, Refused, Silent),
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
    responses((status = 200, description = "The consumer after the change", body = Consumer), NoConsumer, Refused, Silent),
)]
pub(super) async fn resume(
    State(app): State<Arc<App>>,
    consumer: ConsumerPath,
) -> Answer<Consumer> {
    let Path(name) = consumer?;
    app.worker.resume(&name).await?;
    consumer_answer(&app, &name)
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
    responses((status = 200, description = "The handler was cancelled", body = Cancelled),
        (status = 404, description = "The message is not in flight, or there is no such consumer", body = ErrorBody),
        (status = 409, description = "The handler of this message is not running", body = ErrorBody),
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
