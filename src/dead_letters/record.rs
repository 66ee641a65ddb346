//! The headers that copies carry about their message: those of parked retries and of dead letters.

use std::time::{Duration, SystemTime};

use crate::{
    broker::{
        CopyHeaders, Header, HeaderValue, Properties,
        headers::names::{
            ATTEMPTS, CANARY, CRASHES, ERROR, ERROR_KIND, EXPIRES_AT, FAILED_AT, FINGERPRINT,
            FIRST_SEEN, HISTORY, LAST_ATTEMPT, NOT_BEFORE, PARKED_AT, REASON, REPLAYS,
            SOURCE_EXCHANGE, SOURCE_QUEUE, SOURCE_ROUTING_KEY, TRACEPARENT, WORKER,
        },
    },
    clock,
    flight::Flight,
    message::{Past, PastAttempt},
    outcome::Failure,
    policy::Reason,
    text::{cut, fingerprint, rfc3339, rfc3339_micros},
};

/// The number of attempts in a record's history. Older attempts are only counted.
const HISTORY_LENGTH: usize = 10;
/// The longest error text in a dead letter, in bytes. The log has the whole text.
const ERROR_ROOM: usize = 8 * 1024;
/// The longest error text in a history entry, in bytes.
const HISTORY_ROOM: usize = 512;

/// The failure's class, cut. A handler can give a class of any length, and a copy whose headers do
/// not fit a frame would end the publishing connection.
pub(crate) fn class(failure: &Failure) -> &str {
    cut(&failure.class, 255)
}

/// Headers of a parked copy that later copies must not keep, and the one of a canary.
const TRANSIENT: &[&str] = &[NOT_BEFORE, PARKED_AT, LAST_ATTEMPT, CANARY];
/// The same for a message that is parked before its first outcome, because its service gives no answer or
/// because the worker drains. A canary is still to be reported then.
const BEFORE_THE_FIRST: &[&str] = &[NOT_BEFORE, PARKED_AT, LAST_ATTEMPT];

/// Charges the attempt that has just failed: counts it and adds it to the history.
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

/// The headers of a copy that stays in a retry queue for `stay`. The message must not run before
/// `not_before`: the queue may give it back earlier.
pub(crate) fn parked(flight: &Flight, stay: Duration, not_before: SystemTime) -> CopyHeaders {
    let copy = Copy::Parked(Parked {
        not_before: Some(not_before),
        at: clock::now(),
        last_attempt: flight.attempt_traceparent(),
    });
    // The broker counts whole milliseconds. Round up: too late is better than too early.
    let millis = stay.as_nanos().div_ceil(1_000_000);
    CopyHeaders {
        expiration: Some(u64::try_from(millis).unwrap_or(u64::MAX)),
        set: Record::of(flight, copy).headers(),
        remove: match flight.has_outcome() {
            true => TRANSIENT,
            false => BEFORE_THE_FIRST,
        },
        comes_back: true,
        is_named: true,
        ..CopyHeaders::default()
    }
}

/// The headers of a copy that takes the place of a message at the tail of its queue. It has what the
/// message has, also the headers of a parked copy, and no attempt is charged.
pub(crate) fn given_back(flight: &Flight) -> CopyHeaders {
    CopyHeaders {
        set: Record::of(flight, Copy::GivenBack).headers(),
        comes_back: true,
        is_named: true,
        keeps_priority: true,
        ..CopyHeaders::default()
    }
}

/// The headers of a dead letter.
pub(crate) fn dead_lettered(
    flight: &Flight,
    failure: &Failure,
    reason: Reason,
    worker: &str,
) -> CopyHeaders {
    let properties = &flight.message.properties;
    let copy = Copy::Dead(Dead {
        reason,
        error: cut(&failure.error, ERROR_ROOM).to_owned(),
        class: class(failure).to_owned(),
        fingerprint: fingerprint(&failure.class, &failure.error),
        failed_at: clock::now(),
        source_queue: flight.message.queue().to_owned(),
        worker: worker.to_owned(),
        crashes: count(properties, CRASHES),
        replays: count(properties, REPLAYS),
        traceparent: flight.attempt_traceparent(),
    });
    CopyHeaders {
        set: Record::of(flight, copy).headers(),
        remove: TRANSIENT,
        ..CopyHeaders::default()
    }
}

