//! Merges the two sources of settings, a TOML document and the environment, with the `config`
//! crate, and remembers which source set which key.
//!
//! This module does not use the crate's own file and environment sources: they keep neither lines
//! nor the names of variables, and their error texts quote the document, passwords included.

use std::{collections::BTreeMap, path::Path};

use config::{Config, Map, Value, ValueKind};
use toml::de::{DeTable, DeValue};

use super::problem::{ConfigError, KeyPath, Problem, Source};

/// The prefix of our environment variables. The double underscore excludes variables such as
/// Kubernetes' `LAPWING_SERVICE_HOST`.
pub(super) const PREFIX: &str = "LAPWING__";
const SEPARATOR: &str = "__";

/// The [`Value::origin`] of a value from an environment variable. Such a value is text, whatever
/// its key's type.
const ENVIRONMENT: &str = "environment";

/// Whether the value is the text of an environment variable.
pub(super) fn is_from_environment(value: &Value) -> bool {
    value.origin() == Some(ENVIRONMENT)
}

/// The source of each key.
#[derive(Clone, Debug, Default)]
pub(super) struct Origins(BTreeMap<KeyPath, Source>);

impl Origins {
    /// The source of the first of these paths that a source set. If no source set any of them, the
    /// source of the table around the first path: a missing key belongs to the table that lacks it.
    pub(super) fn find<'a>(&self, paths: impl IntoIterator<Item = &'a KeyPath>) -> Source {
        let paths: Vec<&KeyPath> = paths.into_iter().collect();
        if let Some(source) = paths.iter().find_map(|path| self.0.get(path)) {
            return source.clone();
        }
        let mut outer = paths.first().and_then(|path| path.parent());
        while let Some(path) = outer {
            if let Some(source) = self.0.get(&path) {
                return source.clone();
            }
            outer = path.parent();
        }
        Source::Default
    }

    /// Records that a later source replaced the whole value, with all keys inside.
    fn replace(&mut self, path: &KeyPath, source: Source) {
        self.0.retain(|known, _| !known.is_within(path));
        self.0.insert(path.clone(), source);
    }
}

/// The merged values, with their sources and the problems of the sources.
#[derive(Debug)]
pub(super) struct Layers {
    pub(super) tree: Value,
    pub(super) origins: Origins,
    pub(super) problems: Vec<Problem>,
    /// Keys whose value cannot be used and is not in the tree.
    pub(super) unread: Vec<KeyPath>,
}

impl Layers {
    pub(super) fn new() -> Self {
        Self {
            tree: Value::new(None, ValueKind::Table(Map::new())),
            origins: Origins::default(),
            problems: Vec::new(),
            unread: Vec::new(),
        }
    }

    /// Merges a TOML document over the present values. Ignores a document with syntax errors
    /// altogether.
    ///
    /// # Errors
    /// Lists every syntax error, each with its line, without quoting the document.
    pub(super) fn add_toml(&mut self, text: &str, file: Option<&Path>) -> Result<(), ConfigError> {
        let document = Source::document(file);
        let (table, errors) = DeTable::parse_recoverable(text);
        ConfigError::check(
            errors
                .iter()
                .map(|error| Problem {
                    path: String::new(),
                    source: match error.span() {
                        Some(span) => document.at(line_of(text, span.start)),
                        None => document.clone(),
                    },
                    message: match (error.message(), error.span()) {
                        ("duplicate key", Some(span)) => duplicate(text.get(span)),
                        (message, _) => message.to_owned(),
                    },
                })
                .collect(),
        )?;
        let mut layer = Layer::new(text, document);
        let values = layer.table(&KeyPath::default(), table.get_ref());
        self.origins.0.extend(layer.origins);
        self.problems.extend(layer.problems);
        self.unread.extend(layer.unread);
        self.merge(values)
    }

