//! Properties and headers that the broker accepts and a client library may fail on.

use lapin::{
    ExchangeKind,
    options::BasicConsumeOptions,
    types::{AMQPValue, FieldTable},
};
use serde_json::{Value, json};

use super::Rig;
use crate::support::raw::{entry, long, nested_arrays, nested_tables};
use crate::support::{Broker, DEADLINE, PublishSpec, RawMessage, require, vhost, within};

/// Bytes of which no part is UTF-8.
const BAD: &[u8] = b"a\xff\xfeb";
/// The same bytes after the worker's repair of a short string.
const MENDED: &str = "a??b";

#[tokio::test]
async fn a_header_value_that_is_not_utf8_is_kept_byte_for_byte() {
    let rig = Rig::start().await;
    let message = RawMessage::to("orders").header(b"name", b'S', &long(BAD));
    rig.vhost.publish_raw(&message).await;

    let fate = rig.fails_twice().await;

    assert_eq!(fate.dead().header("name"), &json!(BAD));
    assert!(fate.dead().header("lapwing-cut-headers").is_null());
}

#[tokio::test]
async fn short_strings_that_are_not_utf8_are_mended_and_the_message_goes_on() {
    let vhost = vhost().await;
    vhost.declare_exchange("shop", ExchangeKind::Topic).await;
    let binding = "[[consumers.orders.bindings]]\nexchange = 'shop'\nrouting_key = '#'\n";
    let rig = Rig::start_in(vhost, binding).await;
    let message = RawMessage {
        exchange: b"shop".to_vec(),
        routing_key: BAD.to_vec(),
        message_id: BAD.to_vec(),
        body: BAD.to_vec(),
        ..RawMessage::default()
    };
    let inner = entry(BAD, b'S', &long(BAD));
    let message =
        message
            .header(BAD, b'S', &long(b"by a bad name"))
            .header(b"table", b'F', &long(&inner));
    rig.vhost.publish_raw(&message).await;

    let fate = rig.fails_twice().await;

    let dead = fate.dead();
    assert_eq!(dead.id(), MENDED);
    assert_eq!(dead.body, BAD, "a body is bytes and stays as it was");
    assert_eq!(dead.header("lapwing-source-routing-key"), MENDED);
    assert_eq!(dead.header("lapwing-source-exchange"), "shop");
    assert_eq!(dead.header(MENDED), "by a bad name");
    assert_eq!(dead.header("table"), &json!({ MENDED: BAD }));
    for request in fate.bad() {
        assert_eq!(request.body, BAD);
        assert_eq!(request.header("lapwing-routing-key"), MENDED);
    }
}

#[tokio::test]
async fn properties_that_are_not_utf8_are_mended_each() {
    let rig = Rig::start().await;
    let message = RawMessage {
        message_id: BAD.to_vec(),
        texts: BAD.to_vec(),
        ..RawMessage::to("orders")
    };
    rig.vhost.publish_raw(&message).await;

    let fate = rig.fails_twice().await;

    let properties = &fate.dead().properties;
    let texts = [
        properties.content_type(),
        properties.content_encoding(),
        properties.correlation_id(),
        properties.reply_to(),
        properties.message_id(),
        properties.kind(),
        properties.app_id(),
        properties.cluster_id(),
    ];
    for text in texts {
        assert_eq!(text.as_ref().map(|text| text.as_str()), Some(MENDED));
    }
    for request in fate.bad() {
        assert_eq!(request.header("content-type"), MENDED);
        assert_eq!(request.header("lapwing-type"), MENDED);
    }
}

#[tokio::test]
async fn headers_that_fill_the_frame_are_retried_and_dead_lettered_with_the_largest_cut() {
    let rig = Rig::start().await;
    let message = RawMessage {
        message_id: b"full".to_vec(),
        body: b"whole".to_vec(),
        ..RawMessage::to("orders")
    };
    let message = message
        .header(b"small", b'S', &long(b"kept"))
        .filled(b"large");
    rig.vhost.publish_raw(&message).await;

    let fate = rig.fails_twice().await;

    let dead = fate.dead();
    assert_eq!((dead.id(), dead.text()), ("full", "whole"));
    assert_eq!(dead.header("small"), "kept");
    assert_eq!(dead.header("large"), &Value::Null);
    assert_eq!(dead.header("lapwing-cut-headers"), "large");
    assert_eq!(dead.header("lapwing-source-queue"), "orders");
}

#[tokio::test]
async fn headers_that_fill_the_frame_arrive_though_the_broker_adds_a_delivery_count() {
    let vhost = Rig::only_queues().await;
    let message = RawMessage {
        body: b"whole".to_vec(),
        ..RawMessage::to("orders")
    };
    vhost.publish_raw(&message.filled(b"large")).await;
    let holder = vhost.connect().await;
    let channel = holder.create_channel().await.expect("a channel");
    let (options, none) = (BasicConsumeOptions::default(), FieldTable::default());
    let consuming = channel.basic_consume("orders".into(), "holder".into(), options, none);
    let _consumer = within("a consume", consuming)
        .await
        .expect("the queue exists");
    vhost.wait_for_counts("orders", 0, 1, DEADLINE).await;
    // Not if a frame that is too long has ended the connection: a lost connection counts as a
    // delivery on every release.
    let _closed = holder.close(200, "gone".into()).await;
    vhost.wait_for_counts("orders", 1, 0, DEADLINE).await;

    let fate = Rig::start_in(vhost, "").await.fails_twice().await;

    assert_eq!(fate.dead().text(), "whole");
    assert_eq!(fate.dead().header("lapwing-cut-headers"), "large");
}

