//! Batches in a whole worker: each message keeps its own path.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep, timeout};

use crate::{
    ConsumerState, Failure, Ledger, Outcome, Phase, Worker,
    broker::fake::{FakeBroker, Fault, Release, Stored},
    handler::batch_samples::{Act, Batching, Service},
    settings::Settings,
    testing::{TestBroker, TestWorker},
};

/// The longest wait on the paused clock for something that must happen.
const SOON: Duration = Duration::from_secs(1000);
const SECOND: Duration = Duration::from_secs(1);
const MAX_WAIT: Duration = Duration::from_millis(10);

/// A worker with the consumer `orders`, whose handler makes batches of at most 64.
struct Site {
    inner: FakeBroker,
    worker: TestWorker,
    service: Service,
}

impl Site {
    async fn start(settings: &str, max_wait: Duration, service: &Service) -> Self {
        let text = format!(
            "[consumers.orders]\nqueue = 'orders'\nprefetch = 128\nconcurrency = 64\n\
             retry = {{ base = '10s', jitter = 0, max_attempts = 2 }}\n{settings}"
        );
        let settings = Settings::from_toml(&text).unwrap();
        let inner = FakeBroker::new(Release::V43);
        let broker = TestBroker::of(inner.clone());
        let handler = Batching::new(service, 64, max_wait);
        let worker = Worker::new(settings).handler("orders", handler);
        let mut worker = TestWorker::start_on(worker, &broker);
        worker.until(|it| it.ready).await;
        Self {
            inner,
            worker,
            service: service.clone(),
        }
    }

    /// Publishes messages with the bodies `000`, `001` and so on.
    fn publish(&self, count: u64) {
        for number in 0..count {
            let body = name(number);
            let broker = self.worker.broker();
            broker.publish("orders", body.as_bytes(), None, None);
        }
    }

    /// Waits until so many calls have begun.
    async fn begun(&self, calls: usize) {
        let begun = timeout(SOON, self.service.has_begun(calls)).await;
        assert!(begun.is_ok(), "{:?}", self.service.calls());
    }

    async fn finished(&self) {
        let finished = timeout(SOON * 10, self.worker.finished()).await;
        assert!(finished.is_ok(), "{:?}", self.service.calls());
    }

    fn only_dead(&self) -> Stored {
        let mut dead = self.inner.ready("orders.dead");
        assert_eq!(dead.len(), 1, "{dead:?}");
        dead.remove(0)
    }

    /// Drains, and checks that each message has one end.
    async fn drain(self) -> Ledger {
        let report = timeout(SOON, self.worker.drain()).await.unwrap();
        assert_eq!(self.inner.violations(), Vec::<String>::new());
        let ledger = report.unwrap().ledger();
        assert_eq!(ledger.open(), 0, "{ledger:?}");
        assert_eq!((ledger.stale, ledger.duplicates), (0, 0), "{ledger:?}");
        ledger
    }
}

fn name(number: u64) -> String {
    format!("{number:03}")
}

fn names(numbers: impl IntoIterator<Item = u64>) -> Vec<String> {
    numbers.into_iter().map(name).collect()
}

/// A service whose calls end like this if the message `037` is among theirs.
fn with_bad(act: Act) -> Service {
    Service::new(move |bodies| match bodies.contains(&name(37)) {
        true => act.clone(),
        false => Act::All(Outcome::Succeeded),
    })
}

/// A service whose calls succeed after this time.
fn slow(time: Duration) -> Service {
    Service::new(move |_| Act::After(time, Box::new(Act::All(Outcome::Succeeded))))
}

