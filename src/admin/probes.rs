//! Probes for orchestrators, and metrics.

use std::sync::Arc;

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
};

use super::{
    api::App,
    views::{Live, Started},
};
use crate::Readiness;

type Answer<T> = (StatusCode, Json<T>);

fn answer<T>(is_well: bool, body: T) -> Answer<T> {
    let status = match is_well {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, Json(body))
}

/// Liveness: should the worker be restarted?
///
/// Fails if the loop of a consumer has not run for `limit_seconds`, or has ended unexpectedly: then a
/// restart may help. A broker that is down does not fail this probe.
#[utoipa::path(get, path = "/livez", tag = "probes", responses(
    (status = 200, description = "The worker is alive", body = Live),
    (status = 503, description = "A consumer is stuck or has ended", body = Live),
))]
pub(super) async fn livez(State(app): State<Arc<App>>) -> Answer<Live> {
    let dead = app.liveness.look(&app.worker);
    let live = Live {
        live: dead.is_empty(),
        dead: dead.into_iter().collect(),
        limit_seconds: app.liveness.limit().as_secs_f64(),
    };
    answer(live.live, live)
}

/// Readiness: does the worker take messages?
///
/// Succeeds if every consumer is subscribed or was paused on purpose, every handler can work, and
/// no drain has begun.
#[utoipa::path(get, path = "/readyz", tag = "probes", responses(
    (status = 200, description = "The worker is ready", body = Readiness),
    (status = 503, description = "The worker is not ready", body = Readiness),
))]
pub(super) async fn readyz(State(app): State<Arc<App>>) -> Answer<Readiness> {
    let ready = app.worker.readiness();
    answer(ready.ready, ready)
}

/// Startup: has the worker started?
///
/// Succeeds once every consumer has had its first subscription or was paused, and from then on.
#[utoipa::path(get, path = "/startupz", tag = "probes", responses(
    (status = 200, description = "The worker has started", body = Started),
    (status = 503, description = "The worker has not started yet", body = Started),
))]
pub(super) async fn startupz(State(app): State<Arc<App>>) -> Answer<Started> {
    let waiting = app.note_start();
    let started = waiting.is_empty();
    answer(started, Started { started, waiting })
}

/// Metrics, in Prometheus' text format
#[utoipa::path(get, path = "/metrics", tag = "probes", responses(
    (status = 200, description = "The metrics", body = String, content_type = "text/plain"),
))]
pub(super) async fn metrics(State(app): State<Arc<App>>) -> impl IntoResponse {
    const FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";
    ([(header::CONTENT_TYPE, FORMAT)], (app.scrape)())
}
