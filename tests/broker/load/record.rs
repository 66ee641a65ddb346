//! The messages of the load test, and the contents that each dead letter must have.

use std::collections::BTreeSet;
use std::time::SystemTime;

use lapin::types::{AMQPValue, FieldArray, FieldTable};
use serde_json::Value;

use super::{EXCHANGE, KEY, MAX_ATTEMPTS};
use crate::support::{Got, PublishSpec};

/// The headers with the record of a dead letter.
const RECORD: [&str; 14] = [
    "lapwing-reason",
    "lapwing-error",
    "lapwing-error-kind",
    "lapwing-fingerprint",
    "lapwing-attempts",
    "lapwing-crashes",
    "lapwing-first-seen",
    "lapwing-failed-at",
    "lapwing-history",
    "lapwing-source-queue",
    "lapwing-source-exchange",
    "lapwing-source-routing-key",
    "lapwing-worker",
    "lapwing-replays",
];

/// Whether the message has the properties that a copy cannot keep.
fn has_misrouting_properties(id: usize) -> bool {
    id % 200 == 7
}

/// The failure of a message that always fails: the same class, with its own text.
pub(super) fn error(id: usize) -> String {
    format!("shelf {id} is empty — naïvely so")
}

/// The trace context of a message's publisher.
fn trace(id: usize) -> String {
    format!("{:032x}", id + 0x1000)
}

/// A message with every property and headers of many types.
pub(super) fn message(id: usize) -> PublishSpec {
    // Bytes that every conversion would change.
    let body = format!("{{ \"id\" : {id},\t\"note\":\"\\u00e4 ä\",\"n\":1.50 }}\r\n");
    let mut inner = FieldTable::default();
    inner.insert("deep".into(), AMQPValue::Boolean(false));
    let array = FieldArray::from(vec![
        AMQPValue::LongInt(-3),
        AMQPValue::LongString("x".into()),
    ]);
    let mut spec = PublishSpec {
        exchange: EXCHANGE.to_owned(),
        routing_key: KEY.to_owned(),
        ..PublishSpec::of(body)
    }
    .id(&format!("order-{id}"))
    .header("tenant", "größe")
    .header("weight", i64::from(u32::MAX) + 7)
    .header("fragile", true)
    .header("table", AMQPValue::FieldTable(inner))
    .header("array", AMQPValue::FieldArray(array))
    .header(
        "bytes",
        AMQPValue::LongString(vec![0xff, 0x00, 0xfe].into()),
    )
    .header("ratio", AMQPValue::Double(0.1))
    .header("small", AMQPValue::ShortInt(-5))
    .header("when", AMQPValue::Timestamp(1_700_000_000))
    .header("nothing", AMQPValue::Void)
    .header(
        "traceparent",
        format!("00-{}-00000000000000ab-01", trace(id)).as_str(),
    )
    .with(|properties| {
        properties
            .with_content_type("application/json".into())
            .with_content_encoding("identity".into())
            .with_priority(4)
            .with_correlation_id("correlation".into())
            .with_reply_to("answers".into())
            // In the future, because the message would else be past its expiration.
            .with_timestamp(4_102_444_801)
            .with_type("order.placed".into())
            .with_app_id("shop".into())
            .with_cluster_id("west".into())
    });
    if has_misrouting_properties(id) {
        spec = spec.with(|properties| {
            let properties = properties.with_user_id("guest".into());
            properties.with_expiration("3600000".into())
        });
    }
    spec
}

/// The number of this message.
pub(super) fn id(got: &Got) -> usize {
    let id = got.id().strip_prefix("order-");
    id.and_then(|id| id.parse().ok())
        .unwrap_or_else(|| panic!("an id of ours: {:?}", got.id()))
}

/// Checks every dead letter against what was published and the record it must carry.
pub(super) fn check_all(dead: &[Got], began: SystemTime) {
    let mut fingerprints = BTreeSet::new();
    for got in dead {
        check_copy(got);
        check_record(got, began);
        fingerprints.insert(got.header("lapwing-fingerprint").to_string());
    }
    assert_eq!(
        fingerprints.len(),
        1,
        "one sort of failure: {fingerprints:?}"
    );
}

