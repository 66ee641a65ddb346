//! What reaches the database: values of each kind, as they are.

use super::{ORDERS, Setup, drained};
use crate::support::{DEADLINE, PublishSpec};

#[tokio::test]
async fn values_of_body_headers_and_properties_arrive_as_they_are() {
    let table = "CREATE TABLE seen (id text, big numeric, small int, flag boolean, at timestamptz, \
                 tags text[], doc jsonb, raw bytea, note text, source text, key text, attempt int)";
    let setup = Setup::new(table).await;
    let statement = "INSERT INTO seen VALUES (:id, :big, :small, :flag, :at, :tags, :doc, :raw, \
                     :note, :source, :key, :attempt)";
    let parameters = "id = 'message-id', big = 'body:/big', small = 'body:/small', \
                      flag = 'body:/flag', at = 'body:/at', tags = 'body:/tags', doc = 'body:/doc', \
                      raw = 'body', note = 'body:/note', source = 'header:x-source', \
                      key = 'routing-key', attempt = 'attempt'";
    let consumer = setup
        .consumer(statement, parameters, "")
        .with("consumers.q.handler.optional = ['note']");
    let worker = consumer.start().await;
    let body = r#"{"big": 123456789012345678901234567890.12, "small": -7, "flag": true,
        "at": "2026-11-27T12:00:00Z", "tags": ["a,b", "c\"}", null], "doc": {"x": [1.50, "y"]}}"#;
    let spec = PublishSpec::to("q").body(body).id("m1");
    setup
        .vhost
        .publish_with(spec.header("x-source", "shop"))
        .await;
    setup
        .database
        .wait_for("SELECT count(*) FROM seen", 1_i64)
        .await;
    assert_eq!(drained(worker).await.acked, 1);

    let is = "SELECT id = 'm1' AND big = 123456789012345678901234567890.12 AND small = -7 AND flag \
              AND at = '2026-11-27 12:00+00' AND tags = ARRAY['a,b', 'c\"}', NULL] \
              AND doc = '{\"x\": [1.50, \"y\"]}' AND convert_from(raw, 'UTF8') LIKE '{\"big\"%' \
              AND note IS NULL AND source = 'shop' AND key = 'q' AND attempt = 1 FROM seen";
    assert!(setup.database.value::<bool>(is).await);
}

#[tokio::test]
async fn sql_in_a_message_stays_data() {
    let setup = Setup::new(ORDERS).await;
    let statement = "INSERT INTO orders (id) VALUES (:id)";
    let worker = setup
        .consumer(statement, "id = 'body:/id'", "")
        .start()
        .await;
    let hostile = [
        "'); DROP TABLE orders; --",
        "' OR '1'='1",
        "$1",
        ":id",
        "$$; DELETE FROM orders; $$",
        "\\'; SELECT pg_sleep(10); --",
        "\u{202e}\u{feff}\n\t\"",
    ];
    for text in hostile {
        let body = serde_json::json!({ "id": text }).to_string();
        setup.vhost.publish("q", body).await;
    }
    let all = i64::try_from(hostile.len()).expect("a few");
    setup
        .database
        .wait_for("SELECT count(*) FROM orders", all)
        .await;
    assert_eq!(drained(worker).await.acked, hostile.len() as u64);
    for text in hostile {
        let quoted = text.replace('\'', "''");
        let query = format!("SELECT count(*) FROM orders WHERE id = '{quoted}'");
        assert_eq!(setup.database.value::<i64>(&query).await, 1, "{text}");
    }
}

#[tokio::test]
async fn what_cannot_be_a_value_is_a_dead_letter_that_says_why() {
    let setup = Setup::new(ORDERS).await;
    setup
        .database
        .run("INSERT INTO orders VALUES ('twice', 0)")
        .await;
    let statement = "INSERT INTO orders (id, sum) VALUES (:id, :sum::int)";
    let worker = setup
        .consumer(statement, "id = 'body:/id', sum = 'body:/sum'", "")
        .start()
        .await;
    for (body, reason, error) in [
        (
            r#"{"id": "a"}"#,
            "rejected",
            "parameter `sum`: the message has no value for it",
        ),
        (r#"{"id": "a", "sum": 99999999999}"#, "rejected", "22003: "),
        (r#"{"id": "a", "sum": 1.5}"#, "rejected", "22P02: "),
        (r#"{"id": "a", "sum": "x"}"#, "rejected", "22P02: "),
        (
            r#"{"id": "a", "sum": {}}"#,
            "rejected",
            "parameter `sum`: its value is a JSON object, and its type is int4",
        ),
        (r#"{"id": "a\u0000b", "sum": 1}"#, "rejected", "22021: "),
        (r#"{"id": "twice", "sum": 1}"#, "rejected", "23505: "),
        (r#"{"id": null, "sum": 1}"#, "rejected", "23502: "),
        ("no JSON", "decode", "the body is not JSON: "),
    ] {
        setup.vhost.publish("q", body).await;
        let (found, text) = setup.dead_letter().await;
        assert_eq!(found, reason, "{body}");
        assert!(text.starts_with(error), "{body}: {text}");
    }
    // The session is of use after each of them.
    setup
        .vhost
        .publish("q", r#"{"id": "good", "sum": 2}"#)
        .await;
    let good = "SELECT count(*) FROM orders WHERE id = 'good' AND sum = 2";
    setup.database.wait_for(good, 1_i64).await;
    setup.vhost.wait_for_counts("q", 0, 0, DEADLINE).await;
    let ledger = drained(worker).await;
    assert_eq!((ledger.acked, ledger.dead_lettered), (1, 9), "{ledger:?}");
}