/// A copy's headers about its message, as values.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Record {
    /// Attempts charged so far.
    pub(crate) attempts: u32,
    /// When a worker first received the message.
    pub(crate) first_seen: SystemTime,
    /// The last attempts, oldest first.
    pub(crate) history: Vec<PastAttempt>,
    /// The exchange that the publisher used.
    pub(crate) source_exchange: String,
    /// The routing key that the publisher used.
    pub(crate) source_routing_key: String,
    /// When the publisher's `expiration` is over, if the message has one.
    pub(crate) expires_at: Option<SystemTime>,
    /// The purpose of the copy, with the headers of that purpose.
    pub(crate) copy: Copy,
}

/// The purpose of a copy.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Copy {
    /// The copy waits in a retry queue.
    Parked(Parked),
    /// The copy is a dead letter.
    Dead(Dead),
    /// The copy takes the place of the message in its queue.
    GivenBack,
}

/// The additional headers of a parked copy.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Parked {
    /// When the message may run, also if its retry queue gives it back earlier. Older versions wrote
    /// it for the longest delays only.
    pub(crate) not_before: Option<SystemTime>,
    /// When it was parked.
    pub(crate) at: SystemTime,
    /// The span of the last attempt, if that attempt was traced.
    pub(crate) last_attempt: Option<String>,
}

/// The additional headers of a dead letter.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Dead {
    pub(crate) reason: Reason,
    /// The last failure: its text, its class, and its fingerprint.
    pub(crate) error: String,
    pub(crate) class: String,
    pub(crate) fingerprint: String,
    pub(crate) failed_at: SystemTime,
    /// The queue that the message was consumed from.
    pub(crate) source_queue: String,
    /// The worker that dead-lettered the message.
    pub(crate) worker: String,
    /// How often a worker died while this message ran.
    pub(crate) crashes: i64,
    /// How often the message was replayed from the dead-letter queue.
    pub(crate) replays: i64,
    /// The span of the last attempt. Without one: the span of the publisher.
    pub(crate) traceparent: Option<String>,
}

impl Record {
    fn of(flight: &Flight, copy: Copy) -> Self {
        let message = &flight.message;
        let (attempts, history) = flight.story(|past| (past.attempts, past.history.clone()));
        Self {
            attempts,
            first_seen: flight.first_seen(),
            history,
            source_exchange: message.exchange().to_owned(),
            source_routing_key: message.routing_key().to_owned(),
            expires_at: message.expires_at(),
            copy,
        }
    }

    /// Reads the record of a copy. `None` for a message that is not a copy of ours.
    pub(crate) fn read(properties: &Properties) -> Option<Self> {
        let text = |name| {
            let value = properties.header(name).and_then(HeaderValue::as_str);
            value.map(str::to_owned)
        };
        let time = |name| humantime::parse_rfc3339(&text(name)?).ok();
        let dead = |reason| {
            Some(Dead {
                reason,
                error: text(ERROR)?,
                class: text(ERROR_KIND)?,
                fingerprint: text(FINGERPRINT)?,
                failed_at: time(FAILED_AT)?,
                source_queue: text(SOURCE_QUEUE)?,
                worker: text(WORKER)?,
                crashes: count(properties, CRASHES),
                replays: count(properties, REPLAYS),
                traceparent: text(TRACEPARENT),
            })
        };
        let reason = text(REASON);
        let is_reason = |known: &&Reason| Some(known.name()) == reason.as_deref();
        let copy = match Reason::ALL.iter().find(is_reason) {
            Some(reason) => Copy::Dead(dead(*reason)?),
            None => Copy::Parked(Parked {
                not_before: time(NOT_BEFORE),
                at: time(PARKED_AT)?,
                last_attempt: text(LAST_ATTEMPT),
            }),
        };
        let past = Past::read(properties);
        Some(Self {
            attempts: past.attempts,
            first_seen: past.first_seen?,
            history: past.history,
            source_exchange: text(SOURCE_EXCHANGE)?,
            source_routing_key: text(SOURCE_ROUTING_KEY)?,
            expires_at: time(EXPIRES_AT),
            copy,
        })
    }

