//! Which letters a request means.

use std::time::SystemTime;

use serde::{Deserialize, Deserializer, de};
use utoipa::{IntoParams, ToSchema};

use super::desk::Desks;
use crate::{
    admin::error::ApiError,
    clock,
    letters::{Filter, Match},
};
use axum::http::StatusCode;

/// Selects letters: a letter must fit each part that is given.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = DeadLetterSelection)]
pub(super) struct Selection {
    /// Letters with one of these ids.
    #[serde(default)]
    ids: Vec<String>,
    /// Letters of one of these groups; the beginning of a group's name is enough.
    #[serde(default)]
    groups: Vec<String>,
    /// Letters with one of these reasons.
    #[serde(default)]
    reasons: Vec<String>,
    /// Letters with one of these types.
    #[serde(default)]
    types: Vec<String>,
    /// Letters that were dead-lettered in this time or since this time.
    #[serde(default, deserialize_with = "time")]
    #[schema(value_type = Option<String>, example = "10m")]
    since: Option<SystemTime>,
    /// Letters that were dead-lettered longer ago, or before this time.
    #[serde(default, deserialize_with = "time")]
    #[schema(value_type = Option<String>, example = "30d")]
    older_than: Option<SystemTime>,
    /// Letters whose id, type, error (its first 200 bytes), group or source queue contains this text, in
    /// upper or lower case.
    #[serde(default)]
    text: Option<String>,
    /// Letters with this hash of the body, as `show` gives it: several letters can have the same id.
    #[serde(default)]
    body_hash: Option<String>,
    /// Letters that have each of these values: `HEADER=VALUE`, or `/JSON/POINTER=VALUE` in the body.
    #[serde(default, rename = "match")]
    matches: Vec<String>,
    /// Letters that have the values too that this look selected by (its `look`). If it is not the last look:
    /// 410.
    #[serde(default)]
    look: Option<String>,
}

/// Selects letters of the last look.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Query {
    /// Only letters of this group; the beginning of its name is enough.
    group: Option<String>,
    /// Only letters with this reason.
    reason: Option<String>,
    /// Only letters with this type.
    #[serde(rename = "type")]
    message_type: Option<String>,
    /// Only letters that were dead-lettered in this time or since this time.
    #[serde(default, deserialize_with = "time")]
    #[param(value_type = Option<String>, example = "10m")]
    since: Option<SystemTime>,
    /// Only letters that were dead-lettered longer ago, or before this time.
    #[serde(default, deserialize_with = "time")]
    #[param(value_type = Option<String>, example = "30d")]
    older_than: Option<SystemTime>,
    /// Only letters whose id, type, error (its first 200 bytes), group or source queue contains this text,
    /// in upper or lower case.
    text: Option<String>,
    /// The most entries to return, 1 to 1000.
    #[serde(default = "fifty")]
    #[param(default = 50, minimum = 1, maximum = 1000)]
    pub(super) limit: usize,
    /// Newest letters of the queue first.
    #[serde(default)]
    #[param(default = false)]
    pub(super) newest: bool,
    /// The `next` of the page before.
    pub(super) cursor: Option<String>,
}

fn fifty() -> usize {
    50
}

/// A time, or a duration before now.
fn time<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SystemTime>, D::Error> {
    let Some(text) = Option::<String>::deserialize(from)? else {
        return Ok(None);
    };
    if let Ok(time) = humantime::parse_rfc3339_weak(&text) {
        return Ok(Some(time));
    }
    let ago = humantime::parse_duration(&text).map_err(|_| {
        de::Error::custom("expected a duration like 10m, or a time like 2026-11-27T09:00:00Z")
    })?;
    let time = clock::now().checked_sub(ago);
    time.map(Some)
        .ok_or_else(|| de::Error::custom("the duration is too long"))
}

impl Selection {
    /// The filter, if its texts can be read and none is empty: an empty text selects nothing by accident.
    pub(super) fn filter(self, desks: &Desks, consumer: &str) -> Result<Filter, ApiError> {
        let lists = [&self.ids, &self.groups, &self.reasons, &self.types];
        let has_empty = lists
            .into_iter()
            .flatten()
            .chain(&self.text)
            .chain(&self.body_hash)
            .any(String::is_empty);
        if has_empty {
            return Err(unusable("an empty text selects nothing"));
        }
        let mut matches = Vec::new();
        for text in &self.matches {
            let parsed: Result<Match, String> = text.parse();
            matches.push(parsed.map_err(|error| unusable(&format!("match: {error}")))?);
        }
        if let Some(look) = &self.look {
            matches.extend(desks.matches(consumer, look)?);
        }
        Ok(Filter {
            matches,
            ids: self.ids,
            groups: self.groups,
            reasons: self.reasons,
            types: self.types,
            since: self.since,
            before: self.older_than,
            text: self.text,
            body_hash: self.body_hash,
        })
    }
}

impl Query {
    /// The filter. An empty parameter is none, as browsers send empty fields.
    pub(super) fn filter(&self) -> Filter {
        let one = |text: &Option<String>| {
            let text = text.clone().filter(|text| !text.is_empty());
            text.into_iter().collect()
        };
        Filter {
            groups: one(&self.group),
            reasons: one(&self.reason),
            types: one(&self.message_type),
            since: self.since,
            before: self.older_than,
            text: self.text.clone().filter(|text| !text.is_empty()),
            ..Filter::default()
        }
    }
}

pub(super) fn unusable(text: &str) -> ApiError {
    ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, text)
}
