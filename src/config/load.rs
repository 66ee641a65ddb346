//! Built-in defaults, then one file, then the environment, and every problem at once.

use std::path::Path;

use config::{Value, ValueKind};
use serde::Deserialize;

use super::{
    Settings,
    layers::{Layers, Origins},
    problem::{ConfigError, KeyPath, Problem, Source, Step},
    read::{ReadError, Reader},
    suggest,
};

impl Settings {
    /// Settings from the defaults, then `file`, then the environment's `LAPWING__SECTION__KEY`
    /// (section and key in upper case, `__` between them), checked.
    ///
    /// # Errors
    /// Lists every unknown key, wrong type, missing unit, contradiction and unreadable file.
    pub fn load(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        layers(file, environment)?.checked()
    }

    /// As [`Settings::load`], but only the types are checked, not what the values mean: for tools
    /// that show settings rather than run them.
    ///
    /// # Errors
    /// Lists every unknown key, wrong type and missing unit.
    pub fn load_unvalidated(
        file: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let loaded = layers(file, environment)?;
        ConfigError::check(loaded.problems).map(|()| loaded.settings)
    }

    /// Settings from the defaults, then this text, checked.
    ///
    /// # Errors
    /// As [`Settings::load`].
    pub fn from_toml(text: &str) -> Result<Self, ConfigError> {
        let mut layers = Layers::new();
        layers.add_toml(text, None)?;
        Loaded::from(layers).checked()
    }
}

/// The process's environment as [`Settings::load`] wants it: the variables that are ours.
///
/// # Errors
/// Names the variables whose values are not UTF-8: guessing at them would corrupt a password.
pub fn environment() -> Result<Vec<(String, String)>, ConfigError> {
    text_of(std::env::vars_os())
}

fn text_of(
    variables: impl IntoIterator<Item = (std::ffi::OsString, std::ffi::OsString)>,
) -> Result<Vec<(String, String)>, ConfigError> {
    let mut ours = Vec::new();
    let mut problems = Vec::new();
    for (name, value) in variables {
        let name = name.to_string_lossy().into_owned();
        if !name.starts_with(super::layers::PREFIX) {
            continue;
        }
        match value.into_string() {
            Ok(value) => ours.push((name, value)),
            Err(_) => problems.push(Problem {
                path: String::new(),
                source: Source::Environment { variable: name },
                message: "is not valid UTF-8".to_owned(),
            }),
        }
    }
    ConfigError::check(problems).map(|()| ours)
}

fn layers(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Loaded, ConfigError> {
    let mut layers = Layers::new();
    if let Some(file) = file {
        let text = std::fs::read_to_string(file).map_err(|error| Problem {
            path: String::new(),
            source: Source::document(Some(file)),
            message: format!("cannot be read: {error}"),
        })?;
        layers.add_toml(&text, Some(file))?;
    }
    layers.add_environment(environment)?;
    Ok(layers.into())
}

/// Settings as far as they could be read.
struct Loaded {
    settings: Settings,
    origins: Origins,
    problems: Vec<Problem>,
    /// Keys whose value was not used: what other checks say of them would mislead.
    unread: Vec<KeyPath>,
}

impl From<Layers> for Loaded {
    /// serde stops at the first error. So: read, take the key that is to blame out, and read
    /// again, until what is left is fine. Every key that is taken out falls back to its default.
    fn from(layers: Layers) -> Self {
        let Layers {
            mut tree,
            origins,
            mut problems,
            mut unread,
        } = layers;
        let settings = loop {
            let mut error = match Settings::deserialize(Reader(&tree)) {
                Ok(settings) => break settings,
                Err(error) => error,
            };
            unread.extend(suggest::explain(&mut error, &tree));
            problems.push(problem(&error, &origins));
            if !take_out(&mut tree, error.path.steps()) {
                break Settings::default();
            }
            unread.push(error.path.up_to_list());
        };
        Self {
            settings,
            origins,
            problems,
            unread,
        }
    }
}

impl Loaded {
    fn checked(self) -> Result<Settings, ConfigError> {
        let mut problems = self.problems;
        for finding in self.settings.findings() {
            if self.unread.iter().any(|key| finding.is_about(key)) {
                continue;
            }
            problems.push(finding.problem(self.origins.find(finding.paths())));
        }
        ConfigError::check(problems).map(|()| self.settings)
    }
}

fn problem(error: &ReadError, origins: &Origins) -> Problem {
    Problem {
        path: error.path.to_string(),
        source: origins.find([&error.path]),
        message: error.message.clone(),
    }
}

/// Take out the key, or the innermost table or list that should hold it; false where that is gone
/// already. [`ValueKind::Nil`] takes its place, so that the items of a list keep their indices.
fn take_out(value: &mut Value, steps: &[Step]) -> bool {
    let inner = match (steps.first(), &mut value.kind) {
        (Some(Step::Key(key)), ValueKind::Table(table)) => table.get_mut(key),
        (Some(Step::Index(index)), ValueKind::Array(items)) => items.get_mut(*index),
        _ => None,
    };
    if let Some(inner) = inner {
        return take_out(inner, &steps[1..]);
    }
    let was_there = value.kind != ValueKind::Nil;
    value.kind = ValueKind::Nil;
    was_there
}

#[cfg(test)]
pub(super) mod tests;
