//! CloudEvents.

use super::*;

/// The attributes of a valid event.
const EVENT: [(&str, &str); 4] = [
    ("id", "e1"),
    ("source", "/shop"),
    ("specversion", "1.0"),
    ("type", "order.placed"),
];

fn binary(prefix: &str, more: &[(&str, &str)]) -> Message {
    let all = EVENT.iter().chain(more);
    let all = all.map(|(name, value)| (format!("{prefix}{name}"), (*value).to_owned()));
    let all: Vec<_> = all.collect();
    let properties = Properties::new("m1", Some("application/json"), None, &all);
    message_of(properties, BODY)
}

#[test]
fn an_event_in_headers_is_seen_as_it_is() {
    for prefix in ["cloudEvents:", "cloudEvents_"] {
        let time = [("time", "2026-01-31T12:00:00.5+01:00"), ("subject", "a b")];
        let seen = read(&events(), &binary(prefix, &time)).unwrap();
        assert!(
            seen.is_event && seen.is_json && seen.message.is_none(),
            "{prefix}"
        );
        assert!(!read(&settings(), &binary(prefix, &[])).unwrap().is_event);
    }
    let packed = binary("cloudEvents:", &[]);
    let packed = message_of(packed.properties.with_content_encoding("zstd"), &zstd(BODY));
    let seen = read(&events(), &packed).unwrap();
    assert!(seen.is_event, "the event of a packed body");
    assert_eq!(seen.message.unwrap().body(), BODY);
}

fn structured(more: &Value) -> Message {
    let own = EVENT.iter();
    let own = own.map(|(name, value)| ((*name).to_owned(), json!(value)));
    let mut event: Value = own.collect();
    for (name, value) in more.as_object().unwrap() {
        event[name] = value.clone();
    }
    let headers = [("tenant", "a"), ("cloudEvents:id", "other")];
    let content_type = "application/cloudevents+json; charset=utf-8";
    typed(Some(content_type), &headers, event.to_string().as_bytes())
}

#[test]
fn an_event_in_the_body_is_seen_as_its_data_with_its_attributes_in_headers() {
    let json = Some("application/json");
    for (more, content_type, body) in [
        (json!({"data": {"n": 1.50}}), json, "{\"n\":1.5}"),
        (json!({"data": "text"}), json, "\"text\""),
        (
            json!({"data": [1], "datacontenttype": "a/b+json"}),
            Some("a/b+json"),
            "[1]",
        ),
        (
            json!({"data": "<a/>", "datacontenttype": "text/xml"}),
            Some("text/xml"),
            "<a/>",
        ),
        (
            json!({"data": {"a": 1}, "datacontenttype": "text/xml"}),
            Some("text/xml"),
            "{\"a\":1}",
        ),
        (json!({"data_base64": "aGk="}), None, "hi"),
        (json!({"data": null}), None, ""),
        (json!({}), None, ""),
    ] {
        let message = structured(&more);
        let seen = read(&events(), &message).unwrap();
        assert!(seen.is_event, "{more}");
        let event = seen.message.unwrap();
        assert_eq!(String::from_utf8_lossy(event.body()), body, "{more}");
        let its = &event.properties;
        assert_eq!(its.content_type(), content_type, "{more}");
        let header = |name: &str| its.header(name).and_then(HeaderValue::as_str);
        for (name, value) in EVENT {
            assert_eq!(
                header(&format!("cloudEvents:{name}")),
                Some(value),
                "{more}"
            );
        }
        assert_eq!((header("tenant"), event.id()), (Some("a"), Some("m1")));
        assert_eq!(header("cloudEvents:datacontenttype"), None);
        assert!(!read(&settings(), &message).unwrap().is_event);
    }
    let more = json!({"count": 3, "flag": true, "none": null});
    let event = read(&events(), &structured(&more))
        .unwrap()
        .message
        .unwrap();
    let header = |name: &str| event.properties.header(name).and_then(HeaderValue::as_str);
    assert_eq!(header("cloudEvents:count"), Some("3"));
    assert_eq!(header("cloudEvents:flag"), Some("true"));
    assert_eq!(header("cloudEvents:none"), None);
}

