//! The requests of the HTTP handler.

use lapin::types::{AMQPValue, FieldArray};

use super::Setup;
use crate::support::{DEADLINE, HttpHandler, PublishSpec, Reply, consumer};

#[tokio::test]
async fn a_body_goes_as_it_is_with_the_content_type_it_has() {
    let server = HttpHandler::answering(|_| Reply::ok()).await;
    let setup = Setup::new(server, "decode = 'bytes'").await;
    let binary: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    let bodies: [(&str, &[u8]); 4] = [
        ("application/octet-stream", &binary),
        (
            "application/json; charset=utf-8",
            b"{ \"spaces\" : [ 1 ] }\n",
        ),
        ("", b"no type"),
        ("text/plain", b""),
    ];
    for (content_type, body) in bodies {
        let spec = PublishSpec::to("q").body(body);
        let spec = spec.with(|properties| match content_type {
            "" => properties,
            some => properties.with_content_type(some.into()),
        });
        // Read before the message is published, because the worker can be faster than this test.
        let done = setup.server.seen().answered + 1;
        setup.vhost.publish_with(spec).await;
        setup.server.wait_for_answered(done, DEADLINE).await;
    }

    let seen = setup.server.seen();
    for ((content_type, body), exchange) in bodies.into_iter().zip(&seen.exchanges) {
        let request = &exchange.request;
        assert_eq!(request.method, "POST");
        assert_eq!(request.header("content-type"), content_type);
        assert_eq!(request.header("content-length"), body.len().to_string());
        assert!(request.body == body, "{content_type}: the body was changed");
    }
    assert_eq!(seen.exchanges.len(), 4);
}

