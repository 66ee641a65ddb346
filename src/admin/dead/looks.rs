//! The routes that look at letters. They need the token: a look takes the letters from the broker and
//! returns them, and it shows their bodies.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Json,
    extract::{Path, State},
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use tokio::time::timeout;
use utoipa::ToSchema;

use super::{
    changes::{Body, Started, Who, begin, started},
    job::Job,
    select::Selection,
    snapshot::MOST,
    views::{self, JobKind, JobState, Letter},
    work::Work,
};
use crate::{
    admin::{
        api::App,
        error::{ApiError, ErrorBody},
        reads::ConsumerPath,
        refusals::{BadRequest, NoConsumer, NotStarted, Refused},
    },
    letters::Look,
    lock::lock,
};

/// The longest that a request waits for one letter.
const PATIENCE: Duration = Duration::from_secs(25);

/// A look at the letters of a consumer.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = DeadLetterLookRequest)]
pub(super) struct LookRequest {
    /// Which letters; all if nothing is given.
    #[serde(default)]
    select: Selection,
    /// Replace letters with fewer than five deliveries left by a copy at the end of the queue.
    #[serde(default)]
    renew: bool,
}

/// Look at the dead letters of a consumer
///
/// Starts a job that reads the queue from its oldest letter on, until 100,000 are selected, and returns all
/// letters to their places. If the letters were returned before, it reads the queue to its end: otherwise
/// they would not go back to their places. What the job has seen answers the requests for groups and pages,
/// until the next look. On RabbitMQ before 4.3 a look costs each letter one delivery of the queue's delivery
/// limit. While it reads, other programs do not see the letters.
#[utoipa::path(post, path = "/api/v1/dead/{consumer}/look", tag = "dead letters",
    params(("consumer" = String, Path, description = "The consumer's name")),
    request_body = LookRequest,
    security(("token" = [])),
    responses((status = 202, description = "The job has begun", body = views::Job),
        (status = 410, description = "The look of the selection is over", body = ErrorBody),
        (status = 422, description = "The selection cannot be used", body = ErrorBody),
        BadRequest, NoConsumer, NotStarted, Refused),
)]
pub(in crate::admin) async fn look(
    State(app): State<Arc<App>>,
    who: Who,
    consumer: ConsumerPath,
    body: Body<LookRequest>,
) -> Started {
    let (Path(name), Json(body)) = (consumer?, body?);
    let filter = body.select.filter(&app.dead, &name)?;
    let matches = filter.matches.clone();
    let look = Look {
        filter,
        // A longer queue is looked at in parts: replay or drop these letters, and look again.
        limit: Some(MOST),
        renew: body.renew,
    };
    started(begin(
        &app,
        &name,
        JobKind::Look,
        who,
        Work::Look { look, matches },
    )?)
}

/// Which letter.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = DeadLetterShowRequest)]
pub(super) struct ShowRequest {
    /// The letter's id.
    id: String,
    /// Read the queue if the last look has not kept the letter whole. This can cost each letter of the queue
    /// a delivery, as a look does.
    #[serde(default = "yes")]
    #[schema(default = true)]
    read: bool,
}

fn yes() -> bool {
    true
}

/// Stops a job whose client does not wait any more.
struct StopsJob(Arc<Job>);

impl Drop for StopsJob {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Show one dead letter: properties, headers, attempts and body
///
/// From the last look, if it has kept the whole letter: then this costs the letter nothing. Otherwise a job
/// reads the queue, for at most 25 s. It ends at the letter, unless the letters were returned before, as
/// after a look: then it reads the queue to its end, so that they go back to their places. The job stops
/// when the client goes away.
#[utoipa::path(post, path = "/api/v1/dead/{consumer}/show", tag = "dead letters",
    params(("consumer" = String, Path, description = "The consumer's name")),
    request_body = ShowRequest,
    security(("token" = [])),
    responses((status = 200, description = "The letter", body = Letter),
        (status = 404, description = "There is no such letter, or no such consumer; or the last look has not kept the letter, and `read` is false", body = ErrorBody),
        (status = 409, description = "Another job is running", body = ErrorBody),
        (status = 413, description = "The body is too long", body = ErrorBody),
        (status = 415, description = "The body is not application/json", body = ErrorBody),
        (status = 422, description = "The body has not the fields that it must have", body = ErrorBody),
        (status = 502, description = "The queue cannot be read", body = ErrorBody),
        (status = 503, description = "The job cannot be started, or was stopped", body = ErrorBody),
        (status = 504, description = "The letter was not found in time", body = ErrorBody),
        BadRequest, Refused),
)]
pub(in crate::admin) async fn show(
    State(app): State<Arc<App>>,
    who: Who,
    consumer: ConsumerPath,
    body: Body<ShowRequest>,
) -> Result<Response, ApiError> {
    let (Path(name), Json(ShowRequest { id, read })) = (consumer?, body?);
    if let Some(snapshot) = app.dead.snapshot(&name) {
        let wanted = id.clone();
        let whole = app.dead.search(move || lock(&snapshot).whole(&wanted));
        if let Some(json) = whole.await? {
            return Ok(as_json(json.to_string()));
        }
    }
    if !read {
        let text = "the last look has not kept this letter whole";
        return Err(ApiError::new(StatusCode::NOT_FOUND, text));
    }
    let found = Arc::new(Mutex::new(None));
    let work = Work::Show {
        id: id.clone(),
        found: Arc::clone(&found),
    };
    let job = begin(&app, &name, JobKind::Show, who, work)?;
    let _stops = StopsJob(Arc::clone(&job));
    if timeout(PATIENCE, job.ended()).await.is_err() {
        let text = "the letter was not found in time";
        return Err(ApiError::new(StatusCode::GATEWAY_TIMEOUT, text));
    }
    if let Some(json) = lock(&found).take() {
        return Ok(as_json(json));
    }
    let views::Job { state, error, .. } = job.view();
    match error {
        Some(error) => Err(ApiError::new(StatusCode::BAD_GATEWAY, error)),
        None if state == JobState::Stopped => Err(ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "the job that looked for the letter was stopped",
        )),
        None => Err(ApiError::new(
            StatusCode::NOT_FOUND,
            format!("no letter of the queue has the id {id:?}"),
        )),
    }
}

fn as_json(json: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], json).into_response()
}
