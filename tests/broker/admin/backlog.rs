//! Whether a consumer keeps up with its queue: in the API, on the command line and in the metrics.

use std::time::Duration;

use lapwing::Worker;
use serde_json::{Value, json};

use super::{commands::run, gated, settings, start_both};
use crate::support::{
    ADMIN, Admin, DEADLINE, Gate, Notes, PublishSpec, QueueType, Release, RunningWorker, TOKEN,
    VHost, consumer, management::encode, vhost, wait_until,
};

const PATH: &str = "/api/v1/consumers/q";

/// Publishes a few messages again and again, until the consumer's backlog is as wanted.
async fn grow(vhost: &VHost, admin: &Admin, wanted: impl Fn(&Value) -> bool) -> Value {
    let look = async || {
        vhost.publish_many("q", 5, |_| PublishSpec::of("x")).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        admin.read(PATH).await
    };
    wait_until("the backlog is as wanted", DEADLINE, look, wanted).await
}

#[tokio::test]
async fn a_consumer_whose_queue_grows_while_its_slots_are_busy_is_at_its_limit() {
    let vhost = vhost().await;
    let (notes, gate) = (Notes::default(), Gate::default());
    let changes = "[consumers.q]\nprefetch = 2\nconcurrency = 1\nbacklog_check = '1s'";
    let settings = settings(&vhost, changes);
    let worker = Worker::new(settings.clone()).handler("q", gated(&notes, &gate));
    let (worker, admin) = start_both(settings, worker).await;
    // The age below counts from a look that found the queue empty.
    let look = async || admin.read(PATH).await["backlog"].take();
    let empty = |backlog: &Value| backlog["ready"] == 0;
    wait_until("the empty queue is counted", DEADLINE, look, empty).await;

    let at_limit = grow(&vhost, &admin, |it| it["backlog"]["load"] == "at-limit").await;
    let backlog = &at_limit["backlog"];
    assert_eq!(backlog["limit"], "concurrency", "{backlog}");
    assert!(backlog["ready"].as_u64() > Some(5), "{backlog}");
    assert!(backlog["growth"].as_f64() > Some(0.0), "{backlog}");
    assert_eq!(backlog["drain_seconds"], Value::Null);
    assert_eq!(
        (&backlog["dead_letters"], &backlog["error"]),
        (&json!(0), &Value::Null)
    );
    // No message has a timestamp. The queue was empty when the worker counted it first.
    assert_eq!(backlog["oldest_from"], "empty-queue", "{backlog}");
    assert_eq!(at_limit["state"], "consuming");
    let ready = admin.read("/api/v1/consumers/q/history").await["ready"].take();
    let last = ready.as_array().and_then(|ready| ready.last()).cloned();
    assert!(last.is_some_and(|last| last.as_u64() > Some(5)), "{ready}");
    let (code, out, err) = run(&admin, &["status"], TOKEN).await;
    assert_eq!(code, Some(0), "{err}");
    assert!(
        out.contains("at its limit") && out.contains("all handler slots"),
        "{out}"
    );
    assert!(out.lines().all(|line| line.chars().count() <= 80), "{out}");

    gate.open();
    let look = async || admin.read(PATH).await;
    let done = |it: &Value| it["backlog"]["ready"] == 0 && it["backlog"]["load"] == "keeping-up";
    let done = wait_until("the queue is empty", DEADLINE, look, done).await;
    let backlog = &done["backlog"];
    assert_eq!(
        (&backlog["drain_seconds"], &backlog["oldest_seconds"]),
        (&json!(0.0), &json!(0.0))
    );
    worker.drain().await;
}

