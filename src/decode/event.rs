//! CloudEvents 1.0, in AMQP's two modes: with the attributes in headers (binary), or with the whole event
//! as JSON in the body (structured).
//!
//! A structured event becomes a binary one, so handlers see one form.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    fmt,
    time::{Duration, UNIX_EPOCH},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::{Deserialize, Deserializer, de};
use serde_json::{Value, value::RawValue};

use super::{json, words};
use crate::{broker::HeaderValue, message::Message, outcome::Failure, text::cut};

/// The attributes that each event has.
pub(crate) const REQUIRED: [&str; 4] = ["id", "source", "specversion", "type"];
/// The beginnings of the headers of an event in binary mode. The specification has the first for AMQP
/// brokers, and the second for JMS, which allows no colon.
const PREFIXES: [&str; 2] = ["cloudEvents:", "cloudEvents_"];
/// The longest name of an attribute, in bytes. The specification asks for 20.
const NAME: usize = 64;
/// The most members of an event in a body.
const MEMBERS: usize = 256;
/// The longest attribute of an event in a body, as JSON. Each attribute becomes a header.
const ATTRIBUTE: usize = 64 * 1024;
/// The longest content type: AMQP sends its length in one byte.
const CONTENT_TYPE: usize = 255;

/// What kind of event a message is.
pub(super) enum Event {
    /// None.
    None,
    /// One with its attributes in headers, and valid.
    Binary,
    /// One that was in the body, as a message with its attributes in headers.
    Structured(Box<Message>),
}

/// The failure of a message that should be an event and is none.
pub(super) fn invalid(why: &str) -> Failure {
    Failure::undecodable(format!("no valid CloudEvent: {why}")).of_class("cloudevent")
}

/// The name of the attribute that a header holds.
pub(crate) fn attribute(header: &str) -> Option<&str> {
    PREFIXES
        .iter()
        .find_map(|prefix| header.strip_prefix(prefix))
}

/// The value of an attribute as text, as the specification has it.
pub(crate) fn attribute_text(value: HeaderValue<'_>) -> Cow<'_, str> {
    /// The last second of the year 9999.
    const LAST: u64 = 253_402_300_799;
    match value.as_timestamp() {
        Some(seconds) => {
            let time = UNIX_EPOCH + Duration::from_secs(seconds.min(LAST));
            humantime::format_rfc3339_seconds(time).to_string().into()
        }
        None => value.to_text(),
    }
}

/// Whether the message says that its body is an event, in the format that the worker reads.
pub(super) fn is_structured(message: &Message) -> bool {
    let content_type = message.properties.content_type();
    let essence = content_type.and_then(|it| it.split(';').next());
    essence.is_some_and(|it| {
        it.trim()
            .eq_ignore_ascii_case("application/cloudevents+json")
    })
}

/// Reads a message as an event.
///
/// # Errors
/// If it says that it is one, and is no valid one.
pub(super) fn read(message: &Message) -> Result<Event, Failure> {
    if is_structured(message) {
        return structured(message).map(|event| Event::Structured(Box::new(event)));
    }
    let headers = message.properties.headers();
    let found = headers.filter_map(|(name, value)| Some((attribute(name)?, value)));
    let mut attributes = BTreeMap::new();
    for (name, value) in found {
        // An attribute can have both beginnings. Handlers take the first header.
        attributes
            .entry(name)
            .or_insert_with(|| attribute_text(value));
    }
    if attributes.is_empty() {
        return Ok(Event::None);
    }
    check(&attributes)?;
    Ok(Event::Binary)
}

/// The members of an event in a body.
struct Members(BTreeMap<String, Box<RawValue>>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ReadMembers)
    }
}

struct ReadMembers;

impl<'de> de::Visitor<'de> for ReadMembers {
    type Value = Members;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an event")
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
        let mut members = BTreeMap::new();
        while let Some((name, value)) = map.next_entry()? {
            if members.len() == MEMBERS {
                let why = format!("it has more than {MEMBERS} members");
                return Err(de::Error::custom(why));
            }
            members.insert(name, value);
        }
        Ok(Members(members))
    }
}

/// The event in the body of a message.
fn structured(message: &Message) -> Result<Message, Failure> {
    let Members(mut members) = json::message(message).map_err(|failure| invalid(&failure.error))?;
    let data = (members.remove("data"), members.remove("data_base64"));
    let mut attributes = BTreeMap::<&str, Cow<'_, str>>::new();
    for (name, value) in &members {
        if let Some(text) = text(name, value)? {
            attributes.insert(name.as_str(), Cow::Owned(text));
        }
    }
    let named = attributes.remove("datacontenttype");
    if named.as_ref().is_some_and(|it| it.len() > CONTENT_TYPE) {
        let why = format!("datacontenttype has more than {CONTENT_TYPE} bytes");
        return Err(invalid(&why));
    }
    check(&attributes)?;
    let is_json = named.as_deref().is_none_or(words::is_json);
    let (body, content_type) = match data {
        (Some(_), Some(_)) => return Err(invalid("it has both data and data_base64")),
        (None, Some(packed)) => (bytes(&packed)?, named.as_deref()),
        (Some(data), None) if data.get() != "null" => {
            let content_type = named.as_deref().unwrap_or("application/json");
            (content(data, is_json), Some(content_type))
        }
        _ => (Vec::new(), named.as_deref()),
    };
    let its = &message.properties;
    let headers = attributes.iter();
    let headers = headers.map(|(name, value)| (format!("{}{name}", PREFIXES[0]), &**value));
    let properties = its
        .of_body(content_type, None)
        .with_texts(|name| attribute(name).is_some(), headers);
    Ok(message.with_body(properties, body))
}

