//! JSON pointers (RFC 6901) into text: a value keeps the text in which it was written, so that no
//! number loses a digit.

use std::{fmt, str::FromStr};

use serde::{
    Deserializer as _,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Error, Value, value::RawValue};

/// A place in a JSON document (RFC 6901), such as `/event/type` or `/items/0`. The empty text stands for
/// the whole document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pointer {
    text: String,
    steps: Vec<String>,
}

/// Why a text is no JSON pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidPointer {
    /// It begins with something else than a slash.
    #[error("a JSON pointer begins with `/`")]
    Beginning,
    /// A `~` stands alone.
    #[error("`~` stands as `~0` in a JSON pointer")]
    Tilde,
}

impl FromStr for Pointer {
    type Err = InvalidPointer;

    fn from_str(text: &str) -> Result<Self, InvalidPointer> {
        let steps = match text.strip_prefix('/') {
            Some(steps) => steps.split('/'),
            None if text.is_empty() => {
                return Ok(Self {
                    text: String::new(),
                    steps: Vec::new(),
                });
            }
            None => return Err(InvalidPointer::Beginning),
        };
        let steps = steps.map(|step| {
            let plain = step.replace("~0", "").replace("~1", "");
            match plain.contains('~') {
                true => Err(InvalidPointer::Tilde),
                false => Ok(step.replace("~1", "/").replace("~0", "~")),
            }
        });
        Ok(Self {
            text: text.to_owned(),
            steps: steps.collect::<Result<_, _>>()?,
        })
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Pointer {
    /// The value in the document; `None` if the document has no such value. Of equal keys the last
    /// counts.
    ///
    /// # Errors
    /// If the document is not JSON.
    pub(crate) fn find<'a>(&self, document: &'a RawValue) -> Result<Option<&'a RawValue>, Error> {
        let mut found = document;
        for step in &self.steps {
            let mut json = serde_json::Deserializer::from_str(found.get());
            match json.deserialize_any(Step(step))? {
                Some(value) => found = value,
                None => return Ok(None),
            }
        }
        Ok(Some(found))
    }
}

/// Looks for one step of a pointer in a value.
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

/// The document of a body, which may begin with a byte order mark.
///
/// # Errors
/// If the body is not JSON.
pub(crate) fn document(body: &[u8]) -> Result<&RawValue, Error> {
    serde_json::from_slice(body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body))
}

/// The values at these places of a body, in the same order. `None` where there is none, and for all
/// places if the body is not JSON.
pub(crate) fn look_up(body: &[u8], places: &[Pointer]) -> Vec<Option<Value>> {
    let document = document(body).ok();
    let at = |place: &Pointer| {
        let found = place.find(document?).ok()??;
        serde_json::from_str(found.get()).ok()
    };
    places.iter().map(at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn pointer(text: &str) -> Pointer {
        text.parse().unwrap()
    }

    #[test]
    fn a_pointer_finds_a_value_as_it_is_written() {
        let body = br#" {"id": 12345678901234567890123.10, "a/b": {"~": [1, {"x": null}]},
            "twice": 1, "twice": 2, "": "empty", "text": "l\u00e4"} "#;
        let document = document(body).unwrap();
        let found = |place: &str| {
            let found = pointer(place).find(document).unwrap();
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
        for text in ["id", "/a~b", "/~2"] {
            assert!(text.parse::<Pointer>().is_err(), "{text}");
        }
        assert_eq!(pointer("/a/b").to_string(), "/a/b");
    }

    #[test]
    fn deep_nesting_costs_no_stack() {
        let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
        let deep = format!("{{\"id\": 7, \"deep\": {deep}}}");
        let document = document(deep.as_bytes()).unwrap();
        let found = pointer("/id").find(document).unwrap();
        assert_eq!(found.map(RawValue::get), Some("7"));
    }

    fn at(body: &str, places: [&str; 2]) -> [Option<Value>; 2] {
        let places = places.map(|place| place.parse().unwrap());
        look_up(body.as_bytes(), &places).try_into().unwrap()
    }

    #[test]
    fn values_are_found_at_their_places() {
        let body = r#"{"a":{"b":[1,{"c":"x"}],"b/~":true},"n":null}"#;
        let found = at(body, ["/a/b/1/c", "/a/b~1~0"]);
        assert_eq!(found, [Some(json!("x")), Some(json!(true))]);
        assert_eq!(at(body, ["/a", "/a/b/0"])[1], Some(json!(1)));
        assert_eq!(at(body, ["/n", "/n/x"]), [Some(Value::Null), None]);
        assert_eq!(at(body, ["/", "/a/b/01"]), [None, None]);
        assert_eq!(
            at(r#"{"a":1,"a":{}}"#, ["/a", "/a/b"]),
            [Some(json!({})), None]
        );
    }

    #[test]
    fn a_body_that_is_no_json_has_no_values() {
        for body in ["", "{\"a\":1", "{\"a\":1}x", "\u{1}"] {
            assert_eq!(at(body, ["/a", "/b"]), [None, None], "{body}");
        }
        assert_eq!(at("\u{feff}{\"a\":1}", ["/a", "/b"])[0], Some(json!(1)));
    }

    proptest! {
        /// As `serde_json` finds them in the whole document.
        #[test]
        fn places_are_those_of_the_whole_document(
            keys in proptest::collection::vec("[a-c01]{1,2}", 1..6),
            place in "(/[a-c01]{1,2}){1,3}",
        ) {
            let mut tree = json!("leaf");
            for (depth, key) in keys.iter().enumerate() {
                tree = match depth % 2 {
                    0 => json!({ key.clone(): tree, "a": [1, 2] }),
                    _ => json!([tree, key]),
                };
            }
            let wanted = tree.pointer(&place).cloned();
            prop_assert_eq!(&at(&tree.to_string(), [&place, "/z"])[0], &wanted);
        }
    }
}
