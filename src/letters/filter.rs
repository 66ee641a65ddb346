//! Which letters a command means.

use std::{str::FromStr, time::SystemTime};

use serde_json::Value;

use super::Letter;

/// Selects letters: a letter is selected if it fits each part that is set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Filter {
    /// Letters with one of these ids.
    pub ids: Vec<String>,
    /// Letters of one of these groups; the beginning of a group's name is enough. An empty text is no
    /// beginning.
    pub groups: Vec<String>,
    /// Letters with one of these reasons.
    pub reasons: Vec<String>,
    /// Letters with one of these types.
    pub types: Vec<String>,
    /// Letters that were dead-lettered at this time or later.
    pub since: Option<SystemTime>,
    /// Letters that were dead-lettered before this time.
    pub before: Option<SystemTime>,
    /// Letters whose headers and bodies have all these values.
    pub matches: Vec<Match>,
}

impl Filter {
    /// Whether each letter is selected.
    #[must_use]
    pub fn is_all(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the letter is selected. A letter of unknown time fits no time.
    #[must_use]
    pub fn fits(&self, letter: &Letter) -> bool {
        let summary = &letter.summary;
        let is_one = |wanted: &[String], is: Option<&str>| {
            wanted.is_empty() || wanted.iter().any(|wanted| Some(wanted.as_str()) == is)
        };
        let in_group =
            |group: &String| !group.is_empty() && summary.group.starts_with(group.as_str());
        let since = |since| summary.failed_at.is_some_and(|at| at >= since);
        let before = |before| summary.failed_at.is_some_and(|at| at < before);
        is_one(&self.ids, Some(&summary.id))
            && is_one(&self.reasons, Some(&summary.reason))
            && is_one(&self.types, summary.message_type.as_deref())
            && (self.groups.is_empty() || self.groups.iter().any(in_group))
            && self.since.is_none_or(since)
            && self.before.is_none_or(before)
            && self.matches.iter().all(|wanted| wanted.fits(letter))
    }
}

/// A value that a letter must have: `NAME=VALUE` for a header, `/POINTER=VALUE` for a place in a
/// JSON body (RFC 6901).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    place: Place,
    value: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Header(String),
    Body(String),
}

impl FromStr for Match {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (place, value) = text
            .split_once('=')
            .filter(|(place, _)| !place.is_empty())
            .ok_or("expected HEADER=VALUE or /JSON/POINTER=VALUE")?;
        let place = match place.starts_with('/') {
            true => Place::Body(place.to_owned()),
            false => Place::Header(place.to_owned()),
        };
        let value = value.to_owned();
        Ok(Self { place, value })
    }
}

impl Match {
    fn fits(&self, letter: &Letter) -> bool {
        match &self.place {
            Place::Header(name) => {
                let header = letter.properties.header(name);
                header.is_some_and(|header| header.to_text() == self.value.as_str())
            }
            Place::Body(pointer) => {
                let body = letter
                    .body
                    .strip_prefix(b"\xef\xbb\xbf")
                    .unwrap_or(&letter.body);
                let json: Option<Value> = serde_json::from_slice(body).ok();
                match json.as_ref().and_then(|json| json.pointer(pointer)) {
                    Some(Value::String(text)) => *text == self.value,
                    Some(other) => {
                        let text = other.to_string();
                        text == self.value
                    }
                    None => false,
                }
            }
        }
    }
}
