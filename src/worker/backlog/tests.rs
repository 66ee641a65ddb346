use tokio::{sync::watch::Sender, task::JoinHandle, time::sleep};

use super::*;
use crate::{
    broker::{
        Properties, QueueSpec, Session,
        fake::{FakeBroker, FakeSession, Fault, Permission, Release},
    },
    consumer::ConsumerSettings,
    status::{Backlog, Load, Outcomes},
};

/// The longest time between two looks.
const STEP: Duration = Duration::from_millis(12_500);

/// A consumer of the queue `orders`, whose session has begun, and a watch of its queues.
struct Scene {
    broker: FakeBroker,
    figures: Arc<Figures>,
    health: Sender<ConsumerHealth>,
    spec: QueueSpec,
    watch: JoinHandle<()>,
}

impl Scene {
    /// A consumer that has not subscribed yet.
    async fn before(settings: ConsumerSettings) -> Self {
        let settings = ConsumerSettings {
            queue: "orders".to_owned(),
            concurrency: 1,
            ..settings
        };
        let (broker, spec) = (FakeBroker::new(Release::V43), settings.queue_spec());
        let figures = Arc::new(Figures::new("orders", &settings, &Outcomes::default()));
        let (health, watched) =
            tokio::sync::watch::channel(ConsumerHealth::new(ConsumerState::Connecting, None));
        let watched = Watched {
            figures: Arc::clone(&figures),
            health: watched,
        };
        let watch = tokio::spawn(watch(broker.clone(), vec![watched]));
        Self {
            broker,
            figures,
            health,
            spec,
            watch,
        }
    }

    /// A consumer that has declared its queues, and whose subscription has ended before a message came.
    async fn new() -> Self {
        let scene = Self::before(ConsumerSettings::default()).await;
        scene.subscribe().await.close().await;
        scene.becomes(ConsumerState::Paused);
        scene
    }

    async fn subscribe(&self) -> FakeSession {
        let session = self.broker.clone().open(&self.spec, "tag").await;
        self.figures.counters.sessions.add_one();
        session.unwrap()
    }

    fn becomes(&self, state: ConsumerState) {
        self.health.send_replace(ConsumerHealth::new(state, None));
    }

    fn publish(&self, queue: &str, messages: usize) {
        for _ in 0..messages {
            assert!(self.broker.send(queue, b"{}", Properties::default()));
        }
    }

