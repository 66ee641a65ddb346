//! A service of a test, and a worker that calls it.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use crate::{
    Context, Failure, Handler, Ledger, Outcome, Worker,
    broker::fake::{FakeBroker, Release},
    handler::HandlerFuture,
    settings::Settings,
    testing::{TestBroker, TestWorker},
};

/// How a service answers a request: after this time, with this outcome.
pub(super) type Answer = (Duration, Outcome);

/// The rule by which a service answers: from the number of requests under way, this one included, and
/// the time since the test began.
type Rule = Box<dyn FnMut(usize, Duration, &Context) -> Answer + Send>;

/// The service: a rule, and the requests so far.
#[derive(Clone)]
pub(super) struct Service(Arc<Mutex<Requests>>);

struct Requests {
    rule: Rule,
    began: Instant,
    under_way: usize,
    /// When each request came, and whether it was served.
    seen: Vec<(Duration, bool)>,
}

impl Service {
    pub(super) fn new(
        rule: impl FnMut(usize, Duration, &Context) -> Answer + Send + 'static,
    ) -> Self {
        Self(Arc::new(Mutex::new(Requests {
            rule: Box::new(rule),
            began: Instant::now(),
            under_way: 0,
            seen: Vec::new(),
        })))
    }

    /// A service that gives this failure until `back`, and then serves each request within `takes`.
    pub(super) fn down_until(back: Duration, takes: Duration, failure: Failure) -> Self {
        Self::new(move |_, now, _| match now < back {
            true => failed(failure.clone()),
            false => (takes, Outcome::Succeeded),
        })
    }

    /// When each served request came.
    pub(super) fn served(&self) -> Vec<Duration> {
        let seen = &self.0.lock().unwrap().seen;
        let served = seen.iter().filter(|(_, served)| *served);
        served.map(|(at, _)| *at).collect()
    }

    /// When each request came that was not served.
    pub(super) fn refused(&self) -> Vec<Duration> {
        let seen = &self.0.lock().unwrap().seen;
        let refused = seen.iter().filter(|(_, served)| !*served);
        refused.map(|(at, _)| *at).collect()
    }
}

impl Handler for Service {
    fn handle(&self, context: Context) -> HandlerFuture<'_> {
        Box::pin(async move {
            let (takes, outcome) = {
                let mut all = self.0.lock().unwrap();
                all.under_way += 1;
                let (under_way, now) = (all.under_way, all.began.elapsed());
                let answer = (all.rule)(under_way, now, &context);
                all.seen.push((now, answer.1 == Outcome::Succeeded));
                answer
            };
            let _ends = EndsRequest(&self.0);
            if !takes.is_zero() {
                sleep(takes).await;
            }
            outcome
        })
    }
}

/// A request is under way until this is dropped.
struct EndsRequest<'a>(&'a Mutex<Requests>);

impl Drop for EndsRequest<'_> {
    fn drop(&mut self) {
        self.0.lock().unwrap().under_way -= 1;
    }
}

/// The answer of a service that fails at once.
pub(super) fn failed(failure: Failure) -> Answer {
    (Duration::from_millis(1), Outcome::Failed(failure))
}

pub(super) fn refused() -> Failure {
    Failure::unavailable("http-connect", "connection refused")
}

pub(super) fn status(status: u16) -> Failure {
    Failure::unavailable("http", format!("HTTP {status}")).status(status)
}

/// A worker with the consumer `orders`, whose handler calls the service.
pub(super) struct Site {
    pub(super) worker: TestWorker,
    pub(super) broker: FakeBroker,
}

impl Site {
    /// `settings` are lines of `[consumers.orders]`.
    pub(super) async fn start(settings: &str, service: Service) -> Self {
        Self::start_on(Release::V43, settings, service).await
    }

    pub(super) async fn start_on(release: Release, settings: &str, service: Service) -> Self {
        let text = format!("[consumers.orders]\nqueue = 'orders'\n{settings}");
        let worker = Worker::new(Settings::from_toml(&text).unwrap());
        let worker = worker.handler("orders", service.clone());
        let broker = TestBroker::of(FakeBroker::new(release));
        let mut worker = TestWorker::start_on(worker, &broker);
        worker.until(|it| it.ready).await;
        Self {
            worker,
            broker: broker.inner(),
        }
    }

    pub(super) fn publish(&self, count: usize) {
        for _ in 0..count {
            self.worker.broker().publish_json("orders", "{}");
        }
    }

    /// Publishes messages with equal pauses between them.
    pub(super) async fn publish_over(&self, time: Duration, count: u32) {
        for _ in 0..count {
            self.publish(1);
            sleep(time / count).await;
        }
    }

    /// The number of dead letters.
    pub(super) fn dead(&self) -> usize {
        self.broker.ready("orders.dead").len()
    }

    /// Waits until all messages are finished, and drains the worker. Returns the number of dead
    /// letters, and the ledger.
    pub(super) async fn finish(self) -> (usize, Ledger) {
        self.worker.finished().await;
        let broker = self.broker.clone();
        let ledger = self.worker.drain().await.unwrap().ledger();
        assert_eq!(broker.violations(), Vec::<String>::new());
        assert_eq!(ledger.open(), 0, "{ledger:?}");
        (broker.ready("orders.dead").len(), ledger)
    }
}
