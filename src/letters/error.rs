//! Why a command for dead letters fails.

use super::NotALetter;
use crate::broker::{BrokerError, PublishError};

/// Why a command for messages fails. The messages that it held are in their queue again.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeadLettersError {
    /// The broker cannot be reached, or refused a request.
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// The queue does not exist.
    #[error("there is no queue {0:?}")]
    NoQueue(String),
    /// The broker delivers nothing although letters are ready.
    #[error(
        "the broker delivers no message of {queue:?}, although {ready} are ready: another consumer \
         may have the queue for itself, or the queue has no leader"
    )]
    Silent {
        /// The queue.
        queue: String,
        /// The letters that are ready.
        ready: u32,
    },
    /// The queue for the reports of canaries cannot be used.
    #[error(
        "the queue for the reports of canaries, whose name begins with `lapwing-canary.`, cannot be \
         used: {0}"
    )]
    NoReports(BrokerError),
    /// The broker ended the reading: the queue was deleted, or the node left.
    #[error("the broker ended the reading of {0:?}")]
    Ended(String),
    /// A letter has no delivery left, and its copy was not confirmed.
    #[error(
        "message {id:?} has no delivery left, and its copy was not confirmed ({error}): the broker \
         may dead-letter or drop it when it goes back"
    )]
    NotRenewed {
        /// The letter's id.
        id: String,
        /// Why the copy failed.
        error: PublishError,
    },
    /// A line of an import is no letter.
    #[error(transparent)]
    NotALetter(#[from] NotALetter),
    /// A letter cannot be published.
    #[error("letter {id:?} was not published: {error}")]
    NotPublished {
        /// The letter's id.
        id: String,
        /// Why.
        error: PublishError,
    },
    /// The edited copy of a letter was not confirmed. The letter is still there.
    #[error("letter {id:?} was not replaced: {why}")]
    NotReplaced {
        /// The letter's id.
        id: String,
        /// Why.
        why: String,
    },
    /// No letter has this id.
    #[error("no letter of the queue has the id {0:?}")]
    NoLetter(String),
    /// The letter has changed since it was read.
    #[error("letter {0:?} is not as it was when it was read: it was changed meanwhile")]
    Changed(String),
}
