//! The JSON Schema of settings, which `schemars` makes from types, attributes and doc comments.
//!
//! Ranges, suggestions for unknown keys, the documents and the schema for editors all come from it.

use std::{
    any::TypeId,
    collections::BTreeMap,
    fmt::Display,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use config::ValueKind;
use humantime::{format_duration, parse_duration};
use schemars::{JsonSchema, Schema, generate::SchemaSettings, transform::RecursiveTransform};
use serde_json::{Map, Value};

use super::{
    findings::Findings,
    problem::{KeyPath, Step},
    span::BOUNDS,
};

fn settings() -> SchemaSettings {
    SchemaSettings::draft07().with(|settings| settings.inline_subschemas = true)
}

/// The schema of a type, for this crate's own use. Built once, because building takes milliseconds.
pub(super) fn of<T: JsonSchema + 'static>() -> Arc<Value> {
    static MADE: Mutex<BTreeMap<TypeId, Arc<Value>>> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    let schema = made.entry(TypeId::of::<T>()).or_insert_with(|| {
        let generator = settings().into_generator();
        Arc::new(generator.into_root_schema_for::<T>().to_value())
    });
    Arc::clone(schema)
}

/// The schema of a type for editors and other tools, in draft 7 with standard keywords only.
pub(crate) fn for_tools<T: JsonSchema>() -> Value {
    let generator = settings().with_transform(RecursiveTransform(standardise));
    generator
        .into_generator()
        .into_root_schema_for::<T>()
        .to_value()
}

fn standardise(schema: &mut Schema) {
    let mut notes: Vec<String> = Vec::new();
    if let Some((words, meanings)) = words(schema.as_value()) {
        schema.remove("oneOf");
        schema.insert("enum".to_owned(), words.into());
        notes.extend(meanings);
    }
    if schema.get(BOUNDS).is_some() {
        notes.extend(range(schema.as_value()));
        schema.remove(BOUNDS);
    }
    // Keywords for our own documents.
    if let Some(keywords) = schema.as_object_mut() {
        keywords.retain(|keyword, _| !keyword.starts_with("x-"));
    }
    // The keys inside have texts of their own.
    if schema.get("default").is_some_and(Value::is_object) {
        schema.remove("default");
    }
    // The formats of Rust's numbers are not standard, and TOML has no null.
    schema.remove("format");
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        types.retain(|name| name != "null");
        if let [only] = types.as_slice() {
            let only = only.clone();
            schema.insert("type".to_owned(), only);
        }
    }
    let text = schema.get("description").and_then(Value::as_str);
    let text = text.map(meaning);
    let parts: Vec<String> = text.into_iter().chain(notes).collect();
    if !parts.is_empty() {
        schema.insert("description".to_owned(), parts.join(" ").into());
    }
}

/// The words that a setting accepts, with one sentence about each.
pub(crate) fn words(schema: &Value) -> Option<(Vec<Value>, Vec<String>)> {
    let variants = schema.get("oneOf")?.as_array()?;
    let word = |variant: &Value| variant.get("const").cloned();
    let words: Vec<Value> = variants.iter().map(word).collect::<Option<_>>()?;
    let about = |variant: &Value| {
        let text = unwrapped(variant["description"].as_str()?);
        let (first, rest) = text.split_at_checked(1)?;
        // A word such as JSON keeps its capitals.
        let first = match rest.starts_with(char::is_lowercase) {
            true => first.to_lowercase(),
            false => first.to_owned(),
        };
        Some(format!("`{}`: {first}{rest}", variant["const"].as_str()?))
    };
    Some((words, variants.iter().filter_map(about).collect()))
}