#[test]
fn numbers_in_the_data_of_an_event_stay_as_they_were_written() {
    let body = br#"{"specversion":"1.0","id":"1","source":"/a","type":"t","data": {"n": 12345678901234567890.10}}"#;
    let message = typed(Some("application/cloudevents+json"), &[], body);
    let event = read(&events(), &message).unwrap().message.unwrap();
    assert_eq!(event.body(), br#"{"n": 12345678901234567890.10}"#);
}

#[test]
fn an_event_that_is_not_valid_is_refused_with_the_reason() {
    for (more, reason) in [
        (json!({"id": ""}), "it has no id"),
        (json!({"id": null}), "it has no id"),
        (json!({"type": null}), "it has no type"),
        (json!({"source": "a b"}), "source is no URI reference"),
        (
            json!({"specversion": "0.3"}),
            "the worker reads specversion 1.0, and this one is \"0.3\"",
        ),
        (
            json!({"time": "yesterday"}),
            "time is no time as RFC 3339 has it",
        ),
        (json!({"Tenant": "a"}), "\"Tenant\" is no attribute"),
        (
            json!({"ext": {}}),
            "the attribute \"ext\" is neither text nor",
        ),
        (
            json!({"ext": 1.5}),
            "the attribute \"ext\" is neither text nor",
        ),
        (
            json!({"data": 1, "data_base64": "aGk="}),
            "it has both data and data_base64",
        ),
        (json!({"data_base64": "?"}), "data_base64 is no Base64"),
        (
            json!({"datacontenttype": "x".repeat(256)}),
            "datacontenttype has more than 255 bytes",
        ),
    ] {
        let error = error(&events(), &structured(&more));
        let beginning = format!("no valid CloudEvent: {reason}");
        assert!(error.starts_with(&beginning), "{more}: {error}");
    }
    for (content_type, reason) in [
        (
            "application/cloudevents-batch+json",
            "the worker reads the format +json",
        ),
        (
            "application/cloudevents+avro",
            "the worker reads the format +json",
        ),
        ("application/cloudevents+json", "invalid JSON"),
    ] {
        let error = error(&events(), &typed(Some(content_type), &[], b"[]"));
        assert!(
            error.starts_with(&format!("no valid CloudEvent: {reason}")),
            "{error}"
        );
    }
    let headers = [("cloudEvents:id", "1")];
    let error = error(&events(), &typed(None, &headers, b""));
    assert_eq!(error, "no valid CloudEvent: it has no source");
}

#[test]
fn where_each_message_must_be_an_event_no_other_is_read() {
    let required = BodySettings {
        cloud_events: CloudEvents::Required,
        ..settings()
    };
    let failure = read(&required, &typed(None, &[], BODY)).unwrap_err();
    assert_eq!(failure.class, "cloudevent");
    assert!(
        failure
            .error
            .contains("nor headers that begin with cloudEvents:"),
        "{failure:?}"
    );
    assert!(
        read(&required, &binary("cloudEvents_", &[]))
            .unwrap()
            .is_event
    );
}

#[test]
fn times_of_events_are_as_rfc_3339_has_them() {
    for (time, valid) in [
        ("2026-01-31T12:00:00Z", true),
        ("2026-01-31t12:00:60z", true),
        ("2026-01-31T12:00:00.123456789-05:30", true),
        ("2026-01-31 12:00:00Z", false),
        ("2026-01-31T12:00:00", false),
        ("2026-01-31T12:00:00.Z", false),
        ("2026-13-31T12:00:00Z", false),
        ("2026-01-31T24:00:00Z", false),
        ("2026-01-31T12:00:00+0100", false),
        ("2026-01-31T12:00:00+01:00é", false),
        ("+026-01-31T12:00:00Z", false),
        ("", false),
    ] {
        let read = read(&events(), &binary("cloudEvents:", &[("time", time)]));
        assert_eq!(read.is_ok(), valid, "{time}");
    }
}
