//! What a handler wants published once it has succeeded.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering},
};

use crate::{broker::NewMessage, lock::lock};

/// The result of a handler: what a service answered, what a program wrote, what a function made. The
/// settings of the consumer say where it is published.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct HandlerResult {
    /// The bytes.
    pub(crate) body: Vec<u8>,
    /// Their content type, if it is known.
    pub(crate) content_type: Option<String>,
}

/// The messages and the result of the attempt under way. They are published if it succeeds.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    wants_result: AtomicBool,
    content: Mutex<Content>,
}

/// What an attempt left.
#[derive(Debug, Default)]
pub(crate) struct Content {
    pub(crate) messages: Vec<NewMessage>,
    pub(crate) result: Option<HandlerResult>,
}

impl Outbox {
    /// An attempt begins: what another one left is forgotten. `wants_result`: the result is published.
    pub(crate) fn begin(&self, wants_result: bool) {
        self.wants_result.store(wants_result, Ordering::Relaxed);
        *lock(&self.content) = Content::default();
    }

    /// Whether somebody takes the result.
    pub(crate) fn wants_result(&self) -> bool {
        self.wants_result.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, message: NewMessage) {
        lock(&self.content).messages.push(message);
    }

    pub(crate) fn set_result(&self, result: HandlerResult) {
        lock(&self.content).result = Some(result);
    }

    pub(crate) fn take(&self) -> Content {
        std::mem::take(&mut *lock(&self.content))
    }
}
