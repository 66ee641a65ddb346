//! The search among the last outcomes.

use std::{
    collections::HashSet,
    io,
    sync::Arc,
    time::{Duration, SystemTime},
};

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
};
use serde::{Deserialize, Deserializer, de::Error as _};
use serde_json::Value;
use tokio::{
    task::spawn_blocking,
    time::{Instant, timeout_at},
};
use utoipa::IntoParams;

use super::{
    api::App,
    archive::Archive,
    reads::{Answer, figures, hundred, within},
    refusals::{BadRequest, NoConsumer},
    views::OutcomePage,
};
use crate::{OutcomeKind, OutcomeRecord, clock, text::rfc3339};

/// Selects outcomes.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct OutcomesQuery {
    /// Only outcomes of this consumer.
    pub(super) consumer: Option<String>,
    /// Only outcomes of this kind.
    pub(super) kind: Option<OutcomeKind>,
    /// Only failures, of whatever kind.
    #[serde(default)]
    #[param(default = false)]
    pub(super) failures: bool,
    /// Only outcomes of the message with this `message-id`.
    pub(super) id: Option<String>,
    /// Only outcomes of messages with this `type`.
    #[serde(rename = "type")]
    pub(super) message_type: Option<String>,
    /// Only failures of this class, such as `timeout`.
    pub(super) class: Option<String>,
    /// Only failures with this cause.
    pub(super) cause: Option<String>,
    /// Only outcomes since this time: `2026-11-27T09:00:00Z`, or `10m` for the last ten minutes.
    #[serde(default, deserialize_with = "time")]
    #[param(value_type = Option<String>, example = "10m")]
    pub(super) since: Option<SystemTime>,
    /// Only outcomes until this time, or until so long ago.
    #[serde(default, deserialize_with = "time")]
    #[param(value_type = Option<String>, example = "2026-11-27T09:00:00Z")]
    pub(super) until: Option<SystemTime>,
    /// Whether to read `admin.failures_file` too.
    #[serde(default = "yes")]
    #[param(default = true)]
    pub(super) file: bool,
    /// The most entries to return, 1 to 1000.
    #[serde(default = "hundred")]
    #[param(default = 100, minimum = 1, maximum = 1000)]
    pub(super) limit: usize,
}

/// Also for the message's query.
pub(super) fn yes() -> bool {
    true
}

/// Reads a time, or a duration before now.
fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SystemTime>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if let Ok(time) = humantime::parse_rfc3339_weak(&text) {
        return Ok(Some(time));
    }
    let ago = humantime::parse_duration(&text).map_err(|_| {
        D::Error::custom("expected a duration like 10m, or a time like 2026-11-27T09:00:00Z")
    })?;
    let time = clock::now().checked_sub(ago);
    time.map(Some)
        .ok_or_else(|| D::Error::custom("the duration is too long"))
}

/// What a search looks at in an outcome, whether the worker holds it or it is a line of a file.
struct Facts<'a> {
    at: SystemTime,
    consumer: &'a str,
    kind: OutcomeKind,
    id: Option<&'a str>,
    message_type: Option<&'a str>,
    class: Option<&'a str>,
    cause: Option<&'a str>,
}

impl<'a> Facts<'a> {
    fn of(record: &'a OutcomeRecord) -> Self {
        Self {
            at: record.at,
            consumer: &record.consumer,
            kind: record.kind,
            id: record.id.as_deref(),
            message_type: record.message_type.as_deref(),
            class: record.class.as_deref(),
            cause: record.cause.as_deref(),
        }
    }

    /// The facts of a line; `None` if the line is not about an outcome.
    fn read(line: &'a Value) -> Option<Self> {
        Some(Self {
            at: humantime::parse_rfc3339(line["at"].as_str()?).ok()?,
            consumer: line["consumer"].as_str()?,
            kind: OutcomeKind::deserialize(&line["kind"]).ok()?,
            id: line["id"].as_str(),
            message_type: line["type"].as_str(),
            class: line["class"].as_str(),
            cause: line["cause"].as_str(),
        })
    }
}

