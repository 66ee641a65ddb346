//! Properties and headers of the copies that we publish: retries and dead letters. A copy has the
//! message's own properties and headers, without those that would misroute or mislabel it, plus
//! ours. This module also cuts headers so that a copy fits a frame.

use std::collections::BTreeMap;

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldArray, FieldTable, ShortString},
};
use tracing::warn;

use super::{
    headers::{PERSISTENT, Properties, names, rebuilt, short},
    trust,
};
use crate::chance;

/// Headers that the broker sets. No copy carries a count (measured): RabbitMQ 4.0 and 4.3 pass a
/// client's `x-delivery-count` through, so a copy with this header looks as if it had already failed.
/// A parked copy carries no deaths: RabbitMQ 3.10 goes on counting from a client's `x-death`, and drops
/// a message that is to go to a queue named there.
pub(super) fn is_broker_header(name: &str) -> bool {
    matches!(
        name,
        "x-death" | "x-delivery-count" | "x-acquired-count" | "x-opt-enqueue-time"
    ) || name.starts_with("x-first-death-")
        || name.starts_with("x-last-death-")
}

/// A header that we write.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Header {
    /// Text.
    Text(String),
    /// A 64-bit integer.
    Int(i64),
}

impl From<Header> for AMQPValue {
    fn from(header: Header) -> Self {
        match header {
            Header::Text(text) => AMQPValue::LongString(text.into()),
            Header::Int(n) => AMQPValue::LongLongInt(n),
        }
    }
}

/// What a copy has in addition to the message's own properties and headers.
#[derive(Clone, Debug, Default)]
pub(crate) struct CopyHeaders {
    /// The `expiration` property, in milliseconds.
    pub(crate) expiration: Option<u64>,
    /// Our headers. A header of the same name that the message already had is replaced.
    pub(crate) set: Vec<(&'static str, Header)>,
    /// Our headers that the copy must not have.
    pub(crate) remove: &'static [&'static str],
    /// The copy waits in a retry queue, or in the queue of its message, and comes back. So it carries the
    /// worker's name, without which no worker believes its headers, and keeps apart what would disturb it
    /// there.
    pub(crate) comes_back: bool,
    /// The copy waits in the queue of its message, where its priority counts.
    pub(crate) keeps_priority: bool,
    /// The copy carries the worker's name for another reason.
    pub(crate) is_named: bool,
    /// Leave out the properties that the broker may refuse the copy for, such as a `reply-to` that no
    /// longer exists.
    pub(crate) bare: bool,
}

/// What the connection demands of a copy.
#[derive(Clone, Debug)]
pub(super) struct Terms {
    /// The longest frame, in bytes.
    pub(super) frame_max: usize,
    /// The worker's name at the broker.
    pub(super) user: Option<String>,
    /// Messages of high priority hold up expired ones of low priority in a queue of the broker.
    pub(super) priorities_delay: bool,
}

impl Default for Terms {
    /// Without limits and without a name.
    fn default() -> Self {
        Self {
            frame_max: usize::MAX,
            user: None,
            priorities_delay: true,
        }
    }
}

#[cfg(test)]
impl CopyHeaders {
    /// The properties of a copy of a message with these properties.
    pub(crate) fn on(&self, original: &Properties) -> Properties {
        let terms = Terms {
            user: Some("guest".to_owned()),
            ..Terms::default()
        };
        Properties(copy_properties(original, self, &terms))
    }
}

/// The copy's properties: the message's own, without those that would misroute or mislabel the
/// copy, plus ours. Headers are cut so that they fit a frame.
pub(super) fn copy_properties(
    original: &Properties,
    copy: &CopyHeaders,
    terms: &Terms,
) -> BasicProperties {
    let original = &original.0;
    let mut headers = BTreeMap::new();
    for (name, value) in original.headers().iter().flat_map(FieldTable::inner) {
        let name = match name.as_str() {
            "CC" => short(names::ORIGINAL_CC),
            "BCC" => short(names::ORIGINAL_BCC),
            death if trust::is_death(death) => match copy.comes_back {
                true => trust::aside(death),
                false => name.clone(),
            },
            broker if is_broker_header(broker) => continue,
            ours if copy.remove.contains(&ours) => continue,
            _ => name.clone(),
        };
        headers.insert(name, value.clone());
    }
    let mut aside = |name, value: &Option<ShortString>| {
        if let Some(value) = value {
            let value = AMQPValue::LongString(value.as_str().into());
            headers.entry(short(name)).or_insert(value);
        }
    };
    aside(names::ORIGINAL_USER_ID, original.user_id());
    // An expiration that we set on a retry never gets here: it is removed when the retry arrives. So
    // this expiration is the publisher's.
    aside(names::ORIGINAL_EXPIRATION, original.expiration());
    if copy.bare {
        aside(names::ORIGINAL_REPLY_TO, original.reply_to());
    }
    let mut priority = *original.priority();
    let delays = copy.comes_back && !copy.keeps_priority && terms.priorities_delay;
    if (delays || copy.bare)
        && let Some(priority) = priority.take()
    {
        let priority = AMQPValue::LongLongInt(priority.into());
        headers.insert(short(names::ORIGINAL_PRIORITY), priority);
    }
    let mut ours = Vec::with_capacity(copy.set.len());
    for (name, value) in &copy.set {
        headers.insert(short(name), value.clone().into());
        ours.push(*name);
    }

    let user = terms
        .user
        .as_deref()
        .filter(|_| copy.comes_back || copy.is_named)
        .map(short);
    let expiration = copy.expiration.map(|millis| short(&millis.to_string()));
    let mut properties = rebuilt(original, user, expiration, priority, copy.bare);
    properties = properties.with_delivery_mode(PERSISTENT);
    if properties.message_id().is_none() {
        properties = properties.with_message_id(short(&chance::message_id().to_string()));
    }
    let room = terms.frame_max.saturating_sub(fixed_len(&properties));
    let cut = fit(&mut headers, &ours, room);
    if !cut.is_empty() {
        let id = properties.message_id().as_ref().map(ShortString::as_str);
        warn!(
            id,
            ?cut,
            "the headers of a copy do not fit a frame; dropped the longest"
        );
    }
    properties.with_headers(FieldTable::from(headers))
}

