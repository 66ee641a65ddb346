//! The tool for dead letters: reads them, groups them by cause, replays, edits, exports and drops
//! them. It needs nothing but the queue.
//!
//! Reading is a walk: the broker delivers the letters window by window, the walk holds each letter
//! until it has seen enough, and then returns all of them in their order. A change takes a letter
//! out of the walk: it publishes the successor, waits for the confirm, and then acks the letter. So
//! a tool that is killed at any moment loses nothing. The broker takes back what the walk held, and
//! at most the letters of the last batch exist twice.

mod archive;
mod canary;
mod change;
mod desk;
mod edit;
mod error;
mod filter;
mod groups;
mod import;
mod letter;
mod look;
mod plan;
mod replay;
#[cfg(test)]
mod tests;
mod transfer;
mod walk;

pub use archive::{Archived, NotALetter, from_line, to_line};
pub use canary::{Canaries, Canary, FailedCanary, Waiting};
pub use change::{Changed, Progress};
pub use desk::{DECLARED_LIMIT, DeadLetters};
pub use edit::Edit;
pub use error::DeadLettersError;
pub(crate) use filter::{Facts, SEARCHED};
pub use filter::{Filter, Match};
pub use groups::{Group, Groups};
pub use import::Imported;
pub use letter::{Attempt, Letter, Origin, Summary};
pub use look::{Look, Looked};
pub use plan::Plan;
pub use replay::{Replay, Target};
pub(crate) use transfer::{Transfer, transfer};
