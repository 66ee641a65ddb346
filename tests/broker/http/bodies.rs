//! What is done with a body before its request: unpacking, JSON Schema, CloudEvents.

use std::io::Write;

use flate2::{Compression, write::GzEncoder};
use lapin::types::ShortString;

use super::Setup;
use crate::support::{DEADLINE, HttpHandler, PublishSpec, Reply};

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut packer = GzEncoder::new(Vec::new(), Compression::default());
    packer.write_all(body).expect("memory can be written");
    packer.finish().expect("memory can be written")
}

fn json(id: &str, body: impl Into<Vec<u8>>) -> PublishSpec {
    let spec = PublishSpec::to("q").id(id).body(body);
    spec.with(|properties| properties.with_content_type("application/json".into()))
}

fn packed(id: &str, encoding: &'static str, body: impl Into<Vec<u8>>) -> PublishSpec {
    json(id, body).with(|properties| properties.with_content_encoding(encoding.into()))
}

#[tokio::test]
async fn a_packed_body_is_sent_unpacked_and_a_retry_keeps_it_packed() {
    let server = HttpHandler::answering(|request| match request.attempt() {
        1 => Reply::status(500),
        _ => Reply::ok(),
    })
    .await;
    // The retry waits at the broker.
    let changes = "retry = { base = '1s', inline_below = '0s', jitter = 0.0 }\n\
                   body.unpacked_bytes = 200000";
    let setup = Setup::new(server, changes).await;
    let body = format!("{{\"text\": \"{}\"}}", "x".repeat(150_000)).into_bytes();
    let zstd = zstd::encode_all(&body[..], 0).unwrap();
    setup
        .vhost
        .publish_with(packed("gzip", "gzip", gzip(&body)))
        .await;
    setup
        .vhost
        .publish_with(packed("zstd", "zstd", zstd.clone()))
        .await;
    let both = zstd::encode_all(&gzip(&body)[..], 0).unwrap();
    setup
        .vhost
        .publish_with(packed("both", "gzip, zstd", both))
        .await;
    let bomb = gzip(&vec![b' '; 200_001]);
    setup
        .vhost
        .publish_with(packed("bomb", "gzip", bomb.clone()))
        .await;

    let seen = setup.server.wait_for_answered(6, DEADLINE).await;
    for exchange in &seen.exchanges {
        let request = &exchange.request;
        assert_eq!(request.header("content-encoding"), "");
        assert_eq!(request.header("content-type"), "application/json");
        assert!(request.body == body, "{}", request.message_id());
    }
    assert_eq!(seen.exchanges.len(), 6);
    let dead = setup.dead_letter().await;
    assert_eq!(
        (dead.id(), dead.header("lapwing-reason")),
        ("bomb", &"decode".into())
    );
    assert_eq!(dead.header("lapwing-error-kind"), "unpack");
    assert!(dead.body == bomb, "the body of the dead letter was changed");
    let encoding = dead.properties.content_encoding().as_ref();
    assert_eq!(encoding.map(ShortString::as_str), Some("gzip"));
}

#[tokio::test]
async fn a_body_that_does_not_fit_the_schema_is_a_dead_letter_that_names_the_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("order.json");
    let schema = r#"{"required": ["id"], "properties": {"id": {"type": "integer"}}}"#;
    std::fs::write(&file, schema).unwrap();
    let server = HttpHandler::answering(|_| Reply::ok()).await;
    let setup = Setup::new(server, &format!("body.schema_file = {file:?}")).await;
    setup
        .vhost
        .publish_with(json("wrong", r#"{"id": "s3cret"}"#))
        .await;
    setup
        .vhost
        .publish_with(packed("right", "gzip", gzip(br#"{"id": 1}"#)))
        .await;

    let dead = setup.dead_letter().await;
    let seen = setup.server.wait_for_answered(1, DEADLINE).await;
    assert_eq!(seen.exchanges.len(), 1);
    assert_eq!(seen.exchanges[0].request.message_id(), "right");
    assert_eq!(dead.id(), "wrong");
    assert_eq!(dead.header("lapwing-error-kind"), "schema");
    let error = "the body does not fit the schema: /id: the value is not of type \"integer\"";
    assert_eq!(dead.header("lapwing-error"), error);
}

#[tokio::test]
async fn an_event_is_sent_as_cloud_events_over_http_have_it() {
    let server = HttpHandler::answering(|_| Reply::ok()).await;
    let setup = Setup::new(server, "body.cloud_events = 'required'").await;
    let event = r#"{"specversion": "1.0", "id": "e1", "source": "/shop", "type": "placed",
                    "data": {"n": 1}}"#;
    let structured = PublishSpec::to("q").id("structured").body(event);
    let content_type = "application/cloudevents+json; charset=utf-8";
    let structured =
        structured.with(|properties| properties.with_content_type(content_type.into()));
    let binary = json("binary", r#"{"n": 1}"#)
        .header("cloudEvents:specversion", "1.0")
        .header("cloudEvents:id", "e1")
        .header("cloudEvents:source", "/shop")
        .header("cloudEvents:type", "placed");
    setup.vhost.publish_with(structured).await;
    setup.vhost.publish_with(binary).await;
    setup.vhost.publish_with(json("none", "{}")).await;

    let dead = setup.dead_letter().await;
    assert_eq!((dead.id(), dead.text()), ("none", "{}"));
    assert_eq!(dead.header("lapwing-error-kind"), "cloudevent");
    let seen = setup.server.wait_for_answered(2, DEADLINE).await;
    for exchange in &seen.exchanges {
        let request = &exchange.request;
        for (name, value) in [
            ("ce-specversion", "1.0"),
            ("ce-id", "e1"),
            ("ce-source", "/shop"),
            ("ce-type", "placed"),
            ("content-type", "application/json"),
        ] {
            assert_eq!(request.header(name), value, "{name}");
        }
        assert_eq!(request.json(), serde_json::json!({"n": 1}));
    }
    assert_eq!(seen.exchanges.len(), 2);
}
