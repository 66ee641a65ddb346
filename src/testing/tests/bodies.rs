//! Bodies that do not fit the handler, and types without a handler.

use serde::Deserialize;

use super::kit::{Handling, Kit, Step};
use crate::{
    Ledger, Worker, broker::fake::Letter, handler::Json, settings::Settings, testing::TestWorker,
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
async fn by_itself_a_compressed_body_is_bytes() {
    let of = |encoding| {
        Letter::default()
            .content_type(JSON)
            .content_encoding(encoding)
    };
    assert!(reaches_the_handler("", of("gzip")).await);
    assert!(!reaches_the_handler("", of("identity")).await);
}

#[tokio::test(start_paused = true)]
async fn under_json_every_body_must_be_json() {
    let settings = "decode = 'json'";
    let plain = Letter::default().content_type("text/plain");
    assert!(!reaches_the_handler(settings, plain).await);
    assert!(!reaches_the_handler(settings, Letter::default()).await);
    let compressed = Letter::default().content_encoding("gzip");
    assert!(!reaches_the_handler(settings, compressed).await);
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
    for (dead, message_type) in dead.iter().zip(["no route takes type \"lost\"", "no type"]) {
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
