//! JSON pointers (RFC 6901) into text: a value keeps the text in which it was written, so that no
//! number loses a digit.

use std::fmt;

use serde::{
    Deserializer as _,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Error, value::RawValue};

/// A JSON pointer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pointer(Vec<String>);

impl Pointer {
    /// Reads a pointer: empty for the whole document, or `/` before each part.
    ///
    /// # Errors
    /// A text for people.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self(Vec::new()));
        }
        let Some(parts) = text.strip_prefix('/') else {
            return Err("a JSON pointer begins with `/`".to_owned());
        };
        let parts = parts.split('/').map(|part| {
            let plain = part.replace("~0", "").replace("~1", "");
            match plain.contains('~') {
                true => Err("`~` stands as `~0` in a JSON pointer".to_owned()),
                false => Ok(part.replace("~1", "/").replace("~0", "~")),
            }
        });
        parts.collect::<Result<_, _>>().map(Self)
    }

    /// The value in the document; `None` if the document has no such value. Of equal keys the last
    /// counts.
    ///
    /// # Errors
    /// If the document is not JSON.
    pub(crate) fn find<'a>(&self, document: &'a RawValue) -> Result<Option<&'a RawValue>, Error> {
        let mut found = document;
        for part in &self.0 {
            let mut json = serde_json::Deserializer::from_str(found.get());
            match json.deserialize_any(Step(part))? {
                Some(value) => found = value,
                None => return Ok(None),
            }
        }
        Ok(Some(found))
    }
}

/// Looks for one part of a pointer in a value.
struct Step<'a>(&'a str);

macro_rules! scalars {
    ($($name:ident($type:ty),)+) => {
        $(fn $name<E>(self, _: $type) -> Result<Self::Value, E> {
            Ok(None)
        })+
    };
}

impl<'de> Visitor<'de> for Step<'_> {
    type Value = Option<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    scalars! {
        visit_bool(bool), visit_i64(i64), visit_u64(u64), visit_f64(f64), visit_str(&str),
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(key) = map.next_key::<String>()? {
            match key == self.0 {
                true => found = Some(map.next_value()?),
                false => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        // An index has no leading zero.
        let is_index = self.0 == "0" || !self.0.starts_with(['0', '+']);
        let index: Option<usize> = self.0.parse().ok().filter(|_| is_index);
        let mut found = None;
        let mut at = 0;
        while let Some(value) = list.next_element::<&RawValue>()? {
            if Some(at) == index {
                found = Some(value);
            }
            at += 1;
        }
        Ok(found)
    }
}

/// The document of a body.
///
/// # Errors
/// If the body is not JSON.
pub(crate) fn document(body: &[u8]) -> Result<&RawValue, Error> {
    serde_json::from_slice(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pointer_finds_a_value_as_it_is_written() {
        let body = br#" {"id": 12345678901234567890123.10, "a/b": {"~": [1, {"x": null}]},
            "twice": 1, "twice": 2, "": "empty", "text": "l\u00e4"} "#;
        let document = document(body).unwrap();
        let found = |pointer: &str| {
            let found = Pointer::parse(pointer).unwrap().find(document).unwrap();
            found.map(RawValue::get)
        };
        for (pointer, value) in [
            ("/id", Some("12345678901234567890123.10")),
            ("/a~1b/~0/0", Some("1")),
            ("/a~1b/~0/1/x", Some("null")),
            ("/twice", Some("2")),
            ("/", Some("\"empty\"")),
            ("/text", Some("\"l\\u00e4\"")),
            ("/a~1b/~0/2", None),
            ("/a~1b/~0/00", None),
            ("/a~1b/~0/-", None),
            ("/id/x", None),
            ("/missing", None),
            ("/text/x/y", None),
        ] {
            assert_eq!(found(pointer), value, "{pointer}");
        }
        assert_eq!(found(""), Some(document.get()));
    }

    #[test]
    fn a_pointer_that_cannot_be_read_is_refused() {
        for pointer in ["id", "/a~b", "/~2"] {
            assert!(Pointer::parse(pointer).is_err(), "{pointer}");
        }
    }

    #[test]
    fn deep_nesting_costs_no_stack() {
        let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
        let deep = format!("{{\"id\": 7, \"deep\": {deep}}}");
        let document = document(deep.as_bytes());
        if let Ok(document) = document {
            let found = Pointer::parse("/id").unwrap().find(document).unwrap();
            assert_eq!(found.map(RawValue::get), Some("7"));
        }
    }
}
