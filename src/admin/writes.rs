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
    reads::{Answer, LanePath, lane_answer},
    refusals::{BadRequest, NoLane, Refused, Silent},
    views::{Cancelled, Lane},
};
use crate::DeliveryId;

/// Pause a lane
///
/// It takes nothing new and gives back what has not started; handlers that run finish. Lasts until
/// it is resumed or the process ends.
#[utoipa::path(post, path = "/api/v1/lanes/{lane}/pause", tag = "changes",
    params(("lane" = String, Path, description = "The lane's name")),
    security(("token" = [])),
    responses((status = 200, description = "The lane, as it is now", body = Lane), NoLane, Refused, Silent),
)]
pub(super) async fn pause(State(app): State<Arc<App>>, lane: LanePath) -> Answer<Lane> {
    let Path(name) = lane?;
    app.worker.pause(&name).await?;
    lane_answer(&app, &name)
}

/// Resume a paused lane
#[utoipa::path(post, path = "/api/v1/lanes/{lane}/resume", tag = "changes",
    params(("lane" = String, Path, description = "The lane's name")),
    security(("token" = [])),
    responses((status = 200, description = "The lane, as it is now", body = Lane), NoLane, Refused, Silent),
)]
pub(super) async fn resume(State(app): State<Arc<App>>, lane: LanePath) -> Answer<Lane> {
    let Path(name) = lane?;
    app.worker.resume(&name).await?;
    lane_answer(&app, &name)
}

/// What is to be changed about a lane.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Change {
    /// Handlers that may run at once: 1 to its prefetch.
    #[schema(minimum = 1, maximum = 65535)]
    concurrency: u16,
}

/// Change how many handlers of a lane run at once
///
/// More run within 250 ms; fewer do as those that run end: none is cancelled. Lasts until the
/// process ends.
#[utoipa::path(patch, path = "/api/v1/lanes/{lane}", tag = "changes",
    params(("lane" = String, Path, description = "The lane's name")),
    request_body = Change,
    security(("token" = [])),
    responses((status = 200, description = "The lane, as it is now", body = Lane),
        (status = 413, description = "The body is too long", body = ErrorBody),
        (status = 415, description = "The body is not application/json", body = ErrorBody),
        (status = 422, description = "Not 1 to the prefetch", body = ErrorBody),
        BadRequest, NoLane, Refused, Silent),
)]
pub(super) async fn change(
    State(app): State<Arc<App>>,
    lane: LanePath,
    change: Result<Json<Change>, JsonRejection>,
) -> Answer<Lane> {
    let Path(name) = lane?;
    let Json(Change { concurrency }) = change?;
    app.worker.set_concurrency(&name, concurrency)?;
    info!(lane = name, concurrency, "concurrency changed");
    lane_answer(&app, &name)
}

/// Cancel the handler of a message in flight
///
/// The outcome is `interrupted`: the message goes back to its queue, no attempt is charged, and it
/// runs again. A handler that finishes all the same is taken at its word; one that blocks its
/// thread sees nothing of it before its timeout.
#[utoipa::path(post, path = "/api/v1/in-flight/{lane}/{delivery}/cancel", tag = "changes",
    params(
        ("lane" = String, Path, description = "The lane's name"),
        ("delivery" = String, Path, description = "The delivery, such as 3-17"),
    ),
    security(("token" = [])),
    responses((status = 200, description = "Its handler was told to end", body = Cancelled),
        (status = 404, description = "It is not in flight, or there is no such lane", body = ErrorBody),
        (status = 409, description = "It is not at its handler", body = ErrorBody),
        Refused, Silent),
)]
pub(super) async fn cancel(
    State(app): State<Arc<App>>,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Answer<Cancelled> {
    let Path((lane, delivery)) = path?;
    let delivery: DeliveryId = delivery
        .parse()
        .map_err(|_| ApiError::new(StatusCode::NOT_FOUND, "no such delivery"))?;
    app.worker.cancel(&lane, delivery).await?;
    Ok(Json(Cancelled { cancelled: true }))
}
