//! Handlers: the user's code for messages, and the outcomes that it can return.
//!
//! A handler reports what happened. [`policy`](crate::policy) decides what follows.

mod about;
mod batch;
mod child;
mod command;
mod context;
mod event;
mod extract;
mod function;
mod http;
mod inbox;
mod json;
#[macro_use]
mod kind;
mod log;
mod process;
mod results;
#[cfg(test)]
mod samples;
mod settings;
mod source;
mod sql;

pub use batch::BatchSettings;
#[cfg(test)]
pub(crate) use batch::samples as batch_samples;
pub use command::{CommandHandler, CommandHandlerSettings, CommandOutput, ExitMeaning};
pub use context::{Cancellation, Context};
pub use event::CloudEvent;
pub use extract::{
    Attempt, Body, FromContext, Headers, Json, MessageId, Redelivered, Requirements, RoutingKey,
    Shared,
};
pub use function::{FunctionHandler, IntoHandler};
#[cfg(any(test, fuzzing))]
pub(crate) use http::fuzz_answer;
pub(crate) use http::{HTTP_CLASSES, proxy_warning};
pub use http::{HeaderFile, HttpHandler, HttpHandlerSettings, OAuthSettings, SecretIn};
pub(crate) use inbox::{INBOX, Inbox};
pub use inbox::{InboxSettings, InboxStore, InboxTable};
pub(crate) use kind::{Classes, Reached};
pub use log::{LogHandler, LogHandlerSettings};
pub use process::{ProcessCheck, ProcessHandler, ProcessHandlerSettings, check_process};

pub use results::Results;
pub use sql::{SqlHandler, SqlHandlerSettings, SqlMeaning};

pub use crate::{
    flight::CancelReason,
    outcome::{Failure, IntoFailure, IntoOutcome, Outcome},
};

use std::{future::Future, pin::Pin};

/// The future that a handler returns.
pub type HandlerFuture<'a, T = Outcome> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The code that works on each message of a consumer.
///
/// Most handlers are plain async functions (see [`IntoHandler`]). Implement this trait for a handler
/// with its own fields.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no handler",
    label = "the trait `lapwing::Handler` is not implemented for this type"
)]
pub trait Handler: Send + Sync + 'static {
    /// Works on one message. The worker calls this at least once for each message, and possibly more
    /// often, so its effects must be idempotent. The worker drops the future at the consumer's
    /// `timeout`, and when the grace of a drain ends.
    fn handle(&self, context: Context) -> HandlerFuture<'_>;

    /// Prepares the handler, for example by opening a connection pool. The worker calls this once and
    /// subscribes only after it has succeeded. If it fails, or takes longer than the consumer's `timeout`
    /// and than 15 seconds, the worker does not start.
    fn start(&self) -> HandlerFuture<'_, Result<(), HandlerError>> {
        Box::pin(async { Ok(()) })
    }

    /// Cleans up. The worker calls this once, after the last message, or when the worker cannot start.
    /// It waits at most for the consumer's `cancel_grace`.
    fn stop(&self) -> HandlerFuture<'_, ()> {
        Box::pin(async {})
    }

    /// Whether the handler can work now. If one handler cannot, the worker is not ready. The worker
    /// calls this each time it computes the readiness, so this must return at once.
    ///
    /// # Errors
    /// The reason why the handler cannot work.
    fn health(&self) -> Result<(), HandlerError> {
        Ok(())
    }

    /// Adds the shared values that the handler needs. The worker checks them before it starts.
    fn requirements(&self, _requirements: &mut Requirements) {}

    /// Whether the worker checks a body that must be JSON before it calls this handler. A handler that
    /// parses the body itself returns false.
    fn wants_checked_json(&self) -> bool {
        true
    }
}

/// The reason why a handler cannot be made, started or used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct HandlerError(String);

impl HandlerError {
    /// Makes an error with this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}

// The kinds of handler that settings can name. To add a kind, add a folder and a line here.
kinds! {
    /// POST the message to a URL.
    "http" => Http(HttpHandlerSettings),
    /// Run a program for each message.
    "command" => Command(CommandHandlerSettings),
    /// Give each message to one of several programs that run on, by lines of JSON.
    "process" => Process(ProcessHandlerSettings),
    /// Run a statement in PostgreSQL.
    "sql" => Sql(SqlHandlerSettings),
    /// Write the message to the log and ack it.
    "log" => Log(LogHandlerSettings),
}