#[tokio::test]
async fn what_is_known_about_a_message_goes_in_headers() {
    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let server = HttpHandler::answering(|request| match request.attempt() {
        1 => Reply::status(500),
        _ => Reply::ok(),
    })
    .await;
    let changes = "bindings = [{ exchange = 'shop', routing_key = 'order.#' }]\n\
                   retry = { base = '10ms' }\n\
                   handler.headers = { authorization = 'Bearer abc', x-from = 'lapwing' }";
    // The exchange must exist before the worker binds to it.
    let vhost = crate::support::vhost().await;
    vhost
        .declare_exchange("shop", lapin::ExchangeKind::Topic)
        .await;
    let config = consumer(&vhost, "q")
        .http(&server)
        .with(&format!("[consumers.q]\n{changes}"))
        .toml();
    let worker = crate::support::WorkerProcess::start(&config);
    worker.wait_for_consumers(&vhost, "q", 1).await;

    let list = FieldArray::from(vec![
        AMQPValue::LongInt(1),
        AMQPValue::LongString("b".into()),
    ]);
    let mut spec = PublishSpec::to("order.paid.eu")
        .id("order-1")
        .header("tenant", "acme")
        .header("X-Weird Name", "caf\u{e9}\nline")
        .header("count", 3)
        .header("list", AMQPValue::FieldArray(list))
        .header("traceparent", PARENT)
        .header("tracestate", "vendor=1")
        .header("lapwing-forged", "no")
        .with(|properties| {
            properties
                .with_type("order.paid".into())
                .with_content_encoding("identity".into())
                .with_content_type("text/csv".into())
        });
    spec.exchange = "shop".to_owned();
    vhost.publish_with(spec).await;

    let seen = server.wait_for_answered(2, DEADLINE).await;
    for (index, attempt) in [(0, "1"), (1, "2")] {
        let request = &seen.exchanges[index].request;
        let expected = [
            ("lapwing-message-id", "order-1"),
            ("lapwing-attempt", attempt),
            ("lapwing-queue", "q"),
            ("lapwing-routing-key", "order.paid.eu"),
            ("lapwing-type", "order.paid"),
            ("lapwing-redelivered", "false"),
            ("lapwing-header-tenant", "acme"),
            ("lapwing-header-count", "3"),
            ("lapwing-header-list", r#"[1,"b"]"#),
            ("traceparent", PARENT),
            ("tracestate", "vendor=1"),
            ("content-encoding", "identity"),
            ("authorization", "Bearer abc"),
            ("x-from", "lapwing"),
            ("lapwing-forged", ""),
            ("lapwing-header-lapwing-forged", ""),
        ];
        for (name, value) in expected {
            assert_eq!(request.header(name), value, "{name}");
        }
        let weird = &request.headers["lapwing-header-x-weird-name"];
        assert_eq!(weird.as_bytes(), "caf\u{e9}?line".as_bytes());
        assert!(request.header("user-agent").starts_with("lapwing/"));
        let types: Vec<_> = request.headers.get_all("content-type").iter().collect();
        assert_eq!(types, ["text/csv"], "as the message has it");
    }
}

/// Servers refuse a request with too many headers. The server of this test accepts 100.
#[tokio::test]
async fn more_headers_than_a_server_takes_do_not_keep_a_message_from_it() {
    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let server = HttpHandler::answering(|_| Reply::ok()).await;
    let mut setup = Setup::new(server, "").await;
    let mut spec = PublishSpec::to("q").header("traceparent", PARENT);
    for n in 0..1000 {
        spec = spec.header(&format!("h{n:04}"), n);
    }
    setup.vhost.publish_with(spec).await;

    let seen = setup.server.wait_for_answered(1, DEADLINE).await;

    let request = &seen.exchanges[0].request;
    assert_eq!(request.header("lapwing-attempt"), "1");
    assert_eq!(request.header("traceparent"), PARENT);
    let theirs = request.headers.keys();
    let theirs = theirs.filter(|name| name.as_str().starts_with("lapwing-header-"));
    assert!(theirs.count() >= 50, "{:?}", request.headers);
    let ledger = setup.worker.drain(DEADLINE).await;
    assert_eq!((ledger.acked, ledger.received), (1, 1), "{ledger:?}");
}

#[tokio::test]
async fn a_message_that_was_delivered_before_says_so() {
    let server = HttpHandler::answering(|_| Reply::ok()).await;
    let vhost = crate::support::vhost().await;
    vhost.declare("q", crate::support::QueueType::Classic).await;
    let id = vhost.publish("q", "x").await;
    // Another consumer takes the message and disconnects, so the broker delivers it again.
    let other = vhost.connect().await;
    let channel = other.create_channel().await.expect("a channel");
    let taken = channel.basic_get("q".into(), Default::default()).await;
    assert!(taken.expect("the queue exists").is_some());
    other.close(200, "gone".into()).await.expect("it is open");
    vhost.wait_for_counts("q", 1, 0, DEADLINE).await;

    let changes = "[consumers.q]\ntopology = 'attach'";
    let config = consumer(&vhost, "q").http(&server).with(changes).toml();
    let _worker = crate::support::WorkerProcess::start(&config);

    let seen = server.wait_for_answered(1, DEADLINE).await;
    let request = &seen.exchanges[0].request;
    assert_eq!(request.message_id(), id);
    assert_eq!(request.header("lapwing-redelivered"), "true");
}

#[tokio::test]
async fn connections_are_pooled() {
    let server = HttpHandler::answering(|request| match request.index % 3 {
        // An answer that is not read to its end would close its connection.
        0 => Reply::status(500).body(vec![b'x'; 10_000]),
        _ => Reply::ok().body(vec![b'y'; 10_000]),
    })
    .await;
    let changes = "concurrency = 4\nprefetch = 20\nretry = { base = '1ms', max_attempts = 100 }";
    let mut setup = Setup::new(server, changes).await;

    setup
        .vhost
        .publish_many("q", 200, |_| PublishSpec::of("x"))
        .await;
    let all = |seen: &crate::support::exchange::Seen| {
        let ok = |exchange: &&crate::support::exchange::Exchange| {
            !exchange.request.index.is_multiple_of(3) && exchange.ended.is_some()
        };
        seen.exchanges.iter().filter(ok).count() == 200
    };
    setup.server.wait_for("200 successes", DEADLINE, all).await;

    let ledger = setup.worker.drain(DEADLINE).await;
    let seen = setup.server.seen();
    println!(
        "{} requests on {} connections",
        seen.exchanges.len(),
        seen.connections
    );
    assert_eq!((ledger.received, ledger.acked), (200, 200));
    assert!(seen.exchanges.len() >= 290, "a third failed");
    // One connection for each slot, and a few more: a slot can be free before its connection is.
    assert!(seen.connections <= 8, "{} connections", seen.connections);
    assert!(seen.peak <= 4, "{} at once", seen.peak);
}

#[tokio::test]
async fn a_body_that_is_no_json_is_refused_before_any_request_where_it_should_be() {
    let server = HttpHandler::answering(|_| Reply::ok()).await;
    let setup = Setup::new(server, "decode = 'json'").await;
    let body = "{\"a\": [1, 2,, 3]}";
    setup.vhost.publish("q", body).await;

    let dead = setup.dead_letter().await;

    assert_eq!(dead.header("lapwing-reason"), "decode");
    assert_eq!(dead.text(), body);
    let error = dead.header("lapwing-error").as_str().expect("it is text");
    assert!(error.contains("line 1 column 13"), "{error}");
    // A message that is JSON passes, and is the first request.
    setup.vhost.publish("q", "{\"a\": [1]}").await;
    let seen = setup.server.wait_for_answered(1, DEADLINE).await;
    assert_eq!(seen.exchanges.len(), 1);
    assert_eq!(
        seen.exchanges[0].request.json(),
        serde_json::json!({ "a": [1] })
    );
}

#[tokio::test]
async fn a_content_type_tells_which_bodies_must_be_json() {
    let server = HttpHandler::answering(|_| Reply::ok()).await;
    let setup = Setup::new(server, "").await;
    for (id, content_type) in [("text", "text/plain"), ("json", "application/ld+json")] {
        let spec = PublishSpec::to("q").body("{").id(id);
        let spec = spec.with(|properties| properties.with_content_type(content_type.into()));
        setup.vhost.publish_with(spec).await;
    }

    let dead = setup.dead_letter().await;
    let seen = setup.server.wait_for_answered(1, DEADLINE).await;

    assert_eq!((dead.id(), dead.text()), ("json", "{"));
    assert_eq!(seen.exchanges.len(), 1);
    assert_eq!(seen.exchanges[0].request.message_id(), "text");
}

/// Publishes a body with the type JSON and a content encoding. The body is not what either says.
fn packed(encoding: &str) -> PublishSpec {
    let spec = PublishSpec::to("q").id(encoding).body(PACKED);
    spec.with(|properties| {
        properties
            .with_content_type("application/json".into())
            .with_content_encoding(encoding.into())
    })
}

/// The first bytes of any gzip file.
const PACKED: &[u8] = b"\x1f\x8b\x08\x00\xff\x00";

#[tokio::test]
async fn a_body_that_the_worker_cannot_unpack_reaches_the_handler_untouched_although_its_type_is_json()
 {
    let server = HttpHandler::answering(|_| Reply::ok()).await;
    let setup = Setup::new(server, "").await;
    for encoding in ["br", "identity", "Identity"] {
        setup.vhost.publish_with(packed(encoding)).await;
    }

    setup.vhost.wait_for_counts("q.dead", 2, 0, DEADLINE).await;
    let seen = setup.server.wait_for_answered(1, DEADLINE).await;

    let request = &seen.exchanges[0].request;
    assert_eq!((seen.exchanges.len(), request.message_id()), (1, "br"));
    assert_eq!(request.header("content-encoding"), "br");
    assert_eq!(request.header("content-type"), "application/json");
    assert!(request.body == PACKED, "the body was changed");
}

#[tokio::test]
async fn an_encoded_body_is_refused_where_every_body_must_be_json() {
    let server = HttpHandler::answering(|_| Reply::ok()).await;
    let setup = Setup::new(server, "decode = 'json'").await;
    setup.vhost.publish_with(packed("br")).await;

    let dead = setup.dead_letter().await;

    assert_eq!(dead.header("lapwing-reason"), "decode");
    assert_eq!(dead.body, PACKED);
    assert_eq!(setup.server.seen().exchanges.len(), 0);
}

#[tokio::test]
async fn a_proxy_of_the_environment_is_used_for_loopback_too_but_where_it_is_excepted() {
    let proxy = HttpHandler::answering(|_| Reply::ok()).await;
    // No server exists at this address: only the proxy can answer.
    const NOBODY: &str = "http://127.0.0.1:1/orders";
    let mut through = 0;
    for (except, used) in [
        ("", true),
        ("localhost", true),
        ("127.0.0.0/8", false),
        ("127.0.0.1", false),
        ("*", true),
    ] {
        let vhost = crate::support::vhost().await;
        let changes = "[consumers.q]\nretry = { max_age = '1s' }";
        let config = consumer(&vhost, "q").http_at(NOBODY).with(changes).toml();
        let worker = crate::support::WorkerProcess::start_with(&config, |command| {
            command
                .env("HTTP_PROXY", proxy.url())
                .env("NO_PROXY", except);
        });
        worker.wait_for_consumers(&vhost, "q", 1).await;
        vhost.publish("q", "x").await;
        if used {
            through += 1;
            proxy.wait_for_answered(through, DEADLINE).await;
        } else {
            vhost.wait_for_counts("q.dead", 1, 0, DEADLINE).await;
        }
        assert_eq!(proxy.seen().exchanges.len(), through, "{except:?}");
    }
}