    /// Merges the environment's `LAPWING__SECTION__KEY` over the present values. Ignores other
    /// variables.
    ///
    /// # Errors
    /// Fails never in practice; the `config` crate's signature demands a result.
    pub(super) fn add_environment(
        &mut self,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(), ConfigError> {
        // Sort the variables, so that a whole table comes before its single keys.
        let variables: BTreeMap<String, String> = environment.into_iter().collect();
        let mut values = Map::new();
        for (variable, text) in variables {
            let Some(name) = variable.strip_prefix(PREFIX) else {
                continue;
            };
            let name = name.to_lowercase();
            let keys: Vec<&str> = name.split(SEPARATOR).collect();
            let path = keys
                .iter()
                .fold(KeyPath::default(), |path, key| path.key(key));
            let source = Source::Environment { variable };
            if insert(&mut values, &keys, text) {
                self.remember_variable(&path, source);
            } else {
                self.problems.push(Problem {
                    path: path.to_string(),
                    source,
                    message:
                        "set twice: another variable sets this key, or a table that contains it"
                            .to_owned(),
                });
            }
        }
        self.merge(values)
    }

    fn remember_variable(&mut self, path: &KeyPath, source: Source) {
        let mut outer = path.parent();
        while let Some(table) = outer.filter(|table| !table.steps().is_empty()) {
            outer = table.parent();
            self.origins
                .0
                .entry(table)
                .or_insert_with(|| source.clone());
        }
        self.origins.replace(path, source);
    }

    fn merge(&mut self, values: Map<String, Value>) -> Result<(), ConfigError> {
        let unmerged = |error: config::ConfigError| Problem {
            path: String::new(),
            source: Source::Code,
            message: error.to_string(),
        };
        let merged = Config::builder()
            .add_source(Tree(self.tree.clone()))
            .add_source(Tree(Value::new(None, ValueKind::Table(values))))
            .build()
            .map_err(unmerged)?;
        // `Config::get` would lose which values came from the environment.
        let mut merged = merged.cache.into_table().map_err(unmerged)?;
        self.tree = merged.remove(ROOT).unwrap_or_default();
        Ok(())
    }
}

/// The single top-level key of the merged values. The `config` crate takes a top-level key for a
/// path and would split a key that has a dot.
const ROOT: &str = "settings";

/// A tree of values as a source for the `config` crate.
#[derive(Clone, Debug)]
struct Tree(Value);

impl config::Source for Tree {
    fn clone_into_box(&self) -> Box<dyn config::Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, config::ConfigError> {
        Ok(Map::from([(ROOT.to_owned(), self.0.clone())]))
    }
}

/// Inserts a variable's text into the tree. False if another variable has set the key or a table
/// around it.
fn insert(table: &mut Map<String, Value>, keys: &[&str], text: String) -> bool {
    match keys {
        [] => false,
        [key] if table.contains_key(*key) => false,
        [key] => {
            let value = Value::new(Some(&ENVIRONMENT.to_owned()), text);
            table.insert((*key).to_owned(), value);
            true
        }
        [key, rest @ ..] => {
            let inner = table
                .entry((*key).to_owned())
                .or_insert_with(|| Value::new(None, ValueKind::Table(Map::new())));
            match &mut inner.kind {
                ValueKind::Table(inner) => insert(inner, rest, text),
                _ => false,
            }
        }
    }
}

/// One TOML document while it is converted into the tree.
struct Layer<'t> {
    text: &'t str,
    document: Source,
    origins: BTreeMap<KeyPath, Source>,
    problems: Vec<Problem>,
    unread: Vec<KeyPath>,
}

impl<'t> Layer<'t> {
    fn new(text: &'t str, document: Source) -> Self {
        Self {
            text,
            document,
            origins: BTreeMap::new(),
            problems: Vec::new(),
            unread: Vec::new(),
        }
    }

    fn table(&mut self, path: &KeyPath, table: &DeTable<'_>) -> Map<String, Value> {
        table
            .iter()
            .map(|(key, value)| {
                let path = path.key(key.get_ref());
                let value = self.value(&path, key.span().start, value.get_ref());
                (key.get_ref().to_string(), value)
            })
            .collect()
    }

    /// Converts the value at `path`. Its key begins at `offset`; in a list, the value itself does.
    fn value(&mut self, path: &KeyPath, offset: usize, value: &DeValue<'_>) -> Value {
        let source = self.document.at(line_of(self.text, offset));
        let kind = match value {
            DeValue::Table(table) => ValueKind::Table(self.table(path, table)),
            DeValue::Array(items) => ValueKind::Array(
                items
                    .iter()
                    .enumerate()
                    .map(|(index, item)| {
                        self.value(&path.index(index), item.span().start, item.get_ref())
                    })
                    .collect(),
            ),
            scalar => scalar_kind(scalar).unwrap_or_else(|| {
                self.unread.push(path.clone());
                self.problems.push(Problem {
                    path: path.to_string(),
                    source: source.clone(),
                    message: "dates and numbers beyond 64 bits are not allowed here".to_owned(),
                });
                ValueKind::Nil
            }),
        };
        self.origins.insert(path.clone(), source);
        Value::new(None, kind)
    }
}

fn scalar_kind(value: &DeValue<'_>) -> Option<ValueKind> {
    match value {
        DeValue::String(text) => Some(ValueKind::String(text.to_string())),
        DeValue::Boolean(flag) => Some(ValueKind::Boolean(*flag)),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .ok()
            .map(ValueKind::I64),
        DeValue::Float(number) => number.as_str().parse().ok().map(ValueKind::Float),
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    }
}

/// Parses a variable's text as a TOML value. The environment writes lists and tables this way.
pub(super) fn value_from_text(text: &str) -> Option<Value> {
    let parsed = DeValue::parse(text.trim()).ok()?;
    let mut layer = Layer::new(text, Source::Code);
    let value = layer.value(&KeyPath::default(), 0, parsed.get_ref());
    layer.problems.is_empty().then_some(value)
}

/// The message about a key that is set twice. Only a plain key is shown: what is quoted can be a header's
/// name, and a mistake can make a key of a secret.
fn duplicate(key: Option<&str>) -> String {
    let is_plain = |key: &&str| {
        let mut letters = key.bytes();
        letters.all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    match key.filter(is_plain) {
        Some(key) => format!("`{key}` is set twice"),
        None => "duplicate key".to_owned(),
    }
}

/// The line, counted from 1, of the byte at `offset`.
fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
    before.split(|byte| *byte == b'\n').count()
}
