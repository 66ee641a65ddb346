//! An inbox in memory: messages that come twice run once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::time::{sleep, timeout};

use super::kit::SOON;
use crate::{
    ConsumerReport, Context, Failure, Ledger, NewMessage, Outcome, Worker,
    broker::fake::{FakeBroker, Letter, Release},
    handler::Results,
    settings::Settings,
    testing::{TestBroker, TestWorker},
};

struct Site {
    inner: FakeBroker,
    worker: TestWorker,
}

impl Site {
    async fn start<H, M>(settings: &str, handler: H) -> Self
    where
        H: crate::handler::IntoHandler<M>,
    {
        let text = format!(
            "[consumers.orders]\nqueue = 'orders'\nidempotency.store = 'memory'\n{settings}"
        );
        let settings = Settings::from_toml(&text).unwrap();
        let inner = FakeBroker::new(Release::V43);
        let broker = TestBroker::of(inner.clone());
        let worker = Worker::new(settings).handler("orders", handler);
        let mut worker = TestWorker::start_on(worker, &broker);
        worker.until(|it| it.ready).await;
        Self { inner, worker }
    }

    fn send(&self, id: &str) {
        assert!(
            self.inner
                .send("orders", b"{}", Letter::default().id(id).into())
        );
    }

    /// The report once so many deliveries are acked.
    async fn acked(&self, count: u64) -> ConsumerReport {
        let handle = self.worker.handle();
        let acked = async {
            loop {
                let report = handle.report("orders").unwrap();
                if report.ledger.acked == count {
                    return report;
                }
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(SOON, acked).await.unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn a_message_that_comes_twice_runs_once_and_counts_as_a_duplicate() {
    let runs = Arc::<AtomicU32>::default();
    let counting = Arc::clone(&runs);
    let handler = move |_: Context| {
        counting.fetch_add(1, Ordering::Relaxed);
        async { Outcome::Succeeded }
    };
    let site = Site::start("", handler).await;
    site.send("a");
    site.acked(1).await;
    site.send("a");
    site.send("b");
    let report = site.acked(3).await;
    assert_eq!((report.counts.succeeded, report.counts.duplicate), (2, 1));
    assert_eq!(runs.load(Ordering::Relaxed), 2);
    let expected = Ledger {
        received: 3,
        acked: 3,
        ..Ledger::default()
    };
    assert_eq!(site.worker.drain().await.unwrap().ledger(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_comes_while_the_message_runs_waits_without_a_charge() {
    let attempts = Arc::<AtomicU32>::default();
    let seen = Arc::clone(&attempts);
    let handler = move |context: Context| {
        seen.fetch_max(context.attempt(), Ordering::Relaxed);
        async {
            sleep(Duration::from_secs(3)).await;
            Err::<(), _>(Failure::retryable("busy", "once"))
        }
    };
    let settings = "retry = { max_attempts = 1 }";
    let site = Site::start(settings, handler).await;
    site.send("a");
    site.send("a");
    // The first is a dead letter after 3 s. So the second has its own run, which is its first attempt.
    let dead = timeout(
        SOON,
        site.inner.until(|it| it.ready("orders.dead").len() == 2),
    );
    assert!(dead.await.is_ok());
    let report = site.worker.handle().report("orders").unwrap();
    assert!(report.counts.snoozed >= 1, "{:?}", report.counts);
    assert_eq!(attempts.load(Ordering::Relaxed), 1);
    site.worker.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_run_that_times_out_is_not_done_and_its_retry_runs() {
    let runs = Arc::<AtomicU32>::default();
    let counting = Arc::clone(&runs);
    let handler = move |_: Context| {
        let first = counting.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            if first {
                std::future::pending::<()>().await;
            }
        }
    };
    let settings = "timeout = '1s'\nretry = { base = '100ms', jitter = 0 }";
    let site = Site::start(settings, handler).await;
    site.send("a");
    let report = site.acked(1).await;
    assert_eq!((report.counts.timed_out, report.counts.succeeded), (1, 1));
    assert_eq!(report.counts.snoozed, 0, "the key was given back at once");
    site.worker.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_message_whose_handler_publishes_is_not_remembered() {
    let runs = Arc::<AtomicU32>::default();
    let counting = Arc::clone(&runs);
    let handler = move |results: Results| {
        counting.fetch_add(1, Ordering::Relaxed);
        async move {
            results.publish(NewMessage {
                routing_key: "orders.dead".to_owned(),
                ..NewMessage::default()
            });
        }
    };
    let site = Site::start("", handler).await;
    site.send("a");
    site.acked(1).await;
    site.send("a");
    let report = site.acked(2).await;
    assert_eq!((report.counts.succeeded, report.counts.duplicate), (2, 0));
    assert_eq!(runs.load(Ordering::Relaxed), 2);
    site.worker.drain().await.unwrap();
}
