//! Where a value comes from: the body, a header, or a fact about the message. Settings write it as
//! `body:/id`, `header:x-source` or `message-id`.

use std::borrow::Cow;

use serde_json::value::RawValue;

use super::{
    Context,
    about::{self, FACTS, Known},
};
use crate::pointer::{self, InvalidPointer, Pointer};

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// The whole body, whatever it is.
    Body,
    /// A value in a body of JSON.
    Pointer(Pointer),
    /// A header of the message.
    Header(String),
    /// A fact about the message: a name of [`FACTS`].
    Fact(&'static str),
    /// The content type.
    ContentType,
    /// All headers of the message, as a JSON object.
    Headers,
}

/// The most bytes of all headers as one value.
const HEADERS: usize = 1024 * 1024;

/// A value of a message.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Datum<'a> {
    /// JSON text: it says of which type the value is.
    Json(Cow<'a, str>),
    /// Text.
    Text(Cow<'a, str>),
    /// Bytes.
    Bytes(&'a [u8]),
}

impl Source {
    /// Reads the text of a setting.
    ///
    /// # Errors
    /// A text for people.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        if let Some(pointer) = text.strip_prefix("body:") {
            return match pointer.parse() {
                Ok(pointer) => Ok(Self::Pointer(pointer)),
                Err(error) => Err(InvalidPointer::to_string(&error)),
            };
        }
        if let Some(name) = text.strip_prefix("header:") {
            return match name.is_empty() {
                true => Err("must name a header after `header:`".to_owned()),
                false => Ok(Self::Header(name.to_owned())),
            };
        }
        match text {
            "body" => return Ok(Self::Body),
            "headers" => return Ok(Self::Headers),
            "content-type" => return Ok(Self::ContentType),
            _ => {}
        }
        let fact = FACTS.into_iter().find(|name| *name == text);
        fact.map(Self::Fact).ok_or_else(|| {
            let facts = FACTS.join(", ");
            format!(
                "must be `body`, `body:/POINTER`, `header:NAME`, `headers`, `content-type` or one of: {facts}"
            )
        })
    }

    /// Whether each delivery of a message has the same value.
    pub(super) fn is_lasting(&self) -> bool {
        let changes = [Self::Fact("attempt"), Self::Fact("redelivered")];
        !changes.contains(self)
    }

    /// The value of the message; `None` if it has none.
    ///
    /// # Errors
    /// If the body must be JSON and is not.
    pub(super) fn read<'a>(&self, from: &'a Values<'_>) -> Result<Option<Datum<'a>>, String> {
        let message = from.context.message();
        let properties = message.properties();
        Ok(match self {
            Self::Body => Some(Datum::Bytes(message.body())),
            Self::Pointer(pointer) => {
                let document = from.document.as_ref().map_err(Clone::clone)?;
                let found = pointer.find(document).map_err(|error| not_json(&error))?;
                found.map(|value| Datum::Json(value.get().into()))
            }
            Self::Header(name) => {
                let value = properties.header(name);
                value.map(|value| Datum::Json(value.to_json().to_string().into()))
            }
            Self::Fact(name) => about::facts(from.context)
                .find(|(known, _)| known.word() == *name)
                .map(|(_, known)| match known {
                    Known::Text(text) => Datum::Text(text.into()),
                    number => Datum::Json(number.text()),
                }),
            Self::ContentType => properties.content_type().map(|it| Datum::Text(it.into())),
            Self::Headers => {
                let (headers, _) = about::headers(properties, Some(HEADERS));
                let headers = serde_json::Value::Object(headers);
                Some(Datum::Json(headers.to_string().into()))
            }
        })
    }
}

fn not_json(error: &serde_json::Error) -> String {
    format!("the body is not JSON: {error}")
}

/// The values of one message.
pub(super) struct Values<'a> {
    context: &'a Context,
    document: Result<&'a RawValue, String>,
}

impl<'a> Values<'a> {
    /// Parses the body only if one of the sources needs it.
    pub(super) fn of<'s>(
        context: &'a Context,
        sources: impl IntoIterator<Item = &'s Source>,
    ) -> Self {
        let mut sources = sources.into_iter();
        let document = match sources.any(|source| matches!(source, Source::Pointer(_))) {
            true => pointer::document(context.message().body()).map_err(|error| not_json(&error)),
            false => Err("the body is not needed as JSON".to_owned()),
        };
        Self { context, document }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_read_as_settings_write_them() {
        for (text, source) in [
            ("body", Source::Body),
            ("header:x:y", Source::Header("x:y".to_owned())),
            ("routing-key", Source::Fact("routing-key")),
            ("headers", Source::Headers),
            ("content-type", Source::ContentType),
            ("body:/a~1b", Source::Pointer("/a~1b".parse().unwrap())),
        ] {
            assert_eq!(Source::parse(text).as_ref(), Ok(&source), "{text}");
        }
        for text in ["", "id", "body:id", "header:", "Body", "message_id"] {
            assert!(Source::parse(text).is_err(), "{text}");
        }
        assert!(!Source::Fact("attempt").is_lasting());
        assert!(Source::Fact("message-id").is_lasting());
    }
}
