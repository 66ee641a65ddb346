//! What the handler sees, for each kind of body.

use std::io::Write;

use flate2::{Compression, write};
use serde_json::{Value, json};

use super::*;
use crate::{
    broker::{Delivery, HeaderValue, Moment, Properties},
    config::samples::file,
};

fn message_of(properties: Properties, body: &[u8]) -> Message {
    let delivery = Delivery {
        tag: 1,
        received: Moment::now(),
        exchange: String::new(),
        routing_key: "q".to_owned(),
        redelivered: false,
        properties,
        body: body.to_vec(),
    };
    Message::new(delivery, "q".into())
}

/// A message of JSON with this encoding.
fn packed(encoding: &str, body: &[u8]) -> Message {
    let properties = Properties::new("m1", Some("application/json"), None, &[]);
    message_of(properties.with_content_encoding(encoding), body)
}

/// A message with this content type and these headers.
fn typed(content_type: Option<&str>, headers: &[(&str, &str)], body: &[u8]) -> Message {
    let headers = headers.iter();
    let headers = headers.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let headers: Vec<_> = headers.collect();
    message_of(Properties::new("m1", content_type, None, &headers), body)
}

fn settings() -> BodySettings {
    BodySettings::default()
}

fn events() -> BodySettings {
    BodySettings {
        cloud_events: CloudEvents::Auto,
        ..settings()
    }
}

fn read(settings: &BodySettings, message: &Message) -> Result<Seen, Failure> {
    let reader = Reader::new(Decode::Auto, settings).unwrap();
    reader
        .read(message, true, false)
        .map_err(|unread| match unread {
            Unread::Failed(failure) => failure,
            Unread::TakesLong => panic!("only a look at once takes long"),
        })
}

/// The error of a message that cannot be read.
fn error(settings: &BodySettings, message: &Message) -> String {
    let failure = read(settings, message).unwrap_err();
    assert!(failure.undecodable && !failure.retryable, "{failure:?}");
    failure.error
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut packer = write::GzEncoder::new(Vec::new(), Compression::default());
    packer.write_all(body).unwrap();
    packer.finish().unwrap()
}

fn zlib(body: &[u8]) -> Vec<u8> {
    let mut packer = write::ZlibEncoder::new(Vec::new(), Compression::default());
    packer.write_all(body).unwrap();
    packer.finish().unwrap()
}

fn deflate(body: &[u8]) -> Vec<u8> {
    let mut packer = write::DeflateEncoder::new(Vec::new(), Compression::default());
    packer.write_all(body).unwrap();
    packer.finish().unwrap()
}

fn zstd(body: &[u8]) -> Vec<u8> {
    zstd::encode_all(body, 3).unwrap()
}

const BODY: &[u8] = br#"{"id": 1}"#;

#[test]
fn a_plain_message_is_seen_as_it_is() {
    let seen = read(&events(), &typed(Some("application/json"), &[], BODY)).unwrap();
    assert!(seen.message.is_none() && seen.is_json && !seen.is_event);
}

#[test]
fn a_packed_body_is_seen_unpacked_and_without_its_encoding() {
    for (encoding, body, rest) in [
        ("gzip", gzip(BODY), None),
        ("GZIP", gzip(BODY), None),
        ("x-gzip", gzip(BODY), None),
        ("gzip", [gzip(b"{\"id\""), gzip(b": 1}")].concat(), None),
        ("deflate", zlib(BODY), None),
        ("deflate", deflate(BODY), None),
        ("zstd", zstd(BODY), None),
        ("zstd", [zstd(b"{\"id\""), zstd(b": 1}")].concat(), None),
        ("gzip, zstd", zstd(&gzip(BODY)), None),
        ("zstd,gzip", gzip(&zstd(BODY)), None),
        ("deflate, gzip, zstd", zstd(&gzip(&deflate(BODY))), None),
        ("identity, gzip", gzip(BODY), None),
        ("gzip, utf-8", gzip(BODY), Some("utf-8")),
    ] {
        let packed = packed(encoding, &body);
        let seen = read(&settings(), &packed).unwrap();
        let message = seen.message.unwrap();
        assert_eq!(message.body(), BODY, "{encoding}");
        assert_eq!(message.properties.content_encoding(), rest, "{encoding}");
        assert_eq!(message.properties.content_type(), Some("application/json"));
        assert_eq!(message.id(), Some("m1"));
        assert!(seen.is_json, "{encoding}");
        assert_eq!(packed.body(), body, "the delivery has changed");
        assert_eq!(packed.properties.content_encoding(), Some(encoding));
    }
}