#[tokio::test]
async fn our_own_headers_filled_by_a_publisher_do_not_jam_the_consumer() {
    const NAMES: [&str; 5] = [
        "lapwing-cut-headers",
        "lapwing-source-routing-key",
        "lapwing-source-exchange",
        "lapwing-history",
        "lapwing-original-user-id",
    ];
    let rig = Rig::start().await;
    for name in NAMES {
        let message = RawMessage {
            message_id: name.as_bytes().to_vec(),
            ..RawMessage::to("orders")
        };
        rig.vhost
            .publish_raw(&message.filled(name.as_bytes()))
            .await;
    }

    let fate = rig.all_fail_twice(NAMES.len()).await;

    for dead in &fate.all {
        let left = dead.header(dead.id()).to_string().len();
        assert!(left < 4096, "{} is left with {left} bytes", dead.id());
        assert_eq!(dead.header("lapwing-source-queue"), "orders");
        assert_eq!(dead.header("lapwing-error-kind"), "http");
    }
}

#[tokio::test]
async fn tables_and_arrays_nested_by_the_thousand_neither_overflow_a_stack_nor_stop_the_consumer() {
    let rig = Rig::start().await;
    for (kind, value) in [(b'F', nested_tables(20_000)), (b'A', nested_arrays(25_000))] {
        let message = RawMessage::to("orders").header(b"deep", kind, &value);
        rig.vhost.publish_raw(&message).await;
    }

    let fate = rig.all_fail_twice(2).await;

    for dead in &fate.all {
        assert!(!dead.header("deep").is_null(), "it is still there");
    }
}

#[tokio::test]
async fn a_header_of_every_type_the_broker_takes_is_carried_along() {
    let rig = Rig::start().await;
    let mut message = RawMessage::to("orders");
    let values: [(u8, Vec<u8>, Value); 17] = [
        (b'S', long(b"text"), json!("text")),
        (b'I', vec![0xff; 4], json!(-1)),
        (b'D', vec![2, 0, 0, 0, 5], Value::Null),
        (b'T', vec![0, 0, 0, 0, 0, 0, 0, 9], json!(9)),
        (b'F', long(b""), json!({})),
        (b'A', long(b"t\x01"), json!([true])),
        (b'b', vec![0xff], json!(-1)),
        (b'B', vec![0xff], json!(255)),
        (b'd', 1.5f64.to_be_bytes().to_vec(), json!(1.5)),
        (b'f', 2.5f32.to_be_bytes().to_vec(), json!(2.5)),
        (b'l', vec![0xff; 8], json!(-1)),
        (b's', vec![0xff; 2], json!(-1)),
        (b't', vec![1], json!(true)),
        (b'V', vec![], Value::Null),
        (b'x', long(BAD), json!(BAD)),
        (b'u', vec![0xff; 2], json!(65535)),
        (b'i', vec![0xff; 4], json!(4_294_967_295_u32)),
    ];
    for (kind, value, _) in &values {
        message = message.header(&[b'h', *kind], *kind, value);
    }
    rig.vhost.publish_raw(&message).await;

    let fate = rig.fails_twice().await;

    for (kind, _, expected) in values {
        let name = format!("h{}", char::from(kind));
        assert!(fate.dead().headers.contains_key(&name), "{name} is gone");
        // Decimals have no plain JSON form that could be compared.
        if kind != b'D' {
            assert_eq!(fate.dead().header(&name), &expected, "{name}");
        }
    }
}

#[tokio::test]
async fn own_node_whose_frames_were_longer_or_have_no_limit_does_not_jam_the_consumer() {
    let broker = require!(OwnNode, Broker::own("frames").await);
    let frame_max = async |bytes: u32| {
        let set = format!("application:set_env(rabbit, frame_max, {bytes}).");
        broker.ctl(&["eval", &set]).await;
    };
    // Like a message stored while longer frames were allowed, or published by AMQP 1.0.
    frame_max(1024 * 1024).await;
    let vhost = broker.vhost().await;
    let mut rig = Rig::start_in(vhost, "").await;
    let headers = [("a", 60_000), ("b", 60_000), ("long", 70_000)];
    let spec = PublishSpec::to("orders").body("whole");
    let spec = headers.iter().fold(spec, |spec, (name, length)| {
        spec.header(name, AMQPValue::LongString("x".repeat(*length).into()))
    });
    rig.worker.drain(DEADLINE).await;
    rig.vhost.publish_with(spec.clone()).await;

    frame_max(131_072).await;
    let fate = Rig::start_in(rig.vhost, "").await.fails_twice().await;

    let dead = fate.dead();
    assert_eq!(dead.text(), "whole");
    assert_eq!(dead.header("lapwing-cut-headers"), "long");
    assert!(dead.header("a").is_string() && dead.header("b").is_string());

    frame_max(0).await;
    fate.vhost.publish_with(spec).await;
    let fate = Rig::start_in(fate.vhost, "").await.fails_twice().await;

    for (name, length) in headers {
        let text = fate.dead().header(name).as_str();
        assert_eq!(text.map(str::len), Some(length), "{name}");
    }
}
