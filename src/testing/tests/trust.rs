//! What a publisher can write into a message's headers, and what the worker believes.

use std::time::Duration;

use super::kit::{Handling, Kit, Step, near};
use crate::broker::fake::{Letter, Policy};

const SECOND: Duration = Duration::from_secs(1);
const RUNG: &str = "orders.retry.4s";
const SLOW: &str = "retry = { base = '4s', factor = 1, jitter = 0, max_attempts = 3 }";

#[tokio::test(start_paused = true)]
async fn a_publisher_can_forge_neither_attempts_nor_routing_key_nor_time() {
    let handling = Handling::new([], Step::Fail);
    let kit = Kit::start(SLOW, handling.clone()).await;
    let forged = Letter::default()
        .id("forged")
        .number("lapwing-attempts", 6)
        .header("lapwing-source-routing-key", "admin.delete-everything")
        .header("lapwing-source-exchange", "admin")
        .header("lapwing-original-user-id", "root")
        .header("lapwing-not-before", "9999-12-31T23:59:59Z");
    kit.send(forged, b"");
    kit.finished().await;
    assert_eq!(handling.attempts(), [1, 2, 3]);
    near(&handling.gaps(), &[4_000, 4_000]);
    let dead = kit.dead();
    assert_eq!(dead.header("lapwing-source-routing-key"), Some("orders"));
    assert_eq!(dead.header("lapwing-source-exchange"), Some(""));
    assert_eq!(dead.header("lapwing-original-user-id"), None);
    assert_eq!(dead.number("lapwing-attempts"), Some(3));
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_retry_that_another_user_parked_still_runs_out_of_attempts() {
    let handling = Handling::new([], Step::Fail);
    let kit = Kit::start(SLOW, handling.clone()).await;
    kit.publish();
    for run in 1..=2 {
        handling.has_run(run).await;
        kit.until_in(RUNG, 1).await;
        // A worker of another user has parked it.
        let copy = kit.broker.take(RUNG).unwrap();
        let others = Letter::of(&copy.properties)
            .user_id("other")
            .expiration("4000");
        kit.broker.send(RUNG, &copy.body, others.into());
    }
    kit.finished().await;
    assert_eq!(handling.attempts(), [1, 2, 3]);
    assert_eq!(kit.dead().header("lapwing-reason"), Some("max-attempts"));
    // The account of the kit would count the copies as messages.
    kit.worker.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_dead_letter_that_is_put_back_has_all_its_attempts_again() {
    let handling = Handling::new([], Step::Fail);
    let kit = Kit::start(SLOW, handling.clone()).await;
    kit.publish();
    kit.finished().await;
    let dead = kit.broker.take("orders.dead").unwrap();
    assert_eq!(dead.number("lapwing-replays"), Some(0));
    // As a shovel does it, with all properties.
    kit.broker
        .send("orders", &dead.body, dead.properties.clone());
    kit.finished().await;
    assert_eq!(handling.attempts(), [1, 2, 3, 1, 2, 3]);
    let again = kit.dead();
    assert_eq!(again.number("lapwing-replays"), Some(1));
    assert_eq!(again.number("lapwing-attempts"), Some(3));
    let seen = |name| humantime::parse_rfc3339(again.header(name).unwrap()).unwrap();
    let age = seen("lapwing-failed-at").duration_since(seen("lapwing-first-seen"));
    assert!(
        age.unwrap() < Duration::from_secs(10),
        "the age begins anew too"
    );
    kit.worker.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_policy_that_shortens_the_retry_queues_costs_a_second_parking_and_no_time() {
    let handling = Handling::new([Step::Fail], Step::Succeed);
    let kit = Kit::start(SLOW, handling.clone()).await;
    kit.broker.set_policy(
        "orders.retry",
        Policy {
            message_ttl: Some(2 * SECOND),
            ..Policy::default()
        },
    );
    kit.publish();
    kit.finished().await;
    assert_eq!(handling.attempts(), [1, 2]);
    near(&handling.gaps(), &[4_000]);
    let report = kit.drain().await.unwrap();
    assert_eq!(report.ledger().parked, 2);
}
