//! Batches: one request for several messages of a real broker.

use std::collections::{BTreeMap, HashSet};
use std::sync::Mutex;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::{Json, Router, routing::post};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::Setup;
use crate::support::{
    DEADLINE, Gate, HttpHandler, PublishSpec, Reply, Request, WorkerProcess, consumer, vhost,
};

fn batch(size: u16, max_wait: &str) -> String {
    format!(
        "prefetch = 128\nconcurrency = 64\nretry = {{ base = '10ms' }}\n\
         handler.batch = {{ size = {size}, max_wait = '{max_wait}' }}"
    )
}

fn messages(request: &Request) -> Vec<Value> {
    request.json().as_array().expect("it is a list").clone()
}

/// The answer in which each message has the outcome that `outcome` says.
fn each(request: &Request, outcome: impl Fn(&Value) -> Value) -> Reply {
    let outcomes: Vec<_> = messages(request)
        .iter()
        .map(|message| {
            let mut answer = outcome(message);
            answer["id"] = message["id"].clone();
            answer
        })
        .collect();
    Reply::ok().body(json!({ "outcomes": outcomes }).to_string())
}

fn succeeded(_: &Value) -> Value {
    json!({ "outcome": "succeeded" })
}

#[tokio::test]
async fn each_message_of_a_batch_has_an_end_of_its_own() {
    const N: usize = 200;
    let known = Mutex::<HashSet<String>>::default();
    let server = HttpHandler::answering(move |request| {
        each(request, |message| {
            let id = message["message_id"].as_str().expect("it has an id");
            let is_new = known.lock().expect("no panic").insert(id.to_owned());
            match message["body"]["do"].as_str().unwrap_or("succeeded") {
                "retry" | "unavailable" if !is_new => succeeded(message),
                "snoozed" if is_new => json!({ "outcome": "snoozed", "after": 0.01 }),
                "snoozed" => succeeded(message),
                word => json!({ "outcome": word, "error": format!("because of {id}") }),
            }
        })
    })
    .await;
    let mut setup = Setup::new(server, &batch(32, "20ms")).await;
    let words = ["retry", "unavailable", "snoozed", "permanent", "dropped"];
    let make = |n: usize| match n % 20 {
        0 => PublishSpec::of(json!({ "do": words[n / 20 % 5] }).to_string()),
        1 => PublishSpec::of("no JSON"),
        _ => PublishSpec::of(format!("{{\"n\": {n}}}")),
    };
    setup.vhost.publish_many("q", N, make).await;
    setup.vhost.wait_for_counts("q.dead", 2, 0, DEADLINE).await;
    setup.vhost.wait_for_counts("q", 0, 0, DEADLINE).await;
    let ledger = setup.worker.drain(DEADLINE).await;
    // Retries of a service that is unavailable may be parked.
    let parked = ledger.parked;
    assert_eq!(ledger.acked as usize, N - 2, "{ledger:?}");
    assert_eq!((ledger.dead_lettered, ledger.stale), (2, 0), "{ledger:?}");
    assert_eq!(ledger.received, N as u64 + parked + ledger.returned);
    for letter in setup.vhost.drain_all("q.dead").await {
        assert_eq!(letter.header("lapwing-reason"), "rejected");
        let error = letter.header("lapwing-error").as_str().expect("it is text");
        assert_eq!(error, format!("because of {}", letter.id()));
    }

    let seen = setup.server.seen();
    let has_several = |size: &str| size.parse::<usize>().is_ok_and(|size| size > 1);
    let mut sizes = seen
        .exchanges
        .iter()
        .map(|it| it.request.header("lapwing-batch"));
    assert!(sizes.any(has_several));
    for exchange in &seen.exchanges {
        let request = &exchange.request;
        assert_eq!(request.header("content-type"), "application/json");
        let messages = messages(request);
        assert_eq!(request.header("lapwing-batch"), messages.len().to_string());
        let ids: HashSet<_> = messages.iter().map(|it| it["id"].as_u64()).collect();
        assert_eq!(ids.len(), messages.len());
        for message in messages {
            let is_json = !message["body"].is_null();
            let encoded = message["body_base64"].as_str();
            assert_eq!(encoded, (!is_json).then_some("bm8gSlNPTg=="), "{message}");
        }
    }
    // First attempts stand in the order of their deliveries.
    let first = messages(&seen.exchanges[0].request);
    let ids: Vec<_> = first.iter().map(|it| it["message_id"].as_str()).collect();
    assert!(ids.is_sorted(), "{ids:?}");
}

#[tokio::test]
async fn a_poisoned_message_takes_no_neighbour_along() {
    const N: usize = 300;
    let is_bad = |message: &Value| message["body"]["n"].as_u64().is_some_and(|n| n % 100 == 7);
    let server =
        HttpHandler::answering(move |request| match messages(request).iter().any(is_bad) {
            true => Reply::status(500).body("division by zero"),
            false => each(request, succeeded),
        })
        .await;
    let changes = batch(64, "20ms").replace("base = '10ms'", "base = '10ms', max_attempts = 2");
    let mut setup = Setup::new(server, &changes).await;
    let make = |n| PublishSpec::of(format!("{{\"n\":{n}}}"));
    setup.vhost.publish_many("q", N, make).await;
    setup.vhost.wait_for_counts("q.dead", 3, 0, DEADLINE).await;
    setup.vhost.wait_for_counts("q", 0, 0, DEADLINE).await;
    let ledger = setup.worker.drain(DEADLINE).await;
    assert_eq!((ledger.acked, ledger.dead_lettered), (N as u64 - 3, 3));
    assert_eq!((ledger.parked, ledger.stale), (0, 0), "{ledger:?}");
    for letter in setup.vhost.drain_all("q.dead").await {
        assert_eq!(letter.header("lapwing-attempts"), &json!(2));
        let error = letter.header("lapwing-error").as_str().expect("it is text");
        assert!(error.ends_with("division by zero"), "{error}");
    }
    let mut times = BTreeMap::<u64, usize>::new();
    for exchange in setup.server.seen().exchanges {
        let messages = messages(&exchange.request);
        if !messages.iter().any(is_bad) {
            for message in &messages {
                assert_eq!(message["attempt"], 1, "no neighbour is charged");
                *times
                    .entry(message["body"]["n"].as_u64().expect("a number"))
                    .or_default() += 1;
            }
        }
    }
    assert_eq!(times.len(), N - 3);
    assert!(times.values().all(|times| *times == 1), "{times:?}");
}