/// The value of an attribute as text, as the specification has it. `None`: it is null, which means that
/// the event does not have it.
fn text(name: &str, value: &RawValue) -> Result<Option<String>, Failure> {
    let value = value.get();
    if value.len() > ATTRIBUTE {
        let name = cut(name, NAME);
        let why = format!("the attribute {name:?} has more than {ATTRIBUTE} bytes");
        return Err(invalid(&why));
    }
    // An array and an object are not even parsed.
    let parsed = match value.starts_with(['[', '{']) {
        true => None,
        false => serde_json::from_str(value).ok(),
    };
    match parsed {
        Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(Value::Bool(flag)) => Ok(Some(flag.to_string())),
        Some(Value::Number(number)) if number.is_i64() => Ok(Some(number.to_string())),
        _ => {
            let name = cut(name, NAME);
            let why =
                format!("the attribute {name:?} is neither text nor a whole number nor a boolean");
            Err(invalid(&why))
        }
    }
}

/// The bytes of `data_base64`.
fn bytes(packed: &RawValue) -> Result<Vec<u8>, Failure> {
    let text: Option<Cow<'_, str>> = serde_json::from_str(packed.get()).ok();
    let bytes = text.and_then(|text| BASE64_STANDARD.decode(text.as_bytes()).ok());
    bytes.ok_or_else(|| invalid("data_base64 is no Base64"))
}

/// The bytes of `data`: JSON as it was written, and any other type from its text.
fn content(data: Box<RawValue>, is_json: bool) -> Vec<u8> {
    if !is_json && let Ok(text) = serde_json::from_str::<String>(data.get()) {
        return text.into_bytes();
    }
    let json: Box<str> = data.into();
    json.into_string().into_bytes()
}

/// Checks the attributes of an event, without its content type.
fn check(attributes: &BTreeMap<&str, Cow<'_, str>>) -> Result<(), Failure> {
    for name in REQUIRED {
        if attributes.get(name).is_none_or(|value| value.is_empty()) {
            return Err(invalid(&format!("it has no {name}")));
        }
    }
    let version = &attributes["specversion"];
    if version != "1.0" {
        let version = cut(version, NAME);
        let why = format!("the worker reads specversion 1.0, and this one is {version:?}");
        return Err(invalid(&why));
    }
    let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_name = |name: &str| !name.is_empty() && name.len() <= NAME && name.chars().all(is_part);
    if let Some(name) = attributes.keys().find(|name| !is_name(name)) {
        let name = cut(name, NAME);
        let why = format!(
            "{name:?} is no attribute: a name has up to {NAME} lower-case letters and digits"
        );
        return Err(invalid(&why));
    }
    if attributes["source"].contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err(invalid("source is no URI reference"));
    }
    if let Some(time) = attributes.get("time")
        && !is_time(time)
    {
        return Err(invalid(
            "time is no time as RFC 3339 has it, such as 2026-01-31T12:00:00Z",
        ));
    }
    Ok(())
}

/// Whether the text is a time as RFC 3339 has it.
fn is_time(text: &str) -> bool {
    let number = |from: usize, to: usize| {
        let digits = text.get(from..to)?;
        let is_number = digits.bytes().all(|byte| byte.is_ascii_digit());
        is_number.then(|| digits.parse().ok()).flatten()
    };
    let within = |from, to, least: u32, most| {
        number(from, to).is_some_and(|number: u32| (least..=most).contains(&number))
    };
    let is_mark = |at: usize, marks: &[u8]| {
        text.as_bytes()
            .get(at)
            .is_some_and(|byte| marks.contains(byte))
    };
    let begins = within(0, 4, 0, 9999)
        && is_mark(4, b"-")
        && within(5, 7, 1, 12)
        && is_mark(7, b"-")
        && within(8, 10, 1, 31)
        && is_mark(10, b"Tt")
        && within(11, 13, 0, 23)
        && is_mark(13, b":")
        && within(14, 16, 0, 59)
        && is_mark(16, b":")
        && within(17, 19, 0, 60);
    let Some(rest) = text.get(19..).filter(|_| begins) else {
        return false;
    };
    let zone = match rest.strip_prefix('.') {
        None => rest,
        Some(fraction) => {
            let zone = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
            if zone.len() == fraction.len() {
                return false;
            }
            zone
        }
    };
    let at = text.len() - zone.len();
    match zone.len() {
        1 => is_mark(at, b"Zz"),
        6 => {
            is_mark(at, b"+-")
                && within(at + 1, at + 3, 0, 23)
                && is_mark(at + 3, b":")
                && within(at + 4, at + 6, 0, 59)
        }
        _ => false,
    }
}
