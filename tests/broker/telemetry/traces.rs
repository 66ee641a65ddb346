//! Spans: one trace from publisher to handler, through retries.

use opentelemetry_proto::tonic::trace::v1::{Span, span::SpanKind, status::StatusCode};

use super::Setup;
use crate::support::{
    DEADLINE, HttpHandler, PublishSpec, Received, Reply, Request, RunningWorker, attributes,
    consumer,
};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const UNSAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A span as a `traceparent`.
pub(super) fn traceparent(span: &Span) -> String {
    format!("00-{}-{}-01", hex(&span.trace_id), hex(&span.span_id))
}

pub(super) fn attribute(span: &Span, name: &str) -> String {
    let all = attributes(&span.attributes);
    all.get(name).cloned().unwrap_or_default()
}

fn is_error(span: &Span) -> bool {
    span.status
        .as_ref()
        .is_some_and(|status| status.code() == StatusCode::Error)
}

pub(super) fn has(name: &'static str, count: usize) -> impl Fn(&Received) -> bool {
    move |received| received.named(name).len() >= count
}

/// Asserts that a span is the child of another.
#[track_caller]
pub(super) fn assert_child(child: &Span, parent: &Span) {
    assert_eq!(hex(&child.trace_id), hex(&parent.trace_id), "{child:?}");
    assert_eq!(
        hex(&child.parent_span_id),
        hex(&parent.span_id),
        "{} below {}",
        child.name,
        parent.name
    );
}

#[track_caller]
pub(super) fn links(span: &Span) -> Vec<String> {
    let ids = span.links.iter().map(|link| hex(&link.span_id));
    ids.collect()
}

#[tokio::test]
async fn one_trace_runs_from_the_publisher_through_a_parked_retry_to_the_service() {
    let setup = Setup::new(
        "[consumers.q.retry]\nbase = '1s'\njitter = 0",
        |request| match request.attempt() {
            1 => Reply::status(500),
            _ => Reply::ok(),
        },
    )
    .await;
    setup.publish(&["--message-id", "order-1", "{}"]).await;
    setup.server.wait_for_answered(2, DEADLINE).await;
    let all = |received: &Received| has("ack q", 2)(received) && has("wait q", 1)(received);
    let seen = setup.collector.wait_for("two acks", DEADLINE, all).await;

    let published = seen.only("publish q");
    let [first, second] = seen.named("process q")[..] else {
        panic!("two attempts: {:?}", seen.named("process q"));
    };
    assert_child(first, published);
    assert_child(second, published);
    assert!(published.parent_span_id.is_empty(), "the trace begins here");
    assert_eq!(links(first), [""; 0], "none to its own parent");
    assert_eq!(links(second), [hex(&first.span_id)]);

    let parked = seen.only("publish q.retry.1s");
    let wait = seen.only("wait q");
    assert_child(parked, first);
    assert_child(wait, first);
    let (wait_from, wait_to) = (wait.start_time_unix_nano, wait.end_time_unix_nano);
    assert!(
        wait_to - wait_from >= 900_000_000,
        "{}",
        wait_to - wait_from
    );
    assert!(wait_from >= first.end_time_unix_nano && wait_to <= second.start_time_unix_nano);
    let [ack_of_first, ack_of_second] = seen.named("ack q")[..] else {
        panic!("two acks");
    };
    assert_child(ack_of_first, first);
    assert_child(ack_of_second, second);
    assert!(
        ack_of_first.start_time_unix_nano >= parked.end_time_unix_nano,
        "the ack follows the confirm"
    );

    let requests = seen.named("POST");
    let exchanges = setup.server.seen().exchanges;
    for ((request, attempt), exchange) in requests.iter().zip([first, second]).zip(&exchanges) {
        assert_child(request, attempt);
        assert_eq!(
            exchange.request.header("traceparent"),
            traceparent(request),
            "the service goes on with the request's span"
        );
    }
    assert_eq!(attribute(requests[0], "http.response.status_code"), "500");
    assert_eq!(attribute(requests[0], "error.type"), "500");
    assert_eq!(attribute(requests[1], "http.response.status_code"), "200");
}

