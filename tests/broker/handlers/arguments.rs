//! The arguments of handlers, and the choice of a handler by the message's type.

use std::sync::{Arc, Mutex};

use lapwing::handler::{Attempt, Body, Cancellation, Headers, Json, Shared};
use lapwing::state::StateHandle;
use lapwing::{Context, Failure, Outcome, RunError, Worker};
use serde_json::json;

use super::dead_letter;
use crate::support::{
    DEADLINE, HandlerRun, Notes, PublishSpec, RunningWorker, consumer, consumers, vhost, within,
};

#[derive(serde::Deserialize)]
struct Order {
    id: u64,
}

/// The values that a handler saw, in order.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<String>>>);

impl Seen {
    fn add(&self, text: String) {
        self.0.lock().expect("no holder panics").push(text);
    }

    fn all(&self) -> Vec<String> {
        self.0.lock().expect("no holder panics").clone()
    }
}

async fn six(
    Json(order): Json<Order>,
    headers: Headers,
    Attempt(attempt): Attempt,
    seen: Shared<Seen>,
    state: StateHandle,
    cancellation: Cancellation,
) -> Result<(), Failure> {
    let total = state.increment("orders", 1).await?;
    seen.add(format!(
        "order {} of {} as {:?}, attempt {attempt}, total {total}, cancelled {}",
        order.id,
        headers.text("tenant").unwrap_or("nobody"),
        headers.message_type(),
        cancellation.is_cancelled(),
    ));
    match attempt {
        1 => Err(Failure::retryable("busy", "once more")),
        _ => Ok(()),
    }
}

async fn raw(body: Body, context: Context, seen: Shared<Seen>) {
    let message = context.message();
    seen.add(format!(
        "{:?} in consumer {} from {:?} by {:?} with {:?}",
        &body[..],
        context.consumer(),
        message.queue(),
        message.exchange(),
        message.routing_key(),
    ));
}

