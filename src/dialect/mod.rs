//! Dialects: how other systems write into a message what AMQP has no property for.
//!
//! [`table`] has one table for each system. To add a system, add a table there.

mod reply;
mod table;
#[cfg(test)]
mod tests;
mod time;

use std::{sync::LazyLock, time::SystemTime};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, value::RawValue};

use crate::{
    broker::{HeaderValue, Properties, headers::names},
    pointer::{self, Pointer},
};
pub(crate) use reply::Answer;
use table::{At, Deaths, Table, When};

/// The system that writes the messages of a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// The task protocol 2 of Celery.
    Celery,
    /// Messages of Dramatiq.
    Dramatiq,
    /// The transport RMQ of NestJS.
    NestJs,
    /// Messages of Spring AMQP.
    Spring,
    /// Messages of NServiceBus.
    NServiceBus,
    /// The JSON envelope of MassTransit.
    MassTransit,
}

/// What a message says in its dialect, beside its properties.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Facts {
    /// The message must not run before this time.
    pub(crate) eta: Option<SystemTime>,
    /// The message must not run after this time.
    pub(crate) expires_at: Option<SystemTime>,
    /// Attempts that the other system has made.
    pub(crate) attempts: u32,
    /// The failure of the last of them.
    pub(crate) failure: Option<Failed>,
    /// The system itself would go on with other work after this message.
    pub(crate) has_sequel: bool,
}

/// A failure that the other system has written into a message.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Failed {
    pub(crate) class: String,
    pub(crate) error: String,
}

impl Dialect {
    /// The word for this dialect in settings.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Celery => "celery",
            Self::Dramatiq => "dramatiq",
            Self::NestJs => "nestjs",
            Self::Spring => "spring",
            Self::NServiceBus => "nservicebus",
            Self::MassTransit => "masstransit",
        }
    }

    /// The dialect that has this header, if one has.
    pub(crate) fn of_header(name: &str) -> Option<Self> {
        table::ALL
            .iter()
            .find(|(_, table)| table.kind.contains(&At::Header(name)))
            .map(|(dialect, _)| *dialect)
    }

    /// The kind, as routes name it, of a message in which this text is the kind.
    pub(crate) fn kind(self, written: &str) -> String {
        (table::of(self).short_kind)(written.to_owned())
    }

    /// Whether the caller of this message, which has a `reply-to`, wants its result.
    pub(crate) fn wants_reply(self, properties: &Properties) -> bool {
        let ignores = |name: &&str| properties.header(name).map(HeaderValue::to_json);
        let mut ignores = table::of(self).ignores_result.iter().filter_map(ignores);
        !ignores.any(|ignores| ignores == true)
    }

    /// Reads a message that came from this queue, and fills in the properties that it lacks.
    /// `with_sequel`: looks for a sequel too.
    pub(crate) fn read(
        self,
        properties: &mut Properties,
        body: &[u8],
        queue: &str,
        with_sequel: bool,
    ) -> Facts {
        let table = table::of(self);
        let seen = Seen::new(&PLACES[self as usize], properties, body, with_sequel);
        let kind = seen.first_text(table.kind).map(table.short_kind);
        let id = seen.first_text(table.id);
        let content_type = table.content_type.map(str::to_owned);
        let content_type = content_type.or_else(|| seen.first_text(table.content_type_at));
        // A dead letter that somebody put back begins anew.
        let is_replay = properties.header(names::REPLAYS).is_some();
        let facts = Facts {
            eta: seen.first_time(table.eta),
            expires_at: seen.first_time(table.expires).filter(|_| !is_replay),
            attempts: match is_replay {
                true => 0,
                false => seen
                    .count(table.attempts)
                    .max(deaths(table, properties, queue)),
            },
            failure: seen.failure(self, table).filter(|_| !is_replay),
            has_sequel: table.sequel.iter().any(|at| seen.has_content(*at)),
        };
        properties.fill(kind.as_deref(), id.as_deref(), content_type.as_deref());
        facts
    }
}

/// How often the message was rejected from this queue, where the system retries so.
fn deaths(table: &Table, properties: &Properties, queue: &str) -> u32 {
    let deaths = match table.deaths {
        Deaths::AreNoAttempts => None,
        Deaths::AreAttempts => properties.header("x-death").map(HeaderValue::to_json),
    };
    let deaths = deaths.as_ref().and_then(Value::as_array);
    let of_queue = deaths.into_iter().flatten().filter(|death| {
        death["queue"].as_str() == Some(queue) && death["reason"].as_str() == Some("rejected")
    });
    of_queue.fold(0, |sum, death| {
        sum.saturating_add(whole(&death["count"]).unwrap_or_default())
    })
}