#[test]
fn an_empty_body_is_empty_whatever_its_encoding_says() {
    let empty = typed(None, &[], b"")
        .properties
        .with_content_encoding("gzip");
    let seen = read(&settings(), &message_of(empty, b"")).unwrap();
    assert_eq!(seen.message.unwrap().body(), b"");
}

#[test]
fn a_body_with_an_encoding_that_the_worker_does_not_know_stays_as_it_is() {
    for encoding in ["br", "gzip, br", "br, gzip", "x-own"] {
        let seen = read(&settings(), &packed(encoding, b"\x01")).unwrap();
        assert!(seen.message.is_none() && !seen.is_json, "{encoding}");
    }
    let off = BodySettings {
        unpack: false,
        ..settings()
    };
    let seen = read(&off, &packed("gzip", &gzip(BODY))).unwrap();
    assert!(seen.message.is_none() && !seen.is_json);
}

#[test]
fn a_body_that_is_not_what_its_encoding_says_is_refused() {
    let cut = |body: Vec<u8>| body[..body.len() - 1].to_vec();
    let more = |body: Vec<u8>| [body, b"x".to_vec()].concat();
    for (encoding, body) in [
        ("gzip", BODY.to_vec()),
        ("gzip", cut(gzip(BODY))),
        ("gzip", more(gzip(BODY))),
        ("deflate", BODY.to_vec()),
        ("deflate", cut(zlib(BODY))),
        ("deflate", cut(deflate(BODY))),
        ("deflate", more(zlib(BODY))),
        ("deflate", more(deflate(BODY))),
        ("deflate", vec![0x78]),
        ("zstd", BODY.to_vec()),
        ("zstd", cut(zstd(BODY))),
        ("zstd", more(zstd(BODY))),
        ("zstd", gzip(BODY)),
        ("gzip, zstd", zstd(BODY)),
    ] {
        let error = error(&settings(), &packed(encoding, &body));
        let beginning = format!("the {encoding} body cannot be unpacked: ");
        assert!(error.starts_with(&beginning), "{error}");
        assert!(
            error.len() > beginning.len() && error.len() < 300,
            "{error}"
        );
    }
    let many = packed("gzip, gzip, gzip, gzip", &gzip(BODY));
    let error = error(&settings(), &many);
    assert!(
        error.ends_with("it has 4 encodings in a row, and may have 3"),
        "{error}"
    );
}

#[test]
fn unpacking_stops_at_the_limit() {
    let most = 100_000;
    let limited = BodySettings {
        unpacked_bytes: most,
        ..settings()
    };
    let text = |length: u64| format!("\"{}\"", "x".repeat(length as usize - 2)).into_bytes();
    let packers: [(&str, fn(&[u8]) -> Vec<u8>); 5] = [
        ("gzip", gzip),
        ("deflate", zlib),
        ("zstd", zstd),
        ("gzip, zstd", |body| zstd(&gzip(body))),
        ("zstd, gzip", |body| gzip(&zstd(body))),
    ];
    for (encoding, pack) in packers {
        let fits = read(&limited, &packed(encoding, &pack(&text(most)))).unwrap();
        let body = &fits.message.unwrap().body;
        assert_eq!(body.len() as u64, most, "{encoding}");
        assert!(
            body.capacity() as u64 <= most,
            "{encoding}: {}",
            body.capacity()
        );
        let error = error(&limited, &packed(encoding, &pack(&text(most + 1))));
        assert!(error.contains("more than 100000 bytes unpacked"), "{error}");
    }
}

#[test]
fn a_step_between_two_encodings_has_the_limit_too() {
    let limited = BodySettings {
        unpacked_bytes: 1000,
        ..settings()
    };
    // Each empty file of gzip has 20 bytes: together they are an empty body.
    let empty = gzip(b"").repeat(1000);
    let error = error(&limited, &packed("gzip, zstd", &zstd(&empty)));
    assert!(error.contains("more than 1000 bytes unpacked"), "{error}");
}