#[tokio::test]
async fn spans_have_the_kinds_and_attributes_of_the_conventions() {
    let setup = Setup::new("", |_| Reply::ok()).await;
    setup.publish(&["--message-id", "order-1", "{}"]).await;
    let seen = setup
        .collector
        .wait_for("the ack", DEADLINE, has("ack q", 1));
    let seen = seen.await;

    let expected = |span: &Span, kind: SpanKind, pairs: &[(&str, &str)]| {
        assert_eq!(span.kind(), kind, "{}", span.name);
        assert!(!is_error(span), "{}", span.name);
        for (name, value) in pairs {
            assert_eq!(attribute(span, name), *value, "{}: {name}", span.name);
        }
    };
    expected(
        seen.only("publish q"),
        SpanKind::Producer,
        &[
            ("messaging.system", "rabbitmq"),
            ("messaging.operation.name", "publish"),
            ("messaging.operation.type", "send"),
            ("messaging.destination.name", "q"),
            ("messaging.message.id", "order-1"),
            ("messaging.rabbitmq.destination.routing_key", "q"),
            ("server.address", "127.0.0.1"),
        ],
    );
    expected(
        seen.only("process q"),
        SpanKind::Consumer,
        &[
            ("messaging.system", "rabbitmq"),
            ("messaging.operation.name", "process"),
            ("messaging.operation.type", "process"),
            ("messaging.destination.name", "q"),
            ("messaging.destination.template", "q"),
            ("messaging.message.id", "order-1"),
            ("messaging.rabbitmq.destination.routing_key", "q"),
            ("messaging.rabbitmq.message.delivery_tag", "1"),
            ("server.address", "127.0.0.1"),
            ("lapwing.consumer", "q"),
            ("lapwing.attempt", "1"),
            ("lapwing.outcome", "succeeded"),
            ("error.type", ""),
        ],
    );
    expected(
        seen.only("ack q"),
        SpanKind::Client,
        &[
            ("messaging.operation.name", "ack"),
            ("messaging.operation.type", "settle"),
            ("messaging.rabbitmq.message.delivery_tag", "1"),
        ],
    );
    expected(
        seen.only("POST"),
        SpanKind::Client,
        &[
            ("http.request.method", "POST"),
            ("url.full", &setup.server.url()),
            ("server.address", "127.0.0.1"),
        ],
    );
    for name in ["publish q", "process q", "ack q"] {
        let port = attribute(seen.only(name), "server.port");
        assert!(setup.vhost.amqp_url().contains(&format!(":{port}/")));
    }
    let services: Vec<_> = seen.services.iter().map(String::as_str).collect();
    assert_eq!(services, ["lapwing", "lapwing-publish"]);
    let age: f64 = attribute(seen.only("process q"), "lapwing.message.age")
        .parse()
        .expect("the wait in the queue, in seconds");
    assert!((0.0..DEADLINE.as_secs_f64()).contains(&age), "{age}");
    assert!(seen.resource.contains_key("service.version"));
    assert!(seen.resource["service.instance.id"].starts_with("lapwing@"));
}

