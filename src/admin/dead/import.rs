//! An import: the lines of an export, put into the queue again.

use std::sync::Arc;

use axum::{
    body::Bytes,
    extract::{Path, State},
};

use super::{
    changes::{Started, Who, begin, started},
    select::unusable,
    views::{self, JobKind},
    work::Work,
};
use crate::{
    admin::{
        api::App,
        error::{ApiError, ErrorBody},
        reads::ConsumerPath,
        refusals::{BadRequest, NoConsumer, Refused},
    },
    letters::from_line,
};

/// Import dead letters
///
/// The body has lines of an export, at most 4 MiB: a longer export is imported in parts, and a letter whose line is
/// longer only by `lapwing dead import`. Starts a job that puts
/// each letter at the end of the dead-letter queue. If a line is no letter, nothing is imported. An import that
/// ended early can be repeated; then the letters that it has imported are there twice.
#[utoipa::path(post, path = "/api/v1/dead/{consumer}/import", tag = "dead letters",
    params(("consumer" = String, Path, description = "The consumer's name")),
    request_body(content = String, content_type = "application/x-ndjson", description = "The letters, one in each line"),
    security(("token" = [])),
    responses((status = 202, description = "The job has begun", body = views::Job),
        (status = 409, description = "Another job is running", body = ErrorBody),
        (status = 413, description = "The body is too long", body = ErrorBody),
        (status = 422, description = "A line is no letter of an export, or there is none", body = ErrorBody),
        (status = 503, description = "The worker drains, or the job cannot be started", body = ErrorBody),
        BadRequest, NoConsumer, Refused),
)]
pub(in crate::admin) async fn import(
    State(app): State<Arc<App>>,
    who: Who,
    consumer: ConsumerPath,
    body: Bytes,
) -> Started {
    let Path(name) = consumer?;
    let lines = app.dead.search(move || read(&body)).await??;
    started(begin(
        &app,
        &name,
        JobKind::Import,
        who,
        Work::Import(lines),
    )?)
}

/// The lines that have a letter each.
fn read(body: &[u8]) -> Result<Vec<String>, ApiError> {
    let text = std::str::from_utf8(body).map_err(|_| unusable("the body is not UTF-8"))?;
    let mut lines = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let read = from_line(line);
        read.map_err(|error| unusable(&format!("line {}: {error}", number + 1)))?;
        lines.push(line.to_owned());
    }
    match lines.is_empty() {
        true => Err(unusable("the body has no letter: one in each line")),
        false => Ok(lines),
    }
}