#[tokio::test]
async fn the_age_of_the_oldest_comes_from_the_timestamps_of_deliveries() {
    let vhost = vhost().await;
    let (notes, gate) = (Notes::default(), Gate::default());
    let changes =
        "[consumers.q]\nprefetch = 1\nconcurrency = 1\nbacklog_check = '1s'\ntopology = 'attach'";
    let settings = settings(&vhost, changes);
    vhost.declare("q", QueueType::Quorum).await;
    let hour = Duration::from_secs(3600);
    let ago = std::time::SystemTime::now() - hour;
    let ago = ago
        .duration_since(std::time::SystemTime::UNIX_EPOCH)
        .expect("it is later")
        .as_secs();
    let old = |_| PublishSpec::of("x").with(|properties| properties.with_timestamp(ago));
    vhost.publish_many("q", 3, old).await;
    let worker = Worker::new(settings.clone()).handler("q", gated(&notes, &gate));
    let (worker, admin) = start_both(settings, worker).await;
    let look = async || admin.read(PATH).await["backlog"].take();
    let known = |backlog: &Value| backlog["oldest_from"] == "timestamp";
    let backlog = wait_until("the age is known", DEADLINE, look, known).await;
    let age = backlog["oldest_seconds"].as_f64().expect("a number");
    assert!((3590.0..3700.0).contains(&age), "{backlog}");
    assert_eq!(backlog["ready"], 2, "{backlog}");
    gate.open();
    worker.drain().await;
}

/// A user with no more rights than it takes to consume `q` and to publish retries and dead letters.
async fn user(vhost: &VHost, name: &str) -> String {
    let management = vhost.broker().management();
    let password = "a-password";
    let user = json!({ "password": password, "tags": "" });
    management.put(&format!("users/{name}"), &user).await;
    let rights = json!({ "configure": "", "write": "^amq\\.default$", "read": "^q$" });
    let at = format!("permissions/{}/{name}", encode(vhost.name()));
    management.put(&at, &rights).await;
    let mut url = url::Url::parse(&vhost.amqp_url()).expect("our own url is one");
    url.set_username(name).expect("an amqp url has a user");
    url.set_password(Some(password)).expect("and a password");
    url.into()
}

/// RabbitMQ 4.3 tells the length of a queue only to a user with some right on it. Earlier releases tell
/// everybody.
#[tokio::test]
async fn a_user_that_may_not_count_is_told_so_and_consumes_all_the_same() {
    let vhost = vhost().await;
    vhost.declare("q", QueueType::Quorum).await;
    vhost.declare_beside("q").await;
    let name = format!("backlog-{}", uuid::Uuid::now_v7().simple());
    let url = user(&vhost, &name).await;
    let changes = "[consumers.q]\ntopology = 'none'\nbacklog_check = '1s'\nretry.cap = '1s'";
    let settings = consumer(&url, "q").with(ADMIN).with(changes).settings();
    let worker = Worker::new(settings.clone()).handler("q", async || {});
    let worker = RunningWorker::start(worker).await;
    let admin = Admin::start(&settings, &worker.handle);

    let look = async || admin.read(PATH).await["backlog"].take();
    // A look before the worker is connected says so.
    let counted = |backlog: &Value| {
        let error = backlog["error"].as_str().unwrap_or_default();
        !backlog["counted_at"].is_null() && !error.contains("not connected")
    };
    let backlog = wait_until("the worker has looked", DEADLINE, look, counted).await;
    let error = backlog["error"].as_str().unwrap_or_default();
    assert_eq!(backlog["ready"], 0, "{backlog}");
    if vhost.broker().release() >= Release::V4_3 {
        assert_eq!(backlog["dead_letters"], Value::Null, "{backlog}");
        for part in [
            "cannot count the messages of queue `q.dead`",
            "ACCESS_REFUSED",
        ] {
            assert!(error.contains(part), "{backlog}");
        }
    } else {
        assert_eq!(
            (error, &backlog["dead_letters"]),
            ("", &json!(0)),
            "{backlog}"
        );
    }
    vhost.publish_many("q", 3, |_| PublishSpec::of("x")).await;
    let acked = |report: &lapwing::ConsumerReport| report.ledger.acked == 3;
    worker.wait_for_report("3 are acked", "q", acked).await;
    worker.drain().await;
    let user = format!("users/{name}");
    vhost.broker().management().delete(&user).await;
}
