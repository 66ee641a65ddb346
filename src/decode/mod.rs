//! What happens to a body before its handler sees it: unpacking, CloudEvents, JSON, JSON Schema.
//!
//! [`Reader::read`] gives the message as the handler sees it. The delivered message stays as it is, so a
//! retry or dead letter has the publisher's bytes.

mod event;
mod json;
mod schema;
mod settings;
#[cfg(test)]
mod tests;
mod unpack;
mod words;

use std::sync::Arc;

pub use settings::{BodySettings, CloudEvents, Decode};

pub(crate) use event::{REQUIRED as REQUIRED_ATTRIBUTES, attribute, attribute_text};
pub(crate) use json::{as_json, message};
pub(crate) use words::{
    charset_of_encoding, charset_of_type, codings, has_other_words, is_json, is_utf8,
};

use event::Event;
use schema::Schema;
use unpack::Refusal;

use crate::{message::Message, outcome::Failure};

/// Work on a longer body would keep other tasks of its thread waiting. The time to unpack and check so
/// many bytes is a few times that of a handover to another thread.
const LONG: usize = 64 * 1024;

/// A message as its handler sees it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    /// The message with another body and other properties, if the handler sees others than the
    /// publisher's.
    pub(crate) message: Option<Arc<Message>>,
    /// The body was checked, and is JSON.
    pub(crate) is_json: bool,
    /// The message is a CloudEvent. Its attributes are headers, as AMQP has them.
    pub(crate) is_event: bool,
}

/// Why a message cannot be read.
#[derive(Debug, PartialEq)]
pub(crate) enum Unread {
    /// It takes longer than a thread that others need should work on it.
    TakesLong,
    /// No attempt can read it.
    Failed(Failure),
}

impl From<Failure> for Unread {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// How the messages of a route are read before their handler.
#[derive(Debug)]
pub(crate) struct Reader {
    decode: Decode,
    /// The most bytes that a packed body may have unpacked. `None`: it stays packed.
    unpacked: Option<usize>,
    events: CloudEvents,
    schema: Option<Schema>,
}

impl Reader {
    /// A reader of a route with these settings.
    ///
    /// # Errors
    /// If the schema cannot be used: a text that names its file.
    pub(crate) fn new(decode: Decode, settings: &BodySettings) -> Result<Self, String> {
        let schema = settings.schema_file.as_deref().map(Schema::read);
        Ok(Self {
            schema: schema.transpose()?,
            ..Self::without_schema(decode, settings)
        })
    }

    /// As [`new`](Self::new), without a schema.
    pub(crate) fn without_schema(decode: Decode, settings: &BodySettings) -> Self {
        let most = usize::try_from(settings.unpacked_bytes).unwrap_or(usize::MAX);
        Self {
            decode,
            unpacked: settings.unpack.then_some(most),
            events: settings.cloud_events,
            schema: None,
        }
    }

    /// Reads a message. `wants_json`: the handler wants a body checked that must be JSON. `at_once`: gives
    /// up if it takes long.
    pub(crate) fn read(
        &self,
        message: &Message,
        wants_json: bool,
        at_once: bool,
    ) -> Result<Seen, Unread> {
        let mut changed = self.unpack(message, at_once)?;
        let is_event =
            self.events != CloudEvents::Off && self.unwrap_event(message, &mut changed, at_once)?;
        let seen = changed.as_ref().unwrap_or(message);
        let is_json = match &self.schema {
            Some(_) if at_once && seen.body().len() > LONG => return Err(Unread::TakesLong),
            Some(schema) => {
                schema.check(&json::message(seen)?)?;
                true
            }
            None => wants_json && json::check(seen, self.decode)?,
        };
        Ok(Seen {
            message: changed.map(Arc::new),
            is_json,
            is_event,
        })
    }

    /// The message with its body unpacked. `None`: it is not packed, or stays packed.
    fn unpack(&self, message: &Message, at_once: bool) -> Result<Option<Message>, Unread> {
        let encoding = message.properties.content_encoding();
        let (Some(most), Some(encoding)) = (self.unpacked, encoding) else {
            return Ok(None);
        };
        let packed = message.body();
        let now = if at_once { most.min(LONG) } else { most };
        if at_once && packed.len() > LONG && unpack::is_packed(encoding) {
            return Err(Unread::TakesLong);
        }
        match unpack::unpack(encoding, packed, now) {
            Ok(None) => Ok(None),
            Ok(Some(body)) => {
                let its = &message.properties;
                let rest = words::without_codings(encoding);
                let properties = its.of_body(its.content_type(), rest.as_deref());
                Ok(Some(message.with_body(properties, body)))
            }
            Err(Refusal::TooLarge) if now < most => Err(Unread::TakesLong),
            Err(refusal) => Err(unpack::failure(encoding, &refusal, most).into()),
        }
    }

    /// Whether the message is an event. Replaces one whose attributes are in its body.
    fn unwrap_event(
        &self,
        message: &Message,
        changed: &mut Option<Message>,
        at_once: bool,
    ) -> Result<bool, Unread> {
        let seen = changed.as_ref().unwrap_or(message);
        if at_once && seen.body().len() > LONG && event::is_structured(seen) {
            return Err(Unread::TakesLong);
        }
        match event::read(seen)? {
            Event::Structured(unwrapped) => *changed = Some(*unwrapped),
            Event::Binary => {}
            Event::None if self.events == CloudEvents::Required => {
                let words = "it has neither the content type application/cloudevents+json nor headers \
                             that begin with cloudEvents:";
                return Err(event::invalid(words).into());
            }
            Event::None => return Ok(false),
        }
        Ok(true)
    }
}