impl OutcomesQuery {
    fn fits(&self, facts: &Facts<'_>) -> bool {
        let is = |wanted: &Option<String>, found: Option<&str>| {
            wanted.is_none() || wanted.as_deref() == found
        };
        // The API prints times in milliseconds, so it must not count what is below.
        let millis = Duration::from_millis(1);
        is(&self.consumer, Some(facts.consumer))
            && is(&self.id, facts.id)
            && is(&self.message_type, facts.message_type)
            && is(&self.class, facts.class)
            && is(&self.cause, facts.cause)
            && self.kind.is_none_or(|kind| kind == facts.kind)
            && (!self.failures || facts.kind.is_failure())
            && self.since.is_none_or(|since| facts.at + millis > since)
            && self.until.is_none_or(|until| facts.at <= until)
    }
}

/// The last outcomes, newest first
///
/// The worker keeps the last 500 failures of each consumer, and its last 100 other outcomes. It
/// records every failure, and at most five other outcomes a second. With `admin.failures_file` it also
/// finds the failures in that file, also those of before a restart.
#[utoipa::path(get, path = "/api/v1/outcomes", tag = "messages", params(OutcomesQuery),
    responses((status = 200, description = "The outcomes", body = OutcomePage), BadRequest, NoConsumer),
)]
pub(super) async fn outcomes(
    State(app): State<Arc<App>>,
    query: Result<Query<OutcomesQuery>, QueryRejection>,
) -> Answer<OutcomePage> {
    let Query(query) = query?;
    within("limit", query.limit, 1..=1000)?;
    if let Some(consumer) = &query.consumer {
        figures(&app, consumer)?;
    }
    Ok(Json(search(&app, query).await))
}

/// Finds outcomes, in the memory of the worker and in the file with failures.
pub(super) async fn search(app: &App, query: OutcomesQuery) -> OutcomePage {
    let store = app.worker.outcome_store();
    let consumer = query.consumer.as_deref();
    // Before the file: a failure may be written there meanwhile, and is then found in both.
    let held = store.after(0, consumer, query.kind, usize::MAX);
    let since = store.complete_since(consumer).unwrap_or(app.started_at);
    let held = Held {
        records: held,
        since: rfc3339(since),
    };
    let Some(archive) = app.archive.clone().filter(|_| query.file) else {
        return held.page(&query, Vec::new());
    };
    let limit = app.settings.worker.timeouts.call;
    let until = Instant::now() + limit;
    // The read itself has the guard: a client that goes away does not let a second one begin beside it.
    let reading = timeout_at(until, Arc::clone(&app.reading).lock_owned()).await;
    let read = async {
        let guard = reading.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?;
        let (held, query) = (held.clone(), query.clone());
        let read = spawn_blocking(move || {
            let page = held.with_file(&archive, &query, until);
            drop(guard);
            page
        });
        let read = timeout_at(until, read).await;
        read.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??
    };
    match read.await {
        Ok(page) => page,
        Err(error) => OutcomePage {
            file_error: Some(format!("admin.failures_file cannot be read: {error}")),
            ..held.page(&query, Vec::new())
        },
    }
}

/// What the memory has.
#[derive(Clone)]
struct Held {
    records: Vec<Arc<OutcomeRecord>>,
    /// It has all failures since this time.
    since: String,
}

impl Held {
    /// The page of a search: what the memory has, and what a file has in addition.
    fn page(&self, query: &OutcomesQuery, of_file: Vec<Value>) -> OutcomePage {
        let records = self.records.iter();
        let found = records.filter(|record| query.fits(&Facts::of(record)));
        let mut found: Vec<Value> = found.map(as_json).chain(of_file).collect();
        // Times of one format are in the order of their texts. The sort is stable.
        found.sort_by(|a, b| b["at"].as_str().cmp(&a["at"].as_str()));
        let has_more = found.len() > query.limit;
        found.truncate(query.limit);
        OutcomePage {
            outcomes: found,
            has_more,
            failures_since: self.since.clone(),
            file_error: None,
        }
    }

