use tokio::{task::JoinHandle, time::sleep};

use super::*;
use crate::{
    broker::{
        Properties, Session,
        fake::{FakeBroker, Fault, Release},
    },
    consumer::ConsumerSettings,
    status::{Backlog, Load, Outcomes},
};

const STEP: Duration = Duration::from_secs(5);

/// A consumer of the queue `orders`, which has subscribed, and a watch of its queues.
struct Scene {
    broker: FakeBroker,
    figures: Arc<Figures>,
    watch: JoinHandle<()>,
}

impl Scene {
    async fn new() -> Self {
        let settings = ConsumerSettings {
            queue: "orders".to_owned(),
            concurrency: 1,
            ..ConsumerSettings::default()
        };
        let broker = FakeBroker::new(Release::V43);
        // Declares the queues. The subscription ends before a message comes.
        let session = broker.clone().open(&settings.queue_spec(), "tag").await;
        session.unwrap().close().await;
        let figures = Arc::new(Figures::new("orders", &settings, &Outcomes::default()));
        let watch = tokio::spawn(watch(broker.clone(), vec![Arc::clone(&figures)]));
        Self {
            broker,
            figures,
            watch,
        }
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
async fn queues_are_counted_once_the_consumer_has_subscribed_and_then_every_few_seconds() {
    let scene = Scene::new().await;
    scene.publish("orders", 3);
    scene.publish("orders.dead", 2);
    sleep(STEP).await;
    assert_eq!(scene.backlog(), Backlog::default());
    scene.figures.counters.sessions.add_one();
    sleep(STEP / 2).await;
    let backlog = scene.backlog();
    assert_eq!((backlog.ready, backlog.dead_letters), (Some(3), Some(2)));
    scene.publish("orders", 4);
    sleep(STEP).await;
    assert_eq!(scene.backlog().ready, Some(7));
}

#[tokio::test(start_paused = true)]
async fn a_consumer_without_a_free_slot_whose_queue_grows_is_at_its_limit() {
    let scene = Scene::new().await;
    scene.figures.counters.sessions.add_one();
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
    scene.figures.counters.sessions.add_one();
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