#[tokio::test]
async fn a_dead_letter_carries_its_last_attempt_and_a_retry_what_created_the_message() {
    let setup = Setup::new(
        "[consumers.q.retry]\nbase = '1s'\njitter = 0\nmax_attempts = 2",
        |_| Reply::status(500).body("out of stock"),
    )
    .await;
    let spec = PublishSpec::to("q")
        .id("order-1")
        .header("traceparent", PARENT);
    setup.vhost.publish_with(spec).await;
    let wanted = |received: &Received| has("ack q", 2)(received);
    let seen = setup.collector.wait_for("two acks", DEADLINE, wanted).await;

    let [first, second] = seen.named("process q")[..] else {
        panic!("two attempts");
    };
    for attempt in [first, second] {
        assert_eq!(hex(&attempt.trace_id), &PARENT[3..35]);
        assert_eq!(hex(&attempt.parent_span_id), &PARENT[36..52]);
        assert!(is_error(attempt));
        assert_eq!(attribute(attempt, "error.type"), "500");
        assert_eq!(attribute(attempt, "lapwing.outcome"), "failed");
        let text = &attempt.status.as_ref().expect("checked above").message;
        assert!(text.contains("out of stock"), "{text}");
    }
    assert_child(seen.only("publish q.dead"), second);
    let [dead] = &setup.vhost.drain_all("q.dead").await[..] else {
        panic!("one dead letter");
    };
    assert_eq!(dead.header("traceparent"), traceparent(second).as_str());
    for gone in ["lapwing-last-attempt", "lapwing-parked-at"] {
        assert!(dead.header(gone).is_null(), "{gone} belongs to a retry");
    }
    let history = dead.header("lapwing-history").as_str().unwrap_or_default();
    let history: serde_json::Value = serde_json::from_str(history).expect("it is JSON");
    assert_eq!(history[1]["trace"], &PARENT[3..35]);
}

#[tokio::test]
async fn all_attempts_of_a_message_that_came_without_a_trace_are_one_trace() {
    let setup = Setup::new(
        "[consumers.q.retry]\ndelays = ['10ms', '1s']",
        |request| match request.attempt() {
            1 | 2 => Reply::status(500),
            _ => Reply::ok(),
        },
    )
    .await;
    setup.vhost.publish_with(PublishSpec::to("q")).await;
    let all = |received: &Received| has("ack q", 2)(received) && has("wait q", 2)(received);
    let seen = setup.collector.wait_for("two acks", DEADLINE, all).await;

    // The first retry waited in the worker, the second one at the broker.
    let [first, second, third] = seen.named("process q")[..] else {
        panic!("three attempts: {:?}", seen.named("process q"));
    };
    assert!(first.parent_span_id.is_empty(), "the trace begins here");
    assert_child(second, first);
    assert_child(third, second);
    for attempt in [first, second, third] {
        assert_eq!(links(attempt), [""; 0], "none to its own parent");
    }
    for wait in seen.named("wait q") {
        assert_eq!(wait.trace_id, first.trace_id);
    }
}

#[tokio::test]
async fn attempts_begin_traces_of_their_own_where_they_are_only_linked() {
    let setup = Setup::new(
        "[telemetry]\nparent = 'link'\n[consumers.q.retry]\nbase = '10ms'",
        |request| match request.attempt() {
            1 => Reply::status(500),
            _ => Reply::ok(),
        },
    )
    .await;
    let spec = PublishSpec::to("q").header("traceparent", PARENT);
    setup.vhost.publish_with(spec).await;
    let both = |received: &Received| has("ack q", 1)(received) && has("wait q", 1)(received);
    let seen = setup.collector.wait_for("the ack", DEADLINE, both).await;

    let [first, second] = seen.named("process q")[..] else {
        panic!("two attempts");
    };
    for root in [first, second] {
        assert!(root.parent_span_id.is_empty());
        assert_ne!(hex(&root.trace_id), &PARENT[3..35]);
    }
    assert_ne!(first.trace_id, second.trace_id);
    let created = PARENT[36..52].to_owned();
    assert_eq!(links(first), std::slice::from_ref(&created));
    assert_eq!(links(second), [created, hex(&first.span_id)]);
    // The retry waited in the worker.
    let wait = seen.only("wait q");
    assert_child(wait, first);
    assert!(wait.end_time_unix_nano <= second.start_time_unix_nano + 1_000_000);
}

