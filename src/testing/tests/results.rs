//! Messages and results that handlers publish: confirmed before the message is acked.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::{
    Failure, NewMessage, Worker,
    broker::{
        Properties,
        fake::{Confirm, FakeBroker, Fault, Letter, Release},
    },
    handler::Results,
    settings::Settings,
    testing::{TestBroker, TestWorker},
};

/// A worker with the consumer `orders`.
struct Site {
    inner: FakeBroker,
    worker: TestWorker,
}

impl Site {
    async fn start<H, M>(settings: &str, handler: H) -> Self
    where
        H: crate::handler::IntoHandler<M>,
    {
        let text = format!(
            "[consumers.orders]\nqueue = 'orders'\nretry = {{ base = '10s', jitter = 0 }}\n{settings}"
        );
        let settings = Settings::from_toml(&text).unwrap();
        let inner = FakeBroker::new(Release::V43);
        let broker = TestBroker::of(inner.clone());
        let worker = Worker::new(settings).handler("orders", handler);
        let mut worker = TestWorker::start_on(worker, &broker);
        worker.until(|it| it.ready).await;
        Self { inner, worker }
    }

    fn send(&self, letter: Letter) {
        let properties: Properties = letter.into();
        assert!(self.inner.send("orders", b"{}", properties));
    }

    fn left(&self, queue: &str) -> Vec<(String, Properties)> {
        let stored = self.inner.ready(queue).into_iter();
        let text = |body: Vec<u8>| String::from_utf8(body).unwrap();
        stored.map(|it| (text(it.body), it.properties)).collect()
    }
}

/// A queue that nobody consumes.
const DONE: &str = "orders.dead";

async fn answers(results: Results) {
    results.set("the result", Some("text/plain"));
}

#[tokio::test(start_paused = true)]
async fn a_result_goes_where_the_settings_say_with_the_ids_of_its_message() {
    let settings = format!("forward.routing_key = '{DONE}'");
    let site = Site::start(&settings, answers).await;
    site.send(Letter::default().id("m1"));
    site.send(Letter::default().id("m2").correlation_id("c2"));
    site.worker.finished().await;

    let left = site.left(DONE);
    let ids = left
        .iter()
        .map(|(_, it)| (it.message_id(), it.correlation_id()));
    let ids: Vec<_> = ids.collect();
    assert_eq!(ids, [(Some("m1"), Some("m1")), (Some("m2"), Some("c2"))]);
    for (body, properties) in &left {
        assert_eq!(body, "the result");
        assert_eq!(properties.content_type(), Some("text/plain"));
    }
    let report = site.worker.drain().await.unwrap();
    assert_eq!(report.ledger().acked, 2);
}

