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
    /// `None`: nothing.
    content: Mutex<Option<Box<Content>>>,
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
        *lock(&self.content) = None;
    }

    /// Whether somebody takes the result.
    pub(crate) fn wants_result(&self) -> bool {
        self.wants_result.load(Ordering::Relaxed)
    }

    pub(crate) fn add(&self, message: NewMessage) {
        self.with(|content| content.messages.push(message));
    }

    pub(crate) fn set_result(&self, result: HandlerResult) {
        self.with(|content| content.result = Some(result));
    }

    /// Whether something is to be published.
    pub(crate) fn publishes(&self) -> bool {
        let content = lock(&self.content);
        let publishes = |content: &Content| {
            !content.messages.is_empty() || content.result.is_some() && self.wants_result()
        };
        content.as_deref().is_some_and(publishes)
    }

    pub(crate) fn take(&self) -> Content {
        let content = lock(&self.content).take();
        content.map(|content| *content).unwrap_or_default()
    }

    fn with(&self, add: impl FnOnce(&mut Content)) {
        add(lock(&self.content).get_or_insert_default());
    }
}
