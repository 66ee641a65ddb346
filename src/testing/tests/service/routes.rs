//! A consumer with handlers for several message types, whose services differ.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::site::{Service, refused};
use crate::{
    Outcome, Worker,
    broker::fake::{FakeBroker, Letter, Release},
    settings::Settings,
    testing::{TestBroker, TestWorker},
};

const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);

#[tokio::test(start_paused = true)]
async fn while_one_service_is_down_the_other_types_go_on_and_no_attempt_is_charged() {
    let settings = "[consumers.orders]\nqueue = 'orders'\nretry = { max_attempts = 2 }";
    let invoices = Service::down_until(600 * SECOND, MILLI, refused());
    let mails = Service::new(|_, _, _| (5 * MILLI, Outcome::Succeeded));
    let worker = Worker::new(Settings::from_toml(settings).unwrap())
        .handler_for_type("orders", "invoice", invoices.clone())
        .handler_for_type("orders", "mail", mails.clone());
    let broker = FakeBroker::new(Release::V43);
    let mut worker = TestWorker::start_on(worker, &TestBroker::of(broker.clone()));
    worker.until(|it| it.ready).await;
    let began = Instant::now();
    for number in 0..1_200 {
        for kind in ["invoice", "mail"].iter().take(1 + number % 2) {
            let id = format!("{kind}-{number}");
            let letter = Letter::default().id(&id).message_type(kind);
            assert!(broker.send("orders", b"{}", letter.into()));
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
    let worker = Worker::new(Settings::from_toml(settings).unwrap())
        .handler_for_type("orders", "invoice", invoices.clone())
        .handler_for_type("orders", "mail", mails.clone());
    let broker = FakeBroker::new(Release::V43);
    let mut worker = TestWorker::start_on(worker, &TestBroker::of(broker.clone()));
    worker.until(|it| it.ready).await;
    for number in 0..400 {
        for kind in ["invoice", "mail"] {
            let id = format!("{kind}-{number}");
            let letter = Letter::default().id(&id).message_type(kind);
            assert!(broker.send("orders", b"{}", letter.into()));
        }
    }
    sleep(60 * SECOND).await;
    assert_eq!(mails.served().len(), 400);
    worker.finished().await;
    let ledger = worker.drain().await.unwrap().ledger();
    assert_eq!((ledger.open(), ledger.dead_lettered), (0, 0), "{ledger:?}");
}
