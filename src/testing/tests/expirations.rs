//! The `expiration` that a publisher gives a message.

use std::time::{Duration, UNIX_EPOCH};

use super::kit::{Handling, Kit, Step};
use crate::{broker::fake::Letter, clock};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn a_message_that_waits_past_its_expiration_is_dead_lettered_without_a_run() {
    let handling = Handling::new([Step::Take(3 * SECOND)], Step::Succeed);
    let kit = Kit::start("concurrency = 1", handling.clone()).await;
    kit.send(Letter::default().id("first"), b"");
    handling.has_run(1).await;
    kit.send(Letter::default().id("late").expiration("1000"), b"x");
    kit.send(Letter::default().id("in time").expiration("60000"), b"");
    kit.finished().await;
    assert_eq!(handling.done(), ["first", "in time"]);
    let dead = kit.dead();
    assert_eq!(dead.properties.message_id(), Some("late"));
    assert_eq!(dead.header("lapwing-reason"), Some("expired"));
    assert_eq!(dead.header("lapwing-original-expiration"), Some("1000"));
    assert_eq!(dead.header("lapwing-error-kind"), Some("expired"));
    assert_eq!(dead.expiration(), None);
    let report = kit.drain().await.unwrap();
    assert_eq!(report.ledger().dead_lettered, 1);
}

#[tokio::test(start_paused = true)]
async fn the_expiration_is_decided_once_and_holds_for_all_retries() {
    let handling = Handling::new([], Step::Fail);
    let settings = "retry = { base = '4s', factor = 1, jitter = 0 }";
    let kit = Kit::start(settings, handling.clone()).await;
    kit.send(Letter::default().id("a").expiration("10000"), b"");
    handling.has_run(1).await;
    kit.until_in("orders.retry.4s", 1).await;
    let time = |it: &crate::broker::fake::Stored| {
        humantime::parse_rfc3339(it.header("lapwing-expires-at").unwrap()).unwrap()
    };
    let first = time(&kit.only("orders.retry.4s"));
    kit.finished().await;
    assert_eq!(
        handling.attempts(),
        [1, 2, 3],
        "at 0, 4 and 8 s, and not at 12 s"
    );
    let dead = kit.dead();
    assert_eq!(dead.header("lapwing-reason"), Some("expired"));
    assert_eq!(time(&dead), first);
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_expiration_counts_from_the_timestamp_of_the_publisher() {
    let handling = Handling::new([], Step::Succeed);
    let kit = Kit::start("", handling.clone()).await;
    let millis = clock::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    let millis = i64::try_from(millis).unwrap();
    let old = Letter::default().number("timestamp_in_ms", millis - 90_000);
    kit.send(old.clone().id("late").expiration("60000"), b"");
    kit.send(old.id("in time").expiration("120000"), b"");
    let ahead = Letter::default().number("timestamp_in_ms", millis + 3_600_000);
    kit.send(ahead.id("ahead").expiration("60000"), b"");
    kit.finished().await;
    assert_eq!(handling.done(), ["in time", "ahead"]);
    assert_eq!(kit.dead().properties.message_id(), Some("late"));
    kit.drain().await.unwrap();
}
