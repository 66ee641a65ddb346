//! Twenty thousand messages, some of which fail once and some always. Each must end exactly as the
//! rules say.

mod record;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use lapwing::handler::{Context, Json, Shared};
use lapwing::{Failure, Settings, Worker};
use tokio::sync::watch;

use crate::support::vhost;

const MESSAGES: usize = 20_000;
const CONCURRENCY: usize = 64;
const MAX_ATTEMPTS: usize = 3;
/// The exchange and the routing key of the messages.
const EXCHANGE: &str = "shop";
const KEY: &str = "order.placed";

/// The longest time for the whole test, on a small and busy machine.
const DEADLINE: Duration = Duration::from_secs(180);

/// What the handler does with a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Succeeds,
    FailsOnce,
    FailsAlways,
}

impl Fate {
    fn of(id: usize) -> Self {
        match (id % 10, id % 100) {
            (3, _) => Self::FailsOnce,
            (_, 7) => Self::FailsAlways,
            _ => Self::Succeeds,
        }
    }

    fn runs(self) -> usize {
        match self {
            Self::Succeeds => 1,
            Self::FailsOnce => 2,
            Self::FailsAlways => MAX_ATTEMPTS,
        }
    }

    fn count(self) -> usize {
        (0..MESSAGES).filter(|id| Self::of(*id) == self).count()
    }
}

#[derive(serde::Deserialize)]
struct Order {
    id: usize,
}

/// One run of the handler.
struct Run {
    attempt: u32,
    /// The number of attempts in the message's own headers.
    told: u32,
    at: Instant,
}

/// Every run of every message.
#[derive(Default)]
struct Runs {
    of: Mutex<BTreeMap<usize, Vec<Run>>>,
    total: watch::Sender<usize>,
    running: AtomicUsize,
    peak: AtomicUsize,
}

async fn handle(
    Json(order): Json<Order>,
    context: Context,
    runs: Shared<Arc<Runs>>,
) -> Result<(), Failure> {
    let at = Instant::now();
    let running = runs.running.fetch_add(1, Ordering::SeqCst) + 1;
    runs.peak.fetch_max(running, Ordering::SeqCst);
    // The handler's work takes a moment.
    tokio::time::sleep(Duration::from_millis(1)).await;
    let run = Run {
        attempt: context.attempt(),
        told: context.message().attempts_before(),
        at,
    };
    let before = {
        let mut all = runs.of.lock().expect("no run panics");
        let mine = all.entry(order.id).or_default();
        mine.push(run);
        mine.len() - 1
    };
    runs.running.fetch_sub(1, Ordering::SeqCst);
    runs.total.send_modify(|total| *total += 1);
    match Fate::of(order.id) {
        Fate::FailsOnce if before == 0 => Err(Failure::retryable("warehouse", "closed today")),
        Fate::FailsAlways => Err(Failure::retryable("warehouse", record::error(order.id))),
        _ => Ok(()),
    }
}

