//! Handlers: user code, and what it can say happened.
//!
//! A handler says what happened; [`policy`](crate::policy) says what follows.

mod context;
mod extract;
mod function;
mod http;
#[macro_use]
mod kind;
mod log;
mod settings;

pub use context::{Cancellation, Context};
pub use extract::{Attempt, Body, FromContext, Headers, Json, Requirements, Shared};
pub use function::{FunctionHandler, IntoHandler};
pub use http::{HttpHandler, HttpHandlerSettings};
pub use log::{LogHandler, LogHandlerSettings};

pub use crate::{
    flight::CancelReason,
    outcome::{Failure, IntoOutcome, Outcome},
};

use std::{future::Future, pin::Pin};

/// A future a handler returns.
pub type HandlerFuture<'a, T = Outcome> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What runs for each message of a consumer.
///
/// Most handlers are plain async functions (see [`IntoHandler`]); implement this trait where a
/// handler needs its own fields.
pub trait Handler: Send + Sync + 'static {
    /// Works on one message. Called at least once a message, perhaps more often: effects must be
    /// idempotent. The future is dropped at the consumer's timeout, and when a drain's grace ends.
    fn handle(&self, context: Context) -> HandlerFuture<'_>;

    /// Called once, before the first message: opens pools or starts processes, for instance. The
    /// worker does not consume before, and does not start when this fails or takes longer than the
    /// consumer's `timeout`.
    fn start(&self) -> HandlerFuture<'_, Result<(), HandlerError>> {
        Box::pin(async { Ok(()) })
    }

    /// Called once, after the last message or when the worker does not start. The worker waits for
    /// the consumer's `cancel_grace` at most.
    fn stop(&self) -> HandlerFuture<'_, ()> {
        Box::pin(async {})
    }

    /// Whether the handler can work now. A worker with a handler that cannot is not ready. Asked
    /// at each look at the readiness, so the answer has to be at hand.
    ///
    /// # Errors
    /// Why it cannot.
    fn health(&self) -> Result<(), HandlerError> {
        Ok(())
    }

    /// What the handler will ask its context for; checked before the worker starts.
    fn requirements(&self, _requirements: &mut Requirements) {}

    /// Whether a body that must be JSON is to be checked before this handler sees it. A handler
    /// that parses the body itself says no.
    fn wants_checked_json(&self) -> bool {
        true
    }
}

/// Why a handler cannot be made, started or used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct HandlerError(String);

impl HandlerError {
    /// An error with this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

// The kinds of handler that settings can name. A kind is a folder and a line here.
kinds! {
    /// POST the message to a URL.
    "http" => Http(HttpHandlerSettings),
    /// Write the message to the log and ack it.
    "log" => Log(LogHandlerSettings),
}
