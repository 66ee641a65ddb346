//! The probes while the broker is down, while a consumer is paused, and while handlers block.

use std::sync::{Arc, Condvar, Mutex};

use lapwing::Settings;
use lapwing::{Context, Worker};
use serde_json::Value;

use super::settings;
use crate::support::{
    ADMIN, Admin, DEADLINE, Notes, Proxy, PublishSpec, RunningWorker, vhost, wait_until,
};

#[tokio::test]
async fn a_broker_that_is_down_makes_the_worker_unready_but_not_dead() {
    let vhost = vhost().await;
    let proxy = Proxy::to(&vhost).await;
    proxy.refuse().await;
    let changes = format!("[broker]\nurl = '{}'\n", proxy.url(&vhost));
    let fast = "[broker.reconnect]\nbase = '50ms'\ncap = '200ms'";
    let settings = settings(&vhost, &format!("{changes}{fast}"));
    let worker = Worker::new(settings.clone()).handler("q", async || {});
    let admin = Admin::start(&settings, &worker.handle());
    let worker = RunningWorker::begin(worker);
    let is =
        |path: &'static str, wanted: u16| admin.until(path, move |(status, _)| *status == wanted);

    // The broker is down at the start.
    let has_reason = |(_, body): &(u16, Value)| {
        let why = body["waiting"]["q"].as_str();
        why.is_some_and(|why| why != "connecting")
    };
    let (status, body) = admin.until("/startupz", has_reason).await;
    assert_eq!((status, &body["started"]), (503, &Value::Bool(false)));
    let (status, body) = admin.get("/readyz").await;
    assert_eq!((status, &body["ready"]), (503, &Value::Bool(false)));
    assert_eq!(body["consumers"]["q"]["state"], "connecting");
    assert!(body["publishing"].is_string(), "{body}");
    assert_eq!(admin.get("/livez").await.0, 200);

    // The broker is up.
    proxy.accept_again();
    is("/startupz", 200).await;
    let (_, body) = is("/readyz", 200).await;
    assert_eq!(body["consumers"]["q"]["state"], "consuming");
    assert_eq!(body["consumers"]["q"]["reason"], Value::Null);

    // The broker is down again: the worker still counts as started, and alive.
    proxy.refuse().await;
    proxy.cut().await;
    let (_, body) = is("/readyz", 503).await;
    assert_eq!(body["consumers"]["q"]["state"], "connecting");
    assert_eq!(admin.get("/startupz").await.0, 200);
    assert_eq!(admin.get("/livez").await.0, 200);
    proxy.accept_again();
    is("/readyz", 200).await;
    worker.drain().await;
    let (status, body) = admin.get("/readyz").await;
    assert_eq!((status, &body["draining"]), (503, &Value::Bool(true)));
    assert_eq!(body["consumers"]["q"]["state"], "stopped");
    assert_eq!(
        admin.get("/livez").await.0,
        200,
        "a consumer that has stopped is well"
    );
}

#[tokio::test]
async fn a_consumer_that_is_paused_is_ready_and_one_paused_before_it_began_has_started() {
    let vhost = vhost().await;
    let proxy = Proxy::to(&vhost).await;
    proxy.stall();
    let changes = format!("[broker]\nurl = '{}'\n", proxy.url(&vhost));
    let settings = settings(&vhost, &changes);
    let worker = Worker::new(settings.clone()).handler("q", async || {});
    let admin = Admin::start(&settings, &worker.handle());
    let worker = RunningWorker::begin(worker);
    proxy.wait_for_accepted(1).await;
    assert_eq!(admin.get("/startupz").await.0, 503);

    worker
        .handle
        .pause("q")
        .await
        .expect("the consumer answers");

    assert_eq!(admin.get("/startupz").await.0, 200);
    let (status, body) = admin.get("/readyz").await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(body["consumers"]["q"]["state"], "paused");
    proxy.resume();
    worker
        .handle
        .resume("q")
        .await
        .expect("the consumer answers");
    admin
        .until("/readyz", |(_, body)| {
            body["consumers"]["q"]["state"] == "consuming"
        })
        .await;
    assert_eq!(admin.get("/startupz").await.0, 200);
    worker.drain().await;
}

/// Blocks the threads of handlers until the test opens it.
#[derive(Clone, Default)]
struct Dam(Arc<(Mutex<bool>, Condvar)>);

impl Dam {
    fn hold(&self) {
        let (open, opened) = &*self.0;
        let open = open.lock().expect("nobody panics with it");
        drop(opened.wait_while(open, |open| !*open).expect("as above"));
    }

    fn open(&self) {
        *self.0.0.lock().expect("nobody panics with it") = true;
        self.0.1.notify_all();
    }
}

#[tokio::test]
async fn the_server_answers_while_every_handler_thread_is_blocked() {
    const THREADS: usize = 2;
    let vhost = vhost().await;
    let settings = settings(&vhost, "[consumers.q]\ntimeout = '60s'");
    let (dam, notes) = (Dam::default(), Notes::default());
    let (holding, noting) = (dam.clone(), notes.clone());
    let handler = move |context: Context| {
        noting.note(&context);
        let dam = holding.clone();
        async move { dam.hold() }
    };
    let handlers = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()
        .expect("a runtime");
    let worker = Worker::new(settings.clone()).handler("q", handler);
    let handle = worker.handle();
    let admin = Admin::start(&settings, &handle);
    let running = handlers.spawn(worker.run(std::future::pending()));
    admin.until("/readyz", |(status, _)| *status == 200).await;
    vhost.publish_many("q", 6, |_| PublishSpec::of("x")).await;
    notes.wait_for(THREADS).await;
    let all = |page: &Value| page["total"] == 6;
    let look = async || admin.read("/api/v1/in-flight").await;
    let page = wait_until("all are in flight", DEADLINE, look, all).await;

    let in_phase = |phase: &str| {
        let messages = page["messages"].as_array().expect("it is a list");
        messages
            .iter()
            .filter(|message| message["phase"] == phase)
            .count()
    };
    assert_eq!(
        (in_phase("handling"), in_phase("buffered")),
        (THREADS, 6 - THREADS)
    );
    for path in [
        "/livez",
        "/readyz",
        "/startupz",
        "/metrics",
        "/api/v1/consumers",
    ] {
        assert_eq!(admin.get(path).await.0, 200, "{path}");
    }
    // The consumer answers too, because it has its own thread.
    let (status, consumer) = admin.post("/api/v1/consumers/q/pause").await;
    assert_eq!((status, &consumer["state"]), (200, &Value::from("paused")));

    dam.open();
    handle.stop();
    let report = crate::support::within("the drain", running).await;
    let report = report.expect("no panic").expect("it ran");
    assert_eq!(report.left(), 0, "{report:?}");
    // Dropped outside the test's runtime: inside, the drop could not wait for the threads.
    handlers.shutdown_background();
}

#[tokio::test]
async fn a_consumer_that_is_gone_without_having_stopped_makes_the_process_dead() {
    let consumer = "[consumers.q]\nqueue = 'q'";
    let settings = Settings::from_toml(&format!("{ADMIN}{consumer}")).expect("they are valid");
    let worker = Worker::new(settings.clone());
    let admin = Admin::start(&settings, &worker.handle());
    assert_eq!(admin.get("/livez").await.0, 200);

    drop(worker);

    let (status, body) = admin.get("/livez").await;
    assert_eq!((status, &body["live"]), (503, &Value::Bool(false)));
    assert_eq!(body["dead"]["q"], "the consumer has ended unexpectedly");
}