/// Asserts that bytes, properties and the publisher's headers are those of the original.
fn check_copy(got: &Got) {
    let original = message(id(got));
    let name = got.id();
    assert_eq!(got.body, original.body, "{name}");

    let misrouting = has_misrouting_properties(id(got));
    let aside = |header: &str, value: &str| match misrouting {
        true => assert_eq!(got.header(header), value, "{name}"),
        false => assert_eq!(*got.header(header), Value::Null, "{name}"),
    };
    aside("lapwing-original-user-id", "guest");
    aside("lapwing-original-expiration", "3600000");
    // The end of the message's life, which the worker keeps.
    assert_eq!(
        got.header("lapwing-expires-at").is_string(),
        misrouting,
        "{name}"
    );
    let plain = message(id(got) + usize::from(misrouting));
    let expected = plain.id(name).properties;
    let found = got.properties.clone();
    assert_eq!(
        found.with_headers(FieldTable::default()),
        expected.with_headers(FieldTable::default())
    );

    let headers = got.properties.headers().clone().unwrap_or_default();
    for (header, value) in original.headers.inner() {
        assert_eq!(headers.inner().get(header), Some(value), "{name}: {header}");
    }
    let known = |header: &str| {
        RECORD.contains(&header)
            || original.headers.contains_key(header)
            || misrouting && header.starts_with("lapwing-original-")
            || header == "lapwing-expires-at"
    };
    let strangers: Vec<_> = got.headers.keys().filter(|name| !known(name)).collect();
    assert!(strangers.is_empty(), "{name} gained {strangers:?}");
}

/// Checks the record of a message whose attempts are used up.
fn check_record(got: &Got, began: SystemTime) {
    let text = |header: &str| match got.header(header) {
        Value::String(text) => text.as_str(),
        other => panic!("{}: {header} is {other}", got.id()),
    };
    let time = |text: &str| {
        humantime::parse_rfc3339(text).unwrap_or_else(|error| panic!("{text:?}: {error}"))
    };
    let error = error(id(got));
    assert_eq!(text("lapwing-reason"), "max-attempts");
    assert_eq!(text("lapwing-error"), error);
    assert_eq!(text("lapwing-error-kind"), "warehouse");
    assert!(!text("lapwing-fingerprint").is_empty());
    assert_eq!(*got.header("lapwing-attempts"), MAX_ATTEMPTS);
    assert_eq!(*got.header("lapwing-crashes"), 0);
    assert_eq!(*got.header("lapwing-replays"), 0);
    assert_eq!(text("lapwing-source-queue"), "orders");
    assert_eq!(text("lapwing-source-exchange"), EXCHANGE);
    assert_eq!(text("lapwing-source-routing-key"), KEY);
    let worker = text("lapwing-worker");
    assert!(worker.starts_with("lapwing@"), "{worker}");
    assert!(
        worker.ends_with(&format!(":{}", std::process::id())),
        "{worker}"
    );

    let (first, last) = (text("lapwing-first-seen"), text("lapwing-failed-at"));
    let (first, last) = (time(first), time(last));
    // Headers count in milliseconds.
    let began = began - std::time::Duration::from_millis(1);
    assert!(began <= first && first < last && last <= SystemTime::now());

    let history: Vec<Value> =
        serde_json::from_str(text("lapwing-history")).expect("as the test made it");
    assert_eq!(history.len(), MAX_ATTEMPTS);
    let mut before = first;
    for (entry, attempt) in history.iter().zip(1..) {
        let at = time(entry["at"].as_str().expect("as the test made it"));
        assert!(before <= at && at <= last, "{history:?}");
        before = at;
        assert_eq!(entry["attempt"], attempt);
        assert_eq!(entry["kind"], "warehouse");
        assert_eq!(entry["error"], error);
        assert_eq!(entry["worker"], worker);
        assert_eq!(entry["trace"], trace(id(got)));
    }
}
