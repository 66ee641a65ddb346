//! The kind of a message, as the consumer's settings read it.

use std::{borrow::Cow, slice};

use crate::{broker::HeaderValue, consumer::RouteBy, dialect::Dialect, message::Message, pointer};

/// The headers in which binary CloudEvents over AMQP have their type.
const EVENT_TYPES: [&str; 3] = ["cloudEvents:type", "cloudEvents_type", "ce-type"];
/// Where a CloudEvent in structured mode has its type.
const EVENT_TYPE: &str = "/type";
/// The longest kind, in bytes: as long as a type or a routing key can be. To compare a longer one with
/// patterns would take time and memory that its publisher chooses.
const LONGEST: usize = 255;

/// The kind of a message; `None` if the message does not say it.
pub(super) fn kind<'a>(message: &'a Message, by: &RouteBy) -> Option<Cow<'a, str>> {
    said(message, by).filter(|kind| kind.len() <= LONGEST)
}

fn said<'a>(message: &'a Message, by: &RouteBy) -> Option<Cow<'a, str>> {
    match by {
        RouteBy::Type => message.message_type().map(Cow::Borrowed),
        RouteBy::RoutingKey if is_lost(message, by) => None,
        RouteBy::RoutingKey => Some(Cow::Borrowed(message.routing_key())),
        RouteBy::Header(name) => message.properties().header(name).map(HeaderValue::to_text),
        RouteBy::Body(pointer) => in_body(message, pointer),
        RouteBy::CloudEvents => event_type(message),
    }
}

/// Whether the kind that the publisher gave the message is lost. Nobody knows its handler then.
pub(super) fn is_lost(message: &Message, by: &RouteBy) -> bool {
    *by == RouteBy::RoutingKey && message.has_lost_its_routing_key()
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
    let found = found.into_iter().flatten().next()?;
    pointer::text(found).map(Cow::Owned)
}

/// Why no route takes a message of this kind, for people: what was read, and which header of another
/// system is there instead.
pub(super) fn unrouted(message: &Message, by: &RouteBy, kind: Option<&str>) -> String {
    let read = match kind {
        Some(kind) => format!("no route takes {by} {kind:?}"),
        None if is_lost(message, by) => {
            "the message has lost its routing key, by which `route_by` chooses its route: another user \
             than this worker's parked it or put it back; set `broker.trusted_users`"
                .to_owned()
        }
        None => format!(
            "the message has no {by} of 1 to {LONGEST} bytes, by which `route_by` chooses its route"
        ),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::{Delivery, Moment, Properties};

    fn message(
        content_type: Option<&str>,
        kind: Option<&str>,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Message {
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, text)| ((*name).to_owned(), (*text).to_owned()))
            .collect();
        let delivery = Delivery {
            tag: 1,
            received: Moment::now(),
            exchange: "shop".to_owned(),
            routing_key: "orders.eu".to_owned(),
            redelivered: false,
            properties: Properties::new("m1", content_type, kind, &headers),
            body: body.into(),
        };
        Message::new(delivery, "q".into())
    }

    #[track_caller]
    fn assert_kind(message: &Message, by: &str, wanted: Option<&str>) {
        let by = by.parse().unwrap();
        assert_eq!(kind(message, &by).as_deref(), wanted, "{by}");
    }

    #[test]
    fn the_kind_is_read_where_the_setting_says() {
        let headers = [("task", "shop.pay"), ("empty", "")];
        let full = message(
            None,
            Some("paid"),
            &headers,
            r#"{"a":{"b":"x"},"n":7,"z":null}"#,
        );
        assert_kind(&full, "type", Some("paid"));
        assert_kind(&full, "routing-key", Some("orders.eu"));
        assert_kind(&full, "header:task", Some("shop.pay"));
        assert_kind(&full, "header:empty", Some(""));
        assert_kind(&full, "header:none", None);
        assert_kind(&full, "body:/a/b", Some("x"));
        assert_kind(&full, "body:/n", Some("7"));
        assert_kind(&full, "body:/a", Some(r#"{"b":"x"}"#));
        assert_kind(&full, "body:/z", None);
        assert_kind(&full, "body:/a/c", None);
        assert_kind(&full, "cloudevents", None);
        let bare = message(None, None, &[], "no JSON");
        assert_kind(&bare, "type", None);
        assert_kind(&bare, "body:/a", None);
    }

    #[test]
    fn a_cloud_event_has_its_type_in_a_header_or_in_its_body() {
        for name in EVENT_TYPES {
            let binary = message(None, None, &[(name, "shop.paid")], "{}");
            assert_kind(&binary, "cloudevents", Some("shop.paid"));
        }
        let body = r#"{"specversion":"1.0","type":"shop.paid","data":{"type":"other"}}"#;
        for content_type in [
            "application/cloudevents+json",
            "Application/CloudEvents+JSON; charset=utf-8",
        ] {
            let structured = message(Some(content_type), None, &[], body);
            assert_kind(&structured, "cloudevents", Some("shop.paid"));
        }
        let other = message(Some("application/json"), None, &[], body);
        assert_kind(&other, "cloudevents", None);
    }

    #[test]
    fn the_error_says_what_was_read_and_what_is_there_instead() {
        let by = RouteBy::Type;
        let spring = message(None, None, &[("__TypeId__", "shop.Paid")], "");
        let why = unrouted(&spring, &by, None);
        assert!(why.starts_with("the message has no type"), "{why}");
        assert!(
            why.contains("`__TypeId__`: set `dialect = \"spring\"`"),
            "{why}"
        );
        let lost = unrouted(&spring, &by, Some("lost"));
        assert_eq!(lost, "no route takes type \"lost\"");
    }

    #[test]
    fn a_kind_that_is_too_long_is_none() {
        let [fits, long] = [255, 256].map(|length| ".".repeat(length));
        let at = |kind: &str| {
            message(
                None,
                None,
                &[("kind", kind)],
                &format!("{{\"a\":{kind:?}}}"),
            )
        };
        for by in ["header:kind", "body:/a"] {
            assert_kind(&at(&fits), by, Some(&fits));
            assert_kind(&at(&long), by, None);
        }
    }

    #[test]
    fn a_copy_that_has_lost_its_routing_key_has_no_kind() {
        let came = |exchange: &str, key: &str, headers: &[(&str, &str)]| {
            let mut message = message(None, None, headers, "");
            exchange.clone_into(&mut message.exchange);
            key.clone_into(&mut message.routing_key);
            message.past = crate::message::Past::read(&message.properties);
            message
        };
        let seen = ("lapwing-first-seen", "2026-01-01T00:00:00Z");
        let source = ("lapwing-source-routing-key", "orders.eu");
        let by = RouteBy::RoutingKey;
        assert_kind(
            &came("", "q", &[seen, source]),
            "routing-key",
            Some("orders.eu"),
        );
        assert_kind(&came("", "q", &[]), "routing-key", Some("q"));
        assert_kind(
            &came("shop", "orders.eu", &[seen]),
            "routing-key",
            Some("orders.eu"),
        );
        for header in [seen, ("lapwing-replays", "1")] {
            let lost = came("", "q", &[header]);
            assert_kind(&lost, "routing-key", None);
            assert!(is_lost(&lost, &by));
            let why = unrouted(&lost, &by, None);
            assert!(why.contains("broker.trusted_users"), "{why}");
        }
    }
}