#[tokio::test]
async fn a_message_that_makes_the_service_hang_is_tried_again_and_its_neighbours_go_on() {
    let is_bad = |message: &Value| message["body"]["n"] == 3 && message["attempt"] == 1;
    let server = HttpHandler::answering(move |request| {
        let reply = each(request, succeeded);
        match messages(request).iter().any(is_bad) {
            true => reply.after(Duration::from_secs(1000)),
            false => reply,
        }
    })
    .await;
    let changes = format!("timeout = '8s'\n{}", batch(8, "1s"));
    let mut setup = Setup::new(server, &changes).await;
    let make = |n| PublishSpec::of(format!("{{\"n\":{n}}}"));
    setup.vhost.publish_many("q", 8, make).await;
    setup.vhost.wait_for_counts("q", 0, 0, DEADLINE).await;
    let ledger = setup.worker.drain(DEADLINE).await;
    assert_eq!((ledger.acked, ledger.dead_lettered), (8, 0));
    let seen = setup.server.seen();
    assert!(seen.abandoned > 0, "{}", seen.abandoned);
    for exchange in &seen.exchanges {
        for message in messages(&exchange.request) {
            let is_neighbour = message["body"]["n"] != 3;
            assert!(!is_neighbour || message["attempt"] == 1, "{message}");
        }
    }
}

#[tokio::test]
async fn a_drain_sends_what_waits_and_waits_for_the_answer() {
    let gate = Gate::default();
    let server = HttpHandler::behind(&gate, |request| each(request, succeeded)).await;
    // Without the drain the batch would wait for longer than `drain.grace`.
    let changes = format!("timeout = '2m'\n{}", batch(64, "1m"));
    let mut setup = Setup::new(server, &changes).await;
    let make = |n| PublishSpec::of(format!("{{\"n\":{n}}}"));
    setup.vhost.publish_many("q", 20, make).await;
    setup.vhost.wait_for_counts("q", 0, 20, DEADLINE).await;
    setup.worker.terminate();
    setup.server.wait_for_requests(1, DEADLINE).await;
    gate.open();
    let exit = setup.worker.exited(DEADLINE).await;
    assert_eq!(exit.status.code(), Some(0));
    let ledger = setup.worker.ledger();
    // What had not started at the signal goes back.
    assert_eq!(ledger.acked + ledger.returned, 20, "{ledger:?}");
    assert!(ledger.acked > 0, "{ledger:?}");
}

/// A server whose answer to a request with a bad message is 1 GiB long.
async fn flooding() -> String {
    async fn answer(Json(messages): Json<Vec<Value>>) -> Body {
        const CHUNK: Bytes = Bytes::from_static(&[b' '; 0x10000]);
        if messages.iter().any(|message| message["body"] == "bad") {
            let chunks = (0..0x4000).map(|_| Ok::<_, std::io::Error>(CHUNK));
            return Body::from_stream(stream::iter(chunks));
        }
        let outcome = |message: &Value| json!({ "id": message["id"], "outcome": "succeeded" });
        let outcomes: Vec<_> = messages.iter().map(outcome).collect();
        json!({ "outcomes": outcomes }).to_string().into()
    }

    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let router = Router::new().route("/", post(answer));
    tokio::spawn(async move { axum::serve(listener, router).await });
    format!("http://{address}/")
}

#[tokio::test]
async fn an_answer_of_1_gib_costs_bounded_memory_and_only_its_message() {
    let vhost = vhost().await;
    let changes = format!("[consumers.q]\n{}", batch(16, "20ms"));
    let changes = changes.replace("base = '10ms'", "base = '10ms', max_attempts = 1");
    let config = consumer(&vhost, "q")
        .http_at(&flooding().await)
        .with(&changes);
    let mut worker = WorkerProcess::start(&config.toml());
    worker.wait_for_consumers(&vhost, "q", 1).await;
    let make = |n| PublishSpec::of(if n == 20 { "\"bad\"" } else { "1" });
    vhost.publish_many("q", 64, make).await;
    vhost.wait_for_counts("q.dead", 1, 0, DEADLINE).await;
    vhost.wait_for_counts("q", 0, 0, DEADLINE).await;
    let peak = worker.peak_memory();
    let ledger = worker.drain(DEADLINE).await;
    assert_eq!((ledger.acked, ledger.dead_lettered), (63, 1));
    let dead = vhost.drain_all("q.dead").await;
    assert_eq!(dead[0].header("lapwing-error-kind"), "http-answer");
    assert!(peak < 200 << 10, "{peak} KiB");
}
