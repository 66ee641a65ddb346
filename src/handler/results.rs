//! What a handler function leaves to be published once it has succeeded.

use super::{Context, FromContext};
use crate::{
    broker::NewMessage,
    flight::HandlerResult,
    outcome::{Failure, Outcome},
};

/// The most bytes of a result that a handler outside of the worker may give.
pub(super) const LONGEST: usize = 1024 * 1024;
/// The bytes by which an answer about several messages may be longer, for each message after the first.
const MORE: usize = 64 * 1024;
/// The most bytes of an answer, however many messages it is about.
const MOST: usize = 16 * LONGEST;

/// The most bytes of an answer about so many messages.
pub(super) fn longest(messages: usize) -> usize {
    (LONGEST + messages.saturating_sub(1).saturating_mul(MORE)).min(MOST)
}

/// Publishes messages and the result of a handler function, if the attempt succeeds. The worker acks
/// the message of the handler only after the broker has confirmed them. Until then the message waits.
#[derive(Clone, Debug)]
pub struct Results(Context);

impl Results {
    /// Adds a message to publish.
    pub fn publish(&self, message: NewMessage) {
        self.0.outbox().add(message);
    }

    /// Sets the result. The settings `forward` of the consumer say where it goes. Without them nobody
    /// takes it.
    pub fn set(&self, body: impl Into<Vec<u8>>, content_type: Option<&str>) {
        self.0.outbox().set_result(HandlerResult {
            body: body.into(),
            content_type: content_type.map(str::to_owned),
        });
    }

    /// Whether somebody takes the result.
    #[must_use]
    pub fn are_wanted(&self) -> bool {
        self.0.outbox().wants_result()
    }
}

impl FromContext for Results {
    fn from_context(context: &Context) -> Result<Self, Failure> {
        Ok(Self(context.clone()))
    }
}

/// The outcome of a handler outside of the worker that has succeeded with this result. `length`: of
/// the whole result, of which `body` may be the beginning.
pub(super) fn succeeded(
    context: &Context,
    body: Vec<u8>,
    length: u64,
    content_type: Option<&str>,
) -> Outcome {
    if !context.outbox().wants_result() {
        return Outcome::Succeeded;
    }
    if length > LONGEST as u64 {
        let text = format!("the result is longer than {LONGEST} bytes");
        return Outcome::Failed(Failure::permanent("result", text));
    }
    Results(context.clone()).set(body, content_type);
    Outcome::Succeeded
}
