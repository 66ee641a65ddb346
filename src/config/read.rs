//! From merged values to typed settings, strictly.
//!
//! The `config` crate's own deserialiser rounds `10.7` to 11, takes `"yes"` for true and 5 for
//! `"5"`, and its errors quote values. This one takes a value from a document as the type it was
//! written in, and only what came from the environment (which has no types) as the type that is
//! asked for. Its errors know the key's path and never hold a value.

use std::{fmt::Display, str::FromStr};

use config::{Value, ValueKind};
use serde::{
    Deserializer,
    de::{
        self, DeserializeSeed, Error as _, Expected, IntoDeserializer, MapAccess, SeqAccess,
        Unexpected, Visitor, value::StrDeserializer,
    },
    forward_to_deserialize_any,
};

use super::{
    layers::{is_from_environment, value_from_text},
    problem::{KeyPath, Step},
    suggest::nearest,
};

/// The first thing that a value's type refuses.
#[derive(Debug)]
pub(super) struct ReadError {
    /// The path of the key that is to blame.
    pub(super) path: KeyPath,
    pub(super) message: String,
    /// For an unknown key: the keys that are valid in its place.
    pub(super) unknown: Option<&'static [&'static str]>,
}

impl ReadError {
    fn new(message: String) -> Self {
        Self {
            path: KeyPath::default(),
            message,
            unknown: None,
        }
    }

    fn within(self, step: Step) -> Self {
        Self {
            path: self.path.within(step),
            ..self
        }
    }
}

impl Display for ReadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

impl std::error::Error for ReadError {}

impl de::Error for ReadError {
    fn custom<T: Display>(message: T) -> Self {
        Self::new(message.to_string())
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let expected = in_plain_words(&expected.to_string());
        match kind_of(&found) {
            Some(found) => Self::new(format!("expected {expected}, found {found}")),
            None => Self::new(format!("expected {expected}")),
        }
    }

    /// Says nothing about what was found: serde would quote it.
    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(format!(
            "expected {}",
            in_plain_words(&expected.to_string())
        ))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let hint = nearest(variant, expected)
            .map(|word| format!("; did you mean \"{word}\"?"))
            .unwrap_or_default();
        Self::new(format!("expected {}{hint}", one_of(expected)))
    }

    /// The message is completed by [`explain`](super::suggest::explain).
    fn unknown_field(_: &str, expected: &'static [&'static str]) -> Self {
        Self {
            unknown: Some(expected),
            ..Self::new("unknown key".to_owned())
        }
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new("is required".to_owned()).within(Step::Key(field.to_owned()))
    }
}

fn kind_of(found: &Unexpected<'_>) -> Option<&'static str> {
    Some(match found {
        Unexpected::Bool(_) => "true or false",
        Unexpected::Unsigned(_) | Unexpected::Signed(_) => "a whole number",
        Unexpected::Float(_) => "a number with a decimal point",
        Unexpected::Str(_) => "a string",
        Unexpected::Seq => "a list",
        Unexpected::Map => "a table",
        _ => return None,
    })
}

/// What serde calls a type, as the reader of a configuration would.
fn in_plain_words(expected: &str) -> String {
    let words = match expected {
        "u16" => "a whole number from 0 to 65535",
        "u32" => "a whole number from 0 to 4294967295",
        "u64" | "usize" => "a whole number, 0 or more",
        "f64" => "a number",
        "a boolean" => "true or false",
        "a duration" => "a duration with its unit, such as \"500ms\", \"30s\" or \"10m\"",
        "path string" => "a path",
        "a map" => "a table",
        "a sequence" => "a list",
        _ if expected.starts_with("struct ") => "a table",
        _ => expected,
    };
    words.to_owned()
}

fn one_of(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
    quoted.join(" or ")
}

/// Gives out one merged value.
pub(super) struct Reader<'a>(pub(super) &'a Value);

impl<'a> Reader<'a> {
    /// The text of an environment variable, where that is what this value is.
    fn variable(&self) -> Option<&'a str> {
        match &self.0.kind {
            ValueKind::String(text) if is_from_environment(self.0) => Some(text),
            _ => None,
        }
    }

    /// A scalar: a variable's text is parsed as the type that is asked for.
    fn scalar<'de, V: Visitor<'de>, T: FromStr>(
        self,
        visitor: V,
        visit: fn(V, T) -> Result<V::Value, ReadError>,
    ) -> Result<V::Value, ReadError> {
        let Some(text) = self.variable() else {
            return self.deserialize_any(visitor);
        };
        match text.trim().parse() {
            Ok(value) => visit(visitor, value),
            Err(_) => Err(ReadError::invalid_value(
                Unexpected::Other("text"),
                &visitor,
            )),
        }
    }

    /// A list or a table; in the environment they are written as TOML.
    fn collection<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        let Some(text) = self.variable() else {
            return self.deserialize_any(visitor);
        };
        match value_from_text(text) {
            Some(value) => Reader(&value).deserialize_any(visitor),
            None => Err(ReadError::custom(format!(
                "expected {}, which a variable holds as TOML",
                in_plain_words(&(&visitor as &dyn Expected).to_string())
            ))),
        }
    }
}

