//! Reads merged values into typed settings, strictly.
//!
//! The `config` crate's own deserialiser rounds `10.7` to 11, takes `"yes"` for true and 5 for
//! `"5"`, and its errors quote values. This deserialiser keeps the type that a value has in a
//! document. Only a value from the environment, which has no types, is parsed as the type of its
//! key. Errors name the key's path and never hold a value.

mod error;
mod nearest;

use std::{fmt, str::FromStr};

use config::{Map, Value, ValueKind};
use serde::{
    Deserializer,
    de::{
        DeserializeSeed, Error as _, Expected, IntoDeserializer, MapAccess, SeqAccess, Unexpected,
        Visitor, value::StrDeserializer,
    },
    forward_to_deserialize_any,
};

use self::error::in_plain_words;
pub(crate) use self::nearest::nearest;
pub(super) use self::{error::ReadError, nearest::nearest_within};
use super::{
    layers::{is_from_environment, value_from_text},
    problem::Step,
    schema::KIND,
};

/// The deserialiser of one merged value.
pub(super) struct Reader<'a>(pub(super) &'a Value);

impl<'a> Reader<'a> {
    /// The text of an environment variable, if the value came from one.
    fn variable(&self) -> Option<&'a str> {
        match &self.0.kind {
            ValueKind::String(text) if is_from_environment(self.0) => Some(text),
            _ => None,
        }
    }

    /// Reads a scalar. Parses a variable's text as the requested type.
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

    /// Reads a list or a table. A variable holds them as TOML.
    fn collection<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, ReadError> {
        let Some(text) = self.variable() else {
            return self.deserialize_any(visitor);
        };
        match value_from_text(text) {
            Some(value) => Reader(&value).deserialize_any(visitor),
            None => Err(ReadError::custom(format!(
                "expected {}, written as TOML",
                in_plain_words(&(&visitor as &dyn Expected).to_string())
            ))),
        }
    }
}

/// A visitor that reads tables only. serde's derived visitors would also accept a list, by
/// position.
struct Table<V>(V);

impl<'de, V: Visitor<'de>> Visitor<'de> for Table<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<V::Value, A::Error> {
        self.0.visit_map(entries)
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
            ValueKind::Table(table) => visitor.visit_map(Entries::of(table)),
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
        self.collection(Table(visitor))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        self.collection(Table(visitor))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        words: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, ReadError> {
        match &self.0.kind {
            ValueKind::String(word) => visitor.visit_enum(word.as_str().into_deserializer()),
            _ => Err(ReadError::no_word(words, None)),
        }
    }

    forward_to_deserialize_any! {
        char str string bytes byte_buf unit unit_struct tuple tuple_struct identifier ignored_any
    }
}

/// Whether the value is present. [`ValueKind::Nil`] marks a value that was removed as unusable.
pub(super) fn is_there(value: &Value) -> bool {
    value.kind != ValueKind::Nil
}

/// The entries of a table. The kind comes first, because it decides which other keys are valid.
struct Entries<'a> {
    kind: Option<(&'a String, &'a Value)>,
    rest: std::collections::hash_map::Iter<'a, String, Value>,
    next: Option<(&'a str, &'a Value)>,
}

impl<'a> Entries<'a> {
    fn of(table: &'a Map<String, Value>) -> Self {
        Self {
            kind: table.get_key_value(KIND).filter(|(_, kind)| is_there(kind)),
            rest: table.iter(),
            next: None,
        }
    }

    fn advance(&mut self) -> Option<(&'a String, &'a Value)> {
        let is_left = |(key, value): &(&String, &Value)| *key != KIND && is_there(value);
        self.kind.take().or_else(|| self.rest.find(is_left))
    }
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = ReadError;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, ReadError> {
        let Some((key, value)) = self.advance() else {
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

/// The items of a list, each with its index in the document.
struct Items<'a> {
    rest: std::iter::Enumerate<std::slice::Iter<'a, Value>>,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = ReadError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, ReadError> {
        let Some((index, value)) = self.rest.find(|(_, value)| is_there(value)) else {
            return Ok(None);
        };
        seed.deserialize(Reader(value))
            .map(Some)
            .map_err(|error| error.within(Step::Index(index)))
    }
}