    /// The headers of this record.
    pub(crate) fn headers(&self) -> Vec<(&'static str, Header)> {
        let text = |text: &str| Header::Text(text.to_owned());
        let mut set = vec![
            (FIRST_SEEN, Header::Text(rfc3339(self.first_seen))),
            (SOURCE_EXCHANGE, text(&self.source_exchange)),
            (SOURCE_ROUTING_KEY, text(&self.source_routing_key)),
            (ATTEMPTS, Header::Int(self.attempts.into())),
        ];
        if !self.history.is_empty() {
            let history = serde_json::to_string(&self.history);
            set.extend(history.ok().map(|json| (HISTORY, Header::Text(json))));
        }
        let expires_at = self.expires_at.map(rfc3339);
        set.extend(expires_at.map(|time| (EXPIRES_AT, Header::Text(time))));
        match &self.copy {
            Copy::GivenBack => {}
            Copy::Parked(parked) => {
                // Written in microseconds: in whole milliseconds it would be too early, or too late
                // by a part of one, and each retry would be parked a second time.
                let not_before = parked.not_before.map(rfc3339_micros);
                set.extend(not_before.map(|time| (NOT_BEFORE, Header::Text(time))));
                // Written in microseconds: a span begins at this time, and must not begin before
                // the attempt's end.
                set.push((PARKED_AT, Header::Text(rfc3339_micros(parked.at))));
                let last = parked.last_attempt.as_deref();
                set.extend(last.map(|span| (LAST_ATTEMPT, text(span))));
            }
            Copy::Dead(dead) => {
                set.extend([
                    (REASON, text(dead.reason.name())),
                    (ERROR, text(&dead.error)),
                    (ERROR_KIND, text(&dead.class)),
                    (FINGERPRINT, text(&dead.fingerprint)),
                    (FAILED_AT, Header::Text(rfc3339(dead.failed_at))),
                    (SOURCE_QUEUE, text(&dead.source_queue)),
                    (WORKER, text(&dead.worker)),
                    (CRASHES, Header::Int(dead.crashes)),
                    (REPLAYS, Header::Int(dead.replays)),
                ]);
                // A person who looks at a dead letter looks for its last attempt.
                let span = dead.traceparent.as_deref();
                set.extend(span.map(|span| (TRACEPARENT, text(span))));
            }
        }
        set
    }
}

/// A count in a header. A publisher can write the header too, so a negative count is taken as 0.
fn count(properties: &Properties, name: &str) -> i64 {
    let value = properties.header(name).and_then(HeaderValue::as_i64);
    value.unwrap_or(0).max(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, option, prelude::*, sample::select};

    /// A moment in the past, to this many microseconds.
    fn moment(step: u64) -> impl Strategy<Value = SystemTime> {
        let micros = (0..1_700_000_000_000_000 / step).prop_map(move |n| n * step);
        micros.prop_map(|micros| SystemTime::UNIX_EPOCH + Duration::from_micros(micros))
    }

    fn attempts() -> impl Strategy<Value = Vec<PastAttempt>> {
        let one = (any::<[String; 4]>(), any::<u32>(), any::<Option<String>>());
        let one = one.prop_map(|([at, kind, error, worker], attempt, trace)| PastAttempt {
            at,
            attempt,
            kind,
            error,
            worker,
            trace,
        });
        vec(one, 0..=HISTORY_LENGTH)
    }

    fn parked() -> impl Strategy<Value = Copy> {
        let parts = (option::of(moment(1)), moment(1), any::<Option<String>>());
        parts.prop_map(|(not_before, at, last_attempt)| {
            Copy::Parked(Parked {
                not_before,
                at,
                last_attempt,
            })
        })
    }

    fn dead() -> impl Strategy<Value = Copy> {
        let counts = (0..i64::MAX, 0..i64::MAX);
        let texts = (any::<[String; 5]>(), any::<Option<String>>());
        let parts = (select(Reason::ALL), moment(1000), counts, texts);
        parts.prop_map(
            |(reason, failed_at, (crashes, replays), (texts, traceparent))| {
                let [error, class, fingerprint, source_queue, worker] = texts;
                Copy::Dead(Dead {
                    reason,
                    error,
                    class,
                    fingerprint,
                    failed_at,
                    source_queue,
                    worker,
                    crashes,
                    replays,
                    traceparent,
                })
            },
        )
    }

    proptest! {
        #[test]
        fn a_record_is_read_as_it_was_written(
            attempts in 0..u32::MAX - 1, first_seen in moment(1000), history in attempts(),
            source in any::<[String; 2]>(), expires_at in option::of(moment(1000)),
            copy in prop_oneof![parked(), dead()],
        ) {
            let [source_exchange, source_routing_key] = source;
            let record = Record {
                attempts,
                first_seen,
                history,
                source_exchange,
                source_routing_key,
                expires_at,
                copy,
            };
            let copied = CopyHeaders { set: record.headers(), ..CopyHeaders::default() };
            prop_assert_eq!(Record::read(&copied.on(&Properties::default())), Some(record));
        }
    }

    #[test]
    fn a_message_without_our_headers_has_no_record() {
        let nothing = CopyHeaders::default();
        assert_eq!(Record::read(&nothing.on(&Properties::default())), None);
    }
}
