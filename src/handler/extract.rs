//! The types that a handler function can have as arguments.

use std::{
    any::{TypeId, type_name},
    ops::Deref,
    sync::Arc,
};

use serde::de::DeserializeOwned;

use super::{Cancellation, Context};
use crate::{decode, message::Message, outcome::Failure, state::StateHandle};

/// A type of argument for handler functions. The worker makes the value from the context before the
/// function runs.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no argument of a handler",
    label = "the worker cannot make this argument",
    note = "an argument implements `lapwing::handler::FromContext`: `Json<T>` for a body of JSON, \
            `Shared<T>` for a value of the program"
)]
pub trait FromContext: Sized {
    /// Makes the argument.
    ///
    /// # Errors
    /// If the argument cannot be made, the attempt ends with this failure: usually
    /// [`Failure::undecodable`].
    fn from_context(context: &Context) -> Result<Self, Failure>;

    /// Makes the argument `Option<Self>`. `None`: the message or the worker does not have what the
    /// argument is made from.
    ///
    /// # Errors
    /// If it is there, and the argument cannot be made from it.
    fn optional(context: &Context) -> Result<Option<Self>, Failure> {
        Self::from_context(context).map(Some)
    }

    /// Adds the shared values that this argument needs from the worker.
    fn requirements(_requirements: &mut Requirements) {}
}

/// An argument that a message or a worker may lack: [`MessageId`], `CloudEvent`, [`Shared`], or [`Json`] of
/// an empty body.
impl<T: FromContext> FromContext for Option<T> {
    fn from_context(context: &Context) -> Result<Self, Failure> {
        T::optional(context)
    }
}

/// The shared values that handlers need from the worker. The worker checks them before it starts.
#[derive(Debug, Default)]
pub struct Requirements {
    pub(crate) types: Vec<(TypeId, &'static str)>,
}

/// The body, parsed as JSON. If the body does not fit the type, the worker dead-letters the message
/// with the reason `decode`, and the error names the place in the document.
#[derive(Clone, Copy, Debug)]
pub struct Json<T>(pub T);

impl<T: DeserializeOwned> FromContext for Json<T> {
    fn from_context(context: &Context) -> Result<Self, Failure> {
        decode::message(context.message()).map(Json)
    }

    fn optional(context: &Context) -> Result<Option<Self>, Failure> {
        match context.message().body().is_empty() {
            true => Ok(None),
            false => Self::from_context(context).map(Some),
        }
    }
}

/// The bytes of the body, without a copy.
#[derive(Clone, Debug)]
pub struct Body(Context);

impl Deref for Body {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.0.message().body()
    }
}

impl FromContext for Body {
    fn from_context(context: &Context) -> Result<Self, Failure> {
        Ok(Self(context.clone()))
    }
}

/// The message's properties and headers.
#[derive(Clone, Debug)]
pub struct Headers(Context);

impl Headers {
    /// The text of a header; `None` if it is missing or not text.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        self.0.message().properties().header(name)?.as_str()
    }
}

impl Deref for Headers {
    type Target = Message;
    fn deref(&self) -> &Message {
        self.0.message()
    }
}

impl FromContext for Headers {
    fn from_context(context: &Context) -> Result<Self, Failure> {
        Ok(Self(context.clone()))
    }
}

/// The number of this attempt: 1 the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt(pub u32);

impl FromContext for Attempt {
    fn from_context(context: &Context) -> Result<Self, Failure> {
        Ok(Self(context.attempt()))
    }
}

/// The `message-id` property. A message without one is dead-lettered with the reason `decode`; take
/// `Option<MessageId>` if messages may lack it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MessageId(pub String);

impl FromContext for MessageId {
    fn from_context(context: &Context) -> Result<Self, Failure> {
        let id = Self::optional(context)?;
        id.ok_or_else(|| Failure::undecodable("the message has no message-id"))
    }

    fn optional(context: &Context) -> Result<Option<Self>, Failure> {
        Ok(context.message().id().map(|id| Self(id.to_owned())))
    }
}

/// The routing key that the publisher used, also on a retry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RoutingKey(pub String);

impl FromContext for RoutingKey {
    fn from_context(context: &Context) -> Result<Self, Failure> {
        Ok(Self(context.message().routing_key().to_owned()))
    }
}

/// The broker's `redelivered` flag: the message may have run before, without an outcome that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redelivered(pub bool);

impl FromContext for Redelivered {
    fn from_context(context: &Context) -> Result<Self, Failure> {
        Ok(Self(context.message().redelivered()))
    }
}

/// A value that the program gave to the worker with [`Worker::share`](crate::Worker::share), by type.
#[derive(Debug)]
pub struct Shared<T>(pub Arc<T>);

// A derived `Clone` would require `T: Clone`.
impl<T> Clone for Shared<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: Send + Sync + 'static> FromContext for Shared<T> {
    fn from_context(context: &Context) -> Result<Self, Failure> {
        context.extension().map(Self).ok_or_else(|| {
            let text = format!("no {} was given to the worker", type_name::<T>());
            Failure::retryable("worker", text)
        })
    }

    fn optional(context: &Context) -> Result<Option<Self>, Failure> {
        Ok(context.extension().map(Self))
    }

    fn requirements(requirements: &mut Requirements) {
        let needed = (TypeId::of::<T>(), type_name::<T>());
        requirements.types.push(needed);
    }
}

impl FromContext for StateHandle {
    fn from_context(context: &Context) -> Result<Self, Failure> {
        Ok(context.state().clone())
    }
}

impl FromContext for Cancellation {
    fn from_context(context: &Context) -> Result<Self, Failure> {
        Ok(context.cancellation())
    }
}

impl FromContext for Context {
    fn from_context(context: &Context) -> Result<Self, Failure> {
        Ok(context.clone())
    }
}