#[test]
fn a_window_that_is_larger_than_a_body_may_be_is_refused() {
    // A frame that asks for a window of 2 GiB, and holds one byte.
    let frame = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x09, 0x00, 0x00, b'1'];
    let error = error(&settings(), &packed("zstd", &frame));
    assert!(
        error.starts_with("the zstd body cannot be unpacked: "),
        "{error}"
    );
}

#[test]
fn at_once_the_reader_does_little_work() {
    let long = format!("\"{}\"", "x".repeat(LONG)).into_bytes();
    let reader = Reader::new(Decode::Auto, &events()).unwrap();
    let at_once = |message: &Message| reader.read(message, true, true).map(|_| ());
    let event = [("cloudEvents:type", "a")];
    let structured = "application/cloudevents+json";
    for takes_long in [
        packed("gzip", &gzip(&long)),
        packed("gzip", &long),
        typed(Some(structured), &[], &long),
    ] {
        assert_eq!(at_once(&takes_long), Err(Unread::TakesLong));
    }
    assert_eq!(at_once(&packed("gzip", &gzip(BODY))), Ok(()));
    // Nothing is done with these but what is done with each message.
    assert_eq!(
        at_once(&typed(Some("application/json"), &[], &long)),
        Ok(())
    );
    assert_eq!(at_once(&packed("br", &long)), Ok(()));
    let failed = at_once(&typed(None, &event, &long));
    assert!(matches!(failed, Err(Unread::Failed(_))), "{failed:?}");
}

/// Settings with this schema.
fn with_schema(schema: &Value) -> (tempfile::NamedTempFile, BodySettings) {
    let file = file(&schema.to_string());
    let settings = BodySettings {
        schema_file: Some(file.path().to_owned()),
        ..events()
    };
    (file, settings)
}

#[test]
fn a_body_that_does_not_fit_the_schema_names_the_places_and_no_values() {
    let (_file, settings) = with_schema(&json!({
        "required": ["id"],
        "properties": {
            "id": {"type": "integer"},
            "items": {"items": {"type": "string", "maxLength": 3, "pattern": "^a"}},
        },
        "additionalProperties": false,
    }));
    let check = |body: Value| read(&settings, &typed(None, &[], body.to_string().as_bytes()));
    assert!(check(json!({"id": 1, "items": ["abc"]})).unwrap().is_json);
    let refused = |body| {
        let failure = check(body).unwrap_err();
        assert_eq!(failure.class, "schema");
        assert!(failure.undecodable, "{failure:?}");
        failure.error
    };
    assert_eq!(
        refused(json!({})),
        "the body does not fit the schema: the document: \"id\" is a required property"
    );
    assert_eq!(
        refused(json!({"id": "s3cret"})),
        "the body does not fit the schema: /id: the value is not of type \"integer\""
    );
    let long = "s3cret".repeat(1000);
    let many = refused(json!({"id": 1, "items": vec![&long; 1000]}));
    assert!(
        many.starts_with("the body does not fit the schema: /items/0: "),
        "{many}"
    );
    assert!(many.ends_with("; and more"), "{many}");
    assert!(many.len() < 2000 && !many.contains("s3cret"), "{many}");
    let names = refused(json!({"id": 1, long: 1}));
    assert!(names.len() < 2000, "{names}");
}

#[test]
fn a_schema_is_for_the_unpacked_body_and_for_the_data_of_an_event() {
    let (_file, settings) = with_schema(&json!({"required": ["id"]}));
    assert!(
        read(&settings, &packed("gzip", &gzip(BODY)))
            .unwrap()
            .is_json
    );
    assert!(read(&settings, &packed("gzip", &gzip(b"{}"))).is_err());
    let event = |data: Value| {
        let event = json!({
            "specversion": "1.0", "id": "1", "source": "/a", "type": "t", "data": data
        });
        typed(
            Some("application/cloudevents+json"),
            &[],
            event.to_string().as_bytes(),
        )
    };
    assert!(read(&settings, &event(json!({"id": 2}))).unwrap().is_event);
    assert!(read(&settings, &event(json!({}))).is_err());
    let text = error(&settings, &typed(Some("text/plain"), &[], b"hello"));
    assert!(text.starts_with("invalid JSON"), "{text}");
}

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
