//! The tables against messages as the producers write them. `scripts/dialects/record` has recorded those of
//! Celery, Dramatiq, NestJS and Spring. Those of NServiceBus and MassTransit are written by hand, by their
//! documentation.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;

use super::*;
use crate::broker::fake::Letter;

/// A recorded message, as it arrives in the queue `recorded`.
fn recorded(dialect: Dialect, name: &str) -> (Properties, Vec<u8>) {
    let file = match dialect {
        Dialect::Celery => include_str!("../../tests/dialects/celery.json"),
        Dialect::Dramatiq => include_str!("../../tests/dialects/dramatiq.json"),
        Dialect::NestJs => include_str!("../../tests/dialects/nestjs.json"),
        Dialect::Spring => include_str!("../../tests/dialects/spring.json"),
        Dialect::NServiceBus => include_str!("../../tests/dialects/nservicebus.json"),
        Dialect::MassTransit => include_str!("../../tests/dialects/masstransit.json"),
    };
    let all: Value = serde_json::from_str(file).unwrap();
    assert!(all[name].is_object(), "{dialect:?} {name}");
    let (letter, body) = Letter::recorded(&all[name]);
    (letter.into(), body)
}

/// The message as the worker has it, and what it says.
fn read(dialect: Dialect, name: &str) -> (Properties, Facts) {
    let (mut properties, body) = recorded(dialect, name);
    let facts = dialect.read(&mut properties, &body, "recorded", true);
    (properties, facts)
}

#[track_caller]
fn assert_filled(properties: &Properties, kind: &str, content_type: &str) {
    assert_eq!(properties.message_type(), Some(kind));
    assert_eq!(properties.content_type(), Some(content_type));
}

fn header<'a>(properties: &'a Properties, name: &str) -> Option<&'a str> {
    properties.header(name)?.as_str()
}

const JSON: &str = "application/json";

#[test]
fn a_task_of_celery_has_its_name_and_its_id_in_headers() {
    let (properties, facts) = read(Dialect::Celery, "plain");
    assert_filled(&properties, "shop.add", JSON);
    assert_eq!(properties.message_id(), header(&properties, "id"));
    assert_eq!(properties.message_id(), properties.correlation_id());
    assert_eq!(properties.content_encoding(), Some("utf-8"));
    assert_eq!(facts, Facts::default());
}

#[test]
fn a_task_of_celery_has_its_times_and_its_retries_in_headers() {
    let time = |name, header_name| {
        let (properties, facts) = read(Dialect::Celery, name);
        let written = time::iso(header(&properties, header_name).unwrap());
        assert!(written.is_some(), "{name}");
        (written, facts)
    };
    let (eta, facts) = time("eta", "eta");
    assert_eq!((facts.eta, facts.expires_at), (eta, None));
    let (expires, facts) = time("expires", "expires");
    assert_eq!((facts.eta, facts.expires_at), (None, expires));
    assert_eq!(read(Dialect::Celery, "retried").1.attempts, 3);
    assert!(read(Dialect::Celery, "chain").1.has_sequel);
    let (request, facts) = read(Dialect::Celery, "request");
    assert!(request.reply_to().is_some());
    assert!(!facts.has_sequel);
}

#[test]
fn a_message_of_dramatiq_has_everything_in_its_body() {
    let written = |name| -> (Value, Facts) {
        let (_, body) = recorded(Dialect::Dramatiq, name);
        let (properties, facts) = read(Dialect::Dramatiq, name);
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_filled(&properties, "shop.add", JSON);
        assert_eq!(properties.message_id(), body["message_id"].as_str());
        (body, facts)
    };
    let after = |millis: &Value| {
        let millis = Duration::from_millis(millis.as_u64().unwrap());
        Some(UNIX_EPOCH + millis)
    };
    let near = |one: Option<SystemTime>, other: Option<SystemTime>| {
        let [one, other] = [one, other].map(Option::unwrap);
        let apart = one
            .duration_since(other)
            .or_else(|_| other.duration_since(one));
        apart.unwrap() < Duration::from_millis(1)
    };
    assert_eq!(written("plain").1, Facts::default());
    let (body, facts) = written("delayed");
    assert!(near(facts.eta, after(&body["options"]["eta"])));
    let (_, facts) = written("retried");
    assert_eq!(facts.attempts, 1);
    let failed = facts.failure.unwrap();
    assert_eq!(failed.class, "dramatiq");
    assert!(failed.error.starts_with("TypeError: "), "{failed:?}");
    let (body, facts) = written("max_age");
    let sent = after(&body["message_timestamp"]).unwrap();
    assert!(near(facts.expires_at, Some(sent + Duration::from_secs(60))));
    assert!(written("pipeline").1.has_sequel);
}

