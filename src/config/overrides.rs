//! A table of settings that changes some keys of another table.

use std::{borrow::Cow, collections::BTreeSet, fmt, marker::PhantomData};

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeOwned, DeserializeSeed, MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::{Map, Value};

/// Settings in which some keys are given. The other keys are those of another table of the same type.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overrides<T> {
    value: T,
    given: BTreeSet<String>,
}

impl<T> Overrides<T> {
    /// Whether no key is given.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.given.is_empty()
    }

    /// Whether this key is given.
    pub(crate) fn gives(&self, key: &str) -> bool {
        self.given.contains(key)
    }
}

impl<T: Clone + Serialize + DeserializeOwned> Overrides<T> {
    /// The settings `base`, with the given keys in place of its own.
    #[must_use]
    pub fn over(&self, base: &T) -> T {
        if self.is_empty() {
            return base.clone();
        }
        let (Value::Object(mut all), Value::Object(own)) = (tree(base), tree(&self.value)) else {
            return self.value.clone();
        };
        for key in &self.given {
            match own.get(key) {
                Some(value) => all.insert(key.clone(), value.clone()),
                None => all.remove(key),
            };
        }
        // The type reads what it has written, unless code has made a value that no file may have.
        serde_json::from_value(Value::Object(all)).unwrap_or_else(|error| {
            tracing::error!(%error, keys = ?self.given, "settings with own keys of a route cannot be read: all other keys are the defaults");
            self.value.clone()
        })
    }
}

/// Gives every key.
impl<T: Serialize> From<T> for Overrides<T> {
    fn from(value: T) -> Self {
        let given = match tree(&value) {
            Value::Object(keys) => keys.keys().cloned().collect(),
            _ => BTreeSet::new(),
        };
        Self { value, given }
    }
}

fn tree<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}

impl<T: Serialize> Serialize for Overrides<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let given = match tree(&self.value) {
            Value::Object(keys) => keys
                .into_iter()
                .filter(|(key, _)| self.given.contains(key))
                .collect(),
            _ => Map::new(),
        };
        given.serialize(serializer)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Overrides<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Table(PhantomData))
    }
}

struct Table<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for Table<T> {
    type Value = Overrides<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a table")
    }

    fn visit_map<A: MapAccess<'de>>(self, entries: A) -> Result<Overrides<T>, A::Error> {
        let mut given = BTreeSet::new();
        let noting = Noting {
            entries,
            given: &mut given,
        };
        let value = T::deserialize(MapAccessDeserializer::new(noting))?;
        Ok(Overrides { value, given })
    }
}

/// Notes the keys that the type reads.
struct Noting<'a, A> {
    entries: A,
    given: &'a mut BTreeSet<String>,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Noting<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        let given = &mut *self.given;
        self.entries.next_key_seed(Key { seed, given })
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.entries.next_value_seed(seed)
    }
}

/// Reads a key for a seed, and notes it.
struct Key<'a, K> {
    seed: K,
    given: &'a mut BTreeSet<String>,
}

impl<'de, K: DeserializeSeed<'de>> DeserializeSeed<'de> for Key<'_, K> {
    type Value = K::Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<K::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de, K: DeserializeSeed<'de>> Visitor<'de> for Key<'_, K> {
    type Value = K::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<K::Value, E> {
        let read = self
            .seed
            .deserialize(serde::de::value::StrDeserializer::new(key))?;
        self.given.insert(key.to_owned());
        Ok(read)
    }
}

impl<T: JsonSchema> JsonSchema for Overrides<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("OverridesOf{}", T::schema_name()).into()
    }

    fn inline_schema() -> bool {
        true
    }

    /// The keys of the other table, without their defaults.
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = T::json_schema(generator);
        if let Some(Value::Object(keys)) = schema.get_mut("properties") {
            for key in keys.values_mut().filter_map(Value::as_object_mut) {
                key.remove("default");
            }
        }
        schema.remove("description");
        schema
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
    #[serde(default, deny_unknown_fields)]
    struct Limits {
        most: u32,
        #[serde(skip_serializing_if = "Option::is_none")]
        name: Option<String>,
        factor: f64,
    }

    fn read(text: &str) -> Overrides<Limits> {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn keys_that_are_given_take_the_place_of_the_others() {
        let base = Limits {
            most: 7,
            name: Some("base".to_owned()),
            factor: 0.1,
        };
        let wanted = Limits {
            most: 3,
            ..base.clone()
        };
        assert_eq!(read("most = 3").over(&base), wanted);
        assert_eq!(read("").over(&base), base);
        // A key with its default counts as given.
        let wanted = Limits {
            factor: 0.0,
            ..base.clone()
        };
        assert_eq!(read("factor = 0.0").over(&base), wanted);
        let whole = Limits::default();
        assert_eq!(Overrides::from(whole).over(&base).most, 0);
    }

    #[test]
    fn only_the_keys_that_are_given_are_written() {
        let text = "most = 3\n";
        assert_eq!(toml::to_string(&read(text)).unwrap(), text);
        assert!(toml::from_str::<Overrides<Limits>>("mist = 3").is_err());
    }
}
