//! Random mixes of everything that can happen to a lane, for as long as one likes: `make soak`.
//! Whatever happened, each message must have ended as its handler wants it to end.

mod fate;

use std::collections::BTreeSet;
use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fate::{Fate, Seen, handle};
use lapwing::config::Settings;
use lapwing::{Ledger, Report, RunError, Worker, WorkerHandle};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

use crate::support::{Broker, Proxy, PublishSpec, QueueType, VHost, lane_settings, ms, within};

const LANES: [&str; 2] = ["a", "b"];
const MESSAGES: usize = 2_000;
const PREFETCHES: [u16; 5] = [1, 2, 7, 64, 300];
/// How long a round may take to come to its end when nothing disturbs it any more.
const PATIENCE: Duration = Duration::from_secs(120);

fn from_environment(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok();
    value.map(|value| value.parse().expect("it is a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes as long as one likes: make soak"]
async fn whatever_happens_each_message_ends_as_its_handler_wants() {
    let time = Duration::from_secs(from_environment("LAPWING_SOAK_SECONDS").unwrap_or(60));
    let seed = from_environment("LAPWING_SOAK_SEED");
    let began = Instant::now();
    for seed in seed.unwrap_or_else(|| rand::random::<u32>().into()).. {
        play(seed).await;
        if began.elapsed() > time {
            return;
        }
    }
}

/// One round: one set of settings, and some thousand messages.
async fn play(seed: u64) {
    let vhost = Broker::shared().await.vhost().await;
    let mut round = Round::new(seed, &vhost).await;
    round.start().await;
    let publish = async {
        for lane in LANES {
            vhost
                .publish_many(lane, MESSAGES, |_| PublishSpec::of("x"))
                .await;
        }
    };
    tokio::join!(publish, round.disturb());
    round.settle(&vhost).await;
}

struct Round {
    seed: u64,
    random: StdRng,
    proxy: Proxy,
    settings: Settings,
    /// Where handlers run: they keep its threads.
    threads: Option<Runtime>,
    seen: Arc<Seen>,
    running: Option<(WorkerHandle, JoinHandle<Result<Report, RunError>>)>,
    ledger: Ledger,
    /// Connections are cut, drains cut short, threads kept for long.
    rough: bool,
    /// Messages may be done a second time.
    duplicates: bool,
}

impl Round {
    async fn new(seed: u64, vhost: &VHost) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let proxy = Proxy::to(vhost).await;
        let kind = QueueType::ALL[random.random_range(0..2)].name();
        let mut changes = format!(
            "broker.url = '{}'\nbroker.reconnect = {{ base = '10ms', cap = '100ms' }}\n",
            proxy.url(vhost)
        );
        for lane in LANES {
            let prefetch = PREFETCHES[random.random_range(0..PREFETCHES.len())];
            let concurrency = random.random_range(1..=prefetch);
            changes += &format!(
                "[consumers.{lane}]\nprefetch = {prefetch}\nconcurrency = {concurrency}\n\
                 timeout = '1s'\ncancel_grace = '100ms'\nqueue_type = '{kind}'\n\
                 [consumers.{lane}.retry]\nbase = '20ms'\ncap = '1s'\ninline_below = '30ms'\n\
                 max_attempts = 6\n",
            );
        }
        let (threads, rough) = (random.random_range(1..=3), random.random_bool(0.6));
        println!("LAPWING_SOAK_SEED={seed} {threads} threads, rough: {rough}, {changes}");
        let runtime = Builder::new_multi_thread()
            .worker_threads(threads)
            .enable_all()
            .build();
        Self {
            seed,
            settings: lane_settings(vhost, &LANES, &changes),
            random,
            proxy,
            threads: Some(runtime.expect("threads can be had")),
            seen: Arc::new(Seen::new(rough)),
            running: None,
            ledger: Ledger::default(),
            rough,
            duplicates: rough,
        }
    }

    async fn start(&mut self) {
        let mut worker = Worker::new(self.settings.clone()).share(Arc::clone(&self.seen));
        for lane in LANES {
            worker = worker.handler(lane, handle);
        }
        let mut handle = worker.handle();
        let threads = self.threads.as_ref().expect("the round goes on");
        self.running = Some((handle.clone(), threads.spawn(worker.run(pending()))));
        within("the worker's start", handle.until(|seen| seen.ready)).await;
    }

    async fn stop(&mut self, now: bool) {
        let (handle, running) = self.running.take().expect("it runs");
        handle.stop();
        if now {
            handle.stop_now();
        }
        let report = within("the worker's drain", running).await;
        let report = report.expect("no panic").expect("it ran");
        assert_eq!(report.ledger().open(), 0, "{report:?}");
        if report.left() > 0 {
            println!("left {}: {report:?}", report.left());
            assert!(self.rough, "a graceful drain leaves none: {report:?}");
        }
        self.ledger += report.ledger();
    }

    /// Does one thing after the other to the worker.
    async fn disturb(&mut self) {
        for _ in 0..self.random.random_range(10..80) {
            tokio::time::sleep(ms(self.random.random_range(0..150))).await;
            let lane = LANES[self.random.random_range(0..2)];
            let (handle, _) = self.running.as_ref().expect("it runs");
            match self.random.random_range(0..12) {
                0 | 1 => {
                    handle.pause(lane).await.expect("the lane answers");
                }
                2..4 => handle.resume(lane).await.expect("the lane answers"),
                4 | 5 => {
                    let prefetch = self.settings.consumers[lane].prefetch;
                    let concurrency = self.random.random_range(1..=prefetch);
                    let set = handle.set_concurrency(lane, concurrency);
                    set.expect("it is in range");
                }
                6 | 7 => {
                    let page = handle.in_flight(Some(lane), 0, 5).await;
                    for message in page.expect("the lane answers").messages {
                        // It may have ended by now.
                        let _ = handle.cancel(lane, message.delivery).await;
                    }
                }
                8..10 if self.rough => {
                    self.proxy.cut().await;
                }
                10 => {
                    let now = self.rough && self.random.random_bool(0.5);
                    self.stop(now).await;
                    self.start().await;
                }
                _ => {}
            }
        }
    }

    /// Lets everything end, and takes stock.
    async fn settle(mut self, vhost: &VHost) {
        let (handle, _) = self.running.as_ref().expect("it runs");
        let handle = handle.clone();
        for lane in LANES {
            handle.resume(lane).await.expect("the lane answers");
        }
        let began = Instant::now();
        for lane in LANES {
            for queue in [
                format!("{lane}.retry.1s"),
                lane.to_owned(),
                format!("{lane}.retry.1s"),
                lane.to_owned(),
            ] {
                while vhost.counts(&queue).await.total() > 0 {
                    if began.elapsed() > PATIENCE {
                        let counts = vhost.counts(&queue).await;
                        let report = handle.report(lane).await;
                        let held = handle.in_flight(Some(lane), 0, 20).await;
                        panic!(
                            "seed {}: {queue} has {counts:?}\n{report:#?}\n{held:#?}\n{:?}",
                            self.seed,
                            handle.readiness()
                        );
                    }
                    tokio::time::sleep(ms(20)).await;
                }
            }
        }
        self.stop(false).await;
        let took = began.elapsed();
        let done = self.seen.done();
        for lane in LANES {
            let dead = vhost.drain_all(&format!("{lane}.dead")).await;
            let ids: BTreeSet<_> = dead.iter().map(|got| got.id().to_owned()).collect();
            for number in 0..MESSAGES {
                let id = format!("{lane}-{number:05}");
                let (times, fate) = (done.get(&id).copied().unwrap_or(0), Fate::of(number));
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
        println!("settled in {took:?}: {:?}", self.ledger);
        // Dropping it would wait in a thread that must not.
        self.threads
            .take()
            .expect("it is there")
            .shutdown_background();
    }
}
