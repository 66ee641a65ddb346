//! Messages and their outcomes as JSON, for handlers outside of the worker: the lines of co-processes,
//! and batches over HTTP. `docs/process-protocol.md` describes both.

mod list;
mod message;
mod outcome;

pub(super) use list::{Classes, each};
pub(super) use message::{Bodies, Object, all, message, room};
pub(super) use outcome::{Answer, Said, shown};