/// The range of a number or a duration, as one sentence.
pub(crate) fn range(schema: &Value) -> Option<String> {
    let bound = |key| schema.get(key).and_then(Value::as_f64);
    let bounds = schema.get(BOUNDS).and_then(Value::as_array);
    match (
        bounds.map(Vec::as_slice),
        bound("minimum"),
        bound("maximum"),
    ) {
        (Some([low, high]), ..) => Some(format!("From {} to {}.", low.as_str()?, high.as_str()?)),
        (_, Some(low), Some(high)) => Some(format!("From {low} to {high}.")),
        (_, Some(low), None) if low > 0.0 => Some(format!("At least {low}.")),
        _ => None,
    }
}

/// A doc comment without its last sentence, which gives the default: "Default: …" or "Required.".
/// Each paragraph, list item and line of code becomes one line.
pub(crate) fn meaning(text: &str) -> String {
    let text = unwrapped(text);
    let text = text.strip_suffix("Required.").unwrap_or(&text);
    let end = text.rfind("Default: ").unwrap_or(text.len());
    text[..end].trim_end().to_owned()
}

fn unwrapped(text: &str) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut is_code = false;
    for line in text.lines() {
        let begins_anew = line.is_empty() || line.starts_with("- ") || line.starts_with("```");
        is_code ^= line.starts_with("```");
        match lines.last_mut() {
            Some(last) if !last.is_empty() && !begins_anew && !is_code => {
                last.push(' ');
                last.push_str(line.trim_start());
            }
            _ => lines.push(line.to_owned()),
        }
    }
    lines.join("\n")
}

/// Reports the values outside the range in the schema.
pub(super) fn ranges(findings: &mut Findings, at: &KeyPath, schema: &Value, value: &toml::Value) {
    match value {
        toml::Value::Table(table) => {
            let kind = table.get(KIND).and_then(toml::Value::as_str);
            for (key, value) in table {
                if let Some(inner) = entry(variant(schema, kind), key) {
                    ranges(findings, &at.key(key), inner, value);
                }
            }
        }
        toml::Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                ranges(findings, &at.index(index), &schema["items"], item);
            }
        }
        toml::Value::Integer(number) => check_number(findings, at, schema, number, *number as f64),
        toml::Value::Float(number) => check_number(findings, at, schema, number, *number),
        toml::Value::String(text) => check_duration(findings, at, schema, text),
        _ => {}
    }
}

/// Skips the comparison if the value is no number: reading has refused it.
fn check_number(
    findings: &mut Findings,
    at: &KeyPath,
    schema: &Value,
    shown: impl Display,
    value: f64,
) {
    let bound = |key| schema.get(key).and_then(Value::as_f64);
    // Reading refuses a number above the largest of its type.
    let own = (schema["format"] == "uint16").then_some(f64::from(u16::MAX));
    match (
        bound("minimum"),
        bound("maximum").filter(|high| Some(*high) != own),
    ) {
        (Some(low), Some(high)) if !(low..=high).contains(&value) => {
            findings.add(at.clone(), format!("is {shown}, must be {low} to {high}"));
        }
        (Some(low), None) if value < low => {
            findings.add(at.clone(), format!("must be at least {low}"));
        }
        _ => {}
    }
}

fn check_duration(findings: &mut Findings, at: &KeyPath, schema: &Value, text: &str) {
    let bound = |index: usize| -> Option<Duration> {
        parse_duration(schema.get(BOUNDS)?.get(index)?.as_str()?).ok()
    };
    let (Some(low), Some(high), Ok(value)) = (bound(0), bound(1), parse_duration(text)) else {
        return;
    };
    if !(low..=high).contains(&value) {
        let [value, low, high] = [value, low, high].map(format_duration);
        findings.add(at.clone(), format!("is {value}, must be {low} to {high}"));
    }
}

/// The key that selects one of several tables. The first table does not have this key.
pub(crate) const KIND: &str = "kind";

fn variants(schema: &Value) -> &[Value] {
    schema["oneOf"].as_array().map_or(&[], Vec::as_slice)
}

/// The table that `kind` selects, if the schema has several.
fn variant<'s>(schema: &'s Value, kind: Option<&str>) -> &'s Value {
    let variants = variants(schema);
    let meant = variants.iter().find(|variant| kind_of(variant) == kind);
    meant.or(variants.first()).unwrap_or(schema)
}

