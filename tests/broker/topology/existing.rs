//! Queues that exist: `topology = "attach"` leaves the work queue as it is, and `"none"` leaves all.

use lapin::types::AMQPValue;
use serde_json::json;

use super::{assert_says, consuming, queue, queues, refusals, set, start};
use crate::support::{
    Consumers, DEADLINE, HttpHandler, PublishSpec, QueueType, Reply, Request, VHost, WorkerProcess,
    consumer, log_message, management::encode, vhost, wait_until,
};

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

/// Fails every first attempt of `later`, and `bad` for good.
async fn handler() -> HttpHandler {
    let answer = |request: &Request| match (request.message_id(), request.attempt()) {
        ("later", 1) => Reply::status(500),
        ("bad", _) => Reply::status(400),
        _ => Reply::ok(),
    };
    HttpHandler::answering(answer).await
}

/// A consumer that parks every retry for a second.
fn orders(vhost: &VHost, handler: &HttpHandler, topology: &str) -> Consumers {
    let topology = format!("consumers.orders.topology = '{topology}'");
    let consumer = consumer(vhost, "orders").http(handler).retry_at_broker();
    consumer.with(&topology)
}

/// A message succeeds, one is retried, one is dead-lettered.
async fn works(vhost: &VHost, handler: &HttpHandler, dead: &str) {
    for id in ["good", "later", "bad"] {
        vhost.publish_with(PublishSpec::to("orders").id(id)).await;
    }
    let ids: Vec<_> = ["good", "later"].map(str::to_owned).into();
    handler.wait_for_success(&ids).await;
    vhost.wait_for_counts(dead, 1, 0, DEADLINE).await;
    vhost.wait_for_counts("orders", 0, 0, DEADLINE).await;
}

#[tokio::test]
async fn attach_leaves_a_queue_of_any_arguments_as_it_is_and_makes_those_beside_it() {
    let theirs: [(QueueType, &[(&str, AMQPValue)]); 4] = [
        (
            QueueType::Quorum,
            &[("x-single-active-consumer", AMQPValue::Boolean(true))],
        ),
        (
            QueueType::Quorum,
            &[
                ("x-max-length", AMQPValue::LongLongInt(1000)),
                ("x-dead-letter-exchange", text("amq.topic")),
            ],
        ),
        (
            QueueType::Classic,
            &[("x-max-priority", AMQPValue::LongLongInt(5))],
        ),
        (
            QueueType::Classic,
            &[
                ("x-message-ttl", AMQPValue::LongLongInt(600_000)),
                ("x-overflow", text("reject-publish")),
            ],
        ),
    ];
    for (kind, arguments) in theirs {
        let vhost = vhost().await;
        vhost.declare_with("orders", kind, arguments).await;
        let before = queue(&vhost, "orders").await["arguments"].clone();
        let handler = handler().await;
        let worker = orders(&vhost, &handler, "attach").start().await;
        let all = ["orders", "orders.dead", "orders.retry.1s"];
        assert_eq!(queues(&vhost).await, set(&all), "{arguments:?}");
        works(&vhost, &handler, "orders.dead").await;
        worker.drain().await;
        assert_eq!(queue(&vhost, "orders").await["arguments"], before);
    }
}

#[tokio::test]
async fn the_names_of_the_queues_beside_it_can_be_chosen() {
    let vhost = vhost().await;
    vhost.declare("orders", QueueType::Quorum).await;
    let handler = handler().await;
    let names = "[consumers.orders]\nretry_queue_prefix = 'later'\ndead_letter_queue = 'failed'";
    let orders = orders(&vhost, &handler, "attach").with(names);
    let worker = orders.start().await;
    assert_eq!(queues(&vhost).await, set(&["failed", "later.1s", "orders"]));
    works(&vhost, &handler, "failed").await;
    worker.drain().await;
}

