//! Messages that real producers wrote (`scripts/dialects/record`) reach their handlers with type, id and content
//! type, and their times count.

use std::time::{Duration, SystemTime};

use lapin::{BasicProperties, types::AMQPValue};
use serde_json::Value;

use crate::support::{
    DEADLINE, HttpHandler, PublishSpec, QueueType, Reply, RunningWorker, VHost, consumers, vhost,
};

const PRODUCERS: [(&str, &str); 6] = [
    ("celery", include_str!("../../dialects/celery.json")),
    ("dramatiq", include_str!("../../dialects/dramatiq.json")),
    ("nestjs", include_str!("../../dialects/nestjs.json")),
    ("spring", include_str!("../../dialects/spring.json")),
    (
        "nservicebus",
        include_str!("../../dialects/nservicebus.json"),
    ),
    (
        "masstransit",
        include_str!("../../dialects/masstransit.json"),
    ),
];

/// The first message of a producer, and its type, as the worker has to read it.
fn first(producer: &str) -> (&'static str, &'static str) {
    match producer {
        "celery" => ("plain", "shop.add"),
        "dramatiq" => ("plain", "shop.add"),
        "nestjs" => ("event", "order.paid"),
        "spring" => ("plain", "SpringMessages$OrderPaid"),
        "nservicebus" => ("command", "Shop.Messages.PlaceOrder"),
        _ => ("published", "urn:message:Shop.Messages:SubmitOrder"),
    }
}

/// A recorded message, to this queue.
fn recorded(message: &Value, queue: &str) -> PublishSpec {
    let mut spec = PublishSpec::to(queue).body(message["body"].as_str().unwrap_or_default());
    for (name, value) in message["headers"].as_object().into_iter().flatten() {
        spec.headers.insert(name.as_str().into(), amqp(value));
    }
    let text = |name: &str| message["properties"][name].as_str().map(str::to_owned);
    let all = ["content_type", "content_encoding", "message_id", "type"].map(text);
    spec.with(move |properties| {
        let [content_type, encoding, id, kind] = all;
        let set = |properties: BasicProperties, text: Option<String>, with: With| match text {
            Some(text) => with(properties, text.into()),
            None => properties,
        };
        let properties = set(properties, content_type, BasicProperties::with_content_type);
        let properties = set(properties, encoding, BasicProperties::with_content_encoding);
        let properties = set(properties, id, BasicProperties::with_message_id);
        set(properties, kind, BasicProperties::with_type)
    })
}

type With = fn(BasicProperties, lapin::types::ShortString) -> BasicProperties;

fn amqp(value: &Value) -> AMQPValue {
    match value {
        Value::Null => AMQPValue::Void,
        Value::Bool(flag) => AMQPValue::Boolean(*flag),
        Value::Number(number) => AMQPValue::LongLongInt(number.as_i64().unwrap_or_default()),
        Value::String(text) => AMQPValue::LongString(text.as_str().into()),
        Value::Array(items) => {
            AMQPValue::FieldArray(items.iter().map(amqp).collect::<Vec<_>>().into())
        }
        other => AMQPValue::LongString(other.to_string().into()),
    }
}

/// Queues as the other systems declare them, and a worker that attaches to them.
async fn attached(vhost: &VHost, producers: &[&str], handler: &HttpHandler) -> RunningWorker {
    let mut all = consumers(vhost, producers);
    for producer in producers {
        vhost.declare(producer, QueueType::Classic).await;
        all = all.with(&format!(
            "[consumers.{producer}]\ntopology = 'attach'\nqueue_type = 'classic'\ndialect = '{producer}'"
        ));
    }
    all.http(handler).start().await
}

#[tokio::test]
async fn the_message_of_each_producer_reaches_its_handler_with_type_id_and_content_type() {
    let vhost = vhost().await;
    let handler = HttpHandler::answering(|_| Reply::ok()).await;
    let worker = attached(&vhost, &PRODUCERS.map(|(producer, _)| producer), &handler).await;
    for (index, (producer, file)) in PRODUCERS.into_iter().enumerate() {
        let (name, kind) = first(producer);
        let all: Value = serde_json::from_str(file).expect("it is JSON");
        vhost.publish_with(recorded(&all[name], producer)).await;
        let seen = handler.wait_for_requests(index + 1, DEADLINE).await;
        let request = &seen.exchanges[index].request;
        assert_eq!(request.header("lapwing-type"), kind, "{producer}");
        assert!(
            request.header("content-type").contains("json"),
            "{producer}"
        );
        assert_eq!(request.header("content-encoding"), "", "{producer}");
        if producer != "nestjs" && producer != "spring" {
            assert_ne!(request.message_id(), "", "{producer}");
        }
        assert_eq!(request.body, all[name]["body"].as_str().unwrap_or_default());
    }
    assert_eq!(worker.drain().await.ledger().acked, 6);
}

#[tokio::test]
async fn a_task_waits_for_its_time_in_a_retry_queue_and_one_that_has_expired_does_not_run() {
    let vhost = vhost().await;
    let handler = HttpHandler::answering(|_| Reply::ok()).await;
    let worker = attached(&vhost, &["celery"], &handler).await;
    let all: Value = serde_json::from_str(PRODUCERS[0].1).expect("it is JSON");
    let task = |id: &str, name: &str, time: SystemTime| {
        let time = humantime::format_rfc3339_millis(time).to_string();
        let plain = recorded(&all["plain"], "celery").header(name, time.as_str());
        plain.header("id", id)
    };
    let now = SystemTime::now();
    let (late, past) = (Duration::from_hours(1), Duration::from_secs(3));
    vhost.publish_with(task("eta", "eta", now + late)).await;
    vhost
        .publish_with(task("past", "expires", now - past))
        .await;
    vhost.wait_for_counts("celery.dead", 1, 0, DEADLINE).await;
    let dead = vhost.drain_all("celery.dead").await;
    assert_eq!(dead[0].header("id"), "past");
    assert_eq!(dead[0].header("lapwing-reason"), "expired");
    let report = worker
        .wait_for_report("the task is parked", "celery", |report| {
            report.ledger.parked == 1
        })
        .await;
    assert_eq!((report.ledger.acked, report.counts.succeeded), (0, 0));
    worker.drain().await;
    assert_eq!(handler.seen().exchanges.len(), 0);
}
