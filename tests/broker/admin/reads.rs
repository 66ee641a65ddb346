//! The API's answers to reads.

use lapwing::{Failure, Worker};
use reqwest::Method;
use serde_json::{Value, json};

use super::{settings, start_both};
use crate::support::{DEADLINE, PublishSpec, QueueType, TOKEN, admin::answer, vhost, wait_until};

#[tokio::test]
async fn a_consumer_tells_its_settings_its_ledger_and_how_much_it_does() {
    let vhost = vhost().await;
    let settings = settings(&vhost, "[consumers.q]\nprefetch = 10\nconcurrency = 5");
    let worker = Worker::new(settings.clone()).handler("q", async || {});
    let (worker, admin) = start_both(settings, worker).await;
    // The first sample is the start of counting, and adds no step.
    let look = async || admin.read("/api/v1/consumers/q/history").await;
    let begun = |history: &Value| {
        history["received"]
            .as_array()
            .is_some_and(|steps| !steps.is_empty())
    };
    wait_until("it counts", DEADLINE, look, begun).await;
    vhost.publish_many("q", 20, |_| PublishSpec::of("x")).await;
    let path = "/api/v1/consumers/q";
    let look = async || admin.read(path).await;
    let counted = |consumer: &Value| {
        consumer["ledger"]["acked"] == 20 && consumer["rates"]["succeeded"].as_f64() > Some(0.0)
    };
    let consumer = wait_until("it has counted", DEADLINE, look, counted).await;

    let told = [
        ("name", json!("q")),
        ("queue", json!("q")),
        ("handler", json!("function")),
        ("state", json!("consuming")),
        ("reason", Value::Null),
        ("prefetch", json!(10)),
        ("concurrency", json!(5)),
        ("queue_type", json!("quorum")),
        ("topology", json!("declare")),
        ("dead_letter_queue", json!("q.dead")),
        ("timeout_seconds", json!(20.0)),
        ("max_attempts", json!(20)),
        ("in_flight", json!(0)),
        ("waiting", json!(0)),
    ];
    for (field, value) in told {
        assert_eq!(consumer[field], value, "{field}");
    }
    assert_eq!(consumer["counts"]["succeeded"], 20);
    let p50 = consumer["latency"]["p50_seconds"].as_f64();
    assert!(p50.is_some_and(|p50| p50 < 5.0), "{consumer}");

    let history = admin.read("/api/v1/consumers/q/history").await;
    let sum = |field: &str| {
        let steps = history[field].as_array().expect("it is a list");
        steps.iter().filter_map(Value::as_u64).sum::<u64>()
    };
    assert_eq!(
        (sum("received"), sum("succeeded"), sum("failed")),
        (20, 20, 0)
    );
    assert_eq!(history["step_seconds"], 1.0);

    let about = admin.read("/api/v1/worker").await;
    assert_eq!(about["totals"]["acked"], 20);
    assert_eq!(
        (&about["ready"], &about["can_change"]),
        (&json!(true), &json!(true))
    );
    assert_eq!(about["version"], env!("CARGO_PKG_VERSION"));
    let now = about["now"].as_str().expect("it is text");
    assert_eq!((now.len(), now.ends_with('Z')), (24, true), "{now}");
    let consumers = admin.read("/api/v1/consumers").await;
    assert_eq!(consumers["consumers"][0]["name"], "q");
    let page = admin.read("/api/v1/outcomes").await;
    let kept = page["outcomes"].as_array().expect("it is a list").len();
    assert!(
        (1..=20).contains(&kept),
        "successes are thinned out: {kept}"
    );
    worker.drain().await;
}

