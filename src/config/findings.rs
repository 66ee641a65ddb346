//! Collects mistakes in the meaning of settings. Every check runs, so that all mistakes are listed
//! at once.

use std::{fs::File, io::Read, path::Path};

use schemars::JsonSchema;
use serde::Serialize;

use super::{
    problem::{ConfigError, KeyPath, Problem, Source},
    schema,
};

/// The longest name in AMQP 0-9-1, in bytes: the protocol sends its length in one byte.
pub(crate) const NAME_BYTES: usize = 255;

/// Settings that can be checked.
///
/// The ranges of single values are part of the schema: `#[schemars(range(min = 1, max = 9))]` for
/// a number, [`Span`](super::Span) for a duration.
pub(crate) trait Checked: Serialize + JsonSchema + 'static {
    /// Adds the mistakes that types and ranges do not show: wrong names and files, and values that
    /// contradict each other.
    fn check(&self, findings: &mut Findings);
}

/// Checks settings that were made or changed in code.
pub(crate) fn validate<T: Checked>(settings: &T) -> Result<(), ConfigError> {
    let findings = all(settings).into_iter();
    ConfigError::check(findings.map(|found| found.problem(Source::Code)).collect())
}

/// All mistakes in the settings.
pub(super) fn all<T: Checked>(settings: &T) -> Vec<Finding> {
    let mut findings = Findings::default();
    match toml::Value::try_from(settings) {
        Ok(tree) => schema::ranges(
            &mut findings,
            &KeyPath::default(),
            &schema::of::<T>(),
            &tree,
        ),
        Err(error) => findings.add(KeyPath::default(), error.to_string()),
    }
    settings.check(&mut findings);
    findings.0
}

/// One mistake in the meaning of settings.
#[derive(Debug)]
pub(super) struct Finding {
    path: KeyPath,
    /// The other keys that take part in a contradiction.
    others: Vec<KeyPath>,
    message: String,
}

impl Finding {
    /// All keys that take part. The first is the one to change.
    pub(super) fn paths(&self) -> impl Iterator<Item = &KeyPath> {
        std::iter::once(&self.path).chain(&self.others)
    }

    /// The same mistake, with its keys renamed by `place`.
    pub(super) fn at(self, place: impl Fn(&KeyPath) -> KeyPath) -> Self {
        Self {
            path: place(&self.path),
            others: self.others.iter().map(&place).collect(),
            message: self.message,
        }
    }

    /// Whether the key takes part in this mistake.
    pub(super) fn is_about(&self, key: &KeyPath) -> bool {
        self.paths().any(|path| path.overlaps(key))
    }

    pub(super) fn problem(&self, source: Source) -> Problem {
        Problem {
            path: self.path.to_string(),
            source,
            message: self.message.clone(),
        }
    }
}

/// Collects mistakes.
#[derive(Debug, Default)]
pub(crate) struct Findings(Vec<Finding>);

impl Findings {
    /// Reports that the value at `path` is wrong.
    pub(crate) fn add(&mut self, path: KeyPath, message: impl Into<String>) {
        self.contradiction(path, [], message);
    }

    /// Reports that the value at `path` contradicts the values at `others`.
    pub(crate) fn contradiction(
        &mut self,
        path: KeyPath,
        others: impl IntoIterator<Item = KeyPath>,
        message: impl Into<String>,
    ) {
        self.0.push(Finding {
            path,
            others: others.into_iter().collect(),
            message: message.into(),
        });
    }

    /// Checks a name that the worker sends to the broker.
    pub(crate) fn name(&mut self, path: KeyPath, name: &str) {
        if name.is_empty() {
            self.add(path, "must not be empty");
        } else if name.len() > NAME_BYTES {
            let length = name.len();
            self.add(
                path,
                format!("has {length} bytes, must have at most {NAME_BYTES}"),
            );
        } else if name.chars().any(char::is_control) {
            self.add(path, "must not hold control characters");
        }
    }

    /// The text of a file that the worker reads again at each connect. Reports a file that cannot
    /// be read or is empty, and returns `None`.
    pub(crate) fn text_file(&mut self, path: &KeyPath, file: &Path) -> Option<String> {
        let mut text = String::new();
        match File::open(file).and_then(|mut open| open.read_to_string(&mut text)) {
            Err(error) => {
                self.add(
                    path.clone(),
                    format!("cannot read {}: {error}", file.display()),
                );
                None
            }
            Ok(_) if text.trim().is_empty() => {
                self.add(path.clone(), format!("{} is empty", file.display()));
                None
            }
            Ok(_) => Some(text),
        }
    }
}
