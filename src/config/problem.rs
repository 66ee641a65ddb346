//! Problems of settings: the key, the source, and the valid values.

use std::{
    fmt,
    path::{Path, PathBuf},
};

/// Settings that cannot be used, with every problem that was found.
///
/// `Display` writes one line for each problem. No text holds a value that may be secret: the texts
/// describe values by their kind, and never quote URLs.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", lines(problems))]
pub struct ConfigError {
    /// The problems, ordered by key path and source. There is at least one.
    pub problems: Vec<Problem>,
}

impl ConfigError {
    /// `Ok` if there is no problem.
    pub(crate) fn check(mut problems: Vec<Problem>) -> Result<(), Self> {
        if problems.is_empty() {
            return Ok(());
        }
        problems.sort();
        problems.dedup();
        Err(Self { problems })
    }
}

impl From<Problem> for ConfigError {
    fn from(problem: Problem) -> Self {
        Self {
            problems: vec![problem],
        }
    }
}

fn lines(problems: &[Problem]) -> String {
    let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
    lines.join("\n")
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The key's path, such as `consumers.orders.retry.rules[0].status`. Empty if the whole source
    /// is wrong (a file that cannot be read).
    pub path: String,
    /// The source of the value.
    pub source: Source,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            path,
            source,
            message,
        } = self;
        match (path.is_empty(), source) {
            (false, Source::Code) => write!(f, "{path}: {message}"),
            (false, _) => write!(f, "{path}: {message} ({source})"),
            (true, _) => write!(f, "{source}: {message}"),
        }
    }
}

/// The source of a value.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// Settings made or changed in code.
    Code,
    /// No source sets the key, and its default does not fit the other values.
    Default,
    /// A file.
    File {
        /// The path of the file, as the user gave it.
        path: PathBuf,
        /// The line, counted from 1; `None` for the file as a whole.
        line: Option<usize>,
    },
    /// A text, such as one given to [`Settings::from_toml`](crate::Settings::from_toml).
    Text {
        /// The line, counted from 1.
        line: Option<usize>,
    },
    /// An environment variable.
    Environment {
        /// Its name.
        variable: String,
    },
}

impl Source {
    /// The source for a whole document, without a line.
    pub(super) fn document(file: Option<&Path>) -> Self {
        match file {
            Some(path) => Self::File {
                path: path.to_owned(),
                line: None,
            },
            None => Self::Text { line: None },
        }
    }

    /// The same document at this line.
    pub(super) fn at(&self, number: usize) -> Self {
        let mut source = self.clone();
        if let Self::File { line, .. } | Self::Text { line } = &mut source {
            *line = Some(number);
        }
        source
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let line = match self {
            Self::Code => return f.write_str("settings in code"),
            Self::Default => return f.write_str("default"),
            Self::Environment { variable } => {
                return write!(f, "environment variable {}", variable.escape_debug());
            }
            Self::File { path, line } => {
                write!(f, "{}", path.display())?;
                line
            }
            Self::Text { line } => {
                f.write_str("text")?;
                line
            }
        };
        line.map_or(Ok(()), |line| write!(f, ", line {line}"))
    }
}

/// The path from the root of the settings to a key. Displays as `a.b[0]."c d"`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct KeyPath(Vec<Step>);

/// One step of a [`KeyPath`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    Key(String),
    Index(usize),
}

impl KeyPath {
    /// A path written with dots between plain keys, for keys known in code.
    pub(crate) fn of(dotted: &str) -> Self {
        Self(
            dotted
                .split('.')
                .map(|key| Step::Key(key.to_owned()))
                .collect(),
        )
    }

    /// This path, then `key`.
    pub(crate) fn key(&self, key: &str) -> Self {
        self.clone().then(Step::Key(key.to_owned()))
    }

    /// This path, then the element at `index`.
    pub(crate) fn index(&self, index: usize) -> Self {
        self.clone().then(Step::Index(index))
    }

    /// This path, then `step`.
    pub(super) fn then(mut self, step: Step) -> Self {
        self.0.push(step);
        self
    }

    /// This path below one more outer step.
    pub(super) fn within(mut self, step: Step) -> Self {
        self.0.insert(0, step);
        self
    }

    /// The path without its last step; `None` for the root.
    pub(super) fn parent(&self) -> Option<Self> {
        let (_, parent) = self.0.split_last()?;
        Some(Self(parent.to_vec()))
    }

    pub(super) fn steps(&self) -> &[Step] {
        &self.0
    }

    /// Whether the paths are equal or one lies inside the other.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        self.0.starts_with(&other.0) || other.0.starts_with(&self.0)
    }

    /// Whether this path is `outer` or lies inside it.
    pub(super) fn is_within(&self, outer: &Self) -> bool {
        self.0.starts_with(&outer.0)
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (place, step) in self.0.iter().enumerate() {
            match step {
                Step::Index(index) => write!(f, "[{index}]")?,
                Step::Key(key) => {
                    if place > 0 {
                        f.write_str(".")?;
                    }
                    if is_bare(key) {
                        f.write_str(key)?;
                    } else {
                        write!(f, "\"{}\"", key.escape_debug())?;
                    }
                }
            }
        }
        Ok(())
    }
}

/// Whether TOML accepts the key without quotes.
fn is_bare(key: &str) -> bool {
    !key.is_empty()
        && key
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_as_toml_would_write_it() {
        let types = KeyPath::of("consumers.orders").key("types");
        let cases = [
            (KeyPath::default(), ""),
            (
                types.key("order-paid").key("url"),
                "consumers.orders.types.order-paid.url",
            ),
            (
                types.key("order.paid"),
                "consumers.orders.types.\"order.paid\"",
            ),
            (types.key("a\nb"), "consumers.orders.types.\"a\\nb\""),
            (types.key(""), "consumers.orders.types.\"\""),
            (KeyPath::of("a").index(2).key("b"), "a[2].b"),
        ];
        for (path, shown) in cases {
            assert_eq!(path.to_string(), shown);
        }
    }

    #[test]
    fn an_error_shows_a_line_a_problem_sorted_by_path() {
        let problem = |path: &str, source| Problem {
            path: path.to_owned(),
            source,
            message: "is wrong".to_owned(),
        };
        let file = Source::document(Some(Path::new("a.toml")));
        let error = ConfigError::check(vec![
            problem(
                "b",
                Source::Environment {
                    variable: "LAPWING__B".to_owned(),
                },
            ),
            problem("a", file.at(3)),
            problem("c", Source::Code),
            problem("a", file.at(3)),
            problem("", file),
        ])
        .unwrap_err();
        assert_eq!(
            error.to_string(),
            "a.toml: is wrong\n\
             a: is wrong (a.toml, line 3)\n\
             b: is wrong (environment variable LAPWING__B)\n\
             c: is wrong"
        );
        assert_eq!(ConfigError::check(Vec::new()), Ok(()));
    }
}