#[tokio::test(start_paused = true)]
async fn a_routing_key_can_name_parts_of_the_message() {
    let settings = "forward.routing_key = 'orders.{type}'";
    let site = Site::start(settings, answers).await;
    site.send(Letter::default().message_type("dead"));
    site.worker.finished().await;
    assert_eq!(site.left(DONE).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_reply_goes_to_the_queue_that_the_message_names() {
    let site = Site::start("forward.reply = true", answers).await;
    site.send(Letter::default().correlation_id("c1").reply_to(DONE));
    // Nobody asks.
    site.send(Letter::default().id("m2"));
    // The caller is gone.
    site.send(Letter::default().reply_to("gone"));
    site.worker.finished().await;
    let left = site.left(DONE);
    assert_eq!(left.len(), 1);
    assert_eq!(left[0].1.correlation_id(), Some("c1"));
    let report = site.worker.drain().await.unwrap();
    assert_eq!(
        (report.ledger().acked, report.ledger().dead_lettered),
        (3, 0)
    );
}

#[tokio::test(start_paused = true)]
async fn a_caller_whose_exchange_is_gone_does_not_hold_up_the_consumer() {
    let settings = "dialect = 'spring'\nforward = { reply = true, reply_exchanges = ['gone'] }";
    let site = Site::start(settings, answers).await;
    site.send(Letter::default().reply_to("gone/answers"));
    site.worker.finished().await;
    let ledger = site.worker.drain().await.unwrap().ledger();
    assert_eq!((ledger.acked, ledger.dead_lettered), (1, 0), "{ledger:?}");
}

#[tokio::test(start_paused = true)]
async fn a_publisher_chooses_no_exchange_that_the_settings_lack() {
    let site = Site::start("dialect = 'spring'\nforward.reply = true", answers).await;
    // Whatever the worker wanted to publish would wait.
    site.inner.fail(Fault::PublishingLost);
    site.send(Letter::default().reply_to("shop/order.paid"));
    tokio::time::sleep(Duration::from_mins(1)).await;
    let ledger = site.worker.drain().await.unwrap().ledger();
    assert_eq!((ledger.acked, ledger.returned), (1, 0), "{ledger:?}");
}

#[tokio::test(start_paused = true)]
async fn without_the_setting_no_result_is_published() {
    let site = Site::start("", answers).await;
    site.send(Letter::default().reply_to(DONE));
    site.worker.finished().await;
    assert!(site.left(DONE).is_empty());
    assert_eq!(site.worker.drain().await.unwrap().ledger().acked, 1);
}

#[tokio::test(start_paused = true)]
async fn messages_of_a_handler_are_published_only_if_it_succeeds() {
    let handler = |results: Results, attempt: crate::handler::Attempt| async move {
        results.publish(NewMessage {
            routing_key: DONE.to_owned(),
            body: format!("of attempt {}", attempt.0).into_bytes(),
            ..NewMessage::default()
        });
        match attempt.0 {
            1 => Err(Failure::retryable("test", "failed")),
            _ => Ok(()),
        }
    };
    let site = Site::start("", handler).await;
    site.send(Letter::default());
    site.worker.finished().await;
    let left = site.left(DONE);
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(left[0].0, "of attempt 2");
    assert_eq!(site.worker.drain().await.unwrap().ledger().acked, 1);
}

#[tokio::test(start_paused = true)]
async fn a_message_is_acked_only_after_its_result_is_confirmed() {
    let settings = format!("forward.routing_key = '{DONE}'");
    let site = Site::start(&settings, answers).await;
    site.inner
        .answer_publishes([Confirm::Nack, Confirm::Nack, Confirm::Nack]);
    site.send(Letter::default().id("m1"));
    site.worker.finished().await;
    assert_eq!(site.left(DONE).len(), 1);
    let report = site.worker.drain().await.unwrap();
    assert_eq!(report.ledger().acked, 1);
    assert!(site.inner.violations().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_result_that_no_queue_takes_waits_and_its_handler_does_not_run_again() {
    let runs = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&runs);
    let handler = move |results: Results| {
        counted.fetch_add(1, Ordering::SeqCst);
        results.set("the result", None);
        async {}
    };
    let site = Site::start("forward.routing_key = 'missing'", handler).await;
    site.send(Letter::default());
    tokio::time::sleep(Duration::from_hours(1)).await;
    assert_eq!(runs.load(Ordering::SeqCst), 1);
    let ledger = site.worker.drain().await.unwrap().ledger();
    assert_eq!((ledger.received, ledger.returned), (1, 1), "{ledger:?}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_lost_meanwhile_loses_no_result() {
    let settings = format!("forward.routing_key = '{DONE}'");
    let site = Site::start(&settings, answers).await;
    site.inner.fail(Fault::PublishingLost);
    site.send(Letter::default());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(site.left(DONE).is_empty());
    site.inner.reconnect();
    site.worker.finished().await;
    assert_eq!(site.left(DONE).len(), 1);
    assert_eq!(site.worker.drain().await.unwrap().ledger().open(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_lost_before_the_confirm_loses_no_result() {
    let settings = format!("forward.routing_key = '{DONE}'");
    let site = Site::start(&settings, answers).await;
    site.inner.fail(Fault::PublishingLost);
    site.send(Letter::default());
    tokio::time::sleep(Duration::from_secs(1)).await;
    site.inner.fail(Fault::ChannelLost);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(site.left(DONE).is_empty());
    site.inner.reconnect();
    site.worker.finished().await;
    assert!(!site.left(DONE).is_empty());
    let ledger = site.worker.drain().await.unwrap().ledger();
    assert_eq!((ledger.acked, ledger.open()), (1, 0), "{ledger:?}");
}

#[tokio::test(start_paused = true)]
async fn a_service_that_is_back_is_back_although_its_results_wait() {
    let failures = Arc::new(AtomicUsize::new(0));
    let (runs, failing) = (Arc::new(AtomicUsize::new(0)), Arc::clone(&failures));
    let counted = Arc::clone(&runs);
    let handler = move |results: Results| {
        let down = failing.fetch_add(1, Ordering::SeqCst) < 8;
        counted.fetch_add(usize::from(!down), Ordering::SeqCst);
        results.set("the result", None);
        async move {
            match down {
                true => Err(Failure::unavailable("test", "away")),
                false => Ok(()),
            }
        }
    };
    let settings = "prefetch = 8\nconcurrency = 8\nforward.routing_key = 'missing'";
    let mut site = Site::start(settings, handler).await;
    let messages = 40;
    (0..messages).for_each(|n| site.send(Letter::default().id(&format!("m{n}"))));
    let state = |it: &crate::Readiness| it.consumers["orders"].state;
    let down = |it: &crate::Readiness| state(it) == crate::ConsumerState::ServiceDown;
    site.worker.until(down).await;
    site.worker.until(|it| !down(it)).await;
    tokio::time::sleep(Duration::from_hours(1)).await;
    // Results of twice the prefetch may wait.
    assert!(runs.load(Ordering::SeqCst) <= 16, "{runs:?}");
    let ledger = site.worker.drain().await.unwrap().ledger();
    assert_eq!(ledger.acked, 0, "{ledger:?}");
}

#[tokio::test(start_paused = true)]
async fn a_callers_full_queue_does_not_hold_up_the_consumer() {
    let site = Site::start("forward.reply = true", answers).await;
    site.inner.answer_publishes([Confirm::Nack; 3]);
    site.send(Letter::default().reply_to("full"));
    site.worker.finished().await;
    let left = site.left(DONE);
    let class = left[0].1.header("lapwing-error-kind").unwrap();
    assert_eq!(class.as_str(), Some("forward"));
    let ledger = site.worker.drain().await.unwrap().ledger();
    assert_eq!((ledger.acked, ledger.dead_lettered), (0, 1), "{ledger:?}");
}

#[tokio::test(start_paused = true)]
async fn a_result_whose_routing_key_became_too_long_goes_nowhere() {
    let settings = format!("forward.routing_key = '{{type}}.{}'", "x".repeat(200));
    let site = Site::start(&settings, answers).await;
    site.send(Letter::default().message_type(&"y".repeat(100)));
    site.worker.finished().await;
    let left = site.left(DONE);
    let error = left[0].1.header("lapwing-error").unwrap();
    let error = error.as_str().unwrap();
    assert!(error.contains("longer than 255 bytes"), "{error}");
    let ledger = site.worker.drain().await.unwrap().ledger();
    assert_eq!((ledger.acked, ledger.dead_lettered), (0, 1), "{ledger:?}");
}
