//! One dead letter: what its headers say about it, whoever dead-lettered it.

use std::time::{Duration, SystemTime};

use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::filter::Facts;
use crate::{
    broker::{Delivery, HeaderValue, Properties, headers::names},
    dead_letters::{Copy, Dead, Record},
    message::{PastAttempt, trace_id},
    text::{as_rfc3339_or_null, fingerprint},
};

/// Who put a message into the dead-letter queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, ToSchema)]
#[schema(as = DeadLetterOrigin)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// A Lapwing worker: the letter has the whole record.
    Lapwing,
    /// The broker, by its own dead-lettering: a rejection by another program, an expiration, a
    /// length limit or a delivery limit.
    Broker,
    /// Nobody that left a trace: a program published it there.
    Unknown,
}

/// What a list shows of a letter.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = DeadLetter)]
pub struct Summary {
    /// The `message-id` property. Without one: `hash:` and a hash of the letter.
    pub id: String,
    /// Who dead-lettered the message.
    pub origin: Origin,
    /// Why. A reason of the broker begins with `broker:`.
    pub reason: String,
    /// The class of the last error; empty if none is known.
    pub kind: String,
    /// The last error's text, or what the broker did.
    pub error: String,
    /// Letters with the same cause have the same group.
    pub group: String,
    /// Attempts of a handler.
    pub attempts: u32,
    /// How often the message was replayed before.
    pub replays: u32,
    /// When a worker first received the message.
    #[serde(serialize_with = "as_rfc3339_or_null")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub first_seen: Option<SystemTime>,
    /// When the message was dead-lettered.
    #[serde(serialize_with = "as_rfc3339_or_null")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub failed_at: Option<SystemTime>,
    /// The queue from which the message was dead-lettered.
    pub source_queue: Option<String>,
    /// The exchange that the publisher used.
    pub source_exchange: Option<String>,
    /// The routing key that the publisher used.
    pub source_routing_key: Option<String>,
    /// The `type` property.
    #[serde(rename = "type")]
    pub message_type: Option<String>,
    /// The length of the body.
    pub bytes: usize,
    /// How often the broker counts the letter as delivered; 0 for a queue that does not count.
    pub deliveries: u64,
    /// The trace of the last attempt.
    pub trace_id: Option<String>,
}

impl Summary {
    pub(crate) fn facts(&self) -> Facts<'_> {
        Facts {
            id: &self.id,
            group: &self.group,
            reason: &self.reason,
            message_type: self.message_type.as_deref(),
            error: &self.error,
            source_queue: self.source_queue.as_deref(),
            failed_at: self.failed_at,
        }
    }
}

/// One earlier attempt.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
#[schema(as = DeadLetterAttempt)]
pub struct Attempt {
    /// When it ended (RFC 3339).
    pub at: String,
    /// Its number, from 1.
    pub attempt: u32,
    /// The class of its error.
    pub kind: String,
    /// The text of its error, cut.
    pub error: String,
    /// The worker that ran it.
    pub worker: String,
    /// Its trace, if it was traced.
    pub trace: Option<String>,
}

impl From<PastAttempt> for Attempt {
    fn from(past: PastAttempt) -> Self {
        let PastAttempt {
            at,
            attempt,
            kind,
            error,
            worker,
            trace,
        } = past;
        Self {
            at,
            attempt,
            kind,
            error,
            worker,
            trace,
        }
    }
}

/// A dead letter.
#[derive(Debug)]
pub struct Letter {
    /// What a list shows of it.
    pub summary: Summary,
    /// The last attempts, oldest first.
    pub history: Vec<Attempt>,
    /// The delivery tag on the walk's channel.
    pub(super) tag: u64,
    pub(super) exchange: String,
    pub(super) routing_key: String,
    pub(super) properties: Properties,
    pub(super) body: Vec<u8>,
}

impl Letter {
    pub(super) fn read(delivery: Delivery) -> Self {
        let Delivery {
            tag,
            exchange,
            routing_key,
            properties,
            body,
            ..
        } = delivery;
        let mut letter = Self {
            summary: Summary {
                id: id(&properties, &routing_key, &body),
                message_type: properties.message_type().map(str::to_owned),
                bytes: body.len(),
                replays: u32::try_from(number(&properties, names::REPLAYS)).unwrap_or(u32::MAX),
                deliveries: number(&properties, "x-delivery-count"),
                trace_id: trace_id(&properties),
                ..unknown()
            },
            history: Vec::new(),
            tag,
            exchange,
            routing_key,
            properties,
            body,
        };
        letter.tell();
        letter
    }

    /// A letter that nothing explains, with this id and body.
    #[cfg(test)]
    pub(crate) fn sample(id: &str, body: &[u8]) -> Self {
        Self {
            summary: Summary {
                id: id.to_owned(),
                bytes: body.len(),
                ..unknown()
            },
            history: Vec::new(),
            tag: 0,
            exchange: String::new(),
            routing_key: String::new(),
            properties: Properties::new(id, None, None, &[]),
            body: body.to_vec(),
        }
    }

    /// Fills in why the message was dead-lettered. After a replay by another program a letter can
    /// have Lapwing's record and a newer entry of the broker: then the newer one counts.
    fn tell(&mut self) {
        let death = Death::newest(&self.properties);
        let record = Record::read(&self.properties);
        let record = record.and_then(|record| match record.copy.clone() {
            Copy::Dead(dead) => Some((record, dead)),
            Copy::Parked(_) | Copy::GivenBack => None,
        });
        match (record, death) {
            (Some((_, dead)), Some(death)) if death.at > Some(dead.failed_at) => {
                self.tell_death(death);
            }
            (Some((record, dead)), _) => self.tell_record(record, dead),
            (None, Some(death)) => self.tell_death(death),
            (None, None) => {}
        }
    }