#[tokio::test]
async fn a_publisher_that_does_not_sample_is_followed_and_the_service_is_told() {
    let setup = Setup::new("", |_| Reply::ok()).await;
    let unsampled = PublishSpec::to("q").header("traceparent", UNSAMPLED);
    setup.vhost.publish_with(unsampled).await;
    setup.server.wait_for_answered(1, DEADLINE).await;
    let sampled = PublishSpec::to("q").header("traceparent", PARENT);
    setup.vhost.publish_with(sampled).await;
    let seen = setup
        .collector
        .wait_for("the ack", DEADLINE, has("ack q", 1));
    let seen = seen.await;

    assert_eq!(seen.named("process q").len(), 1, "only the sampled one");
    let exchanges = setup.server.seen().exchanges;
    let told = exchanges[0].request.header("traceparent");
    assert_eq!(&told[..35], &UNSAMPLED[..35], "the trace goes on");
    assert!(told.ends_with("-00"), "and is not sampled: {told}");
}

#[tokio::test]
async fn a_wait_for_a_handler_slot_is_a_span() {
    let gate = crate::support::Gate::default();
    let vhost = crate::support::vhost().await;
    let collector = crate::support::Collector::grpc().await;
    let first = |request: &Request| request.index == 0;
    let server = HttpHandler::holding(&gate, first, |_| Reply::ok()).await;
    let config = consumer(&vhost, "q")
        .http(&server)
        .with("[consumers.q]\nconcurrency = 1\nprefetch = 2")
        .toml();
    let worker = crate::support::WorkerProcess::start_with(&config, |command| {
        super::export_soon(command);
        command.env("LAPWING__TELEMETRY__ENDPOINT", collector.endpoint());
    });
    worker.wait_for_consumers(&vhost, "q", 1).await;
    vhost.publish_many("q", 2, |_| PublishSpec::of("{}")).await;
    vhost.wait_for_counts("q", 0, 2, DEADLINE).await;
    server.wait_for_requests(1, DEADLINE).await;
    let opened = std::time::UNIX_EPOCH.elapsed().expect("it is later");
    gate.open();
    let seen = collector.wait_for("both acks", DEADLINE, has("ack q", 2));
    let seen = seen.await;

    let [_, second] = seen.named("process q")[..] else {
        panic!("two messages");
    };
    let buffered = seen.named("buffer q");
    let of_second = buffered
        .iter()
        .find(|span| span.trace_id == second.trace_id);
    let of_second = of_second.expect("the second waited for the first");
    assert_child(of_second, second);
    assert!(u128::from(of_second.start_time_unix_nano) < opened.as_nanos());
    assert!(u128::from(of_second.end_time_unix_nano) >= opened.as_nanos());
}

#[tokio::test]
async fn spans_of_a_handler_in_rust_are_children_of_its_attempt() {
    let vhost = crate::support::vhost().await;
    let collector = crate::support::Collector::grpc().await;
    let changes = format!("[telemetry]\nendpoint = '{}'", collector.endpoint());
    let settings = consumer(&vhost, "q").with(&changes).settings();
    let telemetry = lapwing::telemetry::start(&settings).expect("it starts");
    let charge = async || {
        let span = tracing::info_span!("charge the card", cents = 250);
        let work = async { tokio::task::yield_now().await };
        tracing::Instrument::instrument(work, span).await;
    };
    let worker = lapwing::Worker::new(settings)
        .handler("q", charge)
        .observe(telemetry.signals());
    let worker = RunningWorker::start(worker).await;
    vhost.publish_with(PublishSpec::to("q")).await;
    let acked = |report: &lapwing::ConsumerReport| report.ledger.acked == 1;
    worker.wait_for_report("the ack", "q", acked).await;
    worker.drain().await;
    let until = std::time::Instant::now() + DEADLINE;
    tokio::task::spawn_blocking(move || telemetry.close(until))
        .await
        .expect("no panic");

    let seen = collector.received();
    let charged = seen.only("charge the card");
    assert_child(charged, seen.only("process q"));
    assert_eq!(attribute(charged, "cents"), "250");
}
