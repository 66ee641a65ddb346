//! Dead letters by the API: the same as `lapwing dead`, for the console and for programs.
//!
//! Looking at a letter means to take it from the broker and to return it. So nothing here looks by
//! itself. A look is a job that somebody asks for. It reads the queue once, returns the letters, and
//! keeps a [line](snapshot) for each; lists, groups and searches are then answered from memory.
//!
//! Each job has a thread, a runtime and connections of its own, which end with it: so a job shares
//! neither a connection nor a channel with the consumers. A consumer has one job at a time, and the
//! worker has at most two.

mod changes;
mod desk;
mod export;
mod job;
mod looks;
mod reads;
mod select;
mod snapshot;
mod views;
mod whole;
mod work;

use std::sync::Arc;

use utoipa_axum::{router::OpenApiRouter, routes};

pub(super) use desk::Desks;

use super::api::App;

/// The routes for dead letters.
pub(super) fn routes() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::new()
        .routes(routes!(reads::desks))
        .routes(routes!(reads::desk))
        .routes(routes!(reads::groups))
        .routes(routes!(reads::letters))
        .routes(routes!(reads::job, changes::stop))
        .routes(routes!(looks::look))
        .routes(routes!(looks::show))
        .routes(routes!(changes::replay))
        .routes(routes!(changes::edit))
        .routes(routes!(changes::drop))
        .routes(routes!(export::export))
}

/// The longest body of a request to this path, if it is a path for dead letters: an edit has the new body
/// of a letter in it.
pub(super) fn room(path: &str) -> Option<usize> {
    /// JSON can take six bytes for one of a body, as in `\u0001`; most bodies take little more than one.
    const EDIT: usize = 2 * whole::LONGEST_BODY;
    let is_edit = path.starts_with("/api/v1/dead/") && path.ends_with("/edit");
    is_edit.then_some(EDIT)
}
