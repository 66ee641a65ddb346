//! CloudEvents 1.0, in AMQP's two modes: with the attributes in headers (binary), or with the whole event
//! as JSON in the body (structured).
//!
//! A structured event becomes a binary one, so handlers see one form.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    time::{Duration, UNIX_EPOCH},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Value, value::RawValue};

use super::{json, words};
use crate::{
    broker::{HeaderValue, Properties},
    message::Message,
    outcome::Failure,
    text::cut,
};

/// The attributes that each event has.
pub(crate) const REQUIRED: [&str; 4] = ["id", "source", "specversion", "type"];
/// The beginnings of the headers of an event in binary mode. The specification has the first for AMQP
/// brokers, and the second for JMS, which allows no colon.
const PREFIXES: [&str; 2] = ["cloudEvents:", "cloudEvents_"];
/// The longest name of an attribute, in bytes. The specification asks for 20.
const NAME: usize = 64;
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

/// The format of an event that is in the body: what follows `application/cloudevents`.
fn format(properties: &Properties) -> Option<&str> {
    const TYPE: &str = "application/cloudevents";
    let essence = properties.content_type()?.split(';').next()?.trim();
    let begins = essence.get(..TYPE.len())?.eq_ignore_ascii_case(TYPE);
    begins.then(|| &essence[TYPE.len()..])
}

/// Whether the message says that its body is an event.
pub(super) fn is_structured(message: &Message) -> bool {
    format(&message.properties).is_some()
}

/// Reads a message as an event.
///
/// # Errors
/// If it says that it is one, and is no valid one.
pub(super) fn read(message: &Message) -> Result<Event, Failure> {
    if let Some(format) = format(&message.properties) {
        if !format.eq_ignore_ascii_case("+json") {
            let why = format!(
                "the worker reads the format +json, and this one is {:?}",
                cut(format, NAME)
            );
            return Err(invalid(&why));
        }
        return structured(message).map(|event| Event::Structured(Box::new(event)));
    }
    let headers = message.properties.headers();
    let attributes =
        headers.filter_map(|(name, value)| Some((attribute(name)?, attribute_text(value))));
    let attributes: BTreeMap<_, _> = attributes.collect();
    if attributes.is_empty() {
        return Ok(Event::None);
    }
    check(&attributes)?;
    Ok(Event::Binary)
}

/// The event in the body of a message.
fn structured(message: &Message) -> Result<Message, Failure> {
    let mut members: BTreeMap<String, Box<RawValue>> =
        json::message(message).map_err(|failure| invalid(&failure.error))?;
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
    match serde_json::from_str(value.get()) {
        Ok(Value::Null) => Ok(None),
        Ok(Value::String(text)) => Ok(Some(text)),
        Ok(Value::Bool(flag)) => Ok(Some(flag.to_string())),
        Ok(Value::Number(number)) if number.is_i64() => Ok(Some(number.to_string())),
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
