//! A consumer with several routes, whose services differ.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::site::{Service, failed, refused};
use crate::{
    Failure, Outcome, Worker,
    broker::fake::{FakeBroker, Letter, Release},
    settings::Settings,
    testing::{TestBroker, TestWorker},
};

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);

/// A worker whose consumer has a handler for each of two types.
async fn start(settings: &str, invoices: &Service, mails: &Service) -> (TestWorker, FakeBroker) {
    let worker = Worker::new(Settings::from_toml(settings).unwrap())
        .handler_for_route("orders", "invoice", invoices.clone())
        .handler_for_route("orders", "mail", mails.clone());
    let broker = FakeBroker::new(Release::V43);
    let mut worker = TestWorker::start_on(worker, &TestBroker::of(broker.clone()));
    worker.until(|it| it.ready).await;
    (worker, broker)
}

fn letter(kind: &str, number: usize) -> Letter {
    let id = format!("{kind}-{number}");
    Letter::default().id(&id).message_type(kind)
}

fn send(broker: &FakeBroker, kind: &str, number: usize) {
    assert!(broker.send("orders", b"{}", letter(kind, number).into()));
}

#[tokio::test(start_paused = true)]
async fn while_one_service_is_down_the_other_types_go_on_and_no_attempt_is_charged() {
    let settings = "[consumers.orders]\nqueue = 'orders'\nretry = { max_attempts = 2 }";
    let invoices = Service::down_until(600 * SECOND, MILLI, refused());
    let mails = Service::new(|_, _, _| (5 * MILLI, Outcome::Succeeded));
    let (worker, broker) = start(settings, &invoices, &mails).await;
    let began = Instant::now();
    for number in 0..1_200 {
        for kind in ["invoice", "mail"].iter().take(1 + number % 2) {
            send(&broker, kind, number);
        }
        sleep(SECOND / 4).await;
    }
    assert_eq!(mails.served().len(), 600);
    worker.finished().await;
    assert_eq!(invoices.served().len(), 1_200);
    assert!(began.elapsed() < 660 * SECOND, "{:?}", began.elapsed());
    let ledger = worker.drain().await.unwrap().ledger();
    assert_eq!((ledger.open(), ledger.dead_lettered), (0, 0), "{ledger:?}");
}

#[tokio::test(start_paused = true)]
async fn while_one_service_gives_no_answer_the_other_types_go_on() {
    let settings = "[consumers.orders]\nqueue = 'orders'\ntimeout = '20s'";
    let invoices = Service::new(|_, now, _| match now < 600 * SECOND {
        true => (3600 * SECOND, Outcome::Succeeded),
        false => (MILLI, Outcome::Succeeded),
    });
    let mails = Service::new(|_, _, _| (5 * MILLI, Outcome::Succeeded));
    let (worker, broker) = start(settings, &invoices, &mails).await;
    for number in 0..400 {
        for kind in ["invoice", "mail"] {
            send(&broker, kind, number);
        }
    }
    // Its own time to live ends while it waits.
    let late = letter("invoice", 400).expiration("100000");
    assert!(broker.send("orders", b"{}", late.into()));
    sleep(60 * SECOND).await;
    assert_eq!(mails.served().len(), 400);
    for number in 400..550 {
        send(&broker, "mail", number);
        sleep(SECOND).await;
    }
    assert_eq!(worker.broker().messages("orders.dead").len(), 1);
    worker.finished().await;
    let ledger = worker.drain().await.unwrap().ledger();
    assert_eq!((ledger.open(), ledger.dead_lettered), (0, 1), "{ledger:?}");
}