/// The most bytes of the content header frame of a message with these properties.
pub(super) fn length(properties: &BasicProperties) -> usize {
    let table = properties.headers().as_ref().map(FieldTable::inner);
    fixed_len(properties) + table.map_or(0, table_len)
}

/// Bytes of a content header frame without its header table: frame, class, weight, body size,
/// flags, and the other properties at their longest.
fn fixed_len(properties: &BasicProperties) -> usize {
    const FRAME: usize = 7 + 1 + 2 + 2 + 8 + 2 + 4;
    let text = |value: &Option<ShortString>| value.as_ref().map_or(0, |v| 1 + v.as_str().len());
    FRAME
        + text(properties.content_type())
        + text(properties.content_encoding())
        + text(properties.correlation_id())
        + text(properties.reply_to())
        + text(properties.expiration())
        + text(properties.message_id())
        + text(properties.user_id())
        + text(properties.kind())
        + text(properties.app_id())
        + text(properties.cluster_id())
        + 1 // delivery mode
        + 1 // priority
        + 8 // timestamp
}

/// Makes the headers fit `room` bytes. Cuts our own error text first, then drops our history, then
/// drops the publisher's largest headers and lists their names. Returns the names of the headers
/// that this call dropped.
fn fit(
    headers: &mut BTreeMap<ShortString, AMQPValue>,
    ours: &[&str],
    room: usize,
) -> Vec<ShortString> {
    const SHORTEST_ERROR: usize = 256;
    const CUT_LIST: usize = 1024;
    let mut cut_now = Vec::new();
    if table_len(headers) <= room {
        return cut_now;
    }
    if let Some(AMQPValue::LongString(text)) = headers.get(names::ERROR) {
        let cut = crate::text::cut(&text.to_string(), SHORTEST_ERROR).to_owned();
        headers.insert(short(names::ERROR), AMQPValue::LongString(cut.into()));
    }
    if table_len(headers) > room {
        headers.remove(names::HISTORY);
    }
    // Keep the names that earlier copies listed. A publisher can write this header too, so check
    // its type and length.
    let mut cut = match headers.remove(names::CUT_HEADERS) {
        Some(AMQPValue::LongString(text)) if text.len() <= CUT_LIST => text.to_string(),
        _ => String::new(),
    };
    loop {
        if !cut.is_empty() {
            let listed = AMQPValue::LongString(crate::text::cut(&cut, CUT_LIST).into());
            headers.insert(short(names::CUT_HEADERS), listed);
        }
        if table_len(headers) <= room {
            return cut_now;
        }
        let largest = headers
            .iter()
            .filter(|(name, _)| {
                !ours.contains(&name.as_str()) && name.as_str() != names::CUT_HEADERS
            })
            .max_by_key(|(_, value)| value_len(value))
            .map(|(name, _)| name.clone());
        let Some(name) = largest else { return cut_now };
        headers.remove(&name);
        if !cut.is_empty() {
            cut.push(' ');
        }
        cut.push_str(name.as_str());
        cut_now.push(name);
    }
}

fn table_len(headers: &BTreeMap<ShortString, AMQPValue>) -> usize {
    headers
        .iter()
        .map(|(name, value)| 1 + name.as_str().len() + value_len(value))
        .sum()
}

/// Bytes of a value on the wire, with its type octet (AMQP 0-9-1, 4.2.5.5, with RabbitMQ's errata).
fn value_len(value: &AMQPValue) -> usize {
    1 + match value {
        AMQPValue::Void => 0,
        AMQPValue::Boolean(_) | AMQPValue::ShortShortInt(_) | AMQPValue::ShortShortUInt(_) => 1,
        AMQPValue::ShortInt(_) | AMQPValue::ShortUInt(_) => 2,
        AMQPValue::LongInt(_) | AMQPValue::LongUInt(_) | AMQPValue::Float(_) => 4,
        AMQPValue::DecimalValue(_) => 5,
        AMQPValue::LongLongInt(_) | AMQPValue::Double(_) | AMQPValue::Timestamp(_) => 8,
        AMQPValue::ShortString(text) => 4 + text.as_str().len(),
        AMQPValue::LongString(text) => 4 + text.len(),
        AMQPValue::ByteArray(bytes) => 4 + bytes.as_slice().len(),
        AMQPValue::FieldArray(items) => 4 + array_len(items),
        AMQPValue::FieldTable(table) => 4 + table_len(table.inner()),
    }
}

fn array_len(items: &FieldArray) -> usize {
    items.as_slice().iter().map(value_len).sum()
}
