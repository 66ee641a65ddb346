//! The copies of a message, retries and dead letters: their properties and headers.

use std::time::Duration;

use super::{
    account::TEST_ID,
    kit::{Handling, Kit, Step},
};
use crate::broker::fake::{Letter, Stored};

const RUNG: &str = "orders.retry.4s";
const ORIGINAL_EXPIRATION: &str = "lapwing-original-expiration";

/// Sends a message that is parked twice and then dead-lettered. Returns the three copies.
async fn copies(letter: Letter, body: &[u8]) -> [Stored; 3] {
    let handling = Handling::new([Step::Fail, Step::Fail], Step::FailForGood);
    let settings = "retry = { base = '4s', factor = 1, jitter = 0 }";
    let kit = Kit::start(settings, handling.clone()).await;
    kit.send(letter, body);
    handling.has_run(1).await;
    kit.until_in(RUNG, 1).await;
    let first = kit.only(RUNG);
    handling.has_run(2).await;
    kit.until_in(RUNG, 1).await;
    let second = kit.only(RUNG);
    kit.finished().await;
    let dead = kit.dead();
    kit.drain().await.unwrap();
    [first, second, dead]
}

#[tokio::test(start_paused = true)]
async fn a_copy_of_a_message_without_an_id_gets_one_that_stays() {
    let copies = copies(Letter::default().header(TEST_ID, "a"), b"").await;
    let ids = copies.each_ref().map(|it| it.properties.message_id());
    let id = ids[0].unwrap();
    assert!(uuid::Uuid::parse_str(id).is_ok(), "{id}");
    assert_eq!(ids, [Some(id); 3]);
}

#[tokio::test(start_paused = true)]
async fn a_copy_keeps_the_id_that_the_message_has() {
    for copy in copies(Letter::default().id("mine"), b"").await {
        assert_eq!(copy.properties.message_id(), Some("mine"));
    }
}

#[tokio::test(start_paused = true)]
async fn the_bytes_of_a_body_are_never_changed() {
    let all: Vec<u8> = (0..=255).collect();
    for body in [&all[..], b"", b"\r\n{ }\r\n"] {
        for copy in copies(Letter::default().id("a"), body).await {
            assert_eq!(copy.body, body);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_publishers_properties_and_headers_are_kept() {
    let letter = Letter::default()
        .id("a")
        .content_type("text/plain")
        .content_encoding("identity")
        .message_type("paid")
        .correlation_id("c-1")
        .reply_to("answers")
        .transient(3)
        .header("tenant", "blue")
        .number("version", 7)
        .list("tags", &["x", "y"]);
    for copy in copies(letter, b"x").await {
        let properties = &copy.properties;
        assert_eq!(properties.content_type(), Some("text/plain"));
        assert_eq!(properties.content_encoding(), Some("identity"));
        assert_eq!(properties.message_type(), Some("paid"));
        assert_eq!(properties.correlation_id(), Some("c-1"));
        assert_eq!(properties.reply_to(), Some("answers"));
        assert_eq!(properties.priority(), Some(3));
        assert_eq!(copy.header("tenant"), Some("blue"));
        assert_eq!(copy.number("version"), Some(7));
        let tags = properties.header("tags").unwrap().to_json();
        assert_eq!(tags, serde_json::json!(["x", "y"]));
        assert!(copy.is_persistent());
    }
}

#[tokio::test(start_paused = true)]
async fn the_publishers_expiration_is_moved_aside() {
    let [first, second, dead] = copies(Letter::default().id("a").expiration("60000"), b"").await;
    for copy in [&first, &second] {
        assert_eq!(copy.expiration(), Some(Duration::from_secs(4)));
        assert_eq!(copy.header(ORIGINAL_EXPIRATION), Some("60000"));
    }
    assert_eq!(dead.expiration(), None);
    assert_eq!(dead.header(ORIGINAL_EXPIRATION), Some("60000"));
}

#[tokio::test(start_paused = true)]
async fn the_expiration_of_a_retry_is_not_taken_for_the_publishers() {
    for copy in copies(Letter::default().id("a"), b"").await {
        assert_eq!(copy.header(ORIGINAL_EXPIRATION), None);
    }
}

#[tokio::test(start_paused = true)]
async fn the_publishers_user_is_moved_aside_and_still_known() {
    let [first, second, dead] = copies(Letter::default().id("a").user_id("shop"), b"").await;
    // The broker has checked that the copy is from a worker.
    for copy in [&first, &second] {
        assert_eq!(copy.user_id().as_deref(), Some("guest"));
        assert_eq!(copy.header("lapwing-original-user-id"), Some("shop"));
    }
    // Any user may put a dead letter back, so it names none.
    assert_eq!(dead.user_id(), None);
    assert_eq!(dead.header("lapwing-original-user-id"), Some("shop"));
}

#[tokio::test(start_paused = true)]
async fn a_copy_does_not_go_to_the_queues_of_a_cc_header() {
    let handling = Handling::new([Step::Fail], Step::FailForGood);
    let kit = Kit::start("retry.base = '4s'", handling.clone()).await;
    kit.send(Letter::default().id("a").list("CC", &["audit"]), b"");
    // From now on a copy with the CC header would also go to this queue.
    kit.broker.declare("audit");
    kit.finished().await;
    assert!(kit.broker.ready("audit").is_empty());
    let dead = kit.dead();
    assert!(dead.properties.header("CC").is_none());
    let aside = dead.properties.header("lapwing-original-cc").unwrap();
    assert_eq!(aside.to_json(), serde_json::json!(["audit"]));
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_the_broker_wrote_on_a_message_is_not_copied() {
    let letter = Letter::default()
        .id("a")
        .number("x-delivery-count", 90)
        .number("x-acquired-count", 90)
        .header("x-mine", "stays");
    for copy in copies(letter, b"").await {
        let names = copy.properties.headers().map(|(name, _)| name);
        let theirs: Vec<_> = names.filter(|name| name.starts_with("x-")).collect();
        assert_eq!(theirs, ["x-mine"]);
        assert_eq!(copy.delivery_count, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn the_delivery_count_of_a_redelivered_message_is_not_copied() {
    let handling = Handling::new([Step::WaitForGate], Step::FailForGood);
    let kit = Kit::start("timeout = '1h'\nconcurrency = 1", handling.clone()).await;
    kit.publish_many(2);
    handling.has_run(1).await;
    // The second message, which has not started, is delivered again.
    kit.worker.broker().close_channels();
    handling.open();
    kit.until_in("orders.dead", 1).await;
    let dead = kit.dead();
    assert!(dead.properties.header("x-delivery-count").is_none());
    assert_eq!(dead.number("lapwing-attempts"), Some(1));
    kit.drain().await.unwrap();
}
