//! What went wrong at a database.

use std::{error::Error as _, fmt, io};

use tokio_postgres::{Error, error::DbError};

use super::Target;
use crate::text::{causes, cut};

/// The most bytes of an error, which may quote a whole value.
const LONGEST: usize = 4096;
/// The SQLSTATE of a table that is missing.
const UNDEFINED_TABLE: &str = "42P01";
/// The class of SQLSTATEs of data that cannot be a value.
const DATA: &str = "22";

/// An error of PostgreSQL, or of the connection to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// The SQLSTATE, if PostgreSQL sent the error. `None`: there is no connection.
    pub(crate) code: Option<String>,
    /// The error, for people.
    pub(crate) text: String,
    /// The place in the statement or in a parameter, as PostgreSQL says it.
    pub(crate) place: Option<String>,
}

impl Trouble {
    pub(crate) fn no_connection(target: &Target, text: &str) -> Self {
        Self {
            code: None,
            text: format!("{}: {text}", target.name()),
            place: None,
        }
    }

    /// Whether the table of the statement is missing.
    pub(crate) fn is_missing_table(&self) -> bool {
        self.code.as_deref() == Some(UNDEFINED_TABLE)
    }

    /// A session could not be opened.
    pub(super) fn refused(target: &Target, error: &Error) -> Self {
        let trouble = Self::from(error);
        let hint = match trouble.text.contains("certificate") {
            true => {
                " (`ca_file` names an authority to trust, and `sslmode=disable` in the URL turns TLS off)"
            }
            false => "",
        };
        Self {
            text: format!("{}: {}{hint}", target.name(), trouble.text),
            ..trouble
        }
    }
}

impl From<&Error> for Trouble {
    fn from(error: &Error) -> Self {
        if let Some(sent) = error.as_db_error() {
            return Self::from(sent);
        }
        let is_io = error
            .source()
            .is_some_and(<dyn std::error::Error>::is::<io::Error>);
        let text = match error.is_closed() || is_io {
            true => format!("the connection is lost: {}", causes(error)),
            false => causes(error),
        };
        Self {
            code: None,
            text,
            place: None,
        }
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::from(&error)
    }
}

impl From<&DbError> for Trouble {
    fn from(sent: &DbError) -> Self {
        let code = sent.code().code().to_owned();
        let text = text(&code, sent.message(), sent.detail());
        Self {
            code: Some(code),
            text,
            place: sent.where_().map(|place| cut(place, LONGEST).to_owned()),
        }
    }
}

/// The text of an error that PostgreSQL sent.
fn text(code: &str, message: &str, detail: Option<&str>) -> String {
    let mut text = format!("{code}: {}", cut(message, LONGEST));
    // The detail of another error can quote the row, which belongs into no log.
    if let Some(detail) = detail.filter(|_| code.starts_with(DATA)) {
        text.push_str(": ");
        text.push_str(cut(detail, LONGEST));
    }
    text
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Trouble {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_an_error_has_a_bound_and_quotes_no_row() {
        let long = "x".repeat(1_000_000);
        assert!(text("22P02", &long, Some(&long)).len() < 3 * LONGEST);
        assert_eq!(text("22003", "range", Some("at 7")), "22003: range: at 7");
        let detail = Some("Key (email)=(a@example.org) already exists.");
        assert_eq!(
            text("23505", "duplicate key", detail),
            "23505: duplicate key"
        );
    }
}