#[tokio::test]
async fn failures_and_what_waits_at_the_broker_are_told() {
    let vhost = vhost().await;
    let retry = "[consumers.q.retry]\nbase = '50s'\ncap = '60s'\njitter = 0.0";
    let settings = settings(&vhost, retry);
    let handler = async || Err::<(), _>(Failure::retryable("http", "x".repeat(600)).status(503));
    let dead = async || Err::<(), _>(Failure::permanent("price", "negative"));
    let worker = Worker::new(settings.clone()).handler("q", handler);
    let worker = worker.handler_for_route("q", "dead", dead);
    let (worker, admin) = start_both(settings, worker).await;
    let typed = PublishSpec::to("q").id("dead");
    vhost
        .publish_with(typed.with(|properties| properties.with_type("dead".into())))
        .await;
    vhost.publish_many("q", 1, |_| PublishSpec::of("x")).await;
    let path = "/api/v1/consumers/q/retry-queues";
    let look = async || admin.read(path).await;
    let parked = |queues: &Value| {
        queues["retry_queues"][0]["messages"] == 1 && queues["dead_letters"]["messages"] == 1
    };
    let queues = wait_until("both are there", DEADLINE, look, parked).await;

    let rung = json!({ "queue": "q.retry.64s", "delay_seconds": 64.0, "messages": 1 });
    assert_eq!(queues["retry_queues"][0], rung);
    assert_eq!(queues["retry_queues"].as_array().map(Vec::len), Some(1));
    assert_eq!(queues["dead_letters"]["queue"], "q.dead");
    assert_eq!(queues["error"], Value::Null);

    let page = admin
        .read("/api/v1/outcomes?consumer=q&kind=failed&limit=2")
        .await;
    let outcomes = page["outcomes"].as_array().expect("it is a list");
    assert_eq!(outcomes.len(), 2);
    let of = |id: &str| outcomes.iter().find(|outcome| outcome["id"] == id);
    let (failed, dead) = (of("q-00000"), of("dead"));
    let failed = failed.expect("it failed");
    assert_eq!(failed["settlement"], "retry");
    assert_eq!(failed["retry_seconds"], 50.0);
    assert_eq!(
        (&failed["class"], &failed["status"]),
        (&json!("http"), &json!(503))
    );
    assert_eq!(failed["error"].as_str().map(str::len), Some(500));
    assert!(failed["handling_seconds"].is_f64(), "{failed}");
    for (query, wanted) in [
        ("id=dead&since=1h", 1),
        ("id=none", 0),
        ("since=1ms", 0),
        ("failures=true&consumer=q", 2),
        ("type=dead&class=price", 1),
        ("class=http", 1),
        ("until=1h", 0),
    ] {
        let page = admin.read(&format!("/api/v1/outcomes?{query}")).await;
        let found = page["outcomes"].as_array().expect("it is a list").len();
        assert_eq!(found, wanted, "{query}: {page}");
    }
    assert_eq!(failed["retry_queue"], "q.retry.64s");
    let cause = failed["cause"].as_str().expect("it has a cause");
    let same = admin.read(&format!("/api/v1/outcomes?cause={cause}")).await;
    assert_eq!(same["outcomes"].as_array().map(Vec::len), Some(1), "{same}");
    assert_eq!(same["has_more"], false);
    let started = admin.read("/api/v1/worker").await["started_at"].take();
    assert_eq!(same["failures_since"], started);
    let message = admin.read("/api/v1/message?id=dead").await;
    assert_eq!(message["outcomes"][0]["reason"], "rejected", "{message}");
    assert_eq!(message["in_flight"], json!([]));
    let dead = dead.expect("it failed");
    assert_eq!(
        (&dead["type"], &dead["attempt"]),
        (&json!("dead"), &json!(1))
    );
    assert_eq!(
        (&dead["settlement"], &dead["reason"]),
        (&json!("dead-letter"), &json!("rejected"))
    );
    worker.drain().await;
}

#[tokio::test]
async fn retry_queues_without_a_broker_or_with_missing_queues_says_so() {
    let vhost = vhost().await;
    vhost.declare("q", QueueType::Quorum).await;
    vhost.declare_beside("q").await;
    let changes = "[consumers.q]\ntopology = 'none'\n[consumers.q.retry]\ncap = '1s'";
    let settings = settings(&vhost, changes);
    let worker = Worker::new(settings.clone()).handler("q", async || {});
    let (worker, admin) = start_both(settings, worker).await;
    vhost.delete("q.retry.1s").await;
    vhost.delete("q.dead").await;

    let missing = admin.read("/api/v1/consumers/q/retry-queues").await;
    assert_eq!(missing["retry_queues"][0]["messages"], Value::Null);
    assert_eq!(missing["dead_letters"]["messages"], Value::Null);
    assert_eq!(missing["error"], Value::Null);

    worker.drain().await;
    let look = async || admin.read("/api/v1/consumers/q/retry-queues").await;
    let gone = |queues: &Value| queues["error"] == "the consumer is not running";
    wait_until("the broker cannot be asked", DEADLINE, look, gone).await;
}

