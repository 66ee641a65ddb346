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
            match behind(found, &[step.as_str()])?.pop().flatten() {
                Some(value) => found = value,
                None => return Ok(None),
            }
        }
        Ok(Some(found))
    }
}

/// The values behind these steps from a value, in the same order.
fn behind<'a>(value: &'a RawValue, steps: &[&str]) -> Result<Vec<Option<&'a RawValue>>, Error> {
    let mut json = serde_json::Deserializer::from_str(value.get());
    json.deserialize_any(Steps(steps))
}

/// Looks for steps of pointers in a value.
struct Steps<'a>(&'a [&'a str]);

impl Steps<'_> {
    fn none<'de>(&self) -> Vec<Option<&'de RawValue>> {
        vec![None; self.0.len()]
    }
}

macro_rules! scalars {
    ($($name:ident($type:ty),)+) => {
        $(fn $name<E>(self, _: $type) -> Result<Self::Value, E> {
            Ok(self.none())
        })+
    };
}

impl<'de> Visitor<'de> for Steps<'_> {
    type Value = Vec<Option<&'de RawValue>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    scalars! {
        visit_bool(bool), visit_i64(i64), visit_u64(u64), visit_f64(f64), visit_str(&str),
    }

    fn visit_unit<E>(self) -> Result<Self::Value, E> {
        Ok(self.none())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = self.none();
        while let Some(key) = map.next_key::<String>()? {
            match self.0.iter().position(|step| *step == key) {
                Some(place) => found[place] = Some(map.next_value()?),
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
        let indices: Vec<Option<usize>> = self.0.iter().map(|step| index(step)).collect();
        let mut found = self.none();
        for at in 0.. {
            let is_there = match indices.iter().position(|index| *index == Some(at)) {
                Some(place) => {
                    found[place] = list.next_element()?;
                    found[place].is_some()
                }
                None => list.next_element::<IgnoredAny>()?.is_some(),
            };
            if !is_there {
                break;
            }
        }
        Ok(found)
    }
}

/// The index that a step names. It has no leading zero.
fn index(step: &str) -> Option<usize> {
    let is_index = step == "0" || !step.starts_with(['0', '+']);
    step.parse().ok().filter(|_| is_index)
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
    let found = find_all(body, places).into_iter();
    let value = |found: Option<&RawValue>| serde_json::from_str(found?.get()).ok();
    found.map(value).collect()
}

/// As [`look_up`], with each value as it is written. Reads each part of the body once for each step of the
/// longest place, however many places there are.
pub(crate) fn find_all<'a>(body: &'a [u8], places: &[Pointer]) -> Vec<Option<&'a RawValue>> {
    let mut found = vec![None; places.len()];
    if let Ok(document) = document(body) {
        let steps = places.iter().map(|place| place.steps.as_slice());
        let wanted: Vec<_> = steps.enumerate().collect();
        descend(document, &wanted, &mut found);
    }
    found
}

/// Puts the values behind these steps into `found`, each at its number.
fn descend<'a>(
    value: &'a RawValue,
    wanted: &[(usize, &[String])],
    found: &mut [Option<&'a RawValue>],
) {
    let mut firsts: Vec<&str> = Vec::new();
    for (number, steps) in wanted {
        match steps.first() {
            None => found[*number] = Some(value),
            Some(first) if firsts.contains(&first.as_str()) => {}
            Some(first) => firsts.push(first),
        }
    }
    if firsts.is_empty() {
        return;
    }
    let values = behind(value, &firsts).unwrap_or_default();
    for (first, value) in firsts.iter().zip(values) {
        let rest = wanted.iter().filter_map(|(number, steps)| {
            let (step, rest) = steps.split_first()?;
            (step == first).then_some((*number, rest))
        });
        if let Some(value) = value {
            descend(value, &rest.collect::<Vec<_>>(), found);
        }
    }
}

/// A value as text: a table, list or number as JSON. `None` for null and for an empty text.
pub(crate) fn text(value: Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text).filter(|text| !text.is_empty()),
        other => Some(other.to_string()),
    }
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
        assert_eq!(
            at(body, ["/a/b/0", "/a/b/0"]),
            [Some(json!(1)), Some(json!(1))]
        );
        assert_eq!(
            at(body, ["/a/b/1/c", ""])[1],
            serde_json::from_str(body).ok()
        );
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
