//! How a message ends, by the outcome of its handler.

use super::kit::{Handling, Kit, Step};

#[tokio::test(start_paused = true)]
async fn a_message_that_succeeds_is_acked() {
    let kit = Kit::start("", Handling::new([], Step::Succeed)).await;
    kit.publish();
    kit.finished().await;
    let report = kit.drain().await.unwrap();
    assert_eq!((report.ledger().received, report.ledger().acked), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_tried_again_until_it_succeeds() {
    let handling = Handling::new([Step::Fail, Step::Panic, Step::Fail], Step::Succeed);
    let kit = Kit::start("", handling.clone()).await;
    let id = kit.publish();
    kit.finished().await;
    let attempts: Vec<_> = handling.runs().iter().map(|run| run.attempt).collect();
    assert_eq!(attempts, [1, 2, 3, 4]);
    assert!(handling.runs().iter().all(|run| run.id == id));
    let report = kit.drain().await.unwrap();
    assert_eq!(report.ledger().acked, 1);
}

#[tokio::test(start_paused = true)]
async fn a_permanent_failure_is_dead_lettered_with_its_reason() {
    let kit = Kit::start("", Handling::new([], Step::FailForGood)).await;
    let id = kit.publish();
    kit.finished().await;
    assert_eq!(kit.ids("orders.dead"), [id]);
    let dead = kit.worker.broker().messages("orders.dead");
    assert_eq!(dead[0].header("lapwing-reason"), Some("rejected"));
    let report = kit.drain().await.unwrap();
    assert_eq!(report.ledger().dead_lettered, 1);
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_attempts_are_used_up_is_dead_lettered() {
    let handling = Handling::new([], Step::Fail);
    let kit = Kit::start("retry = { max_attempts = 3 }", handling.clone()).await;
    kit.publish();
    kit.finished().await;
    assert_eq!(handling.runs().len(), 3);
    let dead = kit.worker.broker().messages("orders.dead");
    assert_eq!(dead[0].header("lapwing-reason"), Some("max-attempts"));
    kit.drain().await.unwrap();
}
