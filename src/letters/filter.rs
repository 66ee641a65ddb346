//! Which letters a command means.

use std::{fmt, str::FromStr, time::SystemTime};

use serde_json::Value;

use super::Letter;
use crate::text::{cut, rfc3339};

/// The bytes of an error that a search for a text covers. A line of a look keeps no more, so a search in
/// the queue finds the letters that a search in a look has found.
pub(crate) const SEARCHED: usize = 200;

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
    /// Letters whose id, type, error (its first 200 bytes), group or source queue contains this text, in
    /// upper or lower case.
    pub text: Option<String>,
    /// Letters whose body has this [hash](Letter::body_hash).
    pub body_hash: Option<String>,
    /// Letters whose headers and bodies have all these values.
    pub matches: Vec<Match>,
}

/// What a filter asks about a letter, apart from its headers and its body.
pub(crate) struct Facts<'a> {
    pub(crate) id: &'a str,
    pub(crate) group: &'a str,
    pub(crate) reason: &'a str,
    pub(crate) message_type: Option<&'a str>,
    pub(crate) error: &'a str,
    pub(crate) source_queue: Option<&'a str>,
    pub(crate) failed_at: Option<SystemTime>,
}

impl Facts<'_> {
    fn contain(&self, text: &str) -> bool {
        let text = text.to_lowercase();
        let texts = [self.id, self.group, cut(self.error, SEARCHED)];
        let others = [self.message_type, self.source_queue].into_iter().flatten();
        let mut all = texts.into_iter().chain(others);
        all.any(|it| contains(it, &text))
    }
}

/// Whether the text contains this part, which is in lower case. A look has many letters, so this does not
/// copy a text of ASCII.
fn contains(text: &str, part: &str) -> bool {
    if !text.is_ascii() {
        return text.to_lowercase().contains(part);
    }
    let mut places = text.as_bytes().windows(part.len().max(1));
    part.is_empty() || places.any(|place| place.eq_ignore_ascii_case(part.as_bytes()))
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
        let has_body = |hash: &String| *hash == letter.body_hash();
        self.selects(&letter.summary.facts())
            && self.body_hash.as_ref().is_none_or(has_body)
            && self.matches.iter().all(|it| it.fits(letter))
    }

    /// Whether the letter with these facts is selected, as far as they say: nothing of its headers and its
    /// body. A letter of unknown time fits no time.
    pub(crate) fn selects(&self, facts: &Facts<'_>) -> bool {
        let is_one = |wanted: &[String], is: Option<&str>| {
            wanted.is_empty() || wanted.iter().any(|wanted| Some(wanted.as_str()) == is)
        };
        let in_group =
            |group: &String| !group.is_empty() && facts.group.starts_with(group.as_str());
        let since = |since| facts.failed_at.is_some_and(|at| at >= since);
        let before = |before| facts.failed_at.is_some_and(|at| at < before);
        is_one(&self.ids, Some(facts.id))
            && is_one(&self.reasons, Some(facts.reason))
            && is_one(&self.types, facts.message_type)
            && (self.groups.is_empty() || self.groups.iter().any(in_group))
            && self.since.is_none_or(since)
            && self.before.is_none_or(before)
            && self.text.as_ref().is_none_or(|text| facts.contain(text))
    }
}

/// The most values of a list that are told.
const TOLD: usize = 5;

/// Some values in words. Ids and types are quoted, because publishers choose them.
fn list(name: &str, values: &[String]) -> String {
    let is_chosen = matches!(name, "id" | "type");
    let told = values.iter().take(TOLD).map(|value| match is_chosen {
        true => format!("{value:?}"),
        false => value.clone(),
    });
    let told = told.collect::<Vec<_>>().join(" or ");
    match values.len().saturating_sub(TOLD) {
        0 => told,
        more => format!("{told} and {more} more"),
    }
}

/// The filter in words, for the log: `group 9f86d081, since 2026-11-27T09:00:00.000Z`.
impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lists = [
            ("id", &self.ids),
            ("group", &self.groups),
            ("reason", &self.reasons),
            ("type", &self.types),
        ];
        let lists = lists.into_iter().filter(|(_, values)| !values.is_empty());
        let lists = lists.map(|(name, values)| format!("{name} {}", list(name, values)));
        let times = [("since", self.since), ("before", self.before)].into_iter();
        let times = times.filter_map(|(name, at)| Some(format!("{name} {}", rfc3339(at?))));
        let texts = [("text", &self.text), ("body hash", &self.body_hash)].into_iter();
        let texts = texts.filter_map(|(name, text)| Some(format!("{name} {:?}", text.as_ref()?)));
        let matches = self.matches.iter().map(Match::to_string);
        let all: Vec<_> = lists.chain(times).chain(texts).chain(matches).collect();
        match all.as_slice() {
            [] => f.write_str("all letters"),
            parts => f.write_str(&parts.join(", ")),
        }
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

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Place::Header(place) | Place::Body(place)) = &self.place;
        write!(f, "{place}={}", self.value)
    }
}

impl Match {
    /// The place without the value: `NAME=…`.
    pub(crate) fn place(&self) -> String {
        match &self.place {
            Place::Header(place) | Place::Body(place) => format!("{place}=…"),
        }
    }

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

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;

    #[test]
    fn a_filter_is_told_in_words() {
        assert_eq!(Filter::default().to_string(), "all letters");
        let filter = Filter {
            ids: vec!["order-1".to_owned(), "order-2".to_owned()],
            reasons: vec!["max-attempts".to_owned()],
            since: Some(UNIX_EPOCH + Duration::from_secs(1_764_234_000)),
            text: Some("card was".to_owned()),
            matches: vec!["tenant=acme".parse().unwrap(), "/id=17".parse().unwrap()],
            ..Filter::default()
        };
        let words = "id \"order-1\" or \"order-2\", reason max-attempts, since 2025-11-27T09:00:00.000Z, \
                     text \"card was\", tenant=acme, /id=17";
        assert_eq!(filter.to_string(), words);
        let many = Filter {
            ids: (0..200).map(|id| format!("{id}, all")).collect(),
            ..Filter::default()
        };
        let words = r#"id "0, all" or "1, all" or "2, all" or "3, all" or "4, all" and 195 more"#;
        assert_eq!(many.to_string(), words);
    }
}
