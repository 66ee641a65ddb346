//! What copies say about their message: the headers of parked retries and of dead letters.

use std::time::{Duration, SystemTime};

use crate::{
    broker::{
        CopyHeaders, Header, HeaderValue,
        headers::names::{
            ATTEMPTS, CRASHES, ERROR, ERROR_KIND, FAILED_AT, FINGERPRINT, FIRST_SEEN, HISTORY,
            LAST_ATTEMPT, NOT_BEFORE, PARKED_AT, REASON, REPLAYS, SOURCE_EXCHANGE, SOURCE_QUEUE,
            SOURCE_ROUTING_KEY, TRACEPARENT, WORKER,
        },
    },
    clock,
    flight::Flight,
    message::PastAttempt,
    outcome::Failure,
    policy::Reason,
    text::{cut, fingerprint, rfc3339, rfc3339_micros},
};

/// Attempts that a record names; older ones are only counted.
const HISTORY_LENGTH: usize = 10;
/// Bytes of an error's text in a dead letter. The whole text is in the log.
const ERROR_ROOM: usize = 8 * 1024;
/// Bytes of an error's text in a history entry.
const HISTORY_ROOM: usize = 512;

/// The failure's class, cut: a handler can write anything there, and what is one of few words needs
/// no more. A copy that had to carry more than a frame holds would end the publishing connection.
pub(crate) fn class(failure: &Failure) -> &str {
    cut(&failure.class, 255)
}

/// Headers that say something about one stay on a delay queue only.
const TRANSIENT: &[&str] = &[NOT_BEFORE, PARKED_AT, LAST_ATTEMPT];

/// Charges the attempt that has just failed: it is counted and goes into the history.
pub(crate) fn charge(flight: &Flight, failure: &Failure, worker: &str) {
    let entry = PastAttempt {
        at: rfc3339(clock::now()),
        attempt: flight.attempt(),
        kind: class(failure).to_owned(),
        error: cut(&failure.error, HISTORY_ROOM).to_owned(),
        worker: worker.to_owned(),
        trace: flight.trace_id(),
    };
    flight.story(|story| {
        story.attempts = flight.attempt();
        let spare = (story.history.len() + 1).saturating_sub(HISTORY_LENGTH);
        story.history.drain(..spare);
        story.history.push(entry);
    });
}

/// The headers of a copy that comes back after `stay`, and not before `not_before`.
pub(crate) fn parked(
    flight: &Flight,
    stay: Duration,
    not_before: Option<SystemTime>,
) -> CopyHeaders {
    let mut set = told(flight);
    set.extend(not_before.map(|time| (NOT_BEFORE, Header::Text(rfc3339(time)))));
    // To the microsecond: a span begins here, and must not before the attempt has ended.
    set.push((PARKED_AT, Header::Text(rfc3339_micros(clock::now()))));
    let attempt = flight.attempt_traceparent();
    set.extend(attempt.map(|span| (LAST_ATTEMPT, Header::Text(span))));
    // The broker counts in whole milliseconds, and early is worse than late.
    let millis = stay.as_nanos().div_ceil(1_000_000);
    CopyHeaders {
        expiration: Some(u64::try_from(millis).unwrap_or(u64::MAX)),
        set,
        remove: TRANSIENT,
    }
}

/// The headers of a dead letter.
pub(crate) fn dead_lettered(
    flight: &Flight,
    failure: &Failure,
    reason: Reason,
    worker: &str,
) -> CopyHeaders {
    let message = &flight.message;
    let int = |name| {
        message
            .properties
            .header(name)
            .and_then(HeaderValue::as_i64)
    };
    let mut set = told(flight);
    set.extend([
        (REASON, Header::Text(reason.as_str().to_owned())),
        (
            ERROR,
            Header::Text(cut(&failure.error, ERROR_ROOM).to_owned()),
        ),
        (ERROR_KIND, Header::Text(class(failure).to_owned())),
        (
            FINGERPRINT,
            Header::Text(fingerprint(&failure.class, &failure.error)),
        ),
        (FAILED_AT, Header::Text(rfc3339(clock::now()))),
        (SOURCE_QUEUE, Header::Text(message.queue().to_owned())),
        (WORKER, Header::Text(worker.to_owned())),
        (CRASHES, Header::Int(int(CRASHES).unwrap_or(0).max(0))),
        (REPLAYS, Header::Int(int(REPLAYS).unwrap_or(0).max(0))),
    ]);
    // Whoever looks at a dead letter looks for what happened last.
    let attempt = flight.attempt_traceparent();
    set.extend(attempt.map(|span| (TRACEPARENT, Header::Text(span))));
    CopyHeaders {
        expiration: None,
        set,
        remove: TRANSIENT,
    }
}

/// What every copy says.
fn told(flight: &Flight) -> Vec<(&'static str, Header)> {
    let message = &flight.message;
    let mut set = vec![
        (FIRST_SEEN, Header::Text(rfc3339(flight.first_seen()))),
        (SOURCE_EXCHANGE, Header::Text(message.exchange().to_owned())),
        (
            SOURCE_ROUTING_KEY,
            Header::Text(message.routing_key().to_owned()),
        ),
    ];
    flight.story(|story| {
        set.push((ATTEMPTS, Header::Int(story.attempts.into())));
        if !story.history.is_empty() {
            let history = serde_json::to_string(&story.history);
            set.extend(history.ok().map(|json| (HISTORY, Header::Text(json))));
        }
    });
    set
}