#[tokio::test]
async fn handlers_are_given_what_they_ask_for() {
    let vhost = vhost().await;
    let changes = "[consumers.orders.retry]\nbase = '10ms'\n[consumers.blobs]\nbindings = \
                   [{ exchange = 'shop', routing_key = 'blob.*' }]";
    vhost
        .declare_exchange("shop", lapin::ExchangeKind::Topic)
        .await;
    let consumers = consumers(&vhost, &["orders", "blobs"]).with(changes);
    let seen = Seen::default();
    let worker = consumers
        .worker()
        .handler("orders", six)
        .handler("blobs", raw)
        .share(seen.clone());
    let worker = RunningWorker::start(worker).await;

    let order = PublishSpec::to("orders")
        .body(r#"{"id":7}"#)
        .header("tenant", "acme")
        .with(|properties| properties.with_type("order.paid".into()));
    vhost.publish_with(order).await;
    let done = |consumer: &lapwing::ConsumerReport| consumer.ledger.acked == 1;
    worker
        .wait_for_report("the order is done", "orders", done)
        .await;
    let mut blob = PublishSpec::to("blob.small").body([0, 255, 10]);
    blob.exchange = "shop".to_owned();
    vhost.publish_with(blob).await;
    worker
        .wait_for_report("the blob is done", "blobs", done)
        .await;

    let expected = [
        r#"order 7 of acme as Some("order.paid"), attempt 1, total 1, cancelled false"#,
        r#"order 7 of acme as Some("order.paid"), attempt 2, total 2, cancelled false"#,
        r#"[0, 255, 10] in consumer blobs from "blobs" by "shop" with "blob.small""#,
    ];
    assert_eq!(seen.all(), expected);
    worker.drain().await;
}

#[tokio::test]
async fn a_body_that_does_not_fit_is_dead_lettered_untouched_with_the_place() {
    let vhost = vhost().await;
    let consumer = consumer(&vhost, "orders");
    let seen = Seen::default();
    let worker = consumer.worker().handler("orders", six).share(seen.clone());
    let worker = RunningWorker::start(worker).await;
    let body = r#"{ "id" : "seven" }"#;

    vhost.publish("orders", body).await;

    let dead = dead_letter(&vhost, "orders").await;
    assert_eq!(dead.text(), body);
    assert_eq!(dead.header("lapwing-reason"), "decode");
    assert_eq!(dead.header("lapwing-error-kind"), "decode");
    let error = dead.header("lapwing-error").as_str().expect("it is text");
    assert!(
        error.contains("at id:") && error.contains("line 1"),
        "{error}"
    );
    assert_eq!(seen.all(), [""; 0]);
    worker.drain().await;
}

#[tokio::test]
async fn messages_go_to_the_handler_of_their_type_and_others_are_dead_lettered() {
    let vhost = vhost().await;
    let consumers = consumers(&vhost, &["typed", "rest"]);
    let (paid, sent, rest) = (Notes::default(), Notes::default(), Notes::default());
    let noting = |notes: &Notes| {
        let notes = notes.clone();
        move |context: Context| {
            notes.note(&context);
            async {}
        }
    };
    let worker = consumers
        .worker()
        .handler_for_route("typed", "order.paid", noting(&paid))
        .handler_for_route("typed", "order.sent", noting(&sent))
        .handler_for_route("rest", "order.paid", noting(&paid))
        .handler("rest", noting(&rest));
    let worker = RunningWorker::start(worker).await;
    let publish = async |queue: &str, id: &str, kind: &str| {
        let spec = PublishSpec::to(queue).id(id);
        let spec = spec.with(|properties| properties.with_type(kind.into()));
        vhost.publish_with(spec).await;
    };

    publish("typed", "a", "order.paid").await;
    publish("typed", "b", "order.sent").await;
    publish("typed", "c", "order.lost").await;
    publish("rest", "d", "order.paid").await;
    publish("rest", "e", "order.lost").await;
    vhost.publish_with(PublishSpec::to("rest").id("f")).await;

    let ids = |runs: Vec<HandlerRun>| {
        let mut ids: Vec<_> = runs.into_iter().map(|run| run.id).collect();
        ids.sort();
        ids
    };
    assert_eq!(ids(paid.wait_for(2).await), ["a", "d"]);
    assert_eq!(ids(sent.wait_for(1).await), ["b"]);
    assert_eq!(ids(rest.wait_for(2).await), ["e", "f"]);
    let dead = dead_letter(&vhost, "typed").await;
    assert_eq!(dead.id(), "c");
    assert_eq!(dead.header("lapwing-reason"), "unroutable-type");
    assert_eq!(
        dead.header("lapwing-error"),
        r#"no route takes type "order.lost""#
    );
    let ledger = worker.drain().await.ledger();
    assert_eq!((ledger.acked, ledger.dead_lettered), (5, 1));
}

#[tokio::test]
async fn a_worker_that_lacks_what_its_handlers_take_does_not_start() {
    let vhost = vhost().await;
    let settings = consumer(&vhost, "orders").settings();

    let run = |worker: Worker| within("the refusal", worker.run(std::future::pending()));
    let not_shared = run(Worker::new(settings.clone()).handler("orders", six)).await;
    let stray = Worker::new(settings.clone())
        .handler("orders", six)
        .share(Seen::default());
    let stray = run(stray.handler("order", six)).await;
    let none = run(Worker::new(settings)).await;

    let error = not_shared.expect_err("it must not start");
    assert!(matches!(error, RunError::NotShared { .. }), "{error:?}");
    let text = error.to_string();
    assert!(
        text.contains("\"orders\"") && text.contains("Seen>"),
        "{text}"
    );
    assert!(matches!(stray, Err(RunError::NoConsumer(name)) if name == "order"));
    assert!(matches!(none, Err(RunError::NoHandler(name)) if name == "orders"));
    // The queue was not declared, so the worker has not connected.
    assert!(!vhost.exists("orders").await);
}

#[tokio::test]
async fn what_a_handler_drops_is_acked_and_counted_apart() {
    let vhost = vhost().await;
    let consumer = consumer(&vhost, "q");
    let handler = |context: Context| async move {
        match context.message().body() {
            b"old" => Outcome::dropped("too old"),
            _ => Outcome::Succeeded,
        }
    };
    let worker = consumer.start_with(handler).await;
    for body in ["old", "new", "old"] {
        vhost.publish("q", body).await;
    }

    let all = |consumer: &lapwing::ConsumerReport| consumer.ledger.acked == 3;
    worker.wait_for_report("all are acked", "q", all).await;

    vhost.wait_for_counts("q", 0, 0, DEADLINE).await;
    assert_eq!(vhost.ready("q.dead").await, 0);
    let ledger = worker.drain().await.ledger();
    assert_eq!((ledger.received, ledger.acked, ledger.dropped), (3, 3, 2));
}

#[tokio::test]
async fn rules_by_class_and_status_override_the_handler() {
    let vhost = vhost().await;
    let consumer = consumer(&vhost, "q").with(
        "[consumers.q.retry]\nbase = '10ms'\nrules = [\n\
         { class = 'upstream', status = '409', action = 'retry' },\n\
         { status = '5xx', action = 'dead-letter' },\n\
         { class = 'panic', action = 'dead-letter' }]",
    );
    let notes = Notes::default();
    let noting = notes.clone();
    let handler = move |context: Context| {
        let first = noting.note(&context) == 1;
        async move {
            if !first {
                return Ok(());
            }
            Err(match context.message().id() {
                Some("conflict") => Failure::permanent("upstream", "conflict").status(409),
                Some("gone") => Failure::permanent("upstream", "gone").status(410),
                Some("broken") => Failure::retryable("upstream", "broken").status(503),
                Some("panic") => panic!("as the test wants it"),
                _ => Failure::retryable("other", "busy"),
            })
        }
    };
    let worker = consumer.start_with(handler).await;
    for id in ["conflict", "gone", "broken", "panic", "other"] {
        vhost.publish_with(PublishSpec::to("q").id(id)).await;
    }

    vhost.wait_for_counts("q.dead", 3, 0, DEADLINE).await;
    notes.wait_for(7).await;

    let ledger = worker.drain().await.ledger();
    assert_eq!((ledger.acked, ledger.dead_lettered), (2, 3));
    let runs = |id: &str| notes.of(id).len();
    assert_eq!(["conflict", "other"].map(runs), [2, 2]);
    let mut dead = vhost.drain_all("q.dead").await;
    dead.sort_by(|a, b| a.id().cmp(b.id()));
    let ids: Vec<_> = dead.iter().map(|got| got.id()).collect();
    assert_eq!(ids, ["broken", "gone", "panic"]);
    assert!(
        dead.iter()
            .all(|got| got.header("lapwing-reason") == &json!("rejected"))
    );
}
