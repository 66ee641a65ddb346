//! The two sources of settings, a TOML document and the environment, laid over one another by the
//! `config` crate, and the memory of which source gave which key.
//!
//! The crate's own file and environment sources are not used: they keep neither lines nor the
//! names of variables, and their error texts quote the document, passwords included.

use std::{collections::BTreeMap, path::Path};

use config::{Config, Map, Value, ValueKind};
use toml::de::{DeTable, DeValue};

use super::problem::{ConfigError, KeyPath, Problem, Source};

/// What the names of our environment variables begin with. The double underscore keeps
/// Kubernetes' `LAPWING_SERVICE_HOST` and the like out.
pub(super) const PREFIX: &str = "LAPWING__";
const SEPARATOR: &str = "__";

/// The [`Value::origin`] of what came from an environment variable: text whatever its key's type.
const ENVIRONMENT: &str = "environment";

/// Whether the value is the text of an environment variable.
pub(super) fn is_from_environment(value: &Value) -> bool {
    value.origin() == Some(ENVIRONMENT)
}

/// Which source gave which key.
#[derive(Clone, Debug, Default)]
pub(super) struct Origins(BTreeMap<KeyPath, Source>);

impl Origins {
    /// The source of the first of these paths that a source names; failing that, the source of
    /// what the first lies in (a missing key belongs to the table that lacks it).
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

    /// Later sources replace whole values, with all that lay inside.
    fn replace(&mut self, path: &KeyPath, source: Source) {
        self.0.retain(|known, _| !known.is_within(path));
        self.0.insert(path.clone(), source);
    }
}

/// Everything that was set, by whichever source came last, and what was wrong with the sources.
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

    /// Lay a TOML document over what is there. A document with syntax errors is not used at all.
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
                    message: error.message().to_owned(),
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

    /// Lay the environment's `LAPWING__SECTION__KEY` over what is there; other variables are not
    /// looked at.
    ///
    /// # Errors
    /// None is expected; the `config` crate's signature has one.
    pub(super) fn add_environment(
        &mut self,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(), ConfigError> {
        // Sorted, so that a table given whole is met before its keys given one by one.
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
                    message: "set twice: another variable sets it, or all that it lies in"
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
        // Not by `Config::get`, which forgets what came from the environment.
        let mut merged = merged.cache.into_table().map_err(unmerged)?;
        self.tree = merged.remove(ROOT).unwrap_or_default();
        Ok(())
    }
}

/// The one top-level key of what is merged: the `config` crate takes top-level keys for paths and
/// would split one that holds a dot.
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

/// Put a variable's text into the tree; false where its place is taken.
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

/// One TOML document on its way into the tree.
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

    /// The value at `path`, whose key (or, in a list, whose own text) begins at `offset`.
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
                    message: "dates and numbers beyond 64 bits are of no use here".to_owned(),
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

/// A TOML value from a variable's text: how the environment writes lists and tables.
pub(super) fn value_from_text(text: &str) -> Option<Value> {
    let parsed = DeValue::parse(text.trim()).ok()?;
    let mut layer = Layer::new(text, Source::Code);
    let value = layer.value(&KeyPath::default(), 0, parsed.get_ref());
    layer.problems.is_empty().then_some(value)
}

/// The line, counted from 1, that holds the byte at `offset`.
fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().get(..offset).unwrap_or(text.as_bytes());
    before.split(|byte| *byte == b'\n').count()
}
