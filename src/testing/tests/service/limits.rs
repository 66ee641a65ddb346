//! A service that limits its rate, or has too little room.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use super::site::{Answer, Service, Site, failed, status};
use crate::{Failure, Outcome};

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);

/// A service that takes this many requests in any second, and answers others by 429.
fn limited(rate: usize, retry_after: Option<Duration>) -> Service {
    let mut served = VecDeque::new();
    Service::new(move |_, now, _| -> Answer {
        while served.front().is_some_and(|at| now - *at >= SECOND) {
            served.pop_front();
        }
        if served.len() < rate {
            served.push_back(now);
            return (2 * MILLI, Outcome::Succeeded);
        }
        let many = status(429);
        failed(match retry_after {
            Some(after) => many.retry_after(after),
            None => many,
        })
    })
}

/// A service with this many places, each for half a second, that answers 503 when it is full.
fn small(places: usize) -> Service {
    let mut ends = Vec::new();
    Service::new(move |_, now, _| {
        ends.retain(|end| *end > now);
        if ends.len() == places {
            return failed(status(503));
        }
        ends.push(now + SECOND / 2);
        (SECOND / 2, Outcome::Succeeded)
    })
}

/// Serves this many messages. Returns how many were dead-lettered, and the rate of the served ones
/// in a second.
async fn run(settings: &str, messages: usize, service: Service) -> (usize, f64) {
    let site = Site::start(settings, service.clone()).await;
    let began = Instant::now();
    site.publish(messages);
    let (dead, ledger) = site.finish().await;
    let took = began.elapsed().as_secs_f64();
    let served = service.served().len();
    let refused = service.refused().len();
    println!(
        "{settings:?}: dead {dead}, served {served} in {took:.1} s, refused {refused}, returned {}",
        ledger.returned
    );
    assert_eq!(served + dead, messages);
    (dead, served as f64 / took)
}

#[tokio::test(start_paused = true)]
async fn a_rate_limit_costs_no_message_its_life_and_little_of_the_rate() {
    for settings in [
        "",
        "queue_type = 'classic'",
        "concurrency = 1",
        "concurrency = 2",
    ] {
        for retry_after in [Some(SECOND), None] {
            let (dead, rate) = run(settings, 300, limited(10, retry_after)).await;
            assert_eq!(dead, 0, "{settings} {retry_after:?}");
            assert!(rate >= 8.0, "{settings} {retry_after:?}: {rate}");
        }
    }
    let (dead, rate) = run("", 3_000, limited(200, Some(SECOND))).await;
    assert!(dead == 0 && rate >= 160.0, "{dead} dead, {rate}");
}

#[tokio::test(start_paused = true)]
async fn a_service_with_little_room_is_not_asked_for_more() {
    let (dead, rate) = run("", 400, small(4)).await;
    assert_eq!(dead, 0);
    // Its own rate is 8.
    assert!(rate >= 6.4, "{rate}");
}

#[tokio::test(start_paused = true)]
async fn a_limit_of_one_customer_holds_up_no_other() {
    let service = Service::new(|_, now, context| match context.message().body() {
        b"limited" if now < 60 * SECOND => failed(status(429).retry_after(10 * SECOND)),
        _ => (2 * MILLI, Outcome::Succeeded),
    });
    let site = Site::start("", service.clone()).await;
    site.worker
        .broker()
        .publish("orders", b"limited", None, None);
    site.publish_over(20 * SECOND, 2_000).await;
    let served = service.served().len();
    assert!(served >= 1_990, "{served}");
    let (dead, _) = site.finish().await;
    assert_eq!((dead, service.served().len()), (0, 2_001));
}

#[tokio::test(start_paused = true)]
async fn a_message_that_fails_for_another_reason_is_charged_beside_a_limit() {
    let mut served = 0;
    let service = Service::new(move |_, _, context| match context.message().body() {
        b"bad" => failed(Failure::retryable("http", "HTTP 500").status(500)),
        _ => {
            served += 1;
            match served % 2 {
                0 => failed(status(429)),
                _ => (2 * MILLI, Outcome::Succeeded),
            }
        }
    });
    let site = Site::start("retry = { max_attempts = 3 }", service).await;
    site.worker.broker().publish("orders", b"bad", None, None);
    site.publish(50);
    assert_eq!(site.finish().await.0, 1);
}