#[tokio::test]
async fn what_is_asked_wrongly_is_refused_in_json() {
    let vhost = vhost().await;
    let settings = settings(&vhost, "[broker]\nname = 'shop'");
    let worker = Worker::new(settings.clone()).handler("q", async || {});
    let (worker, admin) = start_both(settings, worker).await;
    let wrong = [
        ("/api/v1/in-flight?limit=0", 400),
        ("/api/v1/in-flight?limit=1001", 400),
        ("/api/v1/in-flight?offset=-1", 400),
        ("/api/v1/in-flight?offset=100001", 400),
        ("/api/v1/in-flight?consumer=other", 404),
        ("/api/v1/in-flight?id=q-00000", 400),
        ("/api/v1/outcomes?since=yesterday", 400),
        ("/api/v1/outcomes?until=later", 400),
        ("/api/v1/outcomes?tpye=order", 400),
        ("/api/v1/consumers?state=paused", 400),
        ("/api/v1/consumers/q?since=10m", 400),
        ("/api/v1/worker?x", 400),
        ("/api/v1/events?consumer=q", 400),
        ("/api/v1/message", 400),
        ("/api/v1/message?id=a&consumer=q", 400),
        ("/api/v1/outcomes?kind=lost", 400),
        ("/api/v1/outcomes?consumer=other", 404),
        ("/api/v1/consumers/other", 404),
        ("/api/v1/consumers/other/history", 404),
        ("/api/v1/consumers/other/retry-queues", 404),
        ("/api/v1/consumers/%ff", 400),
        ("/api/v1/nothing", 404),
        ("/nothing", 404),
        ("/console/nothing", 404),
        ("/console/../Cargo.toml", 404),
    ];
    for (path, wanted) in wrong {
        let (status, body) = admin.get(path).await;
        assert_eq!(status, wanted, "{path}: {body}");
        assert!(body["error"].is_string(), "{path}: {body}");
    }
    let put = admin
        .request(Method::PUT, "/api/v1/consumers")
        .bearer_auth(TOKEN);
    let (status, body) = answer(put).await;
    assert_eq!(status, 405, "{body}");
    assert!(body["error"].is_string(), "{body}");

    let config = admin.read("/api/v1/config").await;
    assert_eq!(config["broker"]["name"], "shop");
    assert_eq!(config["admin"]["token"], "[redacted]");
    let shown = config.to_string();
    assert!(
        !shown.contains(TOKEN) && !shown.contains("guest:guest"),
        "{shown}"
    );
    let metrics = admin.get("/metrics").await;
    assert_eq!(metrics, (200, json!("up 1\n")));
    worker.drain().await;
}

#[tokio::test]
async fn every_answer_has_the_headers_that_keep_pages_apart() {
    let vhost = vhost().await;
    let settings = settings(&vhost, "");
    let worker = Worker::new(settings.clone()).handler("q", async || {});
    let (worker, admin) = start_both(settings, worker).await;
    for path in [
        "/",
        "/livez",
        "/metrics",
        "/api/v1/consumers",
        "/api/v1/nothing",
        "/console/style.css",
    ] {
        let request = admin.request(Method::GET, path);
        let response = request.send().await.expect("it answers");
        let header = |name: &str| {
            let value = response.headers().get(name);
            value
                .and_then(|value| value.to_str().ok())
                .unwrap_or_default()
        };
        let policy = header("content-security-policy");
        for part in [
            "default-src 'none'",
            "script-src 'self'",
            "frame-ancestors 'none'",
        ] {
            assert!(policy.contains(part), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(header("referrer-policy"), "no-referrer", "{path}");
        assert_eq!(header("cache-control"), "no-store", "{path}");
        assert_eq!(header("access-control-allow-origin"), "", "{path}");
    }
    let page = admin
        .request(Method::GET, "/")
        .send()
        .await
        .expect("it answers");
    assert_eq!(page.headers()["content-type"], "text/html; charset=utf-8");
    worker.drain().await;
}
