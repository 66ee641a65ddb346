//! A worker that ends by itself: when its queues are empty, after a number of messages, or after a time.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::kit::{Handling, Kit, Step, near};
use crate::{ConsumerState, EndWhen, EndedBy, Failure};

const EMPTY: EndWhen = EndWhen {
    ready: false,
    empty: true,
    messages: None,
    time: None,
};

/// Why the worker ends by itself, and after how many milliseconds.
async fn ends(kit: &Kit, when: EndWhen) -> (EndedBy, u128) {
    let started = Instant::now();
    let ended = timeout(
        Duration::from_secs(1000),
        kit.worker.handle().end_of_work(&when),
    );
    let ended = ended.await.expect("it ends");
    (ended, started.elapsed().as_millis())
}

#[tokio::test(start_paused = true)]
async fn an_empty_queue_ends_a_worker_after_five_seconds() {
    let kit = Kit::start("", Handling::new([], Step::Succeed)).await;
    let (ended, after) = ends(&kit, EMPTY).await;
    assert_eq!(ended, EndedBy::Empty);
    near(&[after], &[5000]);
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_time_counts_from_the_last_message() {
    let kit = Kit::start("", Handling::new([], Step::Succeed)).await;
    kit.publish_many(3);
    let another = async {
        sleep(Duration::from_secs(4)).await;
        kit.publish();
    };
    let ((ended, after), ()) = tokio::join!(ends(&kit, EMPTY), another);
    assert_eq!(ended, EndedBy::Empty);
    assert!((9_000..9_500).contains(&after), "{after}");
    let report = kit.drain().await.unwrap();
    assert_eq!(report.ledger().acked, 4);
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_runs_keeps_the_worker() {
    let handling = Handling::new([], Step::Take(Duration::from_secs(15)));
    let kit = Kit::start("", handling).await;
    kit.publish();
    let (ended, after) = ends(&kit, EMPTY).await;
    assert_eq!(ended, EndedBy::Empty);
    assert!((20_000..20_500).contains(&after), "{after}");
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_retry_in_the_worker_keeps_it_and_one_at_the_broker_does_not() {
    let retry = |below| format!("retry = {{ delays = ['30s'], inline_below = '{below}' }}");
    let start = async |below| {
        let handling = Handling::new([Step::Fail], Step::Succeed);
        let kit = Kit::start(&retry(below), handling).await;
        kit.publish();
        kit
    };
    let kit = start("1m").await;
    let (ended, after) = ends(&kit, EMPTY).await;
    assert_eq!(ended, EndedBy::Empty);
    assert!(after >= 35_000, "{after}");
    assert_eq!(kit.drain().await.unwrap().ledger().acked, 1);

    let kit = start("1s").await;
    let (ended, after) = ends(&kit, EMPTY).await;
    assert_eq!(ended, EndedBy::Empty);
    assert!((5_000..6_000).contains(&after), "{after}");
    assert_eq!(kit.drain().await.unwrap().ledger().parked, 1);
}

#[tokio::test(start_paused = true)]
async fn a_queue_whose_service_is_down_or_whose_consumer_is_paused_is_not_empty() {
    let down = Step::FailWith(Failure::unavailable("down", "no answer"));
    let mut kit = Kit::start("", Handling::new([], down)).await;
    kit.publish_many(10);
    kit.until_state(ConsumerState::ServiceDown).await;
    let limit = EndWhen {
        time: Some(Duration::from_secs(60)),
        ..EMPTY
    };
    assert_eq!(ends(&kit, limit).await.0, EndedBy::Time);
    kit.drain().await.unwrap();

    let kit = Kit::start("", Handling::new([], Step::Succeed)).await;
    kit.worker.handle().pause("orders").await.unwrap();
    kit.publish();
    assert_eq!(ends(&kit, limit).await.0, EndedBy::Time);
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_worker_ends_after_its_messages_and_finishes_those_that_run() {
    let handling = Handling::new([], Step::Take(Duration::from_secs(1)));
    let kit = Kit::start("concurrency = 2\nprefetch = 4", handling).await;
    kit.publish_many(20);
    let limit = EndWhen {
        messages: Some(6),
        ..EndWhen::default()
    };
    let (ended, after) = ends(&kit, limit).await;
    assert_eq!(ended, EndedBy::Messages);
    assert!((3_000..4_000).contains(&after), "{after}");
    let report = kit.drain().await.unwrap();
    assert_eq!(
        report.ledger().acked,
        8,
        "two ran when the limit was reached"
    );
}

#[tokio::test(start_paused = true)]
async fn a_worker_ends_after_its_time_whatever_runs() {
    let kit = Kit::start("timeout = '1h'", Handling::new([], Step::WaitForGate)).await;
    kit.publish();
    let limit = EndWhen {
        time: Some(Duration::from_secs(90)),
        messages: Some(1),
        ..EMPTY
    };
    let (ended, after) = ends(&kit, limit).await;
    assert_eq!(ended, EndedBy::Time);
    near(&[after], &[90_000]);
    kit.handling.open();
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_makes_the_queues_ends_when_it_has_subscribed() {
    let kit = Kit::start("", Handling::new([], Step::Succeed)).await;
    let ready = EndWhen {
        ready: true,
        ..EndWhen::default()
    };
    let (ended, after) = ends(&kit, ready).await;
    assert_eq!(ended, EndedBy::Ready);
    near(&[after], &[0]);
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn without_a_limit_a_worker_does_not_end_by_itself() {
    let kit = Kit::start("", Handling::new([], Step::Succeed)).await;
    let never = EndWhen::default();
    let day = Duration::from_secs(86_400);
    let waited = timeout(day, kit.worker.handle().end_of_work(&never)).await;
    assert!(waited.is_err(), "{waited:?}");
    kit.drain().await.unwrap();
}