/// The first retry waits 40 to 80 ms, in the worker if it has room. The second waits 120 to 240 ms,
/// in a retry queue.
fn settings(url: &str) -> Settings {
    let text = format!(
        "[broker]
        url = '{url}'
        [consumers.orders]
        queue = 'orders'
        bindings = [{{ exchange = '{EXCHANGE}', routing_key = '{KEY}' }}]
        prefetch = 256
        concurrency = {CONCURRENCY}
        decode = 'json'
        [consumers.orders.retry]
        max_attempts = {MAX_ATTEMPTS}
        base = '80ms'
        factor = 3.0
        jitter = 0.5
        inline_below = '100ms'
        cap = '2s'"
    );
    Settings::from_toml(&text).expect("the settings are valid")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_of_20_000_messages_is_settled_exactly_as_the_rules_say() {
    let vhost = vhost().await;
    vhost
        .declare_exchange(EXCHANGE, lapin::ExchangeKind::Direct)
        .await;
    let runs = Arc::new(Runs::default());
    let worker = Worker::new(settings(&vhost.amqp_url()))
        .handler("orders", handle)
        .share(runs.clone());
    let (mut handle, mut total) = (worker.handle(), runs.total.subscribe());
    let running = tokio::spawn(worker.run(std::future::pending()));
    let ready = handle.until(|seen| seen.ready);
    tokio::time::timeout(DEADLINE, ready).await.unwrap();

    let began = SystemTime::now();
    let publish = vhost.publish_many("orders", MESSAGES, record::message);
    publish.await;
    let expected: usize = (0..MESSAGES).map(|id| Fate::of(id).runs()).sum();
    let all_ran = total.wait_for(|total| *total >= expected);
    tokio::time::timeout(DEADLINE, all_ran)
        .await
        .expect("every run took place")
        .unwrap();
    for queue in ["orders", "orders.retry.1s"] {
        vhost.wait_for_counts(queue, 0, 0, DEADLINE).await;
    }
    handle.stop();
    let report = running.await.unwrap().expect("the worker ran");

    // Each message ran as often as it should, its attempts counted up, and no retry came early.
    let all = std::mem::take(&mut *runs.of.lock().unwrap());
    assert_eq!(all.len(), MESSAGES);
    let mut parked = 0;
    for (id, runs) in all.iter() {
        let attempts: Vec<_> = runs.iter().map(|run| run.attempt as usize).collect();
        let expected: Vec<_> = (1..=Fate::of(*id).runs()).collect();
        assert_eq!(attempts, expected, "message {id}");
        for (pair, least) in runs.windows(2).zip([40, 120]) {
            let gap = pair[1].at.duration_since(pair[0].at);
            assert!(
                gap >= Duration::from_millis(least),
                "message {id} came back after {gap:?}"
            );
        }
        // The headers count parked attempts. A retry inside the worker is not in them.
        let came_back = |run: &&Run| run.attempt > 1 && run.told + 1 == run.attempt;
        parked += runs.iter().filter(came_back).count();
    }
    let peak = runs.peak.load(Ordering::SeqCst);
    assert!(peak <= CONCURRENCY, "{peak} handlers at once");

    // The worker's ledger agrees with the runs and queues that the test saw.
    let (ledger, consumer) = (report.ledger(), &report.consumers["orders"]);
    let as_u64 = |n: usize| n as u64;
    assert_eq!(
        ledger.acked,
        as_u64(Fate::Succeeds.count() + Fate::FailsOnce.count())
    );
    assert_eq!(ledger.dead_lettered, as_u64(Fate::FailsAlways.count()));
    assert_eq!(ledger.parked, as_u64(parked));
    assert_eq!(ledger.received, as_u64(MESSAGES + parked));
    assert_eq!(
        (ledger.returned, ledger.stale, ledger.duplicates),
        (0, 0, 0)
    );
    assert_eq!((ledger.open(), report.left()), (0, 0));
    let retries = expected - MESSAGES;
    assert_eq!(consumer.counts.inline_retries, as_u64(retries - parked));
    assert!(
        consumer.counts.inline_retries > 0,
        "the inline tier was used"
    );
    assert!(
        parked >= Fate::FailsAlways.count(),
        "too few messages were parked"
    );

    // Messages are left in the dead-letter queue only, and there they are complete.
    for queue in ["orders", "orders.retry.1s"] {
        assert_eq!(vhost.counts(queue).await.total(), 0, "{queue}");
    }
    let dead = vhost.drain_all("orders.dead").await;
    let mut ids: Vec<_> = dead.iter().map(record::id).collect();
    ids.sort_unstable();
    let expected: Vec<_> = (0..MESSAGES)
        .filter(|id| Fate::of(*id) == Fate::FailsAlways)
        .collect();
    assert_eq!(ids, expected);
    record::check_all(&dead, began);
}
