//! Queues that no consumer can have, and what a refused start leaves behind: nothing.

use lapin::{
    options::QueueDeclareOptions,
    types::{AMQPValue, FieldTable},
};
use reqwest::Method;
use serde_json::json;

use super::{SHORT_LADDER, assert_says, consuming, queues, refusal, refusals, set};
use crate::support::{DEADLINE, QueueType, VHost, management::encode, vhost};

const MODES: [&str; 4] = ["declare", "attach", "verify", "none"];

fn mode(topology: &str) -> String {
    format!("[consumers.orders]\ntopology = '{topology}'\nretry.cap = '1s'\n")
}

/// Declares `orders` and the queues beside it. Each mode then refuses to start for one reason.
async fn refused_in_every_mode(options: QueueDeclareOptions, kind: &str, why: &str) {
    let vhost = vhost().await;
    vhost.declare_beside("orders").await;
    let mut table = FieldTable::default();
    table.insert("x-queue-type".into(), AMQPValue::LongString(kind.into()));
    let channel = vhost.channel().await;
    let declaring = channel.queue_declare("orders".into(), options, table);
    declaring.await.expect("the broker has such queues");
    for topology in MODES {
        let lines = refusals(&vhost, &mode(topology)).await;
        assert_eq!(lines.len(), 1, "{topology}: {lines:?}");
        assert_says(&lines[0], &["queue \"orders\"", why]);
    }
}

#[tokio::test]
async fn a_stream_is_refused_in_every_mode() {
    let durable = QueueDeclareOptions::durable();
    refused_in_every_mode(durable, "stream", "is a stream").await;
}

#[tokio::test]
async fn an_auto_delete_queue_is_refused_in_every_mode() {
    let auto_delete = QueueDeclareOptions {
        auto_delete: true,
        ..QueueDeclareOptions::durable()
    };
    refused_in_every_mode(auto_delete, "classic", "is an auto-delete queue").await;
}

/// RabbitMQ 4.3 has no such queues.
#[tokio::test]
async fn a_queue_that_is_not_durable_is_refused_in_every_mode() {
    let vhost = vhost().await;
    if vhost.broker().release() >= crate::support::Release::V4_3 {
        return;
    }
    refused_in_every_mode(QueueDeclareOptions::default(), "classic", "is not durable").await;
}

#[tokio::test]
async fn a_start_that_was_refused_succeeds_once_its_setting_is_corrected() {
    let vhost = vhost().await;
    vhost.declare("orders", QueueType::Classic).await;

    // By mistake as a quorum queue.
    let lines = refusals(&vhost, SHORT_LADDER).await;
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_says(&lines[0], &["x-queue-type is 'classic', wanted 'quorum'"]);
    assert_eq!(queues(&vhost).await, set(&["orders"]));

    let attach = format!("[consumers.orders]\ntopology = 'attach'\n{SHORT_LADDER}");
    let (_handler, mut worker) = consuming(&vhost, &attach).await;
    worker.drain(DEADLINE).await;
}

#[tokio::test]
async fn queues_of_one_ladder_that_differ_in_the_same_way_are_said_in_one_line() {
    let vhost = vhost().await;
    let rungs = ["orders.retry.1s", "orders.retry.2s", "orders.retry.4s"];
    for rung in rungs {
        vhost.declare(rung, QueueType::Classic).await;
    }
    let lines = refusals(&vhost, SHORT_LADDER).await;
    // Their lengths differ, and so does the wanted time to live.
    assert!(lines.len() <= 3, "{lines:#?}");
    assert_eq!(queues(&vhost).await, set(&rungs));
}

/// Allows the virtual host this many queues.
async fn limit(vhost: &VHost, queues: u32) {
    let path = format!("vhost-limits/{}/max-queues", encode(vhost.name()));
    let value = json!({ "value": queues });
    let management = vhost.broker().management();
    let set = management.try_call(Method::PUT, &path, Some(&value)).await;
    assert!(set.is_ok_and(|(status, _)| status.is_success()));
}

#[tokio::test]
async fn a_limit_of_queues_that_is_reached_half_way_leaves_none_behind() {
    let vhost = vhost().await;
    limit(&vhost, 3).await;

    let error = refusal(&vhost, SHORT_LADDER).await;

    assert_says(&error, &["limit", "3"]);
    assert_eq!(queues(&vhost).await, set(&[]));
}

#[tokio::test]
async fn the_queues_of_all_consumers_are_mended_at_once() {
    let vhost = vhost().await;
    for queue in ["orders", "mails"] {
        vhost.declare(queue, QueueType::Classic).await;
    }
    let both = "[consumers.mails]\nqueue = 'mails'\nhandler = { kind = 'log' }\n";
    let lines = refusals(&vhost, both).await;
    assert_eq!(lines.len(), 2, "{lines:#?}");
    assert_says(&lines[0], &["consumer \"mails\": queue \"mails\""]);
    assert_says(&lines[1], &["consumer \"orders\": queue \"orders\""]);
}
