//! What an error of PostgreSQL means for the message: its SQLSTATE decides.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    outcome::{Failure, Outcome},
    postgres::Trouble,
};

/// What an SQLSTATE means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum SqlMeaning {
    /// A later attempt may succeed.
    Retry,
    /// Every attempt would fail. The worker dead-letters the message.
    Permanent,
    /// The database cannot work now, or takes no such statement of anybody. The attempt is not charged.
    Unavailable,
    /// The message is not wanted. The worker acks it, and counts it apart.
    Dropped,
}

/// The usual meanings: whole states first, then classes. What is not here is retried.
const USUAL: &[(&str, SqlMeaning)] = &[
    // The session was too slow, or was ended alone.
    ("25P03", SqlMeaning::Retry),
    ("57014", SqlMeaning::Retry),
    // A read-only server: a standby, or a disk that is full.
    ("25006", SqlMeaning::Unavailable),
    // A result of another type: the session is replaced.
    ("0A000", SqlMeaning::Retry),
    // Connection, authorization, no such database, no resources, shutdown, failure of the system.
    ("08", SqlMeaning::Unavailable),
    ("28", SqlMeaning::Unavailable),
    ("3D", SqlMeaning::Unavailable),
    ("53", SqlMeaning::Unavailable),
    ("57", SqlMeaning::Unavailable),
    ("58", SqlMeaning::Unavailable),
    // The statement fits the database no longer: a missing table, or a missing right.
    ("42", SqlMeaning::Unavailable),
    // Serialization, deadlock.
    ("40", SqlMeaning::Retry),
    // Data, constraints, `RAISE` in a function.
    ("21", SqlMeaning::Permanent),
    ("22", SqlMeaning::Permanent),
    ("23", SqlMeaning::Permanent),
    ("44", SqlMeaning::Permanent),
    ("P0", SqlMeaning::Permanent),
];

/// The beginning of the class of a failure that PostgreSQL reports. Its state follows.
const CLASS: &str = "sql-";
/// The class of a failure without a connection.
pub(super) const CONNECTION: &str = "sql-connection";
/// The class of a value that cannot be a parameter.
pub(super) const PARAMETER: &str = "sql-parameter";

/// What SQLSTATEs mean: the usual meanings, and those of the settings.
#[derive(Clone, Debug, Default)]
pub(super) struct States(BTreeMap<String, SqlMeaning>);

impl States {
    pub(super) fn new(settings: &BTreeMap<String, SqlMeaning>) -> Self {
        Self(settings.clone())
    }

    /// What a state means. Its own meaning counts before that of its class.
    pub(super) fn meaning(&self, code: &str) -> SqlMeaning {
        let class = code.get(..2).unwrap_or(code);
        let usual = |wanted: &str| USUAL.iter().find(|(known, _)| *known == wanted);
        let usual = |wanted: &str| usual(wanted).map(|(_, meaning)| *meaning);
        let set = |wanted: &str| self.0.get(wanted).copied();
        set(code)
            .or_else(|| set(class))
            .or_else(|| usual(code))
            .or_else(|| usual(class))
            .unwrap_or(SqlMeaning::Retry)
    }

    /// The outcome of a message that met this trouble.
    pub(super) fn outcome(&self, trouble: &Trouble) -> Outcome {
        match &trouble.code {
            None => Outcome::Failed(Failure::unavailable(CONNECTION, trouble.text.clone())),
            Some(code) => self.of(code, trouble.text.clone()),
        }
    }

    fn of(&self, code: &str, text: String) -> Outcome {
        let class = format!("{CLASS}{code}");
        Outcome::Failed(match self.meaning(code) {
            SqlMeaning::Retry => Failure::retryable(class, text),
            SqlMeaning::Permanent => Failure::permanent(class, text),
            SqlMeaning::Unavailable => Failure::unavailable(class, text),
            SqlMeaning::Dropped => return Outcome::dropped(text),
        })
    }

    /// The outcome of a failure with this class; `None` if no failure has it.
    pub(super) fn judge(&self, class: &str) -> Option<Outcome> {
        match class {
            CONNECTION => Some(Outcome::Failed(Failure::unavailable(CONNECTION, ""))),
            PARAMETER => Some(Outcome::Failed(Failure::permanent(PARAMETER, ""))),
            _ => {
                let code = class.strip_prefix(CLASS).filter(|code| is_state(code))?;
                Some(self.of(code, String::new()))
            }
        }
    }
}

/// Whether the text is an SQLSTATE: five digits and capital letters.
fn is_state(text: &str) -> bool {
    text.len() == 5 && is_letters(text)
}

/// Whether the text is an SQLSTATE, or a class of them: the first two letters.
pub(super) fn is_state_or_class(text: &str) -> bool {
    is_state(text) || text.len() == 2 && is_letters(text)
}

fn is_letters(text: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_digit() || byte.is_ascii_uppercase();
    text.bytes().all(is_letter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_decides_and_the_settings_before_it() {
        let usual = States::default();
        for (code, meaning) in [
            ("40001", SqlMeaning::Retry),
            ("40P01", SqlMeaning::Retry),
            ("57014", SqlMeaning::Retry),
            ("57P01", SqlMeaning::Unavailable),
            ("53300", SqlMeaning::Unavailable),
            ("53100", SqlMeaning::Unavailable),
            ("25006", SqlMeaning::Unavailable),
            ("28P01", SqlMeaning::Unavailable),
            ("42P01", SqlMeaning::Unavailable),
            ("23505", SqlMeaning::Permanent),
            ("22003", SqlMeaning::Permanent),
            ("P0001", SqlMeaning::Permanent),
            ("XX000", SqlMeaning::Retry),
        ] {
            assert_eq!(usual.meaning(code), meaning, "{code}");
        }
        let settings = [
            ("23505", SqlMeaning::Dropped),
            ("40", SqlMeaning::Permanent),
        ];
        let settings = settings.map(|(code, meaning)| (code.to_owned(), meaning));
        let set = States::new(&BTreeMap::from(settings));
        assert_eq!(set.meaning("23505"), SqlMeaning::Dropped);
        assert_eq!(set.meaning("23503"), SqlMeaning::Permanent);
        assert_eq!(set.meaning("40001"), SqlMeaning::Permanent);
    }

    #[test]
    fn a_failure_is_judged_by_its_class() {
        let states = States::default();
        let judged = states.judge("sql-40001");
        assert_eq!(
            judged,
            Some(Outcome::Failed(Failure::retryable("sql-40001", "")))
        );
        assert_eq!(states.judge("http"), None);
        assert_eq!(states.judge("sql-other"), None);
    }
}