    fn tell_record(&mut self, record: Record, dead: Dead) {
        let summary = &mut self.summary;
        summary.origin = Origin::Lapwing;
        summary.reason = dead.reason.name().to_owned();
        // Whoever may publish to the queue writes the header. A shorter name would be the beginning of the
        // names of other groups, and select their letters.
        summary.group = match is_whole_name(&dead.fingerprint) {
            true => dead.fingerprint,
            false => fingerprint(&dead.class, &dead.error),
        };
        summary.kind = dead.class;
        summary.error = dead.error;
        summary.attempts = record.attempts;
        summary.first_seen = Some(record.first_seen);
        summary.failed_at = Some(dead.failed_at);
        summary.source_queue = Some(dead.source_queue);
        summary.source_exchange = Some(record.source_exchange);
        summary.source_routing_key = Some(record.source_routing_key);
        self.history = record.history.into_iter().map(Attempt::from).collect();
    }

    fn tell_death(&mut self, death: Death) {
        let summary = &mut self.summary;
        summary.origin = Origin::Broker;
        summary.error = death.text();
        summary.reason = format!("broker:{}", death.reason);
        summary.group = fingerprint(&summary.reason, &death.queue);
        summary.failed_at = death.at;
        summary.source_queue = Some(death.queue);
        summary.source_exchange = Some(death.exchange);
        summary.source_routing_key = death.routing_key;
    }

    /// The body's bytes.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// Properties and headers.
    #[must_use]
    pub fn properties(&self) -> &Properties {
        &self.properties
    }

    /// The exchange through which the letter came into its queue; empty for the default exchange.
    #[must_use]
    pub fn exchange(&self) -> &str {
        &self.exchange
    }

    /// The routing key with which the letter came into its queue.
    #[must_use]
    pub fn routing_key(&self) -> &str {
        &self.routing_key
    }

    /// A hash of the body, by which two versions of a letter are told apart.
    #[must_use]
    pub fn body_hash(&self) -> String {
        hash(&[&self.body])
    }
}

fn unknown() -> Summary {
    Summary {
        id: String::new(),
        origin: Origin::Unknown,
        reason: "unknown".to_owned(),
        kind: String::new(),
        error: "nothing says why it is here".to_owned(),
        group: fingerprint("unknown", ""),
        attempts: 0,
        replays: 0,
        first_seen: None,
        failed_at: None,
        source_queue: None,
        source_exchange: None,
        source_routing_key: None,
        message_type: None,
        bytes: 0,
        deliveries: 0,
        trace_id: None,
    }
}

/// Whether this is the name of a group as [`fingerprint`] makes it.
fn is_whole_name(group: &str) -> bool {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    group.len() == 16 && group.bytes().all(is_digit)
}

fn number(properties: &Properties, name: &str) -> u64 {
    let number = properties.header(name).and_then(HeaderValue::as_i64);
    u64::try_from(number.unwrap_or(0)).unwrap_or(0)
}

/// The id of a letter. A publisher does not have to set one. The hash covers what a look does not
/// change: neither the delivery count nor the order of the letters.
fn id(properties: &Properties, routing_key: &str, body: &[u8]) -> String {
    if let Some(id) = properties.message_id().filter(|id| !id.is_empty()) {
        return id.to_owned();
    }
    let deaths = properties.header("x-death");
    let deaths = deaths.map(|deaths| deaths.to_text().into_owned());
    let time = properties.timestamp().unwrap_or(0).to_be_bytes();
    let deaths = deaths.unwrap_or_default();
    let parts = [routing_key.as_bytes(), &time, deaths.as_bytes(), body];
    format!("hash:{}", hash(&parts))
}

/// FNV-1a with 64 bits, as 16 hexadecimal digits.
fn hash(parts: &[&[u8]]) -> String {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let with_end = |hash: u64, part: &&[u8]| step(part.iter().fold(hash, step), &0xff);
    format!(
        "{:016x}",
        parts.iter().fold(0xcbf2_9ce4_8422_2325, with_end)
    )
}

/// An entry of the broker's `x-death`.
struct Death {
    queue: String,
    reason: String,
    exchange: String,
    routing_key: Option<String>,
    at: Option<SystemTime>,
    count: u64,
}

impl Death {
    /// The newest entry, which is the first one.
    fn newest(properties: &Properties) -> Option<Self> {
        let deaths = properties.header("x-death")?.to_json();
        let death = deaths.as_array()?.first()?;
        let text = |name: &str| Some(death.get(name)?.as_str()?.to_owned());
        let seconds = death.get("time").and_then(Value::as_u64);
        let at = seconds
            .and_then(|seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)));
        let key = death.get("routing-keys").and_then(|keys| keys.get(0));
        Some(Self {
            queue: text("queue")?,
            reason: text("reason")?,
            exchange: text("exchange").unwrap_or_default(),
            routing_key: key.and_then(Value::as_str).map(str::to_owned),
            at,
            count: death.get("count").and_then(Value::as_u64).unwrap_or(1),
        })
    }

    fn text(&self) -> String {
        let (queue, times) = (&self.queue, self.count);
        let mut text = match self.reason.as_str() {
            "rejected" => format!("a consumer of {queue} rejected it"),
            "expired" => format!("it expired in {queue}"),
            "maxlen" => format!("{queue} was too long"),
            "delivery_limit" => format!("it reached the delivery limit of {queue}"),
            other => format!("the broker moved it from {queue}: {other}"),
        };
        if times > 1 {
            text.push_str(&format!(", {times} times"));
        }
        text
    }
}
