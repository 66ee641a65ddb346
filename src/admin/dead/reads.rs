//! What the last look has seen, and the jobs. Nothing here asks the broker.

use std::sync::Arc;

use axum::{
    Json,
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::StatusCode,
};

use super::{
    select::Query as Wanted,
    views::{Desk, Desks, Groups, Job, Page},
};
use crate::{
    CallError,
    admin::{
        api::App,
        error::{ApiError, ErrorBody},
        reads::{Answer, ConsumerPath, within},
        refusals::{BadRequest, NoConsumer},
    },
    lock::lock,
};

/// The dead letters of all consumers
///
/// For each consumer the last look and the last job. This asks the broker nothing.
#[utoipa::path(get, path = "/api/v1/dead", tag = "dead letters",
    responses((status = 200, description = "The consumers", body = Desks)),
)]
pub(in crate::admin) async fn desks(State(app): State<Arc<App>>) -> Answer<Desks> {
    let names = app.worker.consumers();
    let consumers = names
        .map(|name| view(&app, name))
        .collect::<Result<_, _>>()?;
    Ok(Json(Desks { consumers }))
}

/// The dead letters of a consumer: the last look, and the last job
///
/// This asks the broker nothing.
#[utoipa::path(get, path = "/api/v1/dead/{consumer}", tag = "dead letters",
    params(("consumer" = String, Path, description = "The consumer's name")),
    responses((status = 200, description = "The last look and job", body = Desk), NoConsumer),
)]
pub(in crate::admin) async fn desk(
    State(app): State<Arc<App>>,
    consumer: ConsumerPath,
) -> Answer<Desk> {
    let Path(name) = consumer?;
    Ok(Json(view(&app, &name)?))
}

fn view(app: &App, name: &str) -> Result<Desk, ApiError> {
    let figures = app.worker.figures(name).ok_or(CallError::NoSuchConsumer)?;
    let (job, look) = app.dead.state(name)?;
    Ok(Desk {
        consumer: name.to_owned(),
        queue: figures.settings.dead_letter_queue(),
        look,
        job,
    })
}

/// Dead letters by cause, as the last look has seen them
#[utoipa::path(get, path = "/api/v1/dead/{consumer}/groups", tag = "dead letters",
    params(("consumer" = String, Path, description = "The consumer's name"), Wanted),
    responses((status = 200, description = "The groups, largest first", body = Groups),
        (status = 404, description = "Nobody has looked, or there is no such consumer", body = ErrorBody),
        (status = 503, description = "Too many searches are waiting", body = ErrorBody),
        BadRequest),
)]
pub(in crate::admin) async fn groups(
    State(app): State<Arc<App>>,
    consumer: ConsumerPath,
    query: Result<Query<Wanted>, QueryRejection>,
) -> Answer<Groups> {
    let (Path(name), Query(query)) = (consumer?, query?);
    within("limit", query.limit, 1..=1000)?;
    let (_, snapshot) = app.dead.seen(&name)?;
    let search = move || lock(&snapshot).groups(&query.filter(), query.limit);
    Ok(Json(app.dead.search(search).await?))
}

/// A page of dead letters, as the last look has seen them
///
/// A cursor belongs to its look: after a further look it is answered by 410.
#[utoipa::path(get, path = "/api/v1/dead/{consumer}/letters", tag = "dead letters",
    params(("consumer" = String, Path, description = "The consumer's name"), Wanted),
    responses((status = 200, description = "A page of letters", body = Page),
        (status = 404, description = "Nobody has looked, or there is no such consumer", body = ErrorBody),
        (status = 410, description = "The look of the cursor is over", body = ErrorBody),
        (status = 503, description = "Too many searches are waiting", body = ErrorBody),
        BadRequest),
)]
pub(in crate::admin) async fn letters(
    State(app): State<Arc<App>>,
    consumer: ConsumerPath,
    query: Result<Query<Wanted>, QueryRejection>,
) -> Answer<Page> {
    let (Path(name), Query(query)) = (consumer?, query?);
    within("limit", query.limit, 1..=1000)?;
    let (look, snapshot) = app.dead.seen(&name)?;
    let look = look.look;
    let behind = match &query.cursor {
        None => None,
        Some(cursor) => Some(place(cursor, &look)?),
    };
    let (newest, limit) = (query.newest, query.limit);
    let search = move || lock(&snapshot).page(&query.filter(), newest, behind, limit);
    let (letters, total, last) = app.dead.search(search).await?;
    Ok(Json(Page {
        total,
        letters,
        next: last.map(|number| format!("{look}.{number}")),
        look,
    }))
}

/// The number of a letter in a cursor.
fn place(cursor: &str, look: &str) -> Result<usize, ApiError> {
    let unreadable = || ApiError::new(StatusCode::BAD_REQUEST, "the cursor cannot be read");
    let (of, number) = cursor.rsplit_once('.').ok_or_else(unreadable)?;
    let number = number.parse().map_err(|_| unreadable())?;
    match of == look {
        true => Ok(number),
        false => Err(ApiError::new(
            StatusCode::GONE,
            "the look of this cursor is over: begin with the first page",
        )),
    }
}

/// The state of a job
///
/// Only the last eight jobs of a consumer are known.
#[utoipa::path(get, path = "/api/v1/dead/{consumer}/jobs/{job}", tag = "dead letters",
    params(
        ("consumer" = String, Path, description = "The consumer's name"),
        ("job" = String, Path, description = "The job's id"),
    ),
    responses((status = 200, description = "The job", body = Job),
        (status = 404, description = "There is no such job, or no such consumer", body = ErrorBody)),
)]
pub(in crate::admin) async fn job(
    State(app): State<Arc<App>>,
    path: Result<Path<(String, String)>, PathRejection>,
) -> Answer<Job> {
    let Path((consumer, job)) = path?;
    Ok(Json(app.dead.job(&consumer, &job)?.view()))
}
