//! A consumer with a fixed rate.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::kit::{Handling, Kit, Step};

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// The most runs that started in any span of this length.
fn most_within(handling: &Handling, span: Duration) -> usize {
    let runs = handling.runs();
    let within = |(first, run): (usize, &super::kit::Run)| {
        let later = runs[first..].iter();
        later.take_while(|other| other.at - run.at < span).count()
    };
    runs.iter().enumerate().map(within).max().unwrap_or(0)
}

/// From the first run to the last one.
fn took(handling: &Handling) -> Duration {
    let runs = handling.runs();
    runs.last().unwrap().at - runs[0].at
}

#[tokio::test(start_paused = true)]
async fn attempts_start_at_the_rate_and_no_message_is_forgotten() {
    for (rate, count, span) in [
        ("10/s", 50, 4_900),
        ("300/m", 25, 4_800),
        ("2000/s", 3_000, 1_500),
    ] {
        for concurrency in [1, 32] {
            let settings = format!("rate = '{rate}'\nconcurrency = {concurrency}");
            let handling = Handling::new([], Step::Succeed);
            let kit = Kit::start(&settings, handling.clone()).await;
            kit.publish_many(count);
            handling.has_run(count).await;
            let took = took(&handling).as_millis();
            assert!(took.abs_diff(span) <= 15, "{settings}: {took} ms");
            kit.finished().await;
            assert_eq!(kit.drain().await.unwrap().ledger().acked, count as u64);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn in_no_second_more_attempts_start_than_the_rate_says_and_a_burst_comes_after_a_quiet_time()
{
    let handling = Handling::new([], Step::Take(5 * MILLI));
    let kit = Kit::start("rate = '10/s'", handling.clone()).await;
    for _ in 0..20 {
        kit.publish_many(3);
        sleep(250 * MILLI).await;
    }
    handling.has_run(60).await;
    assert_eq!(most_within(&handling, SECOND), 10);
    kit.drain().await.unwrap();

    let handling = Handling::new([], Step::Succeed);
    let kit = Kit::start("rate = '10/s'\nburst = 8", handling.clone()).await;
    kit.publish_many(20);
    handling.has_run(20).await;
    assert_eq!(most_within(&handling, 50 * MILLI), 8);
    assert!(took(&handling).as_millis().abs_diff(1_200) <= 15);
    sleep(10 * SECOND).await;
    kit.publish_many(20);
    handling.has_run(40).await;
    assert_eq!(most_within(&handling, 50 * MILLI), 8);
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn retries_that_wait_in_the_worker_count_too() {
    let fail = || (0..20).map(|_| Step::Fail);
    let settings = "rate = '10/s'\nretry = { base = '100ms', inline_below = '1s', jitter = 0 }";
    let handling = Handling::new(fail(), Step::Succeed);
    let kit = Kit::start(settings, handling.clone()).await;
    kit.publish_many(20);
    handling.has_run(40).await;
    let took = took(&handling).as_millis();
    assert!(took.abs_diff(3_900) <= 15, "{took} ms");
    assert_eq!(most_within(&handling, SECOND), 10);
    kit.finished().await;
    kit.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_drain_returns_what_the_rate_has_not_let_start() {
    let handling = Handling::new([], Step::Succeed);
    let kit = Kit::start("rate = '1/m'", handling.clone()).await;
    kit.publish_many(10);
    handling.has_run(1).await;
    let began = Instant::now();
    let ledger = kit.drain().await.unwrap().ledger();
    assert!(began.elapsed() < 2 * SECOND);
    assert_eq!((ledger.acked, ledger.returned), (1, 9), "{ledger:?}");
}