    fn backlog(&self) -> Backlog {
        self.figures.looks.backlog()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn queues_are_counted_once_the_consumer_has_declared_them_and_then_every_few_seconds() {
    let scene = Scene::before(ConsumerSettings::default()).await;
    // The broker is away for long.
    sleep(STEP * 10).await;
    assert_eq!(scene.backlog(), Backlog::default());
    assert_eq!(scene.broker.counts("orders"), 0);
    scene.subscribe().await.close().await;
    scene.publish("orders", 3);
    scene.publish("orders.dead", 2);
    scene.becomes(ConsumerState::Paused);
    sleep(STEP / 10).await;
    let backlog = scene.backlog();
    assert_eq!((backlog.ready, backlog.dead_letters), (Some(3), Some(2)));
    scene.publish("orders", 4);
    sleep(STEP).await;
    assert_eq!(scene.backlog().ready, Some(7));
}

#[tokio::test(start_paused = true)]
async fn a_check_that_is_off_asks_the_broker_nothing() {
    let settings = ConsumerSettings {
        backlog_check: None,
        ..ConsumerSettings::default()
    };
    let scene = Scene::before(settings).await;
    scene.becomes(ConsumerState::Paused);
    sleep(STEP * 10).await;
    assert_eq!(scene.broker.counts("orders"), 0);
    assert_eq!(scene.backlog(), Backlog::default());
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_does_not_answer_does_not_make_the_queue_empty() {
    let scene = Scene::before(ConsumerSettings::default()).await;
    let _session = scene.subscribe().await;
    scene.becomes(ConsumerState::Consuming);
    // The prefetch is full.
    scene.publish("orders", 1000);
    sleep(STEP).await;
    let ready = scene.backlog().ready;
    assert!(ready > Some(800), "{ready:?}");
    let counts = scene.broker.counts("orders");
    scene.broker.fail(Fault::LeaderLost("orders".to_owned()));
    while scene.broker.counts("orders") < counts + 3 {
        sleep(STEP / 100).await;
        assert_eq!(scene.backlog().ready, ready);
    }
    sleep(STEP).await;
    let backlog = scene.backlog();
    assert_eq!((backlog.ready, backlog.oldest_seconds), (None, None));
    let error = backlog.error.unwrap_or_default();
    assert!(error.contains("its leader does not answer"), "{error}");
    scene.broker.elect("orders");
    sleep(STEP).await;
    assert!(scene.backlog().ready > Some(800));
}

#[tokio::test(start_paused = true)]
async fn dead_letters_are_gone_once_two_counts_say_so() {
    let scene = Scene::new().await;
    scene.publish("orders.dead", 2);
    sleep(STEP).await;
    let counts = scene.broker.counts("orders.dead");
    scene
        .broker
        .fail(Fault::LeaderLost("orders.dead".to_owned()));
    while scene.broker.counts("orders.dead") < counts + 1 {
        sleep(STEP / 100).await;
    }
    assert_eq!(scene.backlog().dead_letters, Some(2));
    sleep(STEP).await;
    assert_eq!(scene.backlog().dead_letters, Some(0));
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_may_not_be_counted_is_asked_for_ever_more_seldom_and_the_other_keeps_its_pace()
 {
    let scene = Scene::new().await;
    for permission in [Permission::Configure, Permission::Read] {
        scene.broker.deny(permission, "orders.dead");
    }
    let day = Duration::from_hours(24);
    sleep(day).await;
    let counts = scene.broker.counts("orders.dead");
    // After 1, 3, 7, 15, 31 and 63 minutes, and then once an hour.
    assert!((25..=32).contains(&counts), "{counts}");
    let others = scene.broker.counts("orders");
    assert!(u64::from(others) > day.as_secs() / 13, "{others}");
    assert_eq!(scene.backlog().ready, Some(0));
    let error = scene.backlog().error.unwrap_or_default();
    assert!(error.contains("ACCESS_REFUSED"), "{error}");
    // A new session may have the permission.
    scene.broker.allow(Permission::Configure, "orders.dead");
    scene.figures.counters.sessions.add_one();
    sleep(STEP).await;
    assert_eq!(scene.backlog().dead_letters, Some(0));
}

#[tokio::test(start_paused = true)]
async fn a_consumer_without_a_free_slot_whose_queue_grows_is_at_its_limit() {
    let scene = Scene::new().await;
    let slot = scene.figures.slots.try_take();
    assert!(slot.is_some());
    for _ in 0..13 {
        scene.publish("orders", 10);
        sleep(STEP).await;
    }
    let backlog = scene.backlog();
    assert_eq!(backlog.load, Load::AtLimit, "{backlog:?}");
    assert_eq!(backlog.limit, Some(Limit::Concurrency));
    drop(slot);
    for _ in 0..13 {
        scene.publish("orders", 10);
        sleep(STEP).await;
    }
    assert_eq!(scene.backlog().load, Load::Growing);
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_cannot_be_counted_is_unknown_with_the_reason() {
    let scene = Scene::new().await;
    scene.publish("orders", 3);
    sleep(STEP).await;
    scene.broker.fail(Fault::ConnectionLost);
    sleep(STEP).await;
    let backlog = scene.backlog();
    assert_eq!((backlog.ready, backlog.dead_letters), (None, None));
    let why = "not connected to the broker";
    assert_eq!(backlog.error.as_deref(), Some(why));
    scene.broker.reconnect();
    sleep(STEP).await;
    assert_eq!(scene.backlog().ready, Some(3));
    scene
        .broker
        .fail(Fault::QueueDeleted("orders.dead".to_owned()));
    sleep(STEP * 2).await;
    let backlog = scene.backlog();
    assert_eq!((backlog.ready, backlog.dead_letters), (Some(3), None));
    let why = "queue `orders.dead` does not exist";
    assert_eq!(backlog.error.as_deref(), Some(why));
}
