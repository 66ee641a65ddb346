//! What outlasts a worker that is killed: pauses and failures, in files that the settings name.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    ADMIN, Admin, DEADLINE, HttpHandler, PublishSpec, Reply, TOKEN, VHost, WorkerProcess,
    admin::answer, consumer, vhost, wait_until,
};

/// A worker that keeps pauses and failures in this folder.
async fn start(vhost: &VHost, server: &HttpHandler, folder: &str) -> (WorkerProcess, Admin) {
    let files = format!(
        "[admin]\npause_file = '{folder}/paused.json'\nfailures_file = '{folder}/failures.jsonl'\n\
         [timeouts]\ncall = '20s'"
    );
    let config = consumer(vhost, "q").http(server).with(ADMIN).with(&files);
    let worker = WorkerProcess::start_with_admin(&config.toml());
    let admin = Admin::of(&worker).await;
    (worker, admin)
}

/// The ids of the failures that the worker knows, newest first.
async fn failed(admin: &Admin) -> Vec<String> {
    let page = admin.read("/api/v1/outcomes?failures=true").await;
    let outcomes = page["outcomes"].as_array().expect("it is a list").iter();
    let ids = outcomes.map(|outcome| outcome["id"].as_str().expect("it has an id").to_owned());
    ids.collect()
}

#[tokio::test]
async fn pauses_and_failures_outlast_a_worker_that_is_killed() {
    let vhost = vhost().await;
    let server = HttpHandler::answering(|_| Reply::status(400)).await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().to_str().expect("it is text");
    let (mut first, admin) = start(&vhost, &server, path).await;
    first.wait_for_consumers(&vhost, "q", 1).await;
    vhost.publish_with(PublishSpec::to("q").id("before")).await;
    let look = async || failed(&admin).await;
    wait_until("it has failed", DEADLINE, look, |ids| ids == &["before"]).await;
    let written = async || std::fs::read_to_string(folder.path().join("failures.jsonl"));
    let whole = |text: &std::io::Result<String>| text.as_ref().is_ok_and(|it| it.ends_with('\n'));
    let kept = wait_until("the failure is kept", DEADLINE, written, whole).await;
    assert!(kept.is_ok_and(|kept| kept.contains("before")));
    let (status, paused) = admin.post("/api/v1/pause").await;
    assert_eq!(
        (status, &paused["consumers"][0]["state"]),
        (200, &json!("paused"))
    );
    first.kill();
    first.exited(DEADLINE).await;

    let (second, admin) = start(&vhost, &server, path).await;
    let about = admin
        .until("/api/v1/consumers/q", |(_, it)| it["state"] == "paused")
        .await;
    assert_eq!(about.1["counts"]["sessions"], 0, "it has not subscribed");
    assert_eq!(admin.get("/readyz").await.0, 200);
    assert_eq!(failed(&admin).await, ["before"]);
    let page = admin.read("/api/v1/outcomes?id=before").await;
    // The first worker was killed: it may not have written its last failure.
    let started = admin.read("/api/v1/worker").await["started_at"].take();
    assert_eq!(page["failures_since"], started, "{page}");
    assert_eq!(page["file_error"], Value::Null, "{page}");
    let page = admin.read("/api/v1/message?id=before&file=false").await;
    assert_eq!(page["outcomes"], json!([]), "{page}");
    let page = admin.read("/api/v1/message?id=before").await;
    assert_eq!(page["outcomes"][0]["id"], "before", "{page}");
    assert_eq!(page["outcomes"][0].get("run"), None, "{page}");
    vhost.publish_with(PublishSpec::to("q").id("after")).await;
    let (status, resumed) = admin.post("/api/v1/resume").await;
    assert_eq!(status, 200, "{resumed}");
    second.wait_for_consumers(&vhost, "q", 1).await;
    let look = async || failed(&admin).await;
    let both = |ids: &Vec<String>| ids == &["after", "before"];
    wait_until("both are known", DEADLINE, look, both).await;
    let kept = std::fs::read_to_string(folder.path().join("paused.json"));
    assert_eq!(kept.expect("it was written"), r#"{"paused":[]}"#);
    let mut second = second;
    second.drain(DEADLINE).await;
}

#[tokio::test]
async fn a_pause_that_cannot_be_kept_is_made_and_said() {
    let vhost = vhost().await;
    let server = HttpHandler::answering(|_| Reply::ok()).await;
    let (mut worker, admin) = start(&vhost, &server, "/proc/nowhere").await;
    worker.wait_for_consumers(&vhost, "q", 1).await;
    let (status, body) = admin.post("/api/v1/consumers/q/pause").await;
    assert_eq!(status, 500, "{body}");
    let error = body["error"].as_str().expect("it is text");
    assert!(error.starts_with("paused, but a restart"), "{error}");
    let state = admin.read("/api/v1/consumers/q").await["state"].take();
    assert_eq!(state, "paused");
    let all = admin.request(Method::POST, "/api/v1/resume");
    let (status, _) = answer(all).await;
    assert_eq!(status, 401, "without a token");
    let all = admin
        .request(Method::POST, "/api/v1/resume?x=1")
        .bearer_auth(TOKEN);
    assert_eq!(answer(all).await.0, 400);
    worker.drain(DEADLINE).await;
}

/// At the start of a worker such a refusal ends it. This worker started long ago.
#[tokio::test]
async fn a_consumer_that_began_paused_and_is_refused_after_its_resume_ends_no_worker() {
    let vhost = vhost().await;
    let server = HttpHandler::answering(|_| Reply::ok()).await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("paused.json");
    std::fs::write(&file, r#"{"paused":["q"]}"#).expect("it can be written");
    let verify = format!(
        "[consumers.q]\ntopology = 'verify'\n[admin]\npause_file = '{}'",
        file.display()
    );
    let config = consumer(&vhost, "q")
        .http(&server)
        .with(ADMIN)
        .with(&verify);
    let mut worker = WorkerProcess::start_with_admin(&config.toml());
    let admin = Admin::of(&worker).await;
    admin
        .until("/api/v1/consumers/q", |(_, it)| it["state"] == "paused")
        .await;
    let (status, resumed) = admin.post("/api/v1/resume").await;
    assert_eq!(status, 200, "{resumed}");
    // No queue exists.
    let is_refused =
        |(_, it): &(u16, Value)| it["state"] == "connecting" && it["reason"].is_string();
    admin.until("/api/v1/consumers/q", is_refused).await;
    worker.drain(DEADLINE).await;
}