#[tokio::test(start_paused = true)]
async fn a_route_whose_service_is_down_is_tried_by_one_message_at_a_time() {
    let settings = "[consumers.orders]\nqueue = 'orders'\nretry = { max_attempts = 2 }";
    let invoices = Service::down_until(120 * SECOND, MILLI, refused());
    let mails = Service::new(|_, _, _| (5 * MILLI, Outcome::Succeeded));
    let (worker, broker) = start(settings, &invoices, &mails).await;
    for number in 0..400 {
        for kind in ["invoice", "mail"] {
            send(&broker, kind, number);
        }
        sleep(SECOND / 4).await;
    }
    // As many as ran at once, and then a probe every 10 s.
    let refused = invoices.refused().len();
    assert!((10..60).contains(&refused), "{refused}");
    let report = worker.handle().report("orders").unwrap();
    let of = |name: &str| report.routes.iter().find(|it| it.route == name).unwrap();
    assert_eq!(of("mail").service_down, None);
    let down = of("invoice").service_down.clone().unwrap();
    assert!(down.contains("connection refused"), "{down}");
    worker.finished().await;
    assert_eq!((invoices.served().len(), mails.served().len()), (400, 400));
    let report = worker.handle().report("orders").unwrap();
    assert!(report.routes.iter().all(|it| it.service_down.is_none()));
    let ledger = worker.drain().await.unwrap().ledger();
    assert_eq!((ledger.open(), ledger.dead_lettered), (0, 0), "{ledger:?}");
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_permanent_failures_stops_its_route_only() {
    let settings = "[consumers.orders]\nqueue = 'orders'\nroutes.invoice.breaker.rejected = 10";
    let invoices = Service::new(|_, now, _| match now < 60 * SECOND {
        true => failed(Failure::permanent("http", "HTTP 404")),
        false => (MILLI, Outcome::Succeeded),
    });
    let mails = Service::new(|_, _, _| (5 * MILLI, Outcome::Succeeded));
    let (worker, broker) = start(settings, &invoices, &mails).await;
    for number in 0..100 {
        for kind in ["invoice", "mail"] {
            send(&broker, kind, number);
        }
        sleep(SECOND / 4).await;
    }
    worker.finished().await;
    let ledger = worker.drain().await.unwrap().ledger();
    assert_eq!((ledger.open(), ledger.dead_lettered), (0, 9), "{ledger:?}");
    assert_eq!((invoices.served().len(), mails.served().len()), (91, 100));
}

#[tokio::test(start_paused = true)]
async fn a_route_whose_breaker_is_off_meets_its_service_with_each_message() {
    let settings = "[consumers.orders]\nqueue = 'orders'\nroutes.invoice.breaker.enabled = false";
    let invoices = Service::down_until(20 * SECOND, MILLI, refused());
    let mails = Service::new(|_, _, _| (5 * MILLI, Outcome::Succeeded));
    let (worker, broker) = start(settings, &invoices, &mails).await;
    for number in 0..60 {
        for kind in ["invoice", "mail"] {
            send(&broker, kind, number);
        }
        sleep(SECOND / 4).await;
    }
    assert!(invoices.refused().len() >= 60, "{:?}", invoices.refused());
    worker.finished().await;
    let ledger = worker.drain().await.unwrap().ledger();
    assert_eq!((ledger.open(), ledger.dead_lettered), (0, 0), "{ledger:?}");
}

#[tokio::test(start_paused = true)]
async fn a_route_without_an_answer_leaves_the_slots_to_the_others() {
    let settings = "[consumers.orders]\nqueue = 'orders'\nconcurrency = 8\nprefetch = 200
        timeout = '20s'\nretry.max_age = '10m'";
    let began = Instant::now();
    let invoices = Service::new(move |_, _, _| (3600 * SECOND, Outcome::Succeeded));
    let mails = Service::new(|_, _, _| (5 * MILLI, Outcome::Succeeded));
    let (worker, broker) = start(settings, &invoices, &mails).await;
    send(&broker, "mail", 900);
    // Its attempts begin apart, so those under way end one after the other, after the breaker has opened.
    for number in 0..60 {
        send(&broker, "invoice", number);
        sleep(2 * SECOND).await;
    }
    // After ten minutes those that wait are too old, all at about the same time.
    for number in 0..900 {
        send(&broker, "mail", number);
        sleep(SECOND).await;
        assert!(
            mails.served().len() + 3 > number,
            "{number}: {:?}",
            began.elapsed()
        );
    }
    let dead = worker.broker().messages("orders.dead");
    assert_eq!(dead.len(), 60);
    worker.finished().await;
    let ledger = worker.drain().await.unwrap().ledger();
    assert_eq!((ledger.open(), ledger.dead_lettered), (0, 60), "{ledger:?}");
}

#[tokio::test(start_paused = true)]
async fn a_route_that_is_rarely_used_goes_on_while_another_one_is_down() {
    let settings = "[consumers.orders]\nqueue = 'orders'";
    let invoices = Service::down_until(600 * SECOND, MILLI, refused());
    let mails = Service::new(|_, _, _| (5 * MILLI, Outcome::Succeeded));
    let (worker, broker) = start(settings, &invoices, &mails).await;
    send(&broker, "mail", 0);
    (0..300).for_each(|number| send(&broker, "invoice", number));
    for number in 1..15 {
        sleep(35 * SECOND).await;
        send(&broker, "mail", number);
        sleep(SECOND).await;
        assert_eq!(mails.served().len(), number + 1);
    }
    worker.finished().await;
    let ledger = worker.drain().await.unwrap().ledger();
    assert_eq!((ledger.open(), ledger.dead_lettered), (0, 0), "{ledger:?}");
}
