//! Loads settings: the built-in defaults, then one file, then the environment. Reports every
//! problem at once.

use std::path::Path;

use config::{Value, ValueKind};
use serde::de::DeserializeOwned;

use super::{
    findings::{self, Checked},
    layers::{Layers, Origins, is_from_environment, value_from_text},
    problem::{ConfigError, KeyPath, Problem, Source, Step},
    read::{ReadError, Reader, is_there},
    schema,
    suggest::{self, get},
};

/// The type of all settings: a table with a default for every optional key.
pub(crate) trait Root: Checked + DeserializeOwned + Default {}

impl<T: Checked + DeserializeOwned + Default> Root for T {}

/// Settings from the defaults, then `file`, then the environment, checked.
pub(crate) fn load<T: Root>(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<T, ConfigError> {
    Loaded::from(layers(file, environment)?).checked()
}

/// As [`load`], but checks the types only.
pub(crate) fn load_unvalidated<T: Root>(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<T, ConfigError> {
    let loaded = Loaded::from(layers(file, environment)?);
    ConfigError::check(loaded.problems).map(|()| loaded.settings)
}

/// Settings from the defaults, then this text, checked.
pub(crate) fn from_toml<T: Root>(text: &str) -> Result<T, ConfigError> {
    let mut layers = Layers::new();
    layers.add_toml(text, None)?;
    Loaded::from(layers).checked()
}

/// The variables of the process's environment that begin with `LAPWING__`, for
/// [`Settings::load`](crate::Settings::load).
///
/// # Errors
/// Names the variables whose values are not UTF-8. Replacing their bytes would corrupt a password.
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
            problems.extend(misspelt(name));
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

/// The problem of a variable that was meant for a setting: `LAPWING_BROKER__URL`. Kubernetes' variables
/// for a service named `lapwing` have single underscores only.
fn misspelt(variable: String) -> Option<Problem> {
    let rest = variable.strip_prefix("LAPWING_")?;
    if !rest.contains("__") {
        return None;
    }
    Some(Problem {
        path: String::new(),
        message: format!("is not read: did you mean {}{rest}?", super::layers::PREFIX),
        source: Source::Environment { variable },
    })
}

fn layers(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Layers, ConfigError> {
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
    Ok(layers)
}

/// The settings, as far as they could be read.
struct Loaded<T> {
    settings: T,
    /// The merged values, without those that cannot be used.
    tree: Value,
    origins: Origins,
    problems: Vec<Problem>,
    /// Keys whose value was not used. The results of other checks on these keys would mislead.
    unread: Vec<KeyPath>,
}

impl<T: Root> From<Layers> for Loaded<T> {
    /// serde stops at the first error. So this function reads, removes the key that caused the
    /// error, and reads again, until the rest is valid. Every removed key falls back to its
    /// default.
    fn from(layers: Layers) -> Self {
        let Layers {
            mut tree,
            origins,
            mut problems,
            mut unread,
        } = layers;
        let schema = schema::of::<T>();
        let settings = loop {
            let mut error = match T::deserialize(Reader(&tree)) {
                Ok(settings) => break settings,
                Err(error) => error,
            };
            unfold(&mut tree, error.path.steps());
            let follows = suggest::explain(&mut error, &tree, &schema, &mut unread);
            // A required key that was removed or misspelt is now missing. Its error is already
            // reported, but the table that needs the key cannot be read without it. So remove the
            // table.
            let is_missing = !get(&tree, &error.path).is_some_and(is_there);
            if is_missing && unread.contains(&error.path) {
                let outer = error.path.parent();
                if outer.is_some_and(|outer| take_out(&mut tree, outer.steps(), None)) {
                    continue;
                }
                break T::default();
            }
            if !follows {
                problems.push(problem(&error, &origins));
            }
            if !take_out(&mut tree, error.path.steps(), error.instead) {
                break T::default();
            }
            unread.push(error.path);
        };
        Self {
            settings,
            tree,
            origins,
            problems,
            unread,
        }
    }
}

impl<T: Root> Loaded<T> {
    fn checked(self) -> Result<T, ConfigError> {
        let mut problems = self.problems;
        for finding in findings::all(&self.settings) {
            let finding = finding.at(|path| in_document(&self.tree, path));
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

/// Replaces variables' texts on the way to the key by the tables and lists that they hold.
fn unfold(value: &mut Value, steps: &[Step]) {
    if let (false, true, ValueKind::String(text)) =
        (steps.is_empty(), is_from_environment(value), &value.kind)
        && let Some(parsed) = value_from_text(text)
    {
        *value = parsed;
    }
    if let Some(inner) = inner(value, steps.first()) {
        unfold(inner, &steps[1..]);
    }
}

fn inner<'v>(value: &'v mut Value, step: Option<&Step>) -> Option<&'v mut Value> {
    match (step?, &mut value.kind) {
        (Step::Key(key), ValueKind::Table(table)) => table.get_mut(key),
        (Step::Index(index), ValueKind::Array(items)) => items.get_mut(*index),
        _ => None,
    }
}

/// Removes the value at the path, or the innermost table or list on the way to it. False if that
/// was already removed. `instead` or [`ValueKind::Nil`] takes its place, so that the items of a
/// list keep their indices.
fn take_out(value: &mut Value, steps: &[Step], instead: Option<&str>) -> bool {
    if let Some(inner) = inner(value, steps.first()) {
        return take_out(inner, &steps[1..], instead);
    }
    let was_there = value.kind != ValueKind::Nil;
    value.kind = match instead {
        Some(word) if steps.is_empty() => ValueKind::String(word.to_owned()),
        _ => ValueKind::Nil,
    };
    was_there
}

/// Translates a path of the settings to a path of the document. They differ where an item was
/// removed from a list: the settings do not count that item.
fn in_document(tree: &Value, path: &KeyPath) -> KeyPath {
    let mut value = Some(tree);
    let place = |place: KeyPath, step: &Step| {
        let (step, inner) = match (step, value.map(|value| &value.kind)) {
            (Step::Key(key), Some(ValueKind::Table(table))) => (step.clone(), table.get(key)),
            (Step::Index(index), Some(ValueKind::Array(items))) => {
                let mut read = items.iter().enumerate().filter(|(_, item)| is_there(item));
                read.nth(*index)
                    .map_or((step.clone(), None), |(index, item)| {
                        (Step::Index(index), Some(item))
                    })
            }
            _ => (step.clone(), None),
        };
        value = inner;
        place.then(step)
    };
    path.steps().iter().fold(KeyPath::default(), place)
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    #[test]
    fn a_variable_that_was_meant_for_a_setting_is_refused() {
        let variable = |name: &str| (name.into(), "x".into());
        let theirs = ["LAPWING_SERVICE_HOST", "LAPWING_CONFIG", "OTHER__KEY"];
        assert_eq!(text_of(theirs.map(variable)), Ok(Vec::new()));
        let error = text_of([variable("LAPWING_BROKER__URL")]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "environment variable LAPWING_BROKER__URL: is not read: did you mean LAPWING__BROKER__URL?"
        );
    }

    #[test]
    fn a_variable_that_is_not_text_is_refused_and_not_shown() {
        let variable =
            |name: &str, value: &[u8]| (name.into(), std::ffi::OsString::from_vec(value.to_vec()));
        let ours = variable("LAPWING__BROKER__URL", b"s3cret\xff");
        let theirs = variable("THEIRS", b"\xff");
        assert_eq!(text_of([theirs.clone()]), Ok(Vec::new()));
        let error = text_of([ours, theirs]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "environment variable LAPWING__BROKER__URL: is not valid UTF-8"
        );
    }
}
