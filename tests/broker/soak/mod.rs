//! Random mixes of everything that can happen to a consumer, for a time of your choice: `make
//! soak`. Afterwards each message must have ended as its handler decided. [`services`] does the same to
//! the services behind HTTP handlers.

mod fate;
mod load;
mod services;

use std::collections::BTreeSet;
use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fate::{Fate, Seen, handle};
use lapwing::Settings;
use lapwing::{ConsumerState, Ledger, Readiness, Report, RunError, Worker, WorkerHandle};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

use crate::support::{
    Broker, Proxy, PublishSpec, QueueType, VHost, consumers, ms, require, within,
};

const CONSUMERS: [&str; 3] = ["a", "b", SHAKY];
/// The shaky consumer, whose queues the test deletes with all messages in them. Only messages that
/// it is sent in the end must all be handled.
const SHAKY: &str = "c";
const MESSAGES: usize = 2_000;
/// The number of messages that the shaky consumer is sent each time its queue exists again, and in
/// the end.
const FEW: usize = 200;
const PREFETCHES: [u16; 5] = [1, 2, 7, 64, 300];
/// The longest time from the last disturbance to the end of a round.
const PATIENCE: Duration = Duration::from_secs(120);

fn from_environment(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok();
    value.map(|value| value.parse().expect("it is a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes as long as one likes: make soak"]
async fn own_node_whatever_happens_each_message_ends_as_its_handler_wants() {
    let time = Duration::from_secs(from_environment("LAPWING_SOAK_SECONDS").unwrap_or(60));
    let seed = from_environment("LAPWING_SOAK_SEED");
    let broker = require!(OwnNode, Broker::own("soak").await);
    let began = Instant::now();
    for seed in seed.unwrap_or_else(|| rand::random::<u32>().into()).. {
        play(&broker, seed).await;
        if began.elapsed() > time {
            return;
        }
    }
}

/// One round: one set of settings, and some thousand messages.
async fn play(broker: &Broker, seed: u64) {
    let vhost = broker.vhost().await;
    let mut round = Round::new(seed, &vhost).await;
    round.start().await;
    let publish = async {
        for consumer in CONSUMERS {
            vhost
                .publish_many(consumer, MESSAGES, |_| PublishSpec::of("x"))
                .await;
        }
    };
    // The shaky consumer gets its messages before its queue is deleted.
    tokio::join!(publish, round.disturb(&vhost, &CONSUMERS[..2], 40));
    round.disturb(&vhost, &CONSUMERS, 40).await;
    round.settle(&vhost).await;
}

/// Blocks publishing for a while, like a shortage of memory.
async fn block_publishing(broker: Broker, time: Duration) {
    let limit = "set_vm_memory_high_watermark";
    broker.ctl(&[limit, "0.0000001"]).await;
    tokio::time::sleep(time).await;
    broker.ctl(&[limit, "absolute", "2GB"]).await;
}

/// Messages of a consumer that have not ended. All queues are counted together and twice, because
/// messages move between work queue and retry queues.
async fn left(vhost: &VHost, consumer: &str) -> u32 {
    // The retry queue of a classic queue has another name.
    let rungs = ["retry.1s", "retry.quorum.1s"].map(|rung| format!("{consumer}.{rung}"));
    let [quorum, classic] = &rungs;
    let mut left = 0;
    for queue in [consumer, quorum, classic, consumer, quorum, classic] {
        // The worker declares a deleted retry queue again when it has a message for it.
        if vhost.exists(queue).await {
            left += vhost.counts(queue).await.total();
        }
    }
    left
}

struct Round {
    seed: u64,
    random: StdRng,
    proxy: Proxy,
    settings: Settings,
    /// The runtime of the handlers, whose threads they block.
    threads: Option<Runtime>,
    seen: Arc<Seen>,
    running: Option<(WorkerHandle, JoinHandle<Result<Report, RunError>>)>,
    ledger: Ledger,
    /// Whether connections are cut and drains interrupted.
    rough: bool,
    /// Whether publishing is blocked from time to time.
    blocks: bool,
    blocking: Option<JoinHandle<()>>,
    /// The number of batches that the shaky consumer was sent.
    batches: usize,
    /// Whether messages may be handled twice.
    duplicates: bool,
}

impl Round {
    async fn new(seed: u64, vhost: &VHost) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let proxy = Proxy::to(vhost).await;
        let kind = QueueType::ALL[random.random_range(0..2)].name();
        let mut changes = format!(
            "broker.url = '{}'\nbroker.reconnect = {{ base = '10ms', cap = '100ms' }}\n\
             publish = {{ budget = '300ms', hold = '200ms' }}\n",
            proxy.url(vhost)
        );
        for consumer in CONSUMERS {
            let prefetch = PREFETCHES[random.random_range(0..PREFETCHES.len())];
            let concurrency = random.random_range(1..=prefetch);
            changes += &format!(
                "[consumers.{consumer}]\nprefetch = {prefetch}\nconcurrency = {concurrency}\n\
                 timeout = '1s'\ncancel_grace = '100ms'\nqueue_type = '{kind}'\n\
                 [consumers.{consumer}.retry]\nbase = '20ms'\ncap = '1s'\ninline_below = '30ms'\n\
                 max_attempts = 6\n",
            );
        }
        let threads = random.random_range(1..=3);
        let [rough, keeps, blocks] = [0.6, 0.3, 0.5].map(|odds| random.random_bool(odds));
        println!(
            "LAPWING_SOAK_SEED={seed} {threads} threads, rough: {rough}, keeps: {keeps}, \
             blocks: {blocks}, {changes}"
        );
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads)
            .enable_all()
            .build();
        Self {
            seed,
            settings: consumers(vhost, &CONSUMERS).with(&changes).settings(),
            random,
            proxy,
            threads: Some(runtime.expect("threads can be had")),
            seen: Arc::new(Seen::new(keeps)),
            running: None,
            ledger: Ledger::default(),
            rough,
            blocks,
            blocking: None,
            batches: 0,
            // A confirm after the timeout causes a duplicate.
            duplicates: rough || blocks || keeps,
        }
    }

    async fn start(&mut self) {
        let mut worker = Worker::new(self.settings.clone()).share(Arc::clone(&self.seen));
        for consumer in CONSUMERS {
            worker = worker.handler(consumer, handle);
            let concurrency = self.settings.consumers[consumer].concurrency;
            self.seen.load.limit(consumer, concurrency);
        }
        let mut handle = worker.handle();
        let threads = self.threads.as_ref().expect("the round goes on");
        self.running = Some((handle.clone(), threads.spawn(worker.run(pending()))));
        within("the worker's start", handle.until(|seen| seen.ready)).await;
        if !self.seen.keeps() {
            tokio::spawn(Arc::clone(&self.seen.load).watch(handle));
        }
    }

    async fn stop(&mut self, now: bool) {
        let (handle, running) = self.running.take().expect("it runs");
        handle.stop();
        if now {
            handle.stop_now();
        }
        let report = within("the worker's drain", running).await;
        let report = report.expect("no panic").expect("it ran");
        let open = report
            .consumers
            .values()
            .filter(|consumer| consumer.ledger.open() > 0);
        assert_eq!(
            (report.consumers.len(), open.count()),
            (CONSUMERS.len(), 0),
            "{report:?}"
        );
        if report.left() > 0 {
            println!("left {}: {report:?}", report.left());
            assert!(self.rough, "a graceful drain leaves none: {report:?}");
        }
        self.ledger += report.ledger();
    }

    /// Disturbs some consumers of the worker, in one way after the other.
    async fn disturb(&mut self, vhost: &VHost, consumers: &[&str], most: usize) {
        for _ in 0..self.random.random_range(5..most) {
            tokio::time::sleep(ms(self.random.random_range(0..150))).await;
            let consumer = consumers[self.random.random_range(0..consumers.len())];
            let (handle, _) = self.running.as_ref().expect("it runs");
            match self.random.random_range(0..16) {
                0 | 1 => {
                    handle.pause(consumer).await.expect("the consumer answers");
                }
                2..4 => handle.resume(consumer).await.expect("the consumer answers"),
                4 | 5 => {
                    let prefetch = self.settings.consumers[consumer].prefetch;
                    let concurrency = self.random.random_range(1..=prefetch);
                    // The load check must know a higher limit first. For a lower limit the order
                    // does not matter.
                    self.seen.load.limit(consumer, concurrency);
                    let set = handle.set_concurrency(consumer, concurrency);
                    set.expect("it is in range");
                }
                6 | 7 => {
                    let page = handle.in_flight(Some(consumer), 0, 5).await;
                    for message in page.expect("the consumer answers").messages {
                        // The handler may have ended by now.
                        let _ = handle.cancel(consumer, message.delivery).await;
                    }
                }
                8..10 if self.rough => {
                    self.proxy.cut().await;
                }
                10 if self.rough => {
                    vhost.close_connections().await;
                }
                11 => {
                    let now = self.rough && self.random.random_bool(0.5);
                    self.stop(now).await;
                    self.start().await;
                }
                12 => {
                    self.proxy.stall();
                    tokio::time::sleep(ms(self.random.random_range(0..300))).await;
                    self.proxy.resume();
                }
                13 if self.blocks && self.blocking.as_ref().is_none_or(JoinHandle::is_finished) => {
                    let time = ms(self.random.random_range(0..1_500));
                    let blocking = block_publishing(vhost.broker().clone(), time);
                    self.blocking = Some(tokio::spawn(blocking));
                }
                // The broker cancels the consumer.
                14 if consumer == SHAKY => {
                    vhost.delete(SHAKY).await;
                    tokio::time::sleep(ms(self.random.random_range(0..300))).await;
                    if vhost.exists(SHAKY).await {
                        self.send_shaky(vhost).await;
                    }
                }
                15 if consumer == SHAKY => vhost.delete(&format!("{SHAKY}.retry.1s")).await,
                _ => {}
            }
        }
    }

    /// Sends the shaky consumer one more batch, and returns the ids.
    async fn send_shaky(&mut self, vhost: &VHost) -> Vec<String> {
        self.batches += 1;
        let first = self.batches * 10_000;
        let make = |index| PublishSpec::of("x").id(&format!("{SHAKY}-{}", first + index));
        vhost.publish_many(SHAKY, FEW, make).await
    }

    /// Ends every disturbance.
    async fn calm(&mut self, vhost: &VHost) -> Vec<String> {
        if let Some(blocking) = self.blocking.take() {
            within("the end of the alarm", blocking)
                .await
                .expect("no panic");
        }
        let (handle, _) = self.running.as_ref().expect("it runs");
        let mut handle = handle.clone();
        for consumer in CONSUMERS {
            handle.resume(consumer).await.expect("the consumer answers");
        }
        let consume = |seen: &Readiness| {
            let mut consumers = seen.consumers.values();
            consumers.all(|consumer| consumer.state == ConsumerState::Consuming)
        };
        within("the consumers to consume", handle.until(consume)).await;
        self.send_shaky(vhost).await
    }

    /// Lets all messages end, and checks each of them.
    async fn settle(mut self, vhost: &VHost) {
        let last = self.calm(vhost).await;
        let (handle, _) = self.running.as_ref().expect("it runs");
        let handle = handle.clone();
        let began = Instant::now();
        for consumer in CONSUMERS {
            while left(vhost, consumer).await > 0 {
                if began.elapsed() > PATIENCE {
                    let left = left(vhost, consumer).await;
                    let report = handle.report(consumer);
                    let held = handle.in_flight(Some(consumer), 0, 20).await;
                    panic!(
                        "seed {}: {consumer} has {left}\n{report:#?}\n{held:#?}\n{:?}",
                        self.seed,
                        handle.readiness()
                    );
                }
                tokio::time::sleep(ms(20)).await;
            }
        }
        self.stop(false).await;
        let took = began.elapsed();
        for consumer in &CONSUMERS[..2] {
            let ids = (0..MESSAGES).map(|number| format!("{consumer}-{number:05}"));
            self.check(vhost, consumer, ids.collect()).await;
        }
        self.check(vhost, SHAKY, last).await;
        let peaks = self.seen.load.check();
        println!("settled in {took:?}: {peaks}{:?}", self.ledger);
        // Dropping the runtime would block a thread that must not block.
        self.threads
            .take()
            .expect("it is there")
            .shutdown_background();
    }

    /// Asserts that each of these messages has ended as its handler decided.
    async fn check(&self, vhost: &VHost, consumer: &str, sent: Vec<String>) {
        let done = self.seen.done();
        let dead = vhost.drain_all(&format!("{consumer}.dead")).await;
        let ids: BTreeSet<_> = dead.iter().map(|got| got.id().to_owned()).collect();
        for id in sent {
            let (times, fate) = (done.get(&id).copied().unwrap_or(0), Fate::of_id(&id));
            let right = match fate.is_dead() {
                true => times == 0 && ids.contains(&id),
                false => !ids.contains(&id) && times > 0 && (times == 1 || self.duplicates),
            };
            assert!(
                right,
                "seed {}: {id} {fate:?} done {times} times, dead {}",
                self.seed,
                ids.contains(&id)
            );
        }
        assert!(
            dead.len() == ids.len() || self.duplicates,
            "seed {}",
            self.seed
        );
    }
}
