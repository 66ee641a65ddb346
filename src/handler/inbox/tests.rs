//! A handler behind an inbox in memory.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use tokio::sync::Notify;

use super::{lease::RELEASE, *};
use crate::{broker::Properties, decode::Decode, handler::samples::Sample, lock::lock};

/// A handler that counts its runs and ends as it is told.
#[derive(Default)]
struct Counting {
    runs: AtomicU32,
    outcomes: Mutex<Vec<Outcome>>,
    /// Whether a run waits until `go` is notified.
    waits: bool,
    begun: Notify,
    go: Notify,
}

impl Counting {
    fn ending(outcomes: impl IntoIterator<Item = Outcome>) -> Arc<Self> {
        Arc::new(Self {
            outcomes: Mutex::new(outcomes.into_iter().collect()),
            ..Self::default()
        })
    }

    fn waiting() -> Arc<Self> {
        Arc::new(Self {
            waits: true,
            ..Self::default()
        })
    }

    fn runs(&self) -> u32 {
        self.runs.load(Ordering::Relaxed)
    }
}

impl Handler for Counting {
    fn handle(&self, _: Context) -> HandlerFuture<'_> {
        Box::pin(async {
            self.runs.fetch_add(1, Ordering::Relaxed);
            self.begun.notify_one();
            if self.waits {
                self.go.notified().await;
            }
            let mut outcomes = lock(&self.outcomes);
            match outcomes.is_empty() {
                true => Outcome::Succeeded,
                false => outcomes.remove(0),
            }
        })
    }
}

fn place() -> Option<String> {
    Some("/q".to_owned())
}

/// The longest run of a handler, for the lease.
const LONGEST: Duration = Duration::from_secs(20);

fn inbox(key: &str) -> Arc<Inbox> {
    let settings = InboxSettings {
        store: InboxStore::Memory,
        key: key.to_owned(),
        ..InboxSettings::default()
    };
    let made = Inbox::of(&settings, place, LONGEST, 1).unwrap();
    made.expect("the store is no `none`")
}

fn around(key: &str, handler: &Arc<Counting>) -> Arc<dyn Handler> {
    let handler: Arc<dyn Handler> = Arc::<Counting>::clone(handler);
    inbox(key).around(handler)
}

fn with_body(body: &str) -> Context {
    Sample::with_body(body.as_bytes()).context()
}

