//! A service that is down.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::site::{Answer, Service, Site, failed, refused, status};
use crate::{ConsumerState, Failure, Outcome, broker::fake::Release};

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);

/// An outage, and the messages that meet it.
struct Row {
    name: &'static str,
    settings: &'static str,
    messages: usize,
    outage: Duration,
    failure: Failure,
}

fn rows() -> Vec<Row> {
    let row = |name, messages, seconds, failure| Row {
        name,
        settings: "",
        messages,
        outage: SECOND * seconds,
        failure,
    };
    let quorumless = "queue_type = 'classic'";
    vec![
        row("nothing listens for 120 s", 1_000, 120, refused()),
        row("503 for 120 s", 200, 120, status(503)),
        Row {
            settings: quorumless,
            ..row("503 for 120 s, classic", 200, 120, status(503))
        },
        row(
            "503 with Retry-After: 5 for 120 s",
            200,
            120,
            status(503).retry_after(5 * SECOND),
        ),
        row("away for 60 s", 200, 60, refused()),
        row("away for 45 s", 200, 45, refused()),
        row("a restart of 5 s", 600, 5, refused()),
        row("gateway time-outs for 120 s", 200, 120, status(504)),
        row("one message, 120 s", 1, 120, refused()),
        row(
            "one message, Retry-After: 0 for 120 s",
            1,
            120,
            status(503).retry_after(Duration::ZERO),
        ),
        row(
            "one message, Retry-After: 1 for 120 s",
            1,
            120,
            status(503).retry_after(SECOND),
        ),
        Row {
            settings: "retry = { cap = '2s', max_attempts = 4 }",
            ..row(
                "one message, Retry-After: an hour for 2 h",
                1,
                7_200,
                status(503).retry_after(3_600 * SECOND),
            )
        },
    ]
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_the_service_costs_no_message_its_life() {
    for row in rows() {
        let service = Service::down_until(row.outage, 5 * MILLI, row.failure);
        let site = Site::start(row.settings, service.clone()).await;
        let began = Instant::now();
        site.publish(row.messages);
        let (dead, ledger) = site.finish().await;
        assert_eq!(dead, 0, "{}: {ledger:?}", row.name);
        assert_eq!(service.served().len(), row.messages, "{}", row.name);
        if row.outage <= 120 * SECOND {
            let late = began.elapsed() - row.outage;
            assert!(late < 40 * SECOND, "{}: {late:?} after", row.name);
        }
        println!(
            "{}: dead {dead}, served {}, requests refused {}, returned {}",
            row.name,
            service.served().len(),
            service.refused().len(),
            ledger.returned
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_service_that_restarts_under_load_loses_nothing() {
    let service = Service::new(|_, now, _| match (5 * SECOND..10 * SECOND).contains(&now) {
        true => failed(refused()),
        false => (5 * MILLI, Outcome::Succeeded),
    });
    let site = Site::start("", service.clone()).await;
    site.publish_over(15 * SECOND, 600).await;
    let (dead, _) = site.finish().await;
    assert_eq!((dead, service.served().len()), (0, 600));
}

#[tokio::test(start_paused = true)]
async fn after_ten_minutes_twenty_thousand_messages_wait_and_the_lane_is_soon_at_full_speed() {
    const WAITING: usize = 20_000;
    let back = 600 * SECOND;
    let service = Service::down_until(back, 20 * MILLI, refused());
    let site = Site::start("", service.clone()).await;
    site.publish(WAITING);
    let (dead, ledger) = site.finish().await;
    assert_eq!((dead, service.served().len()), (0, WAITING));
    assert!(service.refused().len() < 200, "{}", service.refused().len());
    assert!(ledger.returned <= 64, "once in the outage: {ledger:?}");
    // 32 handlers of 20 ms serve 1,600 messages a second.
    let soon = back + 30 * SECOND;
    let next_second = |at: &&Duration| (soon..soon + SECOND).contains(*at);
    let served = service.served();
    let after = served.iter().filter(|at| **at >= soon).count();
    let rate = served.iter().filter(next_second).count();
    assert!(after < 1_000 || rate > 1_400, "{rate} in a second");
    let all = *served.last().unwrap() - back;
    assert!(all < 26 * SECOND, "all served {all:?} after the return");
}

#[tokio::test(start_paused = true)]
async fn a_lane_whose_service_is_down_says_so_and_stays_ready() {
    let service = Service::down_until(60 * SECOND, MILLI, refused());
    let mut site = Site::start("", service.clone()).await;
    site.publish(100);
    let down = |it: &crate::Readiness| it.consumers["orders"].state == ConsumerState::ServiceDown;
    let ready = timeout(5 * SECOND, site.worker.until(down)).await.unwrap();
    assert!(ready.ready && ready.degraded, "{ready:?}");
    let since = ready.consumers["orders"].since;
    sleep(20 * SECOND).await;
    let ready = site.worker.handle().readiness();
    let health = &ready.consumers["orders"];
    assert_eq!(
        (health.state, health.since),
        (ConsumerState::ServiceDown, since)
    );
    let reason = health.reason.clone().unwrap();
    assert!(reason.starts_with("connection refused; "), "{reason}");
    assert!(reason.contains(" probes, next in "), "{reason}");
    let report = site.worker.handle().report("orders").unwrap();
    assert!(report.in_flight <= 1, "{report:?}");
    assert_eq!(report.counts.unavailable, report.counts.attempts);
    let up = |it: &crate::Readiness| it.consumers["orders"].state == ConsumerState::Consuming;
    let ready = timeout(60 * SECOND, site.worker.until(up)).await.unwrap();
    assert!(ready.ready && !ready.degraded);
    sleep(SECOND).await;
    let report = site.worker.handle().report("orders").unwrap();
    assert!(report.counts.probes > 3, "{report:?}");
    assert_eq!(report.counts.sessions, 1, "no subscription was lost");
    site.worker.broker().disconnect();
    site.worker.broker().reconnect();
    sleep(30 * SECOND).await;
    let report = site.worker.handle().report("orders").unwrap();
    assert_eq!(report.counts.sessions, 2, "this one was");
    site.finish().await;
}

#[tokio::test(start_paused = true)]
async fn probes_are_one_at_a_time_each_with_another_message() {
    let ids = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let noted = std::sync::Arc::clone(&ids);
    let service = Service::new(move |under_way, now, context| {
        let id = context.message().id().unwrap_or_default().to_owned();
        noted.lock().unwrap().push((now, under_way, id));
        match now < 60 * SECOND {
            true => failed(refused()),
            false => (MILLI, Outcome::Succeeded),
        }
    });
    let site = Site::start("", service).await;
    site.publish(1_000);
    sleep(60 * SECOND).await;
    let seen = ids.lock().unwrap().clone();
    let probes: Vec<_> = seen.iter().filter(|(at, ..)| *at > SECOND / 2).collect();
    assert!((5..20).contains(&probes.len()), "{probes:?}");
    assert!(probes.iter().all(|(_, under_way, _)| *under_way == 1));
    let mut all: Vec<_> = seen.iter().map(|(.., id)| id).collect();
    all.sort_unstable();
    let before = all.len();
    all.dedup();
    assert_eq!(all.len(), before, "each another message");
    site.finish().await;
}

#[tokio::test(start_paused = true)]
async fn a_message_that_alone_is_answered_502_uses_up_its_attempts() {
    let service = Service::new(|_, _, context| match context.message().body() {
        b"bad" => failed(status(502)),
        _ => (5 * MILLI, Outcome::Succeeded),
    });
    let site = Site::start("retry = { max_attempts = 4 }", service).await;
    site.worker.broker().publish("orders", b"bad", None, None);
    let mut others = 0;
    while site.dead() == 0 {
        others += 1;
        assert!(others < 4_000, "it is charged while others succeed");
        site.publish(1);
        sleep(SECOND / 10).await;
    }
    let dead = site.broker.ready("orders.dead").remove(0);
    assert_eq!(dead.header("lapwing-reason"), Some("max-attempts"));
    let (dead, ledger) = site.finish().await;
    assert_eq!((dead, ledger.acked), (1, others));
}

#[tokio::test(start_paused = true)]
async fn a_message_that_meets_nothing_but_an_outage_ends_by_its_age() {
    let day = 86_400 * SECOND;
    let service = Service::down_until(2 * day, MILLI, refused());
    let site = Site::start("retry = { max_age = '1h' }", service).await;
    let began = Instant::now();
    site.publish(3);
    let (dead, _) = site.finish().await;
    assert_eq!(dead, 3);
    let took = began.elapsed();
    assert!((3_600 * SECOND..3_800 * SECOND).contains(&took), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn each_message_goes_back_at_most_once_in_an_outage() {
    let service = Service::down_until(300 * SECOND, MILLI, refused());
    let site = Site::start_on(Release::V40, "prefetch = 10\nconcurrency = 4", service).await;
    site.publish(30);
    sleep(299 * SECOND).await;
    let counts = site.broker.ready("orders");
    let most = counts.iter().map(|it| it.delivery_count).max();
    assert!(most <= Some(1), "{most:?}");
    let (dead, ledger) = site.finish().await;
    assert_eq!(dead, 0);
    assert!(ledger.returned <= 10, "{ledger:?}");
}

#[tokio::test(start_paused = true)]
async fn a_pause_of_an_operator_starts_the_lane_anew() {
    let service = Service::down_until(30 * SECOND, MILLI, refused());
    let mut site = Site::start("breaker = { probe = '1h', probe_cap = '1h' }", service).await;
    site.publish(100);
    let state = |it: &crate::Readiness| it.consumers["orders"].state;
    site.worker
        .until(|it| state(it) == ConsumerState::ServiceDown)
        .await;
    sleep(40 * SECOND).await;
    let handle = site.worker.handle().clone();
    handle.pause("orders").await.unwrap();
    handle.resume("orders").await.unwrap();
    let finished = timeout(40 * SECOND, site.finish()).await;
    assert_eq!(finished.unwrap().0, 0);
}

#[tokio::test(start_paused = true)]
async fn a_worker_whose_service_is_down_drains_at_once() {
    for wait in [MILLI, SECOND / 2, 3 * SECOND, 30 * SECOND] {
        let service = Service::down_until(3_600 * SECOND, MILLI, refused());
        let site = Site::start("", service).await;
        site.publish(200);
        sleep(wait).await;
        let began = Instant::now();
        let broker = site.broker.clone();
        let ledger = site.worker.drain().await.unwrap().ledger();
        assert!(began.elapsed() < 3 * SECOND, "{:?}", began.elapsed());
        assert_eq!(ledger.open(), 0, "{ledger:?}");
        let parked = broker.everything().len();
        assert_eq!(parked, 200, "{wait:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_survives_the_loss_of_the_connection() {
    let service = Service::down_until(60 * SECOND, MILLI, refused());
    let site = Site::start("", service.clone()).await;
    site.publish(200);
    for _ in 0..5 {
        sleep(10 * SECOND).await;
        site.worker.broker().disconnect();
        sleep(SECOND).await;
        site.worker.broker().reconnect();
    }
    let (dead, _) = site.finish().await;
    assert_eq!(dead, 0);
    assert!(service.served().len() >= 200);
}

#[tokio::test(start_paused = true)]
async fn a_wrong_deploy_cannot_empty_the_queue_into_the_dead_letters() {
    let service = Service::new(|_, now, _| match now < 120 * SECOND {
        true => failed(Failure::permanent("http", "HTTP 404").status(404)),
        false => (MILLI, Outcome::Succeeded),
    });
    let mut site = Site::start("", service).await;
    site.publish(1_000);
    let state = |it: &crate::Readiness| it.consumers["orders"].state;
    let held = site
        .worker
        .until(|it| state(it) == ConsumerState::ServiceDown);
    let held = timeout(5 * SECOND, held).await.unwrap();
    let reason = held.consumers["orders"].reason.clone().unwrap();
    assert!(
        reason.starts_with("50 messages in a row failed for good: HTTP 404"),
        "{reason}"
    );
    let (dead, ledger) = site.finish().await;
    assert_eq!((dead, ledger.acked), (49, 951));
}

#[tokio::test(start_paused = true)]
async fn a_hung_service_is_an_outage_too() {
    let service = Service::new(|_, now, _| -> Answer {
        match now < 120 * SECOND {
            true => (3_600 * SECOND, Outcome::Succeeded),
            false => (MILLI, Outcome::Succeeded),
        }
    });
    let site = Site::start("timeout = '2s'", service).await;
    site.publish(500);
    let began = Instant::now();
    let (dead, _) = site.finish().await;
    assert_eq!(dead, 0);
    assert!(began.elapsed() < 170 * SECOND, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_service_that_no_message_can_be_tried_with_makes_no_worker_degraded() {
    let back = 3_600 * SECOND;
    let service = Service::down_until(back, MILLI, refused());
    let mut site = Site::start("retry = { max_age = '1m' }", service.clone()).await;
    let began = Instant::now();
    site.publish(10);
    let state = |it: &crate::Readiness| it.consumers["orders"].state;
    let down = |it: &crate::Readiness| state(it) == ConsumerState::ServiceDown;
    timeout(5 * SECOND, site.worker.until(down)).await.unwrap();
    // All messages become too old, and the queue is empty.
    let quiet = site.worker.until(|it| !it.degraded);
    let quiet = timeout(300 * SECOND, quiet).await.unwrap();
    assert_eq!(site.dead(), 10);
    assert!(quiet.ready, "{quiet:?}");
    assert_eq!(state(&quiet), ConsumerState::ServiceUnknown);
    let reason = quiet.consumers["orders"].reason.as_deref();
    let wanted = "nothing to probe with; last seen: connection refused";
    assert_eq!(reason, Some(wanted));
    sleep(600 * SECOND).await;
    let later = site.worker.handle().readiness();
    assert!(later.ready && !later.degraded, "{later:?}");
    // The next message shows that the service is still down, and how long it is down.
    site.publish(1);
    timeout(SECOND, site.worker.until(down)).await.unwrap();
    let quiet = site
        .worker
        .until(|it| state(it) == ConsumerState::ServiceUnknown);
    timeout(300 * SECOND, quiet).await.unwrap();
    sleep(back.saturating_sub(began.elapsed())).await;
    site.publish(100);
    let up = |it: &crate::Readiness| state(it) == ConsumerState::Consuming;
    timeout(SECOND, site.worker.until(up)).await.unwrap();
    let (dead, ledger) = site.finish().await;
    assert_eq!((dead, ledger.acked), (11, 100));
}

#[tokio::test(start_paused = true)]
async fn while_one_message_waits_for_its_service_the_service_stays_down() {
    for settings in ["", "breaker = { probe = '10ms', probe_cap = '10ms' }"] {
        let hour = 3_600 * SECOND;
        let service = Service::down_until(hour, MILLI, refused());
        let mut site = Site::start(settings, service).await;
        site.publish(5);
        let state = |it: &crate::Readiness| it.consumers["orders"].state;
        let down = |it: &crate::Readiness| state(it) == ConsumerState::ServiceDown;
        timeout(5 * SECOND, site.worker.until(down)).await.unwrap();
        let other = site.worker.until(|it| !down(it));
        assert!(timeout(hour - 10 * SECOND, other).await.is_err());
        assert_eq!(site.finish().await.0, 0);
    }
}
