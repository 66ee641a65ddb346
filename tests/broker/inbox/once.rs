//! Once in effect: messages that are published twice, two workers, and kills of workers and database.

use std::time::{Duration, Instant};

use crate::support::{
    Database, Postgres, PublishSpec, VHost, WorkerProcess, consumer, vhost, wait_until,
};

/// How long the messages may take from one kill to the next.
const PATIENCE: Duration = Duration::from_secs(120);

/// Who is killed.
#[derive(Clone, Copy, Debug)]
enum Victim {
    Worker,
    Database,
}

/// Two workers, and what they work on.
struct Scene {
    postgres: Postgres,
    database: Database,
    config: String,
    workers: Vec<WorkerProcess>,
}

impl Scene {
    /// `seconds`: how long each statement takes.
    async fn new(vhost: &VHost, name: &str, seconds: f64) -> Self {
        let postgres = Postgres::own(name).await;
        let database = postgres.database().await;
        // Nothing here keeps an id from being there twice.
        database
            .run("CREATE TABLE effects (id text, n bigint)")
            .await;
        let statement = format!(
            "WITH slept AS MATERIALIZED (SELECT pg_sleep({seconds})) \
             INSERT INTO effects SELECT :id, :n FROM slept"
        );
        let url = &database.url;
        let settings = format!(
            "[consumers.q]\nprefetch = 32\nconcurrency = 8\n\
             breaker = {{ probe = '100ms', probe_cap = '500ms' }}\n\
             idempotency = {{ store = 'postgres', migrate = true }}\n\
             handler = {{ kind = 'sql', url = '{url}', statement = '{statement}', \
             parameters = {{ id = 'message-id', n = 'body:/n' }} }}"
        );
        let config = consumer(vhost, "q").with(&settings).toml();
        Self {
            postgres,
            database,
            config,
            workers: Vec::new(),
        }
    }

    async fn effects(&self) -> i64 {
        self.database.value("SELECT count(*) FROM effects").await
    }

    /// Kills one of them, and starts it again.
    async fn kill(&mut self, victim: Victim) {
        match victim {
            Victim::Worker => {
                let mut worker = self.workers.remove(0);
                worker.kill();
                worker.exited(PATIENCE).await;
                self.workers.push(WorkerProcess::start(&self.config));
            }
            Victim::Database => {
                self.postgres.kill().await;
                self.postgres.start().await;
                self.database.again().await;
            }
        }
    }
}

/// Waits until no queue has a message, as long as there are ever fewer of them.
async fn settled(vhost: &VHost) {
    // Each look costs the broker much, and the workers need the processor too.
    const BETWEEN_LOOKS: Duration = Duration::from_secs(1);
    let left = async || {
        let mut total = vhost.counts("q").await.total();
        // A message on its way from a retry queue is in no queue for a moment, so this must hold
        // twice.
        for queue in rungs().chain(rungs()) {
            if total == 0 && vhost.exists(&queue).await {
                total += vhost.counts(&queue).await.total();
            }
        }
        match total {
            0 => vhost.counts("q").await.total(),
            total => total,
        }
    };
    let (mut least, mut since) = (u32::MAX, Instant::now());
    loop {
        match left().await {
            0 => return,
            now if now < least => (least, since) = (now, Instant::now()),
            now => assert!(since.elapsed() < PATIENCE, "{now} messages are not settled"),
        }
        tokio::time::sleep(BETWEEN_LOOKS).await;
    }
}

/// The retry queues.
fn rungs() -> impl Iterator<Item = String> {
    (0..=10).map(|power| format!("q.retry.{}s", 1_u32 << power))
}

/// Publishes each message twice, and kills the victims one after the other meanwhile.
async fn each_has_its_effect_once(name: &str, messages: i64, seconds: f64, victims: &[Victim]) {
    let vhost = vhost().await;
    let mut scene = Scene::new(&vhost, name, seconds).await;
    for workers in 1..=2 {
        let worker = WorkerProcess::start(&scene.config);
        worker.wait_for_consumers(&vhost, "q", workers).await;
        scene.workers.push(worker);
    }
    // The second copy follows at once, or after all others.
    let count = usize::try_from(messages).expect("a number of messages");
    let (late, soon): (Vec<_>, Vec<_>) = (0..count).partition(|n| n % 2 == 1);
    let soon = soon.into_iter().flat_map(|n| [n, n, n + 1]);
    let order: Vec<_> = soon.filter(|n| *n < count).chain(late).collect();
    let make = |at: usize| {
        let n = order[at];
        PublishSpec::of(format!("{{\"n\": {n}}}")).id(&format!("m{n}"))
    };
    let kill = async {
        let parts = i64::try_from(victims.len()).expect("a few") + 1;
        for (victim, part) in victims.iter().zip(1..) {
            let share = part * messages / parts;
            let look = async || scene.effects().await;
            let what = format!("{share} of {messages} effects");
            wait_until(&what, PATIENCE, look, |seen| *seen >= share).await;
            scene.kill(*victim).await;
        }
    };
    tokio::join!(vhost.publish_many("q", order.len(), make), kill);
    settled(&vhost).await;
    for worker in &mut scene.workers {
        worker.drain(PATIENCE).await;
    }
    let query = "SELECT count(*) || ' ' || count(DISTINCT id) || ' ' || sum(n) FROM effects";
    let found = scene.database.value::<String>(query).await;
    let sum = messages * (messages - 1) / 2;
    assert_eq!(found, format!("{messages} {messages} {sum}"));
    assert_eq!(vhost.counts("q.dead").await.total(), 0);
    let keys = "SELECT count(*) FROM lapwing_inbox WHERE done_at IS NOT NULL";
    assert_eq!(scene.database.value::<i64>(keys).await, messages);
}

#[tokio::test]
async fn each_message_has_its_effect_once_although_worker_and_database_are_killed() {
    let victims = [Victim::Worker, Victim::Database];
    each_has_its_effect_once("once", 400, 0.02, &victims).await;
}

#[tokio::test]
#[ignore = "takes minutes: make once"]
async fn each_of_many_messages_has_its_effect_once_although_all_are_killed_again_and_again() {
    let messages = std::env::var("LAPWING_ONCE_MESSAGES").ok();
    let messages = messages.map_or(50_000, |text| text.parse().expect("a number"));
    let mut victims = vec![Victim::Worker; 10];
    victims.insert(3, Victim::Database);
    victims.insert(8, Victim::Database);
    each_has_its_effect_once("once-many", messages, 0.0, &victims).await;
}
