//! The routes that change letters, and the one that stops a job.

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{
        FromRequestParts, Path, State,
        rejection::{JsonRejection, PathRejection},
    },
    http::{StatusCode, request::Parts},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use utoipa::ToSchema;

use super::{
    desk::{Desks, Place},
    job::Job,
    select::{Selection, unusable},
    views::{self, JobKind},
    work::Work,
};
use crate::{
    CallError,
    admin::{
        api::App,
        connections::Peer,
        error::{ApiError, ErrorBody},
        reads::ConsumerPath,
        refusals::{BadRequest, NoConsumer, NotStarted, Refused},
    },
    letters::{Canary, Edit, Filter, Replay, Target},
};

/// Who asks: the address of the client.
pub(super) struct Who(String);

impl<S: Send + Sync> FromRequestParts<S> for Who {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let peer = parts.extensions.get::<Peer>();
        Ok(Self(peer.map_or_else(
            || "the API".to_owned(),
            |peer| format!("the API, from {}", peer.0),
        )))
    }
}

pub(super) type Body<T> = Result<Json<T>, JsonRejection>;
/// The answer with a job that has begun.
pub(super) type Started = Result<(StatusCode, Json<views::Job>), ApiError>;

/// Starts a job.
pub(super) fn begin(
    app: &App,
    consumer: &str,
    kind: JobKind,
    Who(by): Who,
    work: Work,
) -> Result<Arc<Job>, ApiError> {
    let figures = app
        .worker
        .figures(consumer)
        .ok_or(CallError::NoSuchConsumer)?;
    app.dead.start(consumer, Place::of(figures), kind, by, work)
}

pub(super) fn started(job: Arc<Job>) -> Started {
    Ok((StatusCode::ACCEPTED, Json(job.view())))
}

/// A replay.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = DeadLetterReplayRequest)]
pub(super) struct ReplayRequest {
    /// Which letters. Nothing selects none: see `all`.
    #[serde(default)]
    select: Selection,
    /// All letters of the queue.
    #[serde(default)]
    all: bool,
    /// The queue for the copies; null: the queue from which each letter was dead-lettered.
    to: Option<String>,
    /// The most letters per second, from 0.001; null: as fast as the broker confirms them.
    rate: Option<f64>,
    /// The most letters; null: all that are selected.
    limit: Option<usize>,
    /// Replay letters that were replayed three times before.
    #[serde(default)]
    force: bool,
    /// Replay this many letters first, and the others only if each of these succeeds in its first attempt.
    #[schema(minimum = 1, maximum = 100)]
    canary: Option<usize>,
    /// The longest wait for the outcomes of the first letters, at most ten minutes.
    #[serde(default = "minute")]
    #[schema(default = 60)]
    canary_wait_seconds: u64,
    /// Change nothing: the job reads the letters, and its result says where they would go.
    #[serde(default)]
    dry_run: bool,
}

fn minute() -> u64 {
    Canary::WAIT.as_secs()
}

impl ReplayRequest {
    fn canary(&self) -> Result<Option<Canary>, ApiError> {
        let Some(letters) = self.canary else {
            return Ok(None);
        };
        if !(1..=Canary::MOST).contains(&letters) || self.canary_wait_seconds > 600 {
            return Err(unusable(
                "canary must be 1 to 100, and canary_wait_seconds at most 600",
            ));
        }
        let wait = Duration::from_secs(self.canary_wait_seconds);
        Ok(Some(Canary { letters, wait }))
    }
}

/// Replay dead letters
///
/// Starts a job that publishes each letter to its source queue, and takes it out of the dead-letter queue
/// when the copy is confirmed. The copies begin anew. The job stops after a whole batch that failed, and
/// after canaries of which one did not succeed. With `dry_run` it only reads the letters, as a look does.
#[utoipa::path(post, path = "/api/v1/dead/{consumer}/replay", tag = "dead letters",
    params(("consumer" = String, Path, description = "The consumer's name")),
    request_body = ReplayRequest,
    security(("token" = [])),
    responses((status = 202, description = "The job has begun", body = views::Job),
        (status = 410, description = "The look of the selection is over", body = ErrorBody),
        (status = 422, description = "The selection cannot be used, or a value is out of range", body = ErrorBody),
        BadRequest, NoConsumer, NotStarted, Refused),
)]
pub(in crate::admin) async fn replay(
    State(app): State<Arc<App>>,
    who: Who,
    consumer: ConsumerPath,
    body: Body<ReplayRequest>,
) -> Started {
    let (Path(name), Json(body)) = (consumer?, body?);
    let is_rate = |rate: f64| rate.is_finite() && rate >= 0.001;
    if !body.rate.is_none_or(is_rate) {
        return Err(unusable("rate must be at least 0.001"));
    }
    let canary = body.canary()?;
    let replay = Replay {
        filter: selected(&app.dead, &name, body.select, body.all)?,
        target: body.to.map_or(Target::Source, Target::Queue),
        limit: body.limit,
        rate: body.rate,
        force: body.force,
        canary,
        // The job's id, once it has one.
        run: String::new(),
        by: who.0.clone(),
    };
    let (kind, work) = match body.dry_run {
        true => (JobKind::DryRun, Work::Plan(replay)),
        false => (JobKind::Replay, Work::Replay(replay)),
    };
    started(begin(&app, &name, kind, who, work)?)
}

