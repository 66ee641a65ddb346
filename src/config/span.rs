//! Durations with a unit.

use std::{borrow::Cow, time::Duration};

use humantime::format_duration;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serializer, de::IntoDeserializer, ser::SerializeSeq};

pub(crate) const SECOND: u64 = 1000;
pub(crate) const MINUTE: u64 = 60 * SECOND;
pub(crate) const HOUR: u64 = 60 * MINUTE;
pub(crate) const DAY: u64 = 24 * HOUR;

/// The units that `humantime` accepts.
const PATTERN: &str = "^([0-9]+ *(nanos|nsec|ns|usec|us|millis|msec|ms|seconds|second|secs|sec|s|\
                       minutes|minute|mins|min|m|hours|hour|hrs|hr|h|days|day|d|weeks|week|w|\
                       months|month|M|years|year|y) *)+$";

/// A duration from `LOW` to `HIGH` milliseconds, for `#[serde(with = "Span::<LOW, HIGH>")]`.
/// Settings write it as text with a unit, such as `"30s"`.
pub(crate) struct Span<const LOW: u64, const HIGH: u64>;

impl<const LOW: u64, const HIGH: u64> Span<LOW, HIGH> {
    pub(crate) fn serialize<S: Serializer>(
        duration: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        humantime_serde::serialize(duration, serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        humantime_serde::deserialize(deserializer)
    }
}

/// The word for no duration at all.
const OFF: &str = "off";

/// As [`Span`], or `off`, for `#[serde(with = "SpanOrOff::<LOW, HIGH>")]`.
pub(crate) struct SpanOrOff<const LOW: u64, const HIGH: u64>;

impl<const LOW: u64, const HIGH: u64> SpanOrOff<LOW, HIGH> {
    pub(crate) fn serialize<S: Serializer>(
        duration: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => humantime_serde::serialize(duration, serializer),
            None => serializer.serialize_str(OFF),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == OFF {
            return Ok(None);
        }
        let duration = humantime_serde::deserialize(text.as_str().into_deserializer());
        duration.map(Some)
    }
}

impl<const LOW: u64, const HIGH: u64> JsonSchema for SpanOrOff<LOW, HIGH> {
    fn schema_name() -> Cow<'static, str> {
        "DurationOrOff".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = Span::<LOW, HIGH>::json_schema(generator);
        schema.insert("pattern".to_owned(), format!("^{OFF}$|{PATTERN}").into());
        schema
    }
}

/// The keyword that holds the bounds of a duration in the schema.
pub(super) const BOUNDS: &str = "x-bounds";

impl<const LOW: u64, const HIGH: u64> JsonSchema for Span<LOW, HIGH> {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let bounds = [LOW, HIGH].map(|bound| match bound {
            // Do not write months and years: they are not whole days.
            days if days > DAY && days.is_multiple_of(DAY) => format!("{}days", days / DAY),
            other => format_duration(Duration::from_millis(other)).to_string(),
        });
        json_schema!({ "type": "string", "pattern": PATTERN, BOUNDS: bounds })
    }
}

/// A list of durations from `LOW` to `HIGH` milliseconds, for `#[serde(with = "Spans::<LOW, HIGH>")]`.
pub(crate) struct Spans<const LOW: u64, const HIGH: u64>;

impl<const LOW: u64, const HIGH: u64> Spans<LOW, HIGH> {
    pub(crate) fn serialize<S: Serializer>(
        durations: &[Duration],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(durations.len()))?;
        for duration in durations {
            list.serialize_element(&humantime_serde::Serde::from(*duration))?;
        }
        list.end()
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<Duration>, D::Error> {
        let list = Vec::<humantime_serde::Serde<Duration>>::deserialize(deserializer)?;
        Ok(list.into_iter().map(|one| one.into_inner()).collect())
    }
}

impl<const LOW: u64, const HIGH: u64> JsonSchema for Spans<LOW, HIGH> {
    fn schema_name() -> Cow<'static, str> {
        "Durations".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let item = Span::<LOW, HIGH>::json_schema(generator);
        json_schema!({ "type": "array", "items": item })
    }
}
