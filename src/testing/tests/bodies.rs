//! Bodies that do not fit the handler, and types without a handler.

use std::{
    io::Write,
    sync::{Arc, Mutex},
};

use serde::Deserialize;

use super::kit::{Handling, Kit, Step};
use crate::{
    Context, Failure, Ledger, Worker,
    broker::fake::Letter,
    config::samples::file,
    handler::{CloudEvent, Json},
    settings::Settings,
    testing::TestWorker,
};

const JSON: &str = "application/json";
const NOT_JSON: &[u8] = b"{\"a\": \xff\x00";

/// Sends one body that is not JSON. Returns whether the handler ran for it.
async fn reaches_the_handler(settings: &str, letter: Letter) -> bool {
    let handling = Handling::new([], Step::Succeed);
    let kit = Kit::start(settings, handling.clone()).await;
    kit.send(letter.id("a"), NOT_JSON);
    kit.finished().await;
    let ran = !handling.runs().is_empty();
    if !ran {
        let dead = kit.dead();
        assert_eq!(dead.header("lapwing-reason"), Some("decode"));
        assert_eq!(dead.body, NOT_JSON);
    }
    assert_eq!(kit.report().await.counts.undecodable, u64::from(!ran));
    kit.drain().await.unwrap();
    ran
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_not_the_json_it_claims_to_be_is_dead_lettered_without_a_run() {
    let handling = Handling::new([], Step::Succeed);
    let kit = Kit::start("", handling.clone()).await;
    kit.send(Letter::default().id("a").content_type(JSON), b"{\"a\": }");
    kit.finished().await;
    assert!(handling.runs().is_empty());
    let dead = kit.dead();
    assert_eq!(dead.header("lapwing-reason"), Some("decode"));
    assert_eq!(dead.header("lapwing-error-kind"), Some("decode"));
    let error = dead.header("lapwing-error").unwrap();
    assert!(error.contains("line 1 column 7"), "{error}");
    assert_eq!(dead.number("lapwing-attempts"), Some(1));
    let expected = Ledger {
        received: 1,
        dead_lettered: 1,
        ..Ledger::default()
    };
    assert_eq!(kit.drain().await.unwrap().ledger(), expected);
}

#[tokio::test(start_paused = true)]
async fn by_itself_a_body_must_be_json_where_its_content_type_says_so() {
    let of = |content_type| Letter::default().content_type(content_type);
    assert!(!reaches_the_handler("", of(JSON)).await);
    assert!(!reaches_the_handler("", of("application/problem+json")).await);
    assert!(reaches_the_handler("", of("text/plain")).await);
    assert!(reaches_the_handler("", Letter::default()).await);
}

#[tokio::test(start_paused = true)]
async fn by_itself_a_body_that_stays_packed_is_bytes() {
    let of = |encoding| {
        Letter::default()
            .content_type(JSON)
            .content_encoding(encoding)
    };
    assert!(reaches_the_handler("", of("br")).await);
    assert!(reaches_the_handler("body.unpack = false", of("gzip")).await);
    assert!(!reaches_the_handler("", of("gzip")).await);
    assert!(!reaches_the_handler("", of("identity")).await);
}

#[tokio::test(start_paused = true)]
async fn under_json_every_body_must_be_json() {
    let settings = "decode = 'json'";
    let plain = Letter::default().content_type("text/plain");
    assert!(!reaches_the_handler(settings, plain).await);
    assert!(!reaches_the_handler(settings, Letter::default()).await);
    for encoding in ["gzip", "br"] {
        let packed = Letter::default().content_encoding(encoding);
        assert!(!reaches_the_handler(settings, packed).await);
    }
}

/// A body in the coding `gzip`.
fn gzip(body: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packer.write_all(body).unwrap();
    packer.finish().unwrap()
}

/// Publishes a message as another client would.
fn send(worker: &TestWorker, letter: Letter, body: &[u8]) {
    assert!(worker.broker().inner().send("orders", body, letter.into()));
}

fn packed() -> Letter {
    Letter::default()
        .id("a")
        .content_type(JSON)
        .content_encoding("gzip")
}

/// A worker whose handler notes the bodies that it sees, and fails a few times.
async fn noting(settings: &str, failures: usize) -> (TestWorker, Bodies) {
    let settings = format!("[consumers.orders]\nqueue = 'orders'\n{settings}");
    let settings = Settings::from_toml(&settings).unwrap();
    let bodies = Bodies::default();
    let noted = Arc::clone(&bodies);
    let handler = move |context: Context| {
        let message = context.message();
        let mut noted = noted.lock().unwrap();
        let encoding = message.properties().content_encoding();
        noted.push((message.body().to_vec(), encoding.map(str::to_owned)));
        let fails = noted.len() <= failures;
        async move {
            match fails {
                true => Err(Failure::retryable("busy", "not yet")),
                false => Ok(()),
            }
        }
    };
    let worker = Worker::new(settings).handler("orders", handler);
    (TestWorker::start(worker).await, bodies)
}

/// The bodies that a handler saw, with their encodings.
type Bodies = Arc<Mutex<Vec<(Vec<u8>, Option<String>)>>>;

#[tokio::test(start_paused = true)]
async fn each_attempt_sees_the_body_unpacked_and_each_copy_is_packed() {
    // The first retry waits in the worker, and the second at the broker.
    let retry = "retry = { delays = ['10ms', '1m', '1m'] }";
    let (worker, bodies) = noting(retry, 4).await;
    let body = gzip(b"{\"n\": 1}");
    send(&worker, packed(), &body);
    worker.finished().await;
    let seen = bodies.lock().unwrap().clone();
    assert_eq!(seen, vec![(b"{\"n\": 1}".to_vec(), None); 4]);
    let dead = worker.broker().inner().ready("orders.dead");
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].header("lapwing-reason"), Some("max-attempts"));
    assert_eq!(dead[0].body, body);
    assert_eq!(dead[0].properties.content_encoding(), Some("gzip"));
    assert_eq!(worker.drain().await.unwrap().ledger().dead_lettered, 1);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_unpacks_to_more_than_is_allowed_is_a_dead_letter_with_its_own_bytes() {
    let (worker, bodies) = noting("body.unpacked_bytes = 1000000", 0).await;
    let bomb = gzip(&vec![b' '; 1_000_001]);
    let fits = gzip(&[vec![b' '; 999_998], b"{}".to_vec()].concat());
    send(&worker, packed(), &bomb);
    send(&worker, packed(), &fits);
    worker.finished().await;
    let seen = bodies.lock().unwrap().clone();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].0.len(), 1_000_000);
    let dead = worker.broker().inner().ready("orders.dead");
    assert_eq!(dead[0].header("lapwing-reason"), Some("decode"));
    assert_eq!(dead[0].header("lapwing-error-kind"), Some("unpack"));
    assert_eq!(dead[0].body, bomb);
    assert_eq!(dead[0].properties.content_encoding(), Some("gzip"));
    let ledger = worker.drain().await.unwrap().ledger();
    assert_eq!((ledger.acked, ledger.dead_lettered), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_fit_the_schema_is_a_dead_letter_without_a_run() {
    let schema = file(r#"{"required": ["id"]}"#);
    let settings = format!("body.schema_file = '{}'", schema.path().display());
    let (worker, bodies) = noting(&settings, 0).await;
    let long = format!("{{\"text\": \"{}\"}}", "x".repeat(100_000));
    worker.broker().publish_json("orders", r#"{"id": 1}"#);
    worker.broker().publish_json("orders", r#"{}"#);
    worker.broker().publish_json("orders", &long);
    worker.finished().await;
    assert_eq!(bodies.lock().unwrap().len(), 1);
    let dead = worker.broker().messages("orders.dead");
    assert_eq!(dead.len(), 2);
    for dead in &dead {
        assert_eq!(dead.header("lapwing-error-kind"), Some("schema"));
        let error = "the body does not fit the schema: the document: \"id\" is a required property";
        assert_eq!(dead.header("lapwing-error"), Some(error));
    }
    assert_eq!(worker.drain().await.unwrap().ledger().dead_lettered, 2);
}

#[tokio::test(start_paused = true)]
async fn a_drain_returns_what_is_being_unpacked_or_lets_it_end() {
    // Each is read on a thread for work that blocks, while the worker stops.
    let (worker, bodies) = noting("", 0).await;
    let body = gzip(&[vec![b' '; 5_000_000], b"{}".to_vec()].concat());
    for _ in 0..4 {
        send(&worker, packed(), &body);
    }
    let broker = worker.broker().clone();
    let ledger = worker.drain().await.unwrap().ledger();
    let left = broker.messages("orders").len() as u64;
    assert_eq!(ledger.acked + left, 4, "{ledger:?}");
    assert_eq!(bodies.lock().unwrap().len() as u64, ledger.acked);
}

/// What a handler sees of an event: its type, and its data.
async fn place(event: CloudEvent, Json(order): Json<Placed>) -> Result<(), Failure> {
    assert_eq!(event.id(), "e1");
    assert_eq!(event.source(), "/shop");
    assert_eq!(event.event_type(), "placed");
    assert_eq!(event.attribute("subject"), None);
    assert_eq!(order.n, 1);
    Ok(())
}

#[derive(Deserialize)]
struct Placed {
    n: u32,
}

#[tokio::test(start_paused = true)]
async fn a_function_gets_the_data_of_an_event_and_its_attributes() {
    let settings = "[consumers.orders]\nqueue = 'orders'\nbody.cloud_events = 'auto'";
    let settings = Settings::from_toml(settings).unwrap();
    let worker = TestWorker::start(Worker::new(settings).handler("orders", place)).await;
    let structured = Letter::default().content_type("application/cloudevents+json");
    let event =
        br#"{"specversion":"1.0","id":"e1","source":"/shop","type":"placed","data":{"n":1}}"#;
    send(&worker, structured.clone(), event);
    send(&worker, structured, b"{}");
    let binary = Letter::default()
        .content_type(JSON)
        .header("cloudEvents:specversion", "1.0")
        .header("cloudEvents:id", "e1")
        .header("cloudEvents:source", "/shop")
        .header("cloudEvents:type", "placed");
    send(&worker, binary, b"{\"n\":1}");
    // It is no event, so the function has no first argument.
    worker.broker().publish_json("orders", "{\"n\":1}");
    worker.finished().await;
    let dead = worker.broker().inner().ready("orders.dead");
    let errors: Vec<_> = dead
        .iter()
        .map(|it| it.header("lapwing-error").unwrap())
        .collect();
    assert_eq!(errors.len(), 2);
    assert!(
        errors.contains(&"no valid CloudEvent: it has no id"),
        "{errors:?}"
    );
    assert!(
        errors
            .iter()
            .any(|error| error.contains("is no CloudEvent")),
        "{errors:?}"
    );
    let ledger = worker.drain().await.unwrap().ledger();
    assert_eq!((ledger.acked, ledger.dead_lettered), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn under_bytes_no_body_must_be_json() {
    let json = Letter::default().content_type(JSON);
    assert!(reaches_the_handler("decode = 'bytes'", json).await);
}

#[tokio::test(start_paused = true)]
async fn what_is_json_reaches_the_handler_under_each_setting() {
    for decode in ["auto", "json", "bytes"] {
        let handling = Handling::new([], Step::Succeed);
        let settings = format!("decode = '{decode}'");
        let kit = Kit::start(&settings, handling.clone()).await;
        let letter = Letter::default().id("a").content_type(JSON);
        kit.send(letter, "{\"é\": [1, null]}".as_bytes());
        kit.finished().await;
        assert_eq!(handling.runs().len(), 1, "{decode}");
        kit.drain().await.unwrap();
    }
}

#[derive(Deserialize)]
struct Order {
    #[expect(dead_code, reason = "only its parsing matters")]
    items: Vec<u32>,
}

async fn ship(Json(_): Json<Order>) {}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_fit_the_argument_of_a_function_names_the_place() {
    let settings = Settings::from_toml("consumers.orders.queue = 'orders'").unwrap();
    let worker = TestWorker::start(Worker::new(settings).handler("orders", ship)).await;
    worker
        .broker()
        .publish_json("orders", r#"{"items": [1, 2]}"#);
    worker
        .broker()
        .publish_json("orders", r#"{"items": [1, "x"]}"#);
    worker.finished().await;
    let dead = worker.broker().messages("orders.dead");
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].header("lapwing-reason"), Some("decode"));
    let error = dead[0].header("lapwing-error").unwrap();
    assert!(error.contains("items[1]"), "{error}");
    let ledger = worker.drain().await.unwrap().ledger();
    assert_eq!((ledger.acked, ledger.dead_lettered), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn each_type_goes_to_its_handler() {
    let [paid, sent] = [(); 2].map(|()| Handling::new([], Step::Succeed));
    let typed = [("paid", paid.clone()), ("sent", sent.clone())];
    let kit = Kit::start_typed("", typed).await;
    for (id, message_type) in [("1", "paid"), ("2", "sent"), ("3", "paid")] {
        kit.send(Letter::default().id(id).message_type(message_type), b"");
    }
    kit.finished().await;
    let ids = |handling: &Handling| -> Vec<_> {
        let runs = handling.runs();
        runs.iter().map(|run| run.id.clone()).collect()
    };
    assert_eq!(ids(&paid), ["1", "3"]);
    assert_eq!(ids(&sent), ["2"]);
    assert_eq!(kit.drain().await.unwrap().ledger().acked, 3);
}

#[tokio::test(start_paused = true)]
async fn a_type_that_no_handler_takes_is_dead_lettered_without_a_run() {
    let paid = Handling::new([], Step::Succeed);
    let kit = Kit::start_typed("", [("paid", paid.clone())]).await;
    kit.send(Letter::default().id("1").message_type("lost"), NOT_JSON);
    kit.send(Letter::default().id("2"), b"");
    kit.finished().await;
    assert!(paid.runs().is_empty());
    let dead = kit.broker.ready("orders.dead");
    assert_eq!(dead.len(), 2);
    for (dead, message_type) in dead.iter().zip(["\"lost\"", "\"\""]) {
        assert_eq!(dead.header("lapwing-reason"), Some("unroutable-type"));
        let error = dead.header("lapwing-error").unwrap();
        assert!(error.contains(message_type), "{error}");
        assert_eq!(dead.number("lapwing-attempts"), Some(1));
    }
    assert_eq!(dead[0].body, NOT_JSON);
    assert_eq!(kit.report().await.counts.unroutable, 2);
    assert_eq!(kit.drain().await.unwrap().ledger().dead_lettered, 2);
}

#[tokio::test(start_paused = true)]
async fn the_handler_for_the_rest_takes_what_no_other_takes() {
    let paid = Handling::new([], Step::FailForGood);
    let kit = Kit::start_typed("handler.kind = 'log'", [("paid", paid.clone())]).await;
    kit.send(Letter::default().id("1").message_type("paid"), b"");
    kit.send(Letter::default().id("2").message_type("lost"), b"");
    kit.finished().await;
    assert_eq!(paid.runs().len(), 1);
    assert_eq!(kit.ids("orders.dead"), ["1"]);
    kit.handling_took("2");
    kit.drain().await.unwrap();
}
