//! Changes by the API: pause, resume, concurrency, cancel; and who may make them.

use lapwing::Settings;
use lapwing::{Context, Failure, Worker};
use reqwest::Method;
use serde_json::{Value, json};

use super::{gated, settings, start_both};
use crate::support::{
    ADMIN, Admin, DEADLINE, Gate, Notes, PublishSpec, TOKEN, admin::answer, consumer, vhost,
    wait_until,
};

const PAUSE: &str = "/api/v1/consumers/q/pause";

#[tokio::test]
async fn a_consumer_stops_consuming_when_it_is_paused_and_consumes_when_it_is_resumed() {
    let vhost = vhost().await;
    let settings = settings(&vhost, "");
    let notes = Notes::default();
    let noting = notes.clone();
    let handler = move |context: Context| {
        noting.note(&context);
        async {}
    };
    let worker = Worker::new(settings.clone()).handler("q", handler);
    let (worker, admin) = start_both(settings, worker).await;

    let (status, consumer) = admin.post(PAUSE).await;
    assert_eq!((status, &consumer["state"]), (200, &json!("paused")));
    assert_eq!(consumer["reason"], "paused by an operator");
    vhost.wait_for_consumers("q", 0, DEADLINE).await;
    vhost.publish_many("q", 3, |_| PublishSpec::of("x")).await;
    vhost.wait_for_counts("q", 3, 0, DEADLINE).await;
    assert_eq!(notes.runs().len(), 0);

    let (status, _) = admin.post("/api/v1/consumers/q/resume").await;
    assert_eq!(status, 200);
    notes.wait_for(3).await;
    // A second resume changes nothing: the consumer keeps consuming.
    let (status, consumer) = admin.post("/api/v1/consumers/q/resume").await;
    assert_eq!((status, &consumer["state"]), (200, &json!("consuming")));
    assert_eq!(admin.post("/api/v1/consumers/other/pause").await.0, 404);
    worker.drain().await;
    assert_eq!(
        admin.post(PAUSE).await.0,
        503,
        "there is no consumer any more"
    );
}

