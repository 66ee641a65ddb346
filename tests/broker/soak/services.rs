//! Services that go down, hang, refuse and limit their rate at random, below two workers with the same
//! two consumers. No message may be lost, and only those that their service refuses for good may become
//! dead letters.

mod site;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use lapwing::{Ledger, Readiness, Settings, Worker};
use rand::{Rng, SeedableRng, rngs::StdRng};

use self::site::{Mood, Site, is_refused};
use super::{PATIENCE, from_environment};
use crate::support::{
    Broker, PublishSpec, QueueType, RunningWorker, VHost, consumers, ms, require, within,
};

const LANES: [&str; 2] = ["a", "b"];
const MESSAGES: usize = 500;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes as long as one likes: make soak"]
async fn own_node_services_that_come_and_go_cost_no_message_its_life() {
    let time = Duration::from_secs(from_environment("LAPWING_SOAK_SECONDS").unwrap_or(60));
    let rounds = from_environment("LAPWING_SOAK_ROUNDS").unwrap_or(u64::MAX);
    let seed = from_environment("LAPWING_SOAK_SEED");
    let broker = require!(OwnNode, Broker::own("soak-services").await);
    let (began, mut played) = (Instant::now(), 0);
    let mut all = Ledger::default();
    for seed in seed.unwrap_or_else(|| rand::random::<u32>().into()).. {
        all += play(&broker, seed).await;
        played += 1;
        println!("{played} rounds, 0 lost, 0 dead-lettered without cause: {all:?}");
        if played == rounds || began.elapsed() > time {
            return;
        }
    }
}

/// One round: one set of settings, a thousand messages, and some disturbances.
async fn play(broker: &Broker, seed: u64) -> Ledger {
    let vhost = broker.vhost().await;
    let mut round = Round::new(seed, &vhost).await;
    let publish = async {
        for lane in LANES {
            vhost
                .publish_many(lane, MESSAGES, |_| PublishSpec::of("x"))
                .await;
        }
    };
    tokio::join!(publish, round.disturb());
    round.settle(&vhost).await
}

struct Round {
    seed: u64,
    random: StdRng,
    /// The service of each lane.
    sites: Vec<Site>,
    workers: Vec<RunningWorker>,
    settings: Settings,
    ledger: Ledger,
}

impl Round {
    async fn new(seed: u64, vhost: &VHost) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let mut sites = Vec::new();
        let mut config = String::new();
        for lane in LANES {
            let site = Site::start().await;
            config += &lane_settings(&mut random, lane, &site.url());
            sites.push(site);
        }
        println!("LAPWING_SOAK_SEED={seed} {config}");
        let settings = consumers(vhost, &LANES).with(&config).settings();
        let workers = vec![start(&settings).await, start(&settings).await];
        Self {
            seed,
            random,
            sites,
            workers,
            settings,
            ledger: Ledger::default(),
        }
    }

    /// Disturbs the services in one way after the other. Sometimes an operator or a deployment acts too.
    async fn disturb(&mut self) {
        for _ in 0..self.random.random_range(4..12) {
            let lane = self.random.random_range(0..LANES.len());
            match self.random.random_range(0..12) {
                0..8 => {
                    let mood = Mood::any(&mut self.random);
                    self.sites[lane].be(mood).await;
                }
                8 => {
                    let worker = self.random.random_range(0..self.workers.len());
                    let handle = self.workers[worker].handle.clone();
                    // On a busy machine the answer may be late.
                    let _ = handle.pause(LANES[lane]).await;
                    handle.resume(LANES[lane]).await.expect("it answers");
                }
                9 | 10 => {
                    let worker = self.random.random_range(0..self.workers.len());
                    let old = self.workers.swap_remove(worker);
                    self.ledger += old.drain().await.ledger();
                    self.workers.push(start(&self.settings).await);
                }
                _ => self.sites[lane].be(Mood::Well).await,
            }
            tokio::time::sleep(ms(self.random.random_range(0..1_200))).await;
        }
    }

    /// Lets the services work, waits until all messages have ended, and checks each of them.
    async fn settle(mut self, vhost: &VHost) -> Ledger {
        for site in &self.sites {
            site.be(Mood::Well).await;
        }
        let began = Instant::now();
        for (lane, site) in LANES.iter().zip(&self.sites) {
            let dead_letters = format!("{lane}.dead");
            let refused = ids(lane).filter(|id| is_refused(id)).count();
            while site.served().len() + refused < MESSAGES
                || (vhost.counts(&dead_letters).await.ready as usize) < refused
            {
                assert!(
                    began.elapsed() < PATIENCE,
                    "seed {}: {lane} is not done: {:?}",
                    self.seed,
                    self.workers
                        .iter()
                        .map(|it| it.handle.readiness())
                        .collect::<Vec<_>>(),
                );
                tokio::time::sleep(ms(50)).await;
            }
        }
        // A worker whose probe waits for a message stays degraded: the other one has served the last.
        for worker in &self.workers {
            worker.until("is ready", |it: &Readiness| it.ready).await;
        }
        for worker in std::mem::take(&mut self.workers) {
            self.ledger += worker.drain().await.ledger();
        }
        for (lane, site) in LANES.iter().zip(&self.sites) {
            self.check(vhost, lane, &site.served()).await;
        }
        println!("settled in {:?}: {:?}", began.elapsed(), self.ledger);
        self.ledger
    }

    /// Asserts that each message was served, or is a dead letter because its service refused it.
    async fn check(&self, vhost: &VHost, lane: &str, served: &BTreeSet<String>) {
        let dead = vhost.drain_all(&format!("{lane}.dead")).await;
        let dead: BTreeSet<_> = dead.iter().map(|got| got.id().to_owned()).collect();
        for id in ids(lane) {
            let (is_dead, was_served) = (dead.contains(&id), served.contains(&id));
            assert_eq!(
                (is_dead, was_served),
                (is_refused(&id), !is_refused(&id)),
                "seed {}: {id}: dead, served",
                self.seed
            );
        }
    }
}

async fn start(settings: &Settings) -> RunningWorker {
    within(
        "a worker's start",
        RunningWorker::start(Worker::new(settings.clone())),
    )
    .await
}

/// The ids of a lane's messages.
fn ids(lane: &str) -> impl Iterator<Item = String> {
    (0..MESSAGES).map(move |number| format!("{lane}-{number:05}"))
}

/// The settings of one lane.
fn lane_settings(random: &mut StdRng, lane: &str, url: &str) -> String {
    let one_of =
        |random: &mut StdRng, all: &[&str]| all[random.random_range(0..all.len())].to_owned();
    let kind = QueueType::ALL[random.random_range(0..2)].name();
    let prefetch = [4, 16, 64][random.random_range(0..3)];
    let concurrency = random.random_range(1..=prefetch);
    let rate = one_of(
        random,
        &["", "", "rate = '100/s'", "rate = '400/s'\nburst = 50"],
    );
    let probe = one_of(random, &["50ms", "200ms", "1s"]);
    format!(
        "[consumers.{lane}]\nprefetch = {prefetch}\nconcurrency = {concurrency}\n{rate}\n\
         timeout = '400ms'\nqueue_type = '{kind}'\nhandler = {{ kind = 'http', url = '{url}' }}\n\
         breaker = {{ probe = '{probe}', probe_cap = '2s' }}\n\
         retry = {{ base = '20ms', cap = '1s', inline_below = '100ms' }}\n"
    )
}
