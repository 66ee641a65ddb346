//! Errors about a value, in the words of the person who writes a configuration.

use std::fmt::Display;

use serde::de::{self, Expected, Unexpected};

use super::nearest::nearest;
use crate::config::problem::{KeyPath, Step};

/// The first error that a value's type reports.
#[derive(Debug)]
pub(in crate::config) struct ReadError {
    /// The path of the key that caused the error.
    pub(in crate::config) path: KeyPath,
    pub(in crate::config) message: String,
    /// Whether the key is unknown. The message is then completed later.
    pub(in crate::config) is_unknown: bool,
    /// A word that the type accepts, so that the values around it can be read.
    pub(in crate::config) instead: Option<&'static str>,
}

impl ReadError {
    pub(super) fn new(message: String) -> Self {
        Self {
            path: KeyPath::default(),
            message,
            is_unknown: false,
            instead: None,
        }
    }

    /// The value is none of these words.
    pub(super) fn no_word(words: &'static [&'static str], meant: Option<&'static str>) -> Self {
        let hint = meant.map(|word| format!("; did you mean \"{word}\"?"));
        let hint = hint.unwrap_or_default();
        Self {
            instead: meant.or(words.first().copied()),
            ..Self::new(format!("expected {}{hint}", one_of(words)))
        }
    }

    pub(super) fn within(self, step: Step) -> Self {
        Self {
            path: self.path.within(step),
            ..self
        }
    }
}

impl Display for ReadError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

impl std::error::Error for ReadError {}

impl de::Error for ReadError {
    fn custom<T: Display>(message: T) -> Self {
        Self::new(message.to_string())
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        let expected = in_plain_words(&expected.to_string());
        match kind_of(&found) {
            Some(found) => Self::new(format!("expected {expected}, found {found}")),
            None => Self::new(format!("expected {expected}")),
        }
    }

    /// The message does not show the value: serde's own text would quote it.
    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(format!(
            "expected {}",
            in_plain_words(&expected.to_string())
        ))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::no_word(expected, nearest(variant, expected))
    }

    /// [`explain`](crate::config::suggest::explain) completes the message.
    fn unknown_field(_: &str, _: &'static [&'static str]) -> Self {
        Self {
            is_unknown: true,
            ..Self::new("unknown key".to_owned())
        }
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new("is required".to_owned()).within(Step::Key(field.to_owned()))
    }
}

fn kind_of(found: &Unexpected<'_>) -> Option<&'static str> {
    Some(match found {
        Unexpected::Bool(_) => "true or false",
        Unexpected::Unsigned(_) | Unexpected::Signed(_) => "a whole number",
        Unexpected::Float(_) => "a number with a decimal point",
        Unexpected::Str(_) => "a string",
        Unexpected::Seq => "a list",
        Unexpected::Map => "a table",
        _ => return None,
    })
}

/// Translates serde's name of a type into the words of a person who writes a configuration.
pub(super) fn in_plain_words(expected: &str) -> String {
    let words = match expected {
        // No setting of an integer type may be 0.
        "u16" => "a whole number from 1 to 65535",
        "u32" => "a whole number from 1 to 4294967295",
        "u64" | "usize" => "a whole number, 1 or more",
        "f64" => "a number",
        "a boolean" => "true or false",
        "a duration" => "a duration with its unit, such as \"500ms\", \"30s\" or \"10m\"",
        "path string" => "a path",
        "a map" => "a table",
        "a sequence" => "a list",
        _ if expected.starts_with("struct ") => "a table",
        _ => expected,
    };
    words.to_owned()
}

fn one_of(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
    quoted.join(" or ")
}