/// The filter of a change. Whoever means all letters says so.
fn selected(
    desks: &Desks,
    consumer: &str,
    select: Selection,
    all: bool,
) -> Result<Filter, ApiError> {
    let filter = select.filter(desks, consumer)?;
    match (filter.is_all(), all) {
        (true, false) => Err(unusable("nothing is selected: give `select`, or `all`")),
        (false, true) => Err(unusable("`all` and `select` contradict each other")),
        _ => Ok(filter),
    }
}

/// Letters to drop.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = DeadLetterDropRequest)]
pub(super) struct DropRequest {
    /// Which letters. Nothing selects none: see `all`.
    #[serde(default)]
    select: Selection,
    /// All letters of the queue.
    #[serde(default)]
    all: bool,
    /// The most letters, from the head of the queue; null: all that are selected.
    limit: Option<usize>,
    /// Change nothing: the job reads the letters, and `selected` of its result says how many it would drop.
    #[serde(default)]
    dry_run: bool,
}

/// Drop dead letters for good
///
/// Starts a job. Nothing brings the letters back: export them before. With `dry_run` it only reads them, as a
/// look does.
#[utoipa::path(post, path = "/api/v1/dead/{consumer}/drop", tag = "dead letters",
    params(("consumer" = String, Path, description = "The consumer's name")),
    request_body = DropRequest,
    security(("token" = [])),
    responses((status = 202, description = "The job has begun", body = views::Job),
        (status = 410, description = "The look of the selection is over", body = ErrorBody),
        (status = 422, description = "The selection cannot be used", body = ErrorBody),
        BadRequest, NoConsumer, NotStarted, Refused),
)]
pub(in crate::admin) async fn drop(
    State(app): State<Arc<App>>,
    who: Who,
    consumer: ConsumerPath,
    body: Body<DropRequest>,
) -> Started {
    let (Path(name), Json(body)) = (consumer?, body?);
    let filter = selected(&app.dead, &name, body.select, body.all)?;
    let limit = body.limit;
    let (kind, work) = match body.dry_run {
        true => (JobKind::DryRun, Work::Count { filter, limit }),
        false => (JobKind::Drop, Work::Drop { filter, limit }),
    };
    started(begin(&app, &name, kind, who, work)?)
}

/// A new body of a letter.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = DeadLetterEditRequest)]
pub(super) struct EditRequest {
    /// The letter's id.
    id: String,
    /// The hash of the body that is replaced, as `show` gives it. A letter whose body is another one stays.
    from: String,
    /// The new body, as text.
    text: Option<String>,
    /// The new body in base64, for bytes that are not text.
    base64: Option<String>,
}

/// Change the body of a dead letter
///
/// Starts a job that puts a copy with the new body at the end of the queue, and takes the letter away when
/// the copy is confirmed. The copy's header `lapwing-edited` says when, by whom, and a hash of the body
/// before. The request has at most 1 MiB.
#[utoipa::path(post, path = "/api/v1/dead/{consumer}/edit", tag = "dead letters",
    params(("consumer" = String, Path, description = "The consumer's name")),
    request_body = EditRequest,
    security(("token" = [])),
    responses((status = 202, description = "The job has begun", body = views::Job),
        (status = 422, description = "There is not exactly one new body", body = ErrorBody),
        BadRequest, NoConsumer, NotStarted, Refused),
)]
pub(in crate::admin) async fn edit(
    State(app): State<Arc<App>>,
    who: Who,
    consumer: ConsumerPath,
    body: Body<EditRequest>,
) -> Started {
    let (Path(name), Json(body)) = (consumer?, body?);
    let bytes = match (body.text, body.base64) {
        (Some(text), None) => text.into_bytes(),
        (None, Some(text)) => STANDARD
            .decode(text)
            .map_err(|error| unusable(&format!("base64: {error}")))?,
        _ => return Err(unusable("give the new body as `text` or as `base64`")),
    };
    let edit = Edit {
        id: body.id,
        from: body.from,
        body: bytes,
        by: who.0.clone(),
    };
    started(begin(&app, &name, JobKind::Edit, who, Work::Edit(edit))?)
}

/// Stop a job
///
/// The job ends after the batch under way, and returns the letters that it holds. What it has changed stays
/// changed. The answer does not wait for the end.
#[utoipa::path(delete, path = "/api/v1/dead/{consumer}/jobs/{job}", tag = "dead letters",
    params(
        ("consumer" = String, Path, description = "The consumer's name"),
        ("job" = String, Path, description = "The job's id"),
    ),
    security(("token" = [])),
    responses((status = 202, description = "The job ends soon, or has ended", body = views::Job),
        (status = 404, description = "There is no such job, or no such consumer", body = ErrorBody),
        (status = 503, description = "The token cannot be read", body = ErrorBody),
        Refused),
)]
pub(in crate::admin) async fn stop(
    State(app): State<Arc<App>>,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Started {
    let Path((consumer, job)) = path?;
    let job = app.dead.job(&consumer, &job)?;
    job.stop();
    started(job)
}