    /// Reads the file too, until this time. Blocks.
    fn with_file(
        self,
        archive: &Archive,
        query: &OutcomesQuery,
        until: Instant,
    ) -> io::Result<OutcomePage> {
        let numbers: HashSet<u64> = self.records.iter().map(|record| record.seq).collect();
        let is_held = |line: &Value| {
            let number = line["seq"].as_u64();
            archive.is_of_this_run(line) && number.is_some_and(|seq| numbers.contains(&seq))
        };
        let mut of_file = Vec::new();
        archive.newest_first(|mut line| {
            if Instant::now() >= until {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let fits = Facts::read(&line).is_some_and(|facts| query.fits(&facts));
            if fits && !is_held(&line) {
                if let Some(line) = line.as_object_mut() {
                    line.remove("run");
                }
                of_file.push(line);
            }
            Ok(of_file.len() <= query.limit)
        })?;
        let page = self.page(query, of_file);
        Ok(OutcomePage {
            failures_since: archive.complete_since(self.since),
            ..page
        })
    }
}

/// Serialising a record cannot fail: its keys are strings, and no part returns an error.
fn as_json(record: &Arc<OutcomeRecord>) -> Value {
    serde_json::to_value(&**record).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SettlementKind;

    fn query(text: &str) -> Result<OutcomesQuery, serde_json::Error> {
        let pairs = url::form_urlencoded::parse(text.as_bytes());
        let table = pairs.map(|(key, value)| (key.into_owned(), Value::from(value.into_owned())));
        serde_json::from_value(Value::Object(table.collect()))
    }

    fn record() -> OutcomeRecord {
        let mut record = OutcomeRecord::sample(OutcomeKind::TimedOut, SettlementKind::Retry);
        record.at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_764_234_000_500);
        record.id = Some("order-1".to_owned());
        record.message_type = Some("order.paid".to_owned());
        record.class = Some("timeout".to_owned());
        record.cause = Some("00c0ffee".to_owned());
        record
    }

    #[test]
    fn an_outcome_and_its_line_in_the_file_fit_the_same_searches() {
        let record = record();
        let line = serde_json::to_value(&record).unwrap();
        let cases = [
            ("", true),
            (
                "consumer=orders&kind=timed-out&id=order-1&type=order.paid",
                true,
            ),
            ("class=timeout&cause=00c0ffee", true),
            ("consumer=other", false),
            ("kind=failed", false),
            ("id=order-2", false),
            ("type=order", false),
            ("class=http", false),
            ("cause=00", false),
            ("since=2025-11-27T09:00:00.500Z", true),
            ("since=2025-11-27T09:00:00.501Z", false),
            ("until=2025-11-27T09:00:00.500Z", true),
            ("until=2025-11-27T09:00:00Z", false),
            ("since=1h", false),
            ("until=1h", true),
        ];
        for (text, wanted) in cases {
            let query = query(text).unwrap();
            assert_eq!(query.fits(&Facts::of(&record)), wanted, "{text}");
            let facts = Facts::read(&line).unwrap();
            assert_eq!(query.fits(&facts), wanted, "line: {text}");
        }
        assert!(Facts::read(&serde_json::json!({ "at": "now" })).is_none());
    }

    #[test]
    fn all_kinds_of_failures_are_failures_and_nothing_else() {
        let wanted = OutcomesQuery {
            failures: true,
            ..OutcomesQuery::default()
        };
        for kind in OutcomeKind::ALL {
            let record = OutcomeRecord::sample(*kind, SettlementKind::Retry);
            let is_fine = [
                "succeeded",
                "dropped",
                "duplicate",
                "snoozed",
                "interrupted",
            ]
            .contains(&kind.name());
            assert_eq!(
                wanted.fits(&Facts::of(&record)),
                !is_fine,
                "{}",
                kind.name()
            );
        }
    }

    #[test]
    fn what_a_search_does_not_know_is_refused() {
        for text in [
            "since=yesterday",
            "until=",
            "kind=lost",
            "tpye=order",
            "since=1e9years",
        ] {
            assert!(query(text).is_err(), "{text}");
        }
    }
}