#[tokio::test]
async fn concurrency_is_changed_within_the_prefetch() {
    let vhost = vhost().await;
    let settings = settings(&vhost, "[consumers.q]\nconcurrency = 1\nprefetch = 8");
    let (gate, notes) = (Gate::default(), Notes::default());
    let worker = Worker::new(settings.clone()).handler("q", gated(&notes, &gate));
    let (worker, admin) = start_both(settings, worker).await;
    vhost.publish_many("q", 8, |_| PublishSpec::of("x")).await;
    notes.wait_for(1).await;

    let (status, consumer) = admin
        .patch("/api/v1/consumers/q", r#"{"concurrency": 5}"#)
        .await;
    assert_eq!((status, &consumer["concurrency"]), (200, &json!(5)));
    notes.wait_for(5).await;
    let busy = |consumer: &Value| consumer["running"] == 5 && consumer["buffered"] == 3;
    let look = async || admin.read("/api/v1/consumers/q").await;
    let consumer = wait_until("five run", DEADLINE, look, busy).await;
    assert_eq!(consumer["in_flight"], 8);

    let refused = [
        (r#"{"concurrency": 0}"#, 422),
        (r#"{"concurrency": 9}"#, 422),
        (r#"{"concurrency": 70000}"#, 422),
        (r#"{"concurrency": "5"}"#, 422),
        (r#"{"concurrency": 5, "prefetch": 9}"#, 422),
        ("{}", 422),
        ("{", 400),
        ("", 400),
    ];
    for (body, wanted) in refused {
        let (status, told) = admin.patch("/api/v1/consumers/q", body).await;
        assert_eq!(status, wanted, "{body}: {told}");
        assert!(told["error"].is_string(), "{told}");
    }
    let request = admin.request(Method::PATCH, "/api/v1/consumers/q");
    let (status, _) = answer(request.bearer_auth(TOKEN).body("{}")).await;
    assert_eq!(status, 415, "without a content type");
    let (status, _) = admin
        .patch("/api/v1/consumers/other", r#"{"concurrency": 1}"#)
        .await;
    assert_eq!(status, 404);
    assert_eq!(admin.read("/api/v1/consumers/q").await["concurrency"], 5);
    gate.open();
    worker.drain().await;
}

#[tokio::test]
async fn a_cancelled_message_comes_back_and_runs_again() {
    let vhost = vhost().await;
    let settings = settings(&vhost, "[consumers.q]\nconcurrency = 1\nprefetch = 2");
    let notes = Notes::default();
    let noting = notes.clone();
    // The first run of the first message never ends.
    let handler = move |context: Context| {
        let times = noting.note(&context);
        async move {
            if context.message().id() == Some("q-00000") && times == 1 {
                std::future::pending::<()>().await;
            }
            Ok::<_, Failure>(())
        }
    };
    let worker = Worker::new(settings.clone()).handler("q", handler);
    let (worker, admin) = start_both(settings, worker).await;
    vhost.publish_many("q", 2, |_| PublishSpec::of("x")).await;
    notes.wait_for(1).await;
    let look = async || admin.read("/api/v1/in-flight?consumer=q").await;
    let both = |page: &Value| page["total"] == 2;
    let page = wait_until("both are in flight", DEADLINE, look, both).await;
    let cancel = async |index: usize| {
        let delivery = page["messages"][index]["delivery"]
            .as_str()
            .expect("it has one");
        admin
            .post(&format!("/api/v1/in-flight/q/{delivery}/cancel"))
            .await
    };

    let (status, told) = cancel(1).await;
    assert_eq!(status, 409, "{told}");
    assert_eq!(cancel(0).await, (200, json!({ "cancelled": true })));

    let runs = notes.wait_for(3).await;
    assert!(runs.iter().all(|run| run.attempt == 1), "{runs:?}");
    let done = |report: &lapwing::ConsumerReport| report.ledger.acked == 2;
    let report = worker.wait_for_report("both are done", "q", done).await;
    assert_eq!(report.ledger.returned, 1, "{report:?}");
    assert_eq!(cancel(0).await.0, 404, "it is gone");
    for path in ["q/0-0", "q/x", "other/1-1"] {
        let (status, _) = admin
            .post(&format!("/api/v1/in-flight/{path}/cancel"))
            .await;
        assert_eq!(status, 404, "{path}");
    }
    let page = admin.read("/api/v1/outcomes?kind=interrupted").await;
    assert_eq!(page["outcomes"][0]["settlement"], "return", "{page}");
    worker.drain().await;
}

/// Starts a worker with this `[admin]`, calls `ask`, and returns whether the consumer is paused
/// then.
async fn asked(admin_settings: &str, ask: impl AsyncFn(&Admin) -> u16) -> (u16, bool) {
    let vhost = vhost().await;
    let settings: Settings = consumer(&vhost, "q").with(admin_settings).settings();
    let worker = Worker::new(settings.clone()).handler("q", async || {});
    let (worker, admin) = start_both(settings, worker).await;
    let status = ask(&admin).await;
    let consumer = admin.read("/api/v1/consumers/q").await;
    worker.drain().await;
    (status, consumer["state"] == "paused")
}

#[tokio::test]
async fn who_may_change_nothing_changes_nothing() {
    let post = async |admin: &Admin, name: &str, value: &str| {
        let request = admin.request(Method::POST, PAUSE).bearer_auth(TOKEN);
        answer(request.header(name, value)).await.0
    };
    let bare = async |admin: &Admin| answer(admin.request(Method::POST, PAUSE)).await.0;
    assert_eq!(asked(ADMIN, bare).await, (401, false), "without a token");
    let wrong = async |admin: &Admin| {
        for token in [
            "",
            "wrong",
            "correct-horse-batterx",
            "correct-horse-batteryx",
        ] {
            let request = admin.request(Method::POST, PAUSE);
            let header = format!("Bearer {token}");
            let status = answer(request.header("authorization", header)).await.0;
            assert_eq!(status, 401, "{token:?}");
        }
        let basic = admin
            .request(Method::POST, PAUSE)
            .basic_auth("u", Some(TOKEN));
        answer(basic).await.0
    };
    assert_eq!(
        asked(ADMIN, wrong).await,
        (401, false),
        "with a wrong token"
    );
    let none = "[admin]\nlisten = '127.0.0.1:0'";
    let right = async |admin: &Admin| admin.post(PAUSE).await.0;
    assert_eq!(
        asked(none, right).await,
        (403, false),
        "with none configured"
    );
    assert_eq!(asked(ADMIN, right).await, (200, true), "with the right one");

    let foreign = async |admin: &Admin| {
        let own = admin.address();
        for origin in ["http://evil.example", "null", "http://127.0.0.1", "file://"] {
            assert_eq!(post(admin, "origin", origin).await, 403, "{origin}");
        }
        let near = format!("http://{own}.evil.example");
        post(admin, "origin", &near).await
    };
    assert_eq!(
        asked(ADMIN, foreign).await,
        (403, false),
        "with a foreign Origin"
    );
    let own = async |admin: &Admin| {
        let own = format!("http://{}", admin.address());
        post(admin, "origin", &own).await
    };
    assert_eq!(asked(ADMIN, own).await, (200, true), "with its own Origin");
    let named = format!("{ADMIN}origins = ['https://console.example']");
    let configured = async |admin: &Admin| post(admin, "origin", "https://console.example").await;
    assert_eq!(
        asked(&named, configured).await,
        (200, true),
        "with a configured Origin"
    );

    let rebound = async |admin: &Admin| {
        for host in [
            "evil.example",
            "127.0.0.1.evil.example:80",
            "10.0.0.1",
            "a@b:c",
        ] {
            let request = admin.request(Method::GET, "/api/v1/consumers");
            let status = answer(request.header("host", host)).await.0;
            assert_eq!(status, 403, "{host}");
        }
        post(admin, "host", "evil.example").await
    };
    assert_eq!(
        asked(ADMIN, rebound).await,
        (403, false),
        "with a foreign Host"
    );
    let local = async |admin: &Admin| post(admin, "host", "localhost:1234").await;
    assert_eq!(asked(ADMIN, local).await, (200, true), "with a local Host");
}

#[tokio::test]
async fn a_token_in_a_file_may_change_while_the_worker_runs() {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), "correct-horse-battery\n").expect("it is ours");
    let changes = format!(
        "[admin]\nlisten = '127.0.0.1:0'\ntoken_file = {:?}",
        file.path()
    );
    let rotated = async |admin: &Admin| {
        assert_eq!(admin.post("/api/v1/consumers/q/resume").await.0, 200);
        std::fs::write(file.path(), "battery-horse-correct\n").expect("it is ours");
        assert_eq!(admin.post(PAUSE).await.0, 401);
        std::fs::write(file.path(), "\n").expect("it is ours");
        let request = admin.request(Method::POST, PAUSE);
        // It is checked as at the start: an empty token is none.
        assert_eq!(
            answer(request.header("authorization", "Bearer ")).await.0,
            503
        );
        std::fs::remove_file(file.path()).expect("it is ours");
        let (status, told) = admin.post(PAUSE).await;
        let error = told["error"].as_str().unwrap_or_default();
        assert!(error.starts_with("the token cannot be read"), "{error}");
        status
    };
    assert_eq!(asked(&changes, rotated).await, (503, false));
}
