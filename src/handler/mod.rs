//! Handlers: user code, and what it can say happened.
//!
//! A handler says what happened; [`policy`](crate::policy) says what follows.

mod context;
mod extract;
mod function;
mod http;
mod log;

pub use context::{Cancellation, Context};
pub use extract::{Attempt, Body, FromContext, Headers, Json, Requirements, Shared};
pub use function::{FunctionHandler, IntoHandler};
pub use http::HttpHandler;
pub use log::LogHandler;

pub use crate::{
    flight::CancelReason,
    outcome::{Failure, IntoOutcome, Outcome},
};

use std::{future::Future, pin::Pin, sync::Arc};

use crate::config::{HandlerKind, HandlerSettings};

/// A future a handler returns.
pub type HandlerFuture<'a> = Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>;

/// What runs for each message of a lane.
///
/// Most handlers are plain async functions (see [`IntoHandler`]); implement this trait where a
/// handler needs its own fields.
pub trait Handler: Send + Sync + 'static {
    /// Works on one message. Called at least once a message, perhaps more often: effects must be
    /// idempotent. The future is dropped at the lane's timeout, and when a drain's grace ends.
    fn handle(&self, context: Context) -> HandlerFuture<'_>;

    /// What the handler will ask its context for; checked before the worker starts.
    fn requirements(&self, _requirements: &mut Requirements) {}

    /// Whether a body that must be JSON is to be checked before this handler sees it. A handler
    /// that parses the body itself says no.
    fn wants_checked_json(&self) -> bool {
        true
    }
}

/// Why a handler named in a configuration could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandlerError {
    /// The HTTP client could not be built.
    #[error("http handler: {0}")]
    Http(String),
}

/// The handler that a configuration names, or none.
///
/// # Errors
/// When it cannot be made, for instance because a certificate file is not readable.
pub fn from_settings(settings: &HandlerSettings) -> Result<Option<Arc<dyn Handler>>, HandlerError> {
    Ok(match settings.kind {
        HandlerKind::None => None,
        HandlerKind::Http => Some(Arc::new(HttpHandler::new(settings)?)),
        HandlerKind::Log => Some(Arc::new(LogHandler)),
    })
}