#[tokio::test]
async fn a_queue_to_attach_to_that_is_missing_is_refused_and_nothing_is_made() {
    let vhost = vhost().await;
    let attach = "[consumers.orders]\ntopology = 'attach'\n";
    let lines = refusals(&vhost, attach).await;
    assert_eq!(lines, ["consumer \"orders\": queue \"orders\": missing"]);
    assert_eq!(queues(&vhost).await, set(&[]));
}

#[tokio::test]
async fn with_none_each_missing_queue_is_named_in_one_line_and_nothing_is_made() {
    let vhost = vhost().await;
    vhost.declare("orders", QueueType::Classic).await;
    let none = "[consumers.orders]\ntopology = 'none'\nretry.cap = '2s'\n";
    let lines = refusals(&vhost, none).await;
    let missing = "consumer \"orders\": queues \"orders.retry.1s\", \"orders.retry.2s\", \
                   \"orders.dead\": missing";
    assert_eq!(lines, [missing]);
    assert_eq!(queues(&vhost).await, set(&["orders"]));
}

#[tokio::test]
async fn with_none_queues_of_any_arguments_are_used_as_they_are() {
    let vhost = vhost().await;
    let strange = [("x-max-length", AMQPValue::LongLongInt(10))];
    vhost
        .declare_with("orders", QueueType::Classic, &strange)
        .await;
    vhost.declare_beside("orders").await;
    let before = queues(&vhost).await;
    let handler = handler().await;
    let worker = orders(&vhost, &handler, "none").start().await;
    works(&vhost, &handler, "orders.dead").await;
    worker.drain().await;
    assert_eq!(queues(&vhost).await, before);
}

/// A user that may read and write, but not configure.
pub(super) async fn user_without_configure(vhost: &VHost) -> (String, String) {
    limited_user(vhost, "^$", ".*").await
}

/// A user that may read all, and configure and write what fits these patterns. Returns the name and the
/// URL.
pub(super) async fn limited_user(vhost: &VHost, configure: &str, write: &str) -> (String, String) {
    let management = vhost.broker().management();
    let user = format!("reader-{}", uuid::Uuid::now_v7().simple());
    let path = format!("users/{user}");
    management
        .put(&path, &json!({ "password": "secret", "tags": "" }))
        .await;
    let allowed = json!({ "configure": configure, "write": write, "read": ".*" });
    let path = format!("permissions/{}/{user}", encode(vhost.name()));
    management.put(&path, &allowed).await;
    let mut url = url::Url::parse(&vhost.amqp_url()).expect("it is one");
    url.set_username(&user).expect("an amqp url has a user");
    url.set_password(Some("secret")).expect("and a password");
    (user, url.to_string())
}

#[tokio::test]
async fn with_none_a_user_who_may_not_look_is_warned_and_consumes() {
    let vhost = vhost().await;
    vhost.declare("orders", QueueType::Classic).await;
    vhost.declare_beside("orders").await;
    let (user, url) = user_without_configure(&vhost).await;
    let handler = handler().await;
    let none = "[consumers.orders]\ntopology = 'none'\n";
    let config = consumer(&url, "orders").http(&handler).retry_at_broker();
    let mut worker = WorkerProcess::start(&config.with(none).toml());
    worker.wait_for_consumers(&vhost, "orders", 1).await;
    works(&vhost, &handler, "orders.dead").await;
    worker.drain(DEADLINE).await;
    let warned = worker.log();
    let warned: Vec<_> = warned
        .iter()
        .filter(|line| log_message(line).contains("does not let this user look"))
        .collect();
    assert_eq!(warned.len(), 1, "{warned:?}");
    let management = vhost.broker().management();
    let path = format!("users/{user}");
    let deleted = management
        .try_call(reqwest::Method::DELETE, &path, None)
        .await;
    assert!(deleted.is_ok());
}

