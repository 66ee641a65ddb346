//! A worker starts its handlers, asks them how they are, and stops them.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use crate::{
    Context, Handler, Outcome, RunError, Settings, Worker,
    handler::{HandlerError, HandlerFuture},
    testing::{TestBroker, TestWorker},
};

/// A handler that writes down what it is asked to do, and works while `is_up`.
#[derive(Clone, Default)]
struct Pool {
    calls: Arc<Mutex<Vec<&'static str>>>,
    is_up: Arc<AtomicBool>,
}

impl Pool {
    fn up() -> Self {
        let pool = Self::default();
        pool.is_up.store(true, Ordering::Relaxed);
        pool
    }

    fn worker(&self) -> Worker {
        let settings = Settings::from_toml("consumers.orders.queue = 'orders'").unwrap();
        Worker::new(settings).handler("orders", self.clone())
    }

    fn calls(&self) -> Vec<&'static str> {
        self.calls.lock().unwrap().clone()
    }
}

impl Handler for Pool {
    fn handle(&self, _: Context) -> HandlerFuture<'_> {
        Box::pin(async {
            self.calls.lock().unwrap().push("handle");
            Outcome::Succeeded
        })
    }

    fn start(&self) -> HandlerFuture<'_, Result<(), HandlerError>> {
        Box::pin(async {
            self.calls.lock().unwrap().push("start");
            self.health()
        })
    }

    fn stop(&self) -> HandlerFuture<'_, ()> {
        Box::pin(async { self.calls.lock().unwrap().push("stop") })
    }

    fn health(&self) -> Result<(), HandlerError> {
        match self.is_up.load(Ordering::Relaxed) {
            true => Ok(()),
            false => Err(HandlerError::new("no database")),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_starts_before_the_first_message_and_stops_after_the_last() {
    let pool = Pool::up();
    let worker = TestWorker::start(pool.worker()).await;
    assert_eq!(pool.calls(), ["start"]);
    worker.broker().publish_json("orders", "{}");
    worker.finished().await;
    worker.drain().await.unwrap();
    assert_eq!(pool.calls(), ["start", "handle", "stop"]);
}

#[tokio::test(start_paused = true)]
async fn a_worker_is_not_ready_while_a_handler_cannot_work() {
    let pool = Pool::up();
    let worker = TestWorker::start(pool.worker()).await;
    pool.is_up.store(false, Ordering::Relaxed);
    let readiness = worker.handle().readiness();
    assert!(!readiness.ready);
    assert_eq!(readiness.handlers["orders"], "no database");
    pool.is_up.store(true, Ordering::Relaxed);
    assert!(worker.handle().readiness().ready);
    worker.drain().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_worker_whose_handler_does_not_start_takes_no_message() {
    let pool = Pool::default();
    let mut worker = TestWorker::start_on(pool.worker(), &TestBroker::new());
    // Nothing but the end of the worker ends this wait.
    worker.until(|_| false).await;
    let ended = worker.drain().await;
    assert!(matches!(ended, Err(RunError::Handler { .. })), "{ended:?}");
    assert_eq!(pool.calls(), ["start", "stop"]);
}
