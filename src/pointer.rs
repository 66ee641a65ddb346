//! Reads single values of a JSON document by JSON pointers, without building the rest of it.

use std::{fmt, str::FromStr};

use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::Value;

/// A place in a JSON document (RFC 6901), such as `/event/type` or `/items/0`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pointer {
    text: String,
    steps: Vec<String>,
}

/// The error for a text that is no JSON pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected a JSON pointer, such as \"/event/type\"")]
pub struct InvalidPointer;

impl FromStr for Pointer {
    type Err = InvalidPointer;

    fn from_str(text: &str) -> Result<Self, InvalidPointer> {
        let rest = text.strip_prefix('/').ok_or(InvalidPointer)?;
        let step = |step: &str| step.replace("~1", "/").replace("~0", "~");
        Ok(Self {
            text: text.to_owned(),
            steps: rest.split('/').map(step).collect(),
        })
    }
}

impl fmt::Display for Pointer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The values at these places of a JSON document, in the same order. `None` where there is none, and for
/// all places if the document is no JSON.
pub(crate) fn look_up(body: &[u8], places: &[Pointer]) -> Vec<Option<Value>> {
    let mut found = vec![None; places.len()];
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    let wanted = places.iter().enumerate();
    let wanted = wanted.map(|(index, place)| (index, place.steps.as_slice()));
    let level = Level {
        wanted: wanted.collect(),
        found: &mut found,
    };
    let mut parser = serde_json::Deserializer::from_slice(body);
    let read = level.deserialize(&mut parser);
    match read.and_then(|()| parser.end()) {
        Ok(()) => found,
        Err(_) => vec![None; places.len()],
    }
}

/// One level of a document: the places below it, each with the steps that are left.
struct Level<'a, 'f> {
    wanted: Vec<(usize, &'a [String])>,
    found: &'f mut [Option<Value>],
}

impl<'a> Level<'a, '_> {
    /// The places that go through this member.
    fn inside(&self, step: &str) -> Vec<(usize, &'a [String])> {
        let through = self.wanted.iter();
        let through = through.filter_map(|(index, steps)| match steps.split_first() {
            Some((first, rest)) if first == step => Some((*index, rest)),
            _ => None,
        });
        through.collect()
    }

    /// Reads one member: as a whole if a place ends there.
    fn read<'de, D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.wanted.is_empty() {
            return IgnoredAny::deserialize(deserializer).map(|_| ());
        }
        if self.wanted.iter().all(|(_, steps)| !steps.is_empty()) {
            return deserializer.deserialize_any(self);
        }
        let value = Value::deserialize(deserializer)?;
        for (index, steps) in self.wanted {
            let place = steps.iter().try_fold(&value, |value, step| match value {
                Value::Object(members) => members.get(step),
                Value::Array(items) => items.get(step.parse::<usize>().ok()?),
                _ => None,
            });
            self.found[index] = place.cloned();
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Level<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.read(deserializer)
    }
}

impl<'de> Visitor<'de> for Level<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        while let Some(name) = members.next_key::<String>()? {
            let wanted = self.inside(&name);
            // The last of several members of one name counts.
            for (index, _) in &wanted {
                self.found[*index] = None;
            }
            let found = &mut *self.found;
            members.next_value_seed(Level { wanted, found })?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        for index in 0.. {
            let wanted = self.inside(&index.to_string());
            let found = &mut *self.found;
            if items.next_element_seed(Level { wanted, found })?.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: de::Error>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

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

    #[test]
    fn a_pointer_begins_with_a_slash() {
        assert_eq!("a".parse::<Pointer>(), Err(InvalidPointer));
        assert_eq!("".parse::<Pointer>(), Err(InvalidPointer));
        assert_eq!("/a/b".parse::<Pointer>().unwrap().to_string(), "/a/b");
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