macro_rules! numbers {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
            self.scalar(visitor, V::visit_i64)
        }
    )*};
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = ReadError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        match &self.0.kind {
            ValueKind::Nil => visitor.visit_unit(),
            ValueKind::Boolean(flag) => visitor.visit_bool(*flag),
            ValueKind::I64(number) => visitor.visit_i64(*number),
            ValueKind::I128(number) => visitor.visit_i128(*number),
            ValueKind::U64(number) => visitor.visit_u64(*number),
            ValueKind::U128(number) => visitor.visit_u128(*number),
            ValueKind::Float(number) => visitor.visit_f64(*number),
            ValueKind::String(text) => visitor.visit_str(text),
            ValueKind::Table(table) => visitor.visit_map(Entries {
                rest: table.iter(),
                next: None,
            }),
            ValueKind::Array(items) => visitor.visit_seq(Items {
                rest: items.iter().enumerate(),
            }),
        }
    }

    numbers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        self.scalar(visitor, V::visit_f64)
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        self.scalar(visitor, V::visit_f64)
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        self.scalar(visitor, V::visit_bool)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        self.collection(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        self.collection(visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        self.collection(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        words: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        match &self.0.kind {
            ValueKind::String(word) => visitor.visit_enum(word.as_str().into_deserializer()),
            _ => Err(ReadError::new(format!("expected {}", one_of(words)))),
        }
    }

    forward_to_deserialize_any! {
        char str string bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

/// The entries of a table. [`ValueKind::Nil`] stands for what was taken out as unusable.
struct Entries<'a> {
    rest: std::collections::hash_map::Iter<'a, String, Value>,
    next: Option<(&'a str, &'a Value)>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = ReadError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, ReadError> {
        let Some((key, value)) = self.rest.find(|(_, value)| value.kind != ValueKind::Nil) else {
            return Ok(None);
        };
        self.next = Some((key, value));
        let name: StrDeserializer<'_, ReadError> = key.as_str().into_deserializer();
        seed.deserialize(name)
            .map(Some)
            .map_err(|error| error.within(Step::Key(key.clone())))
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, ReadError> {
        let Some((key, value)) = self.next.take() else {
            return Err(ReadError::custom("a value was asked for before its key"));
        };
        seed.deserialize(Reader(value))
            .map_err(|error| error.within(Step::Key(key.to_owned())))
    }
}

/// The items of a list, each under the index that it has in the document.
struct Items<'a> {
    rest: std::iter::Enumerate<std::slice::Iter<'a, Value>>,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = ReadError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, ReadError> {
        let Some((index, value)) = self.rest.find(|(_, value)| value.kind != ValueKind::Nil) else {
            return Ok(None);
        };
        seed.deserialize(Reader(value))
            .map(Some)
            .map_err(|error| error.within(Step::Index(index)))
    }
}

#[cfg(test)]
mod tests {
    use crate::config::{
        Decode, Secret, Settings, Source,
        load::tests::{load, variables},
        sample::{complete, keys},
    };

    #[test]
    fn a_document_is_taken_at_its_word() {
        for (text, expected) in [
            (
                "publish.channels = \"16\"",
                "expected a whole number, 0 or more, found a string",
            ),
            (
                "publish.channels = 10.7",
                "found a number with a decimal point",
            ),
            (
                "publish.channels = -1",
                "expected a whole number, 0 or more",
            ),
            (
                "broker.fail_fast = \"yes\"",
                "expected true or false, found a string",
            ),
            (
                "broker.fail_fast = 1",
                "expected true or false, found a whole number",
            ),
            ("broker.name = 5", "expected a string, found a whole number"),
            (
                "broker.url = 5",
                "expected a URL or a list of URLs, found a whole number",
            ),
            (
                "broker.url = [5]",
                "expected a string, found a whole number",
            ),
            (
                "broker.url_file = 5",
                "expected a path, found a whole number",
            ),
            ("broker = 5", "expected a table, found a whole number"),
            ("consumers = []", "expected a table, found a list"),
            (
                "consumers.a.bindings = {}",
                "expected a list, found a table",
            ),
            ("log.format = 5", "expected \"text\" or \"json\""),
            ("log.format = \"TEXT\"", "expected \"text\" or \"json\""),
            (
                "broker.heartbeat = 1979-05-27",
                "dates and numbers beyond 64 bits",
            ),
            (
                "publish.channels = 99999999999999999999",
                "dates and numbers beyond 64 bits",
            ),
            ("\"broker.name\" = \"x\"", "unknown key"),
        ] {
            let error = Settings::from_toml(text).unwrap_err();
            let first = &error.problems[0];
            assert!(first.message.contains(expected), "{text}\n{error}");
            assert_eq!(first.source, Source::Text { line: Some(1) }, "{text}");
        }
    }

    #[test]
    fn the_environment_is_taken_as_the_type_that_is_asked_for() {
        let settings = load(
            "[consumers.a]\nqueue = \"a\"\nbindings = [{ exchange = \"x\" }]",
            &[
                ("LAPWING__BROKER__NAME", "00123"),
                ("LAPWING__BROKER__FAIL_FAST", "true"),
                ("LAPWING__BROKER__URL", "amqp://a\n amqp://b"),
                ("LAPWING__PUBLISH__CHANNELS", " 5 "),
                ("LAPWING__CONSUMERS__A__RETRY__FACTOR", "3"),
                ("LAPWING__CONSUMERS__A__DECODE", "json"),
                ("LAPWING__CONSUMERS__A__DEAD_LETTER_QUEUE", "1e5"),
                (
                    "LAPWING__CONSUMERS__A__BINDINGS",
                    "[{ exchange = \"y\" }, { exchange = \"z\" }]",
                ),
                ("LAPWING__CONSUMERS__A__HANDLER__KIND", "http"),
                ("LAPWING__CONSUMERS__A__HANDLER__URL", "http://a"),
                (
                    "LAPWING__CONSUMERS__A__HANDLER__HEADERS",
                    "{ \"x-api-key\" = \"007\" }",
                ),
            ],
        )
        .unwrap();
        assert_eq!(settings.broker.name, "00123");
        assert!(settings.broker.fail_fast);
        assert_eq!(settings.broker.url.expose(), ["amqp://a", "amqp://b"]);
        assert_eq!(settings.publish.channels, 5);
        let consumer = &settings.consumers["a"];
        assert!((consumer.retry.factor - 3.0).abs() < f64::EPSILON);
        assert_eq!(consumer.decode, Decode::Json);
        assert_eq!(consumer.dead_letter_queue(), "1e5");
        assert_eq!(consumer.bindings.len(), 2);
        assert_eq!(consumer.handler.headers["x-api-key"], Secret::from("007"));

        for (name, value, expected) in [
            (
                "LAPWING__PUBLISH__CHANNELS",
                "10.7",
                "expected a whole number, 0 or more",
            ),
            (
                "LAPWING__PUBLISH__CHANNELS",
                "",
                "expected a whole number, 0 or more",
            ),
            (
                "LAPWING__BROKER__FAIL_FAST",
                "yes",
                "expected true or false",
            ),
            (
                "LAPWING__BROKER",
                "x",
                "expected a table, which a variable holds as TOML",
            ),
            (
                "LAPWING__BROKER",
                "{ name = 5 }",
                "expected a string, found a whole number",
            ),
            (
                "LAPWING__BROKER__URL__X",
                "x",
                "expected a URL or a list of URLs, found a table",
            ),
            ("LAPWING__BROKER____NAME", "x", "unknown key"),
            ("LAPWING__", "x", "unknown key"),
        ] {
            let error = Settings::load(None, variables(&[(name, value)])).unwrap_err();
            assert!(
                error.problems[0].message.starts_with(expected),
                "{name}={value}\n{error}"
            );
            let source = Source::Environment {
                variable: name.to_owned(),
            };
            assert_eq!(error.problems[0].source, source);
        }
    }

    /// Whatever stands where, in whichever type: errors describe it and do not show it. Names of files
    /// are shown, as they must be.
    #[test]
    fn no_error_shows_a_value() {
        let wrong = [
            "\"s3cret\"",
            "\"amqp://u:s3cret@a/\"",
            "[\"s3cret\"]",
            "[[\"s3cret\"]]",
            "{ a = \"s3cret\" }",
            "[{ a = \"s3cret\" }]",
            "53037",
            "53037.5",
            "-53037",
        ];
        let mut refused = 0;
        for key in keys(&complete())
            .into_keys()
            .filter(|key| !key.ends_with("_file"))
        {
            for value in wrong {
                let key = key.replace("types.order.paid", "types.\"order.paid\"");
                let name = format!("LAPWING__{}", key.replace('.', "__").to_uppercase());
                let bare = value.trim_matches('"');
                for result in [
                    Settings::from_toml(&format!("{key} = {value}")),
                    Settings::load(None, variables(&[(&name, value)])),
                    Settings::load(None, variables(&[(&name, bare)])),
                ] {
                    let Err(error) = result else { continue };
                    refused += 1;
                    // Numbers out of range are shown: no key with a number is secret.
                    let shown = format!("{error} {error:?}");
                    assert!(!shown.contains("s3cret"), "{key} = {value}\n{error}");
                }
            }
        }
        assert!(refused > 500, "{refused}");
    }
}
