//! A handler that shows the messages of a queue: it logs each message and succeeds.

mod settings;

pub use settings::LogHandlerSettings;

use super::{Context, Handler, HandlerFuture};
use crate::{outcome::Outcome, text};

/// Logs the id, type, routing key, headers and the first 2 KiB of the body of each message, at level
/// `info`.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogHandler;

/// The most bytes of a body that are logged.
const SHOWN: usize = 2048;

impl Handler for LogHandler {
    fn handle(&self, context: Context) -> HandlerFuture<'_> {
        Box::pin(async move {
            let message = context.message();
            let body = String::from_utf8_lossy(&message.body()[..message.body().len().min(SHOWN)]);
            let headers: serde_json::Map<_, _> = message
                .properties()
                .headers()
                .map(|(name, value)| (name.to_owned(), value.to_json()))
                .collect();
            tracing::info!(
                consumer = context.consumer(),
                id = message.id(),
                r#type = message.message_type(),
                routing_key = message.routing_key(),
                attempt = context.attempt(),
                redelivered = message.redelivered(),
                headers = %serde_json::Value::Object(headers),
                bytes = message.body().len(),
                body = text::cut(&body, SHOWN),
                "message",
            );
            Outcome::Succeeded
        })
    }
}
