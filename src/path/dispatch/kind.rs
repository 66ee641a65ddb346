//! The kind of a message, as the consumer's settings read it.

use std::{borrow::Cow, slice};

use crate::{
    broker::HeaderValue, consumer::RouteBy, dialect::Dialect, message::Message, pointer, text::cut,
};

/// The headers in which binary CloudEvents over AMQP have their type.
const EVENT_TYPES: [&str; 3] = ["cloudEvents:type", "cloudEvents_type", "ce-type"];
/// Where a CloudEvent in structured mode has its type.
const EVENT_TYPE: &str = "/type";
/// The longest kind in an error, in bytes.
const SHOWN: usize = 255;

/// The kind of a message; `None` if the message does not say it.
pub(super) fn kind<'a>(message: &'a Message, by: &RouteBy) -> Option<Cow<'a, str>> {
    match by {
        RouteBy::Type => message.message_type().map(Cow::Borrowed),
        RouteBy::RoutingKey => Some(Cow::Borrowed(message.routing_key())),
        RouteBy::Header(name) => message.properties().header(name).map(HeaderValue::to_text),
        RouteBy::Body(pointer) => in_body(message, pointer),
        RouteBy::CloudEvents => event_type(message),
    }
}

fn event_type(message: &Message) -> Option<Cow<'_, str>> {
    let header = |name: &&str| message.properties().header(name);
    let in_headers = EVENT_TYPES.iter().find_map(header);
    in_headers.map(HeaderValue::to_text).or_else(|| {
        let content_type = message.properties().content_type()?;
        let is_event = content_type
            .get(.."application/cloudevents".len())
            .is_some_and(|start| start.eq_ignore_ascii_case("application/cloudevents"));
        let place = EVENT_TYPE.parse().ok().filter(|_| is_event)?;
        in_body(message, &place)
    })
}

fn in_body<'a>(message: &'a Message, place: &pointer::Pointer) -> Option<Cow<'a, str>> {
    let found = pointer::look_up(message.body(), slice::from_ref(place));
    match found.into_iter().flatten().next()? {
        serde_json::Value::Null => None,
        serde_json::Value::String(text) => Some(Cow::Owned(text)),
        other => Some(Cow::Owned(other.to_string())),
    }
}

/// Why no route takes a message of this kind, for people: what was read, and which header of another
/// system is there instead.
pub(super) fn unrouted(message: &Message, by: &RouteBy, kind: Option<&str>) -> String {
    let read = match kind {
        Some(kind) => format!("no route takes {by} {:?}", cut(kind, SHOWN)),
        None => format!("the message has no {by}, by which `route_by` chooses its route"),
    };
    let others = message.properties().headers();
    let mut others = others.filter_map(|(name, _)| Some((name, Dialect::of_header(name)?)));
    match others.next() {
        Some((name, dialect)) if kind.is_none() => format!(
            "{read}; it has the header `{name}`: set `dialect = \"{}\"`",
            dialect.name()
        ),
        _ => read,
    }
}