/// The places of the body that the table of each dialect names.
static PLACES: LazyLock<[Places; 6]> = LazyLock::new(|| table::ALL.map(|(_, it)| Places::of(it)));

#[derive(Debug)]
struct Places {
    names: Vec<&'static str>,
    pointers: Vec<Pointer>,
    /// How many of them are no sequels. Those are the last.
    facts: usize,
}

impl Places {
    fn of(table: &Table) -> Self {
        let read = |name: &'static str| Some((name, name.parse().ok()?));
        let facts = table.places().filter_map(read).count();
        let all = table.places().chain(table.sequels()).filter_map(read);
        let (names, pointers) = all.unzip();
        Self {
            names,
            pointers,
            facts,
        }
    }
}

/// A message, with the values of its body that the table names.
struct Seen<'a> {
    properties: &'a Properties,
    /// The values at the places of the body.
    body: Vec<(&'static str, Option<&'a RawValue>)>,
}

impl<'a> Seen<'a> {
    fn new(places: &Places, properties: &'a Properties, body: &'a [u8], with_sequel: bool) -> Self {
        let most = match with_sequel {
            true => places.names.len(),
            false => places.facts,
        };
        let found = match most {
            0 => Vec::new(),
            most => pointer::find_all(body, &places.pointers[..most]),
        };
        Self {
            properties,
            body: places.names.iter().copied().zip(found).collect(),
        }
    }

    /// What stands at a place of the body.
    fn written(&self, place: &str) -> Option<&'a str> {
        let found = self.body.iter().find(|(known, _)| *known == place);
        found.and_then(|(_, value)| value.map(RawValue::get))
    }

    /// The value at a place, if there is one and it is not null.
    fn value(&self, at: At) -> Option<Value> {
        let value = match at {
            At::Header(name) => self.properties.header(name)?.to_json(),
            At::Body(place) => serde_json::from_str(self.written(place)?).ok()?,
        };
        (!value.is_null()).then_some(value)
    }

    /// The value at the first of these places that has one, as text. A table or list is written as
    /// JSON.
    fn first_text(&self, places: &[At]) -> Option<String> {
        let texts = places.iter().filter_map(|at| self.text(*at));
        texts.into_iter().next()
    }

    fn text(&self, at: At) -> Option<String> {
        pointer::text(self.value(at)?)
    }

    fn count(&self, places: &[At]) -> u32 {
        let counts = places.iter().filter_map(|at| self.value(*at));
        let counts = counts.filter_map(|value| whole(&value));
        counts.max().unwrap_or_default()
    }

    fn first_time(&self, whens: &[When]) -> Option<SystemTime> {
        whens.iter().find_map(|when| match *when {
            When::Iso(at) => time::iso(&self.text(at)?),
            When::Millis(at) => time::millis(self.value(at)?.as_f64()?),
            When::MillisAfter { start, length } => {
                let [start, length] = [start, length].map(|at| self.value(at)?.as_f64());
                time::millis(start? + length?)
            }
        })
    }

    fn failure(&self, dialect: Dialect, table: &Table) -> Option<Failed> {
        let error = self.first_text(table.error)?;
        // The last line of a traceback names the error.
        let error = match table.is_traceback {
            true => error.trim_end().lines().last().unwrap_or_default().trim(),
            false => &error,
        };
        let class = self.first_text(table.error_class);
        Some(Failed {
            class: class.unwrap_or_else(|| dialect.name().to_owned()),
            error: error.to_owned(),
        })
    }

    /// Whether there is something at a place: not null, and no empty list.
    fn has_content(&self, at: At) -> bool {
        let written = match at {
            At::Body(place) => self.written(place),
            At::Header(_) => return self.value(at).is_some(),
        };
        let inside = |list: &'a str| list.strip_prefix('[')?.strip_suffix(']');
        let is_empty = |list: &'a str| inside(list).is_some_and(|items| items.trim().is_empty());
        written.is_some_and(|value| value != "null" && !is_empty(value))
    }
}

/// A whole number of 0 or more, also written as text.
fn whole(value: &Value) -> Option<u32> {
    let number = match value {
        Value::String(text) => text.parse().ok(),
        value => value.as_u64(),
    };
    number.map(|number| u32::try_from(number).unwrap_or(u32::MAX - 1))
}