/// A classic work queue that takes no message: full, or deleted.
async fn parked_retries_outlive(missing: bool) {
    const MESSAGES: usize = 10;
    let vhost = vhost().await;
    let full = [
        ("x-max-length", AMQPValue::LongLongInt(MESSAGES as i64)),
        ("x-overflow", text("reject-publish")),
    ];
    vhost
        .declare_with("orders", QueueType::Classic, &full)
        .await;
    let handler = HttpHandler::answering(|_| Reply::status(500)).await;
    let classic = "[consumers.orders]\nqueue_type = 'classic'\n\
                   retry = { base = '4s', cap = '4s', jitter = 0.0 }";
    let orders = orders(&vhost, &handler, "attach").with(classic);
    let worker = orders.start().await;
    vhost
        .publish_many("orders", MESSAGES, |n| {
            PublishSpec::of("{}").id(&n.to_string())
        })
        .await;
    handler.wait_for_requests(MESSAGES, DEADLINE).await;
    // Stop the worker while the retries are parked.
    let report = worker.drain().await;
    let parked = report.ledger().parked;
    if missing {
        vhost.delete("orders").await;
    } else {
        vhost
            .publish_many("orders", MESSAGES, |_| PublishSpec::of("fills the queue"))
            .await;
    }
    let rung = "orders.retry.quorum.4s";
    let ready = async || vhost.ready(rung).await;
    wait_until("the retries expire", DEADLINE, ready, |ready| *ready == 0).await;
    assert_eq!(u64::from(vhost.counts(rung).await.total()), parked);
}

#[tokio::test]
async fn retries_for_a_classic_queue_that_is_full_are_kept() {
    parked_retries_outlive(false).await;
}

#[tokio::test]
async fn retries_for_a_classic_queue_that_is_missing_are_kept() {
    parked_retries_outlive(true).await;
}

/// What a version before quorum retry queues made for a classic queue, with a copy parked in it.
#[tokio::test]
async fn the_classic_retry_queues_of_an_earlier_version_empty_and_refuse_no_start() {
    let vhost = vhost().await;
    let net = [
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text("orders.dead")),
    ];
    vhost.declare_with("orders", QueueType::Classic, &net).await;
    let old = [
        ("x-message-ttl", AMQPValue::LongLongInt(1000)),
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text("orders")),
    ];
    vhost
        .declare_with("orders.retry.1s", QueueType::Classic, &old)
        .await;
    let before = queue(&vhost, "orders.retry.1s").await["arguments"].clone();
    let parked = PublishSpec::to("orders.retry.1s")
        .id("parked")
        .header("lapwing-attempts", AMQPValue::LongLongInt(2));
    vhost.publish_with(parked).await;

    let classic = "[consumers.orders]\nqueue_type = 'classic'\nretry.cap = '1s'\n";
    let (handler, mut worker) = consuming(&vhost, classic).await;

    let seen = handler.wait_for_answered(1, DEADLINE).await;
    let request = &seen.exchanges[0].request;
    assert_eq!(request.message_id(), "parked");
    assert_eq!(request.attempt(), 3);
    worker.drain(DEADLINE).await;
    vhost
        .wait_for_counts("orders.retry.1s", 0, 0, DEADLINE)
        .await;
    assert_eq!(queue(&vhost, "orders.retry.1s").await["arguments"], before);
}

#[tokio::test]
async fn a_worker_that_may_create_nothing_can_still_be_refused_for_a_missing_exchange() {
    let vhost = vhost().await;
    vhost.declare("orders", QueueType::Quorum).await;
    let attach = "[consumers.orders]\ntopology = 'attach'\nbindings = [{ exchange = 'shop' }]\n";
    let (_handler, mut worker) = start(&vhost, attach).await;
    let exit = worker.exited(DEADLINE).await;
    assert_eq!(exit.status.code(), Some(78));
    let last = worker.log();
    let last = last.last().expect("it says why").to_string();
    assert_says(&last, &["exchange", "shop", "missing"]);
    assert_eq!(queues(&vhost).await, set(&["orders"]));
}