#[tokio::test(start_paused = true)]
async fn only_the_message_at_fault_is_charged_and_dead_lettered() {
    let broken = Failure::retryable("broken", "the call is broken");
    let service = with_bad(Act::Fail(broken));
    let site = Site::start("", MAX_WAIT, &service).await;
    site.publish(64);
    site.finished().await;
    assert_eq!(service.done(), names((0..64).filter(|it| *it != 37)));
    let sizes = service.sizes();
    assert_eq!(sizes[0], 64);
    // The second attempt of the message at fault is its last one.
    assert_eq!((sizes.len(), sizes[13]), (14, 1));
    let dead = site.only_dead();
    let header = |name| dead.properties.header(name).unwrap().to_text();
    assert_eq!(dead.body, name(37).as_bytes());
    assert_eq!(header("lapwing-reason"), "max-attempts");
    assert_eq!(header("lapwing-attempts"), "2");
    assert_eq!(header("lapwing-error"), "the call is broken");
    let ledger = site.drain().await;
    let ends = (ledger.acked, ledger.parked, ledger.dead_lettered);
    assert_eq!(ends, (63, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_message_that_makes_calls_hang_ends_by_its_timeout_and_the_others_do_not() {
    let service = with_bad(Act::Hang);
    let site = Site::start("timeout = '20s'", MAX_WAIT, &service).await;
    site.publish(64);
    site.finished().await;
    assert_eq!(service.done(), names((0..64).filter(|it| *it != 37)));
    let dead = site.only_dead();
    assert_eq!(dead.body, name(37).as_bytes());
    let error = dead.properties.header("lapwing-error").unwrap().to_text();
    assert!(error.contains("no answer within 20"), "{error}");
    assert_eq!(site.drain().await.acked, 63);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_down_charges_nobody_and_is_not_asked_for_halves() {
    let is_down = Arc::new(AtomicBool::new(true));
    let service = Service::new({
        let is_down = Arc::clone(&is_down);
        move |_| match is_down.load(Ordering::Relaxed) {
            true => Act::Fail(Failure::unavailable("down", "down")),
            false => Act::All(Outcome::Succeeded),
        }
    });
    let mut site = Site::start("", MAX_WAIT, &service).await;
    site.publish(64);
    site.begun(1).await;
    site.worker
        .until(|it| it.consumers["orders"].state == ConsumerState::ServiceDown)
        .await;
    assert_eq!(service.sizes(), [64]);
    sleep(300 * SECOND).await;
    // Probes are single messages.
    assert!(service.sizes()[1..].iter().all(|size| *size == 1));
    is_down.store(false, Ordering::Relaxed);
    site.finished().await;
    assert_eq!(service.done(), names(0..64));
    assert_eq!(site.drain().await.dead_lettered, 0);
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_holds_all_slots_waits_for_nothing() {
    let service = slow(SECOND);
    let site = Site::start("timeout = '1h'", 50 * SECOND, &service).await;
    let handle = site.worker.handle();
    handle.set_concurrency("orders", 5).unwrap();
    let began = Instant::now();
    site.publish(10);
    site.finished().await;
    assert!(began.elapsed() < 10 * SECOND, "{:?}", began.elapsed());
    assert_eq!(service.sizes(), [5, 5]);
    assert_eq!(site.drain().await.acked, 10);
}

#[tokio::test(start_paused = true)]
async fn a_drain_sends_what_waits_and_settles_each_message() {
    let service = slow(SECOND);
    let site = Site::start("timeout = '1h'", 50 * SECOND, &service).await;
    site.publish(5);
    sleep(SECOND).await;
    assert_eq!(service.calls().len(), 0);
    let began = Instant::now();
    assert_eq!(site.drain().await.acked, 5);
    assert!(began.elapsed() < 5 * SECOND, "{:?}", began.elapsed());
    assert_eq!((service.sizes(), service.done()), (vec![5], names(0..5)));
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_grace_ends_the_call_and_returns_its_messages() {
    let service = Service::new(|_| Act::Hang);
    let settings = "timeout = '1h'\n[drain]\ngrace = '10s'";
    let site = Site::start(settings, MAX_WAIT, &service).await;
    site.publish(5);
    site.begun(1).await;
    let broker = site.inner.clone();
    assert_eq!(site.drain().await.returned, 5);
    assert_eq!(service.dropped(), 1);
    let left: Vec<_> = broker
        .ready("orders")
        .into_iter()
        .map(|it| it.body)
        .collect();
    assert_eq!(left.len(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_message_that_an_operator_cancels_takes_no_neighbour_along() {
    let service = slow(5 * SECOND);
    let site = Site::start("timeout = '1h'", MAX_WAIT, &service).await;
    site.publish(3);
    site.begun(1).await;
    let handle = site.worker.handle();
    let page = handle.in_flight(Some("orders"), 0, 100).await.unwrap();
    assert!(page.messages.iter().all(|it| it.phase == Phase::Handling));
    let cancelled = page.messages[1].delivery;
    assert_eq!(handle.cancel("orders", cancelled).await, Ok(()));
    site.finished().await;
    // The message comes back, and runs in a call of its own. The first call went on for the others.
    assert_eq!(service.sizes(), [3, 1]);
    assert_eq!(service.dropped(), 0);
    let ledger = site.drain().await;
    assert_eq!((ledger.acked, ledger.returned), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn a_batch_outlives_the_connection() {
    let service = slow(60 * SECOND);
    let mut site = Site::start("timeout = '1h'", MAX_WAIT, &service).await;
    site.publish(5);
    site.begun(1).await;
    site.inner.fail(Fault::ConnectionLost);
    let state = |it: &crate::Readiness| it.consumers["orders"].state;
    site.worker
        .until(|it| state(it) == ConsumerState::Connecting)
        .await;
    site.inner.reconnect();
    site.worker
        .until(|it| state(it) == ConsumerState::Consuming)
        .await;
    site.finished().await;
    assert_eq!(service.sizes(), [5]);
    let report = timeout(SOON, site.worker.drain()).await.unwrap();
    let ledger = report.unwrap().ledger();
    let ends = (ledger.acked, ledger.stale, ledger.duplicates);
    assert_eq!(ends, (5, 5, 0));
}
