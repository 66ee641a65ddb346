//! Messages that go back to their queue.

use std::time::Duration;

use super::kit::{Handling, Kit, Step};
use crate::ConsumerState;

#[tokio::test(start_paused = true)]
async fn held_messages_all_go_back_in_whatever_order_their_paths_ended() {
    let settings = "
        timeout = '1s'
        retry = { max_attempts = 1 }
        [publish]
        budget = '1s'
        hold = '1m'
    ";
    // The first message times out, and ends after the second.
    let handling = Handling::new([Step::Hang, Step::FailForGood], Step::Succeed);
    let mut kit = Kit::start(settings, handling.clone()).await;
    kit.worker.broker().block(true);
    kit.publish();
    kit.publish();
    kit.until_state(ConsumerState::Held).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    kit.worker.broker().block(false);
    kit.finished().await;
    assert_eq!(handling.runs().len(), 4);
    let report = kit.drain().await.unwrap();
    assert_eq!((report.ledger().returned, report.ledger().acked), (2, 2));
}