#[test]
fn a_message_of_nestjs_has_its_pattern_in_its_body() {
    let (event, facts) = read(Dialect::NestJs, "event");
    assert_filled(&event, "order.paid", JSON);
    assert_eq!((event.message_id(), facts), (None, Facts::default()));
    let (request, _) = read(Dialect::NestJs, "request");
    assert_filled(&request, "sum", JSON);
    assert_eq!(request.message_id(), request.correlation_id());
    assert!(request.reply_to().is_some());
    let (object, _) = read(Dialect::NestJs, "object");
    assert_eq!(object.message_type(), Some(r#"{"a":1,"cmd":"sum"}"#));
}

#[test]
fn a_pattern_of_nestjs_names_one_route_however_its_keys_are_ordered() {
    let kind = |pattern: &str| {
        let body = format!(r#"{{"pattern": {pattern}}}"#);
        let mut properties = Properties::default();
        Dialect::NestJs.read(&mut properties, body.as_bytes(), "q", true);
        properties.message_type().map(str::to_owned)
    };
    let sorted = Some(r#"{"a":{"x":1,"y":2},"B":3,"cmd":"sum"}"#.to_owned());
    assert_eq!(kind(r#"{"cmd":"sum", "B":3, "a":{"y":2,"x":1}}"#), sorted);
    assert_eq!(
        kind(r#""{\"cmd\":\"sum\",\"B\":3,\"a\":{\"y\":2,\"x\":1}}""#),
        sorted
    );
    assert_eq!(kind(r#""order.paid""#).as_deref(), Some("order.paid"));
}

#[test]
fn each_dialect_has_its_own_table() {
    for (number, (dialect, _)) in table::ALL.into_iter().enumerate() {
        assert_eq!(dialect as usize, number);
        let places = &PLACES[number];
        assert_eq!(places.names.len(), places.pointers.len());
    }
}

#[test]
fn a_task_whose_result_is_ignored_gets_no_reply() {
    let [ignored, wanted] = ["plain", "request"].map(|name| read(Dialect::Celery, name).0);
    assert!(ignored.reply_to().is_some() && wanted.reply_to().is_some());
    assert!(!Dialect::Celery.wants_reply(&ignored));
    assert!(Dialect::NestJs.wants_reply(&ignored));
    assert!(Dialect::Celery.wants_reply(&wanted));
}

#[test]
fn a_message_of_spring_has_its_class_in_a_header_and_its_attempts_in_x_death() {
    let (plain, facts) = read(Dialect::Spring, "plain");
    assert_filled(&plain, "SpringMessages$OrderPaid", JSON);
    assert_eq!(plain.content_encoding(), Some("UTF-8"));
    assert_eq!(facts, Facts::default());
    assert!(read(Dialect::Spring, "request").0.reply_to().is_some());
    assert_eq!(read(Dialect::Spring, "rejected").1.attempts, 2);
    let failed = read(Dialect::Spring, "republished").1.failure.unwrap();
    assert_eq!(
        (failed.class.as_str(), failed.error.as_str()),
        ("spring", "no stock")
    );
}

#[test]
fn only_what_the_queue_itself_rejected_counts_as_an_attempt() {
    let (mut properties, body) = recorded(Dialect::Spring, "rejected");
    let facts = Dialect::Spring.read(&mut properties, &body, "another", true);
    assert_eq!(facts.attempts, 0);
}

#[test]
fn a_message_of_nservicebus_has_its_first_class_as_its_type() {
    let (command, facts) = read(Dialect::NServiceBus, "command");
    assert_filled(&command, "Shop.Messages.PlaceOrder", JSON);
    assert_eq!(facts, Facts::default());
    let (failed, facts) = read(Dialect::NServiceBus, "failed");
    assert_filled(
        &failed,
        "Shop.Messages.OrderPaid",
        "application/json; charset=utf-8",
    );
    assert_eq!(
        failed.message_id(),
        header(&failed, "NServiceBus.MessageId")
    );
    assert_eq!(facts.attempts, 2);
    let failure = facts.failure.unwrap();
    assert_eq!(failure.class, "System.InvalidOperationException");
    assert_eq!(failure.error, "no stock");
}

#[test]
fn a_message_of_masstransit_has_its_envelope_in_its_body() {
    let urn = "urn:message:Shop.Messages:SubmitOrder";
    let (published, facts) = read(Dialect::MassTransit, "published");
    assert_filled(&published, urn, "application/vnd.masstransit+json");
    assert_eq!(facts, Facts::default());
    let (redelivered, facts) = read(Dialect::MassTransit, "redelivered");
    assert_eq!(
        redelivered.message_id(),
        Some("08dc0000-ac11-0242-9a1e-08dd0f1e8a11")
    );
    assert_eq!(facts.attempts, 2);
    assert_eq!(facts.expires_at, time::iso("2026-11-27T18:52:23.5Z"));
    let failure = read(Dialect::MassTransit, "fault").1.failure.unwrap();
    assert_eq!(failure.error, "no stock");
}

#[test]
fn a_property_that_the_publisher_has_set_stays() {
    let (mut properties, body) = (
        Properties::new("own", Some("text/plain"), Some("mine"), &[]),
        br#"{"pattern":"sum","id":"other"}"#,
    );
    Dialect::NestJs.read(&mut properties, body, "q", true);
    assert_filled(&properties, "mine", "text/plain");
    assert_eq!(properties.message_id(), Some("own"));
}

/// Anybody can publish such messages.
#[test]
fn a_message_that_is_none_of_the_dialect_is_left_as_it_is() {
    let bodies = [
        "",
        "null",
        "[]",
        "{",
        "{\"pattern\":{},\"actor_name\":7,\"messageType\":{}}",
    ];
    for (dialect, _) in table::ALL {
        for body in bodies {
            let mut properties: Properties = Letter::default().header("eta", "soon").into();
            let facts = dialect.read(&mut properties, body.as_bytes(), "q", true);
            assert_eq!(facts, Facts::default(), "{dialect:?} {body}");
        }
        let long = "x".repeat(300);
        let body =
            format!(r#"{{"pattern":"{long}","actor_name":"{long}","messageType":["{long}"]}}"#);
        let letter = Letter::default()
            .header("task", &long)
            .header("__TypeId__", &long);
        let mut properties: Properties = letter.into();
        dialect.read(&mut properties, body.as_bytes(), "q", true);
        assert_eq!(properties.message_type(), None, "{dialect:?}");
    }
}

#[test]
fn a_dead_letter_that_somebody_put_back_begins_anew() {
    let letter = Letter::default().header("expires", "2020-01-01T00:00:00");
    let letter = letter.number("retries", 7);
    let facts = |letter: Letter| {
        let mut properties: Properties = letter.into();
        Dialect::Celery.read(&mut properties, b"[]", "q", true)
    };
    let first = facts(letter.clone());
    assert_eq!((first.attempts, first.expires_at.is_some()), (7, true));
    assert_eq!(facts(letter.number(names::REPLAYS, 1)), Facts::default());
}

proptest::proptest! {
    /// The messages of a lane are read in its own task, which must not panic.
    #[test]
    fn any_text_at_any_place_is_read(text in "[0-9T:.+€Zz-]{0,30}|.{0,20}") {
        let mut letter = Letter::default();
        for name in [
            "task",
            "id",
            "eta",
            "expires",
            "retries",
            "__TypeId__",
            "retry-count",
            "x-exception-message",
            "NServiceBus.EnclosedMessageTypes",
            "NServiceBus.MessageId",
            "NServiceBus.Retries",
            "MT-Redelivery-Count",
            "MT-Fault-Message",
        ] {
            letter = letter.header(name, &text);
        }
        let body = serde_json::json!({
            "pattern": { text.clone(): text }, "id": text,
            "actor_name": text, "message_id": text, "message_timestamp": text,
            "options": { "eta": text, "max_age": text, "retries": text, "traceback": text },
            "messageType": [text], "messageId": text, "expirationTime": text,
        });
        for (dialect, _) in table::ALL {
            let mut properties: Properties = letter.clone().into();
            let facts = dialect.read(&mut properties, body.to_string().as_bytes(), "q", true);
            for time in [facts.eta, facts.expires_at].into_iter().flatten() {
                let _ = crate::text::rfc3339(time);
            }
        }
    }
}