fn kind_of(variant: &Value) -> Option<&str> {
    variant["properties"][KIND]["const"].as_str()
}

fn entry<'s>(table: &'s Value, key: &str) -> Option<&'s Value> {
    let named = table["properties"].get(key);
    named.or_else(|| {
        table
            .get("additionalProperties")
            .filter(|any| any.is_object())
    })
}

/// A table of settings with a key that is unknown there.
pub(super) struct Place<'s> {
    schema: &'s Value,
    kind: Option<String>,
}

impl<'s> Place<'s> {
    /// The table at `path`.
    pub(super) fn at(root: &'s Value, tree: &config::Value, path: &KeyPath) -> Option<Self> {
        let mut place = Self::new(root, tree);
        let mut value = tree;
        for step in path.steps() {
            let schema;
            (schema, value) = match (step, &value.kind) {
                (Step::Key(key), ValueKind::Table(table)) => {
                    (entry(place.table(), key)?, table.get(key)?)
                }
                (Step::Index(index), ValueKind::Array(items)) => {
                    (&place.schema["items"], items.get(*index)?)
                }
                _ => return None,
            };
            place = Self::new(schema, value);
        }
        Some(place)
    }

    fn new(schema: &'s Value, value: &config::Value) -> Self {
        let kind = match &value.kind {
            ValueKind::Table(table) => table.get(KIND).and_then(|kind| match &kind.kind {
                ValueKind::String(word) => Some(word.clone()),
                _ => None,
            }),
            _ => None,
        };
        Self { schema, kind }
    }

    fn table(&self) -> &'s Value {
        variant(self.schema, self.kind.as_deref())
    }

    /// The keys that are valid here.
    pub(super) fn keys(&self) -> Vec<&'s str> {
        properties(self.table())
            .map(|(key, _)| key.as_str())
            .collect()
    }

    /// The kind that has the key, and the present kind.
    pub(super) fn other_kind(&self, key: &str) -> Option<(&'s str, &'s str)> {
        let has_it = |variant: &&Value| variant["properties"].get(key).is_some();
        let other = variants(self.schema).iter().find(has_it)?;
        Some((kind_of(other)?, kind_of(self.table())?))
    }

    /// The inner table in which the key would be valid with this value.
    pub(super) fn inner(&self, key: &str, value: &config::Value) -> Option<&'s str> {
        let tables = std::iter::once(self.table()).chain(variants(self.schema));
        let mut inner = tables.flat_map(properties);
        let found = inner.find(|(_, inner)| {
            let mut tables = std::iter::once(*inner).chain(variants(inner));
            let takes_any = inner.get("additionalProperties");
            tables.any(|table| table["properties"].get(key).is_some())
                || takes_any.is_some_and(|any| takes(any, value) && may_be_free(key, value))
        });
        found.map(|(name, _)| name.as_str())
    }
}

fn properties(table: &Value) -> impl Iterator<Item = (&String, &Value)> {
    table["properties"]
        .as_object()
        .into_iter()
        .flat_map(Map::iter)
}

/// Whether the key with this text could be an entry of a table with free keys, such as a header. A
/// plain word is more likely a key that does not exist.
fn may_be_free(key: &str, value: &config::Value) -> bool {
    const HEADERS: [&str; 3] = ["authorization", "accept", "cookie"];
    !matches!(value.kind, ValueKind::String(_)) || key.contains('-') || HEADERS.contains(&key)
}

/// Whether the value could fit one of these schemas.
fn takes(schema: &Value, value: &config::Value) -> bool {
    match &value.kind {
        ValueKind::String(_) => schema["type"] == "string",
        ValueKind::Table(table) => {
            let mut tables = std::iter::once(schema).chain(variants(schema));
            tables.any(|schema| {
                let known = |key: &String| schema["properties"].get(key).is_some();
                schema["type"] == "object" && table.keys().all(known)
            })
        }
        _ => false,
    }
}
