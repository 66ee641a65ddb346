//! Messages that go back to their queue.

use super::{
    kit::{Handling, Kit, Step},
    waits::nack_through,
};
use crate::{ConsumerState, broker::fake::Release};

/// The delivery count of a message after a drain has returned it.
async fn count_after_return(release: Release) -> u64 {
    let handling = Handling::new([], Step::Hang);
    let kit = Kit::start_at(release, "timeout = '1h'", handling.clone()).await;
    kit.publish();
    handling.has_run(1).await;
    let fake = kit.broker.clone();
    kit.drain().await.unwrap();
    fake.ready("orders")[0].delivery_count
}

#[tokio::test(start_paused = true)]
async fn a_return_counts_as_a_delivery_before_rabbitmq_4_3() {
    assert_eq!(count_after_return(Release::V3).await, 1);
    assert_eq!(count_after_return(Release::V40).await, 1);
    assert_eq!(count_after_return(Release::V43).await, 0);
}

#[tokio::test(start_paused = true)]
async fn messages_that_cannot_be_published_all_go_back_in_whatever_order_their_paths_ended() {
    let settings = "
        timeout = '1s'
        retry = { max_attempts = 1 }
        [publish]
        budget = '1s'
    ";
    // The first message times out, and ends after the second.
    let handling = Handling::new([Step::Hang, Step::FailForGood], Step::Succeed);
    let mut kit = Kit::start(settings, handling.clone()).await;
    kit.worker.broker().block(true);
    kit.publish();
    kit.publish();
    kit.until(
        ConsumerState::Consuming,
        Some("2 retries or dead letters wait"),
    )
    .await;
    let broker = kit.broker.clone();
    let report = kit.drain().await.unwrap();
    assert_eq!((report.ledger().returned, report.left()), (2, 0));
    assert_eq!(broker.commands(), [nack_through(2)]);
    assert_eq!(broker.ready("orders").len(), 2);
}