#[tokio::test]
async fn a_message_that_is_done_does_not_run_again() {
    let counting = Counting::ending([]);
    let handler = around("body:/id", &counting);
    let first = handler.handle(with_body(r#"{"id": 1}"#)).await;
    assert_eq!(first, Outcome::Succeeded);
    let again = handler
        .handle(with_body(r#"{"id": 1, "more": true}"#))
        .await;
    assert_eq!(again, Outcome::Duplicate);
    let other = handler.handle(with_body(r#"{"id": 2}"#)).await;
    assert_eq!(other, Outcome::Succeeded);
    assert_eq!(counting.runs(), 2);
}

#[tokio::test]
async fn a_message_that_is_not_done_runs_again() {
    let failures = [
        Outcome::Failed(Failure::retryable("busy", "later")),
        Outcome::Failed(Failure::permanent("bad", "never")),
        Outcome::snooze(Duration::ZERO),
    ];
    let counting = Counting::ending(failures.clone());
    let handler = around("message-id", &counting);
    for expected in failures
        .into_iter()
        .chain([Outcome::Succeeded, Outcome::Duplicate])
    {
        assert_eq!(handler.handle(with_body("x")).await, expected);
    }
    assert_eq!(counting.runs(), 4);
}

#[tokio::test]
async fn a_message_that_the_handler_drops_is_done() {
    let counting = Counting::ending([Outcome::dropped("old")]);
    let handler = around("message-id", &counting);
    assert_eq!(
        handler.handle(with_body("x")).await,
        Outcome::dropped("old")
    );
    assert_eq!(handler.handle(with_body("x")).await, Outcome::Duplicate);
}

#[tokio::test]
async fn a_message_that_runs_elsewhere_is_tried_again_later() {
    let counting = Counting::waiting();
    let handler = around("message-id", &counting);
    let running = Arc::clone(&handler);
    let run = tokio::spawn(async move { running.handle(with_body("x")).await });
    counting.begun.notified().await;
    let [_, most] = AGAIN;
    assert_eq!(handler.handle(with_body("x")).await, Outcome::snooze(most));
    let long = not_mine(Claim::Runs(Duration::from_hours(1)));
    assert_eq!(long, Outcome::snooze(LONG / 2));
    counting.go.notify_one();
    assert_eq!(run.await.unwrap(), Outcome::Succeeded);
    assert_eq!(handler.handle(with_body("x")).await, Outcome::Duplicate);
    assert_eq!(counting.runs(), 1);
}

#[tokio::test]
async fn a_run_that_is_dropped_gives_its_key_back() {
    let counting = Counting::waiting();
    let inbox = inbox("message-id");
    let inner: Arc<dyn Handler> = Arc::<Counting>::clone(&counting);
    let handler = inbox.around(inner);
    let running = Arc::clone(&handler);
    let run = tokio::spawn(async move { running.handle(with_body("x")).await });
    counting.begun.notified().await;
    run.abort();
    assert!(run.await.is_err());
    // The release is a task of its own.
    inbox.notes.close();
    inbox.notes.wait().await;
    inbox.notes.reopen();
    counting.go.notify_one();
    assert_eq!(handler.handle(with_body("x")).await, Outcome::Succeeded);
    assert_eq!(counting.runs(), 2);
}

#[tokio::test]
async fn a_message_without_a_key_never_runs() {
    let counting = Counting::ending([]);
    let long = format!(r#"{{"id": "{}"}}"#, "x".repeat(513));
    for body in [
        "{}",
        r#"{"id": null}"#,
        r#"{"id": ""}"#,
        r#"{"id": true}"#,
        r#"{"id": {"a": 1}}"#,
        r#"{"id": "a\u0000b"}"#,
        &long,
    ] {
        let handler = around("body:/id", &counting);
        let Outcome::Failed(failure) = handler.handle(with_body(body)).await else {
            panic!("{body} has a key");
        };
        assert_eq!(
            (failure.class.as_ref(), failure.retryable),
            ("inbox-key", false)
        );
    }
    let handler = around("body:/id", &counting);
    let Outcome::Failed(failure) = handler.handle(with_body("no JSON")).await else {
        panic!("a body that is no JSON has a key");
    };
    assert!(failure.undecodable);
    let handler = around("message-id", &counting);
    let bare = Sample::of(Properties::default(), b"x", Decode::Bytes).context();
    assert!(matches!(handler.handle(bare).await, Outcome::Failed(_)));
    assert_eq!(counting.runs(), 0);
}

#[tokio::test]
async fn without_its_store_a_message_is_unavailable_and_never_runs() {
    // Nothing listens on a socket that is only bound, and nobody else gets its port.
    let bound = tokio::net::TcpSocket::new_v4().unwrap();
    bound.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let address = bound.local_addr().unwrap();
    let settings = InboxSettings {
        store: InboxStore::Postgres,
        url: Some(format!("postgres://u@{address}/x?sslmode=disable")),
        connect_timeout: Duration::from_secs(20),
        ..InboxSettings::default()
    };
    let inbox = Inbox::of(&settings, place, LONGEST, 1).unwrap().unwrap();
    let counting = Counting::ending([]);
    let inner: Arc<dyn Handler> = Arc::<Counting>::clone(&counting);
    let handler = inbox.around(inner);
    assert_eq!(
        handler.start().await,
        Ok(()),
        "the worker waits for its store"
    );
    let Outcome::Failed(failure) = handler.handle(with_body("x")).await else {
        panic!("it has run without its store");
    };
    assert!(failure.unavailable, "{failure:?}");
    let name = format!("PostgreSQL {address}/x: ");
    assert!(failure.error.contains(&name), "{failure:?}");
    assert_eq!(counting.runs(), 0);
    handler.stop().await;
}

#[test]
fn an_error_of_the_store_about_the_key_is_not_an_outage() {
    let trouble = |code: Option<&str>| Trouble {
        code: code.map(str::to_owned),
        text: "x".to_owned(),
        place: None,
    };
    for (code, class, retryable, unavailable) in [
        (Some("22P05"), "inbox-key", false, false),
        (Some("40001"), "inbox", true, false),
        (Some("53100"), "inbox", true, true),
        (None, "inbox", true, true),
    ] {
        let failure = failed(&trouble(code));
        let found = (
            failure.class.as_ref(),
            failure.retryable,
            failure.unavailable,
        );
        assert_eq!(found, (class, retryable, unavailable), "{code:?}");
    }
}

/// An inbox whose store takes connections, and answers nothing. It does so as long as the listener is
/// there.
fn silent() -> (Arc<Inbox>, std::net::TcpListener) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let settings = InboxSettings {
        store: InboxStore::Postgres,
        url: Some(format!("postgres://u@{address}/x?sslmode=disable")),
        connect_timeout: Duration::from_secs(60),
        ..InboxSettings::default()
    };
    let inbox = Inbox::of(&settings, place, LONGEST, 1).unwrap();
    (inbox.expect("the store is no `none`"), listener)
}

#[tokio::test(start_paused = true)]
async fn a_store_that_says_nothing_does_not_stop_the_start() {
    let (inbox, _listener) = silent();
    let counting: Arc<dyn Handler> = Counting::ending([]);
    let handler = inbox.around(counting);
    let began = tokio::time::Instant::now();
    assert_eq!(handler.start().await, Ok(()));
    assert!(began.elapsed() < Duration::from_secs(15));
}

#[tokio::test(start_paused = true)]
async fn a_run_that_has_ended_does_not_wait_for_its_store_beyond_its_time() {
    let (inbox, _listener) = silent();
    let sample = Sample::with_body(b"x");
    let context = sample.context();
    let lease = |key: &str| Lease::of(Arc::clone(&inbox), key.to_owned(), 1);
    let began = tokio::time::Instant::now();
    // A failure waits for its release only for a moment.
    lease("failed").end(false, &context).await;
    assert!(began.elapsed() <= RELEASE);
    // A success is still one when its time is over.
    let lease = lease("done");
    let ended = tokio::spawn(async move { lease.end(true, &context).await });
    tokio::task::yield_now().await;
    sample.time_out();
    ended.await.unwrap();
    assert!(began.elapsed() <= RELEASE * 2);
    assert!(lock(&inbox.done).contains("done"));
    assert!(!lock(&inbox.done).contains("failed"));
}

#[tokio::test]
async fn a_message_that_is_done_is_known_before_its_store_knows() {
    let counting = Counting::ending([]);
    let inbox = inbox("message-id");
    let inner: Arc<dyn Handler> = Arc::<Counting>::clone(&counting);
    let handler = inbox.around(inner);
    let sample = Sample::with_body(b"x");
    let key = inbox.terms.key(&sample.context()).unwrap();
    lock(&inbox.done).insert(key.clone());
    assert_eq!(handler.handle(sample.context()).await, Outcome::Duplicate);
    assert!(sample.has_asked_nothing());
    lock(&inbox.done).remove(&key);
    assert_eq!(handler.handle(with_body("x")).await, Outcome::Succeeded);
    assert!(lock(&inbox.done).is_empty(), "the store knows it");
    assert_eq!(counting.runs(), 1);
}
