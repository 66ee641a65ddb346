//! The argument for functions that take CloudEvents.

use std::borrow::Cow;

use super::{Context, FromContext};
use crate::{decode, outcome::Failure};

/// The attributes of a CloudEvent. Its data is the body: take it as [`Json`](super::Json) or
/// [`Body`](super::Body).
///
/// The consumer's setting `body.cloud_events` must be `auto` or `required`. A message that is no event is
/// dead-lettered with the reason `decode`; take `Option<CloudEvent>` if a queue has both.
#[derive(Clone, Debug)]
pub struct CloudEvent(Context);

impl CloudEvent {
    /// An attribute, by its name without a prefix.
    #[must_use]
    pub fn attribute(&self, name: &str) -> Option<Cow<'_, str>> {
        let mut headers = self.0.message().properties().headers();
        let found = headers.find(|(header, _)| decode::attribute(header) == Some(name));
        found.map(|(_, value)| decode::attribute_text(value))
    }

    /// The attribute `id`: with `source` it is different for each event.
    #[must_use]
    pub fn id(&self) -> Cow<'_, str> {
        self.required("id")
    }

    /// The attribute `source`.
    #[must_use]
    pub fn source(&self) -> Cow<'_, str> {
        self.required("source")
    }

    /// The attribute `type`.
    #[must_use]
    pub fn event_type(&self) -> Cow<'_, str> {
        self.required("type")
    }

    /// An attribute that each event has.
    fn required(&self, name: &str) -> Cow<'_, str> {
        self.attribute(name).unwrap_or_default()
    }
}

impl FromContext for CloudEvent {
    fn from_context(context: &Context) -> Result<Self, Failure> {
        Self::optional(context)?.ok_or_else(|| {
            Failure::undecodable(
                "the message is no CloudEvent, or `body.cloud_events` of its consumer is \"off\"",
            )
        })
    }

    fn optional(context: &Context) -> Result<Option<Self>, Failure> {
        Ok(context.is_event().then(|| Self(context.clone())))
    }
}
