//! What went wrong at a database.

use std::{error::Error as _, fmt, io};

use tokio_postgres::{Error, error::DbError};

use super::Target;
use crate::text::causes;

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
        let mut text = format!("{code}: {}", sent.message());
        if let Some(detail) = sent.detail() {
            text.push_str(": ");
            text.push_str(detail);
        }
        Self {
            code: Some(code),
            text,
            place: sent.where_().map(str::to_owned),
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Trouble {}
