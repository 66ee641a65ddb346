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
mod import;
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
        .routes(routes!(import::import))
}

/// The longest body of a request to this path, if it is a path for dead letters: an edit has the new body
/// of a letter in it, an import has letters, and a selection can have many ids.
pub(super) fn room(path: &str) -> Option<usize> {
    /// JSON can take six bytes for one of a body, as in `\u0001`; most bodies take little more than one.
    const EDIT: usize = 2 * whole::LONGEST_BODY;
    const IMPORT: usize = 4 * 1024 * 1024;
    const SELECTION: usize = LONG;
    let rest = path.strip_prefix("/api/v1/dead/")?;
    Some(match rest.rsplit('/').next() {
        Some("edit") => EDIT,
        Some("import") => IMPORT,
        _ => SELECTION,
    })
}

/// The bodies longer than [`LONG`] that the server holds at a time.
pub(super) const LONG_BODIES: usize = 4;
/// A body that is longer waits for its turn.
pub(super) const LONG: usize = 64 * 1024;
