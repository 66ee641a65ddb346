//! Dead letters by the API.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use lapwing::{Failure, Worker, handler::Json};
use reqwest::Method;
use serde_json::{Value, json};

use super::{settings, start_both};
use crate::support::{
    ADMIN, Admin, DEADLINE, HttpHandler, PublishSpec, QueueType, Reply, RunningWorker, TOKEN,
    VHost, WorkerProcess, admin::answer, consumer, field, vhost, within,
};

pub(super) const DEAD: &str = "q.dead";
pub(super) const BASE: &str = "/api/v1/dead/q";

/// A worker with an admin server. Its handler fails for good until the flag is set.
pub(super) async fn start(vhost: &VHost) -> (RunningWorker, Admin, Arc<AtomicBool>) {
    let settings = settings(vhost, "");
    let is_mended = Arc::new(AtomicBool::new(false));
    let mended = Arc::clone(&is_mended);
    let handler = move |Json(_): Json<Value>| {
        let mended = mended.load(Ordering::SeqCst);
        async move {
            match mended {
                true => Ok(()),
                false => Err(Failure::permanent("test", "the warehouse is closed")),
            }
        }
    };
    let worker = Worker::new(settings.clone()).handler("q", handler);
    let (worker, admin) = start_both(settings, worker).await;
    (worker, admin, is_mended)
}

/// Has this many messages dead-lettered.
pub(super) async fn fail(vhost: &VHost, count: usize) -> Vec<String> {
    let message = |number| {
        PublishSpec::of(format!("{{\"number\":{number}}}"))
            .header("tenant", if number % 2 == 0 { "acme" } else { "other" })
    };
    let ids = vhost.publish_many("q", count, message).await;
    let count = u32::try_from(count).expect("not that many");
    vhost.wait_for_counts(DEAD, count, 0, DEADLINE).await;
    ids
}

/// The answer to a POST with the token and this JSON.
pub(super) async fn post(admin: &Admin, path: &str, body: &Value) -> (u16, Value) {
    let request = admin.request(Method::POST, &format!("{BASE}/{path}"));
    let request = request.bearer_auth(TOKEN);
    let request = request.header("content-type", "application/json");
    answer(request.body(body.to_string())).await
}

/// Starts a job, waits for its end, and returns it.
pub(super) async fn job(admin: &Admin, path: &str, body: &Value) -> Value {
    let (status, job) = post(admin, path, body).await;
    assert_eq!(status, 202, "{job}");
    let path = format!("{BASE}/jobs/{}", job["id"].as_str().expect("it has an id"));
    let ended = |answer: &(u16, Value)| answer.1["state"] != "running";
    admin.until(&path, ended).await.1
}

pub(super) async fn look(admin: &Admin) {
    let job = job(admin, "look", &json!({})).await;
    assert_eq!(job["state"], "done", "{job}");
}

#[tokio::test]
async fn a_look_is_read_page_by_page_and_by_cause() {
    let vhost = vhost().await;
    let (worker, admin, _) = start(&vhost).await;
    let ids = fail(&vhost, 5).await;
    let (status, told) = admin.get(&format!("{BASE}/letters")).await;
    assert_eq!(status, 404, "{told}");
    let desks = admin.read("/api/v1/dead").await;
    assert_eq!(desks["consumers"][0]["queue"], DEAD);
    assert_eq!(desks["consumers"][0]["look"], Value::Null);

    look(&admin).await;

    let desk = admin.read(BASE).await;
    assert_eq!(
        (&desk["look"]["letters"], &desk["look"]["total"]),
        (&json!(5), &json!(5))
    );
    let groups = admin.read(&format!("{BASE}/groups")).await;
    assert_eq!(
        (&groups["letters"], &groups["causes"]),
        (&json!(5), &json!(1))
    );
    assert_eq!(groups["groups"][0]["error"], "the warehouse is closed");
    let bars = groups["groups"][0]["bars"].as_array().expect("it has bars");
    assert_eq!(bars.iter().filter_map(Value::as_u64).sum::<u64>(), 5);

    let (mut seen, mut cursor) = (Vec::new(), String::new());
    for expected in [2, 2, 1] {
        let page = admin.read(&format!("{BASE}/letters?limit=2{cursor}")).await;
        let letters = page["letters"].as_array().expect("it has letters");
        assert_eq!(
            (letters.len(), &page["total"]),
            (expected, &json!(5)),
            "{page}"
        );
        seen.extend(
            letters
                .iter()
                .map(|it| it["id"].as_str().unwrap_or_default().to_owned()),
        );
        cursor = page["next"]
            .as_str()
            .map_or_else(String::new, |next| format!("&cursor={next}"));
    }
    // Handlers run side by side, so the letters are in any order.
    seen.sort();
    assert_eq!((seen, cursor.as_str()), (ids.clone(), ""));
    let found = admin.read(&format!("{BASE}/letters?text={}", ids[3])).await;
    assert_eq!(found["letters"][0]["id"], *ids[3]);
    for (query, status) in [
        ("text=nothing", 200),
        ("colour=red", 400),
        ("limit=0", 400),
        ("since=x", 400),
        ("cursor=x", 400),
        ("cursor=x.1", 410),
    ] {
        let (got, told) = admin.get(&format!("{BASE}/letters?{query}")).await;
        assert_eq!(got, status, "{query}: {told}");
    }

    let (status, letter) = post(&admin, "show", &json!({ "id": ids[1] })).await;
    assert_eq!(status, 200, "{letter}");
    assert_eq!(letter["body"]["text"], "{\"number\":1}");
    assert_eq!(letter["history"][0]["attempt"], 1);
    let header = |name: &str| {
        let headers = letter["headers"].as_array().expect("it has headers");
        headers.iter().any(|it| it["name"] == name)
    };
    assert!(header("tenant") && header("lapwing-reason") && !header("lapwing-history"));
    // The look kept it, so it cost no job.
    assert_eq!(admin.read(BASE).await["job"]["kind"], "look");
    let nothing = json!({ "id": "nothing", "read": false });
    let (status, _) = post(&admin, "show", &nothing).await;
    assert_eq!(status, 404);
    let (status, _) = post(&admin, "show", &json!({ "id": "nothing" })).await;
    assert_eq!(status, 404);
    let some = job(
        &admin,
        "look",
        &json!({ "select": { "match": ["tenant=acme"] } }),
    )
    .await;
    assert_eq!(some["result"]["selected"], 3);
    // The values are texts of messages, and this needs no token.
    let look = admin.read(BASE).await["look"].clone();
    assert_eq!(look["match"], json!(["tenant=…"]));
    let by_look = json!({ "select": { "look": look["look"] } });
    let some = job(&admin, "look", &by_look).await;
    assert_eq!(some["result"]["selected"], 3);
    let (status, told) = post(&admin, "drop", &by_look).await;
    assert_eq!(status, 410, "{told}");
    vhost.wait_for_counts(DEAD, 5, 0, DEADLINE).await;
    worker.drain().await;
}

#[tokio::test]
async fn letters_are_replayed_after_their_canaries_and_dropped() {
    let vhost = vhost().await;
    let (worker, admin, is_mended) = start(&vhost).await;
    let ids = fail(&vhost, 6).await;
    look(&admin).await;

    let canary = json!({ "all": true, "canary": 2 });
    let failed = job(&admin, "replay", &canary).await;
    assert_eq!(
        (&failed["state"], &failed["result"]["changed"]),
        (&json!("done"), &json!(2))
    );
    let canaries = &failed["result"]["canaries"];
    assert_eq!(
        (&canaries["succeeded"], &canaries["sent"]),
        (&json!(0), &json!(2))
    );
    assert_eq!(
        canaries["failed"][0]["error"],
        "test: the warehouse is closed"
    );
    assert!(
        failed.get("by").is_none(),
        "addresses of clients need a token"
    );
    // What left the queue has left the look too, without another look.
    assert_eq!(admin.read(BASE).await["look"]["letters"], 4);
    vhost.wait_for_counts(DEAD, 6, 0, DEADLINE).await;

    let dropped = job(&admin, "drop", &json!({ "select": { "ids": [ids[5]] } })).await;
    assert_eq!(dropped["result"]["changed"], 1);
    is_mended.store(true, Ordering::SeqCst);
    let replayed = job(&admin, "replay", &canary).await;
    assert_eq!(replayed["result"]["changed"], 5, "{replayed}");
    assert_eq!(replayed["result"]["canaries"]["succeeded"], 2);
    vhost.wait_for_counts(DEAD, 0, 0, DEADLINE).await;
    let done = |report: &lapwing::ConsumerReport| report.ledger.acked == 5;
    worker.wait_for_report("all are handled", "q", done).await;

    for (path, body) in [
        ("replay", json!({})),
        ("replay", json!({ "all": true, "select": { "ids": ["x"] } })),
        ("replay", json!({ "all": true, "canary": 0 })),
        ("replay", json!({ "all": true, "rate": 0 })),
        ("replay", json!({ "all": true, "colour": "red" })),
        ("drop", json!({ "select": { "groups": [""] } })),
        ("edit", json!({ "id": "x", "from": "y" })),
        ("look", json!({ "select": { "match": ["=x"] } })),
    ] {
        let (status, told) = post(&admin, path, &body).await;
        assert_eq!(status, 422, "{path} {body}: {told}");
        assert!(told["error"].is_string(), "{told}");
    }
    worker.drain().await;
}

#[tokio::test]
async fn a_letter_is_edited_and_exported() {
    let vhost = vhost().await;
    let (worker, admin, _) = start(&vhost).await;
    let ids = fail(&vhost, 3).await;
    look(&admin).await;
    let show = json!({ "id": ids[0] });
    let (_, before) = post(&admin, "show", &show).await;
    // Longer than the body of any other request may be.
    let text = format!("{{\"number\":100,\"why\":\"{}\"}}", "x".repeat(40_000));
    let mut edit = json!({ "id": ids[0], "from": before["body"]["hash"], "text": text });
    let edited = job(&admin, "edit", &edit).await;
    assert_eq!(edited["state"], "done", "{edited}");
    let (_, after) = post(&admin, "show", &show).await;
    assert_eq!(after["body"]["text"], *text);
    // Somebody edits what they saw before.
    edit["text"] = json!("late");
    let late = job(&admin, "edit", &edit).await;
    assert_eq!(late["state"], "failed");
    let error = late["error"].as_str().unwrap_or_default();
    assert!(error.contains("changed meanwhile"), "{error}");

    let request = admin
        .request(Method::POST, &format!("{BASE}/export"))
        .bearer_auth(TOKEN);
    let request = request
        .header("content-type", "application/json")
        .body("{}");
    let response = within("the answer", request.send())
        .await
        .expect("an answer");
    assert_eq!(response.headers()["content-type"], "application/x-ndjson");
    let lines = within("the lines", response.text())
        .await
        .expect("all lines");
    let lines: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line is JSON"))
        .collect();
    let mut exported: Vec<_> = lines
        .iter()
        .filter_map(|line| line["id"].as_str())
        .collect();
    // The edited letter is the last one now.
    assert_eq!(exported.last(), Some(&ids[0].as_str()));
    assert_eq!(lines[2]["body"]["text"], *text);
    exported.sort_unstable();
    assert_eq!(exported, ids);
    vhost.wait_for_counts(DEAD, 3, 0, DEADLINE).await;
    worker.drain().await;
}

#[tokio::test]
async fn a_job_can_be_watched_and_stopped_and_keeps_others_out() {
    let vhost = vhost().await;
    let (worker, admin, is_mended) = start(&vhost).await;
    fail(&vhost, 4).await;
    is_mended.store(true, Ordering::SeqCst);
    let slow = json!({ "all": true, "rate": 0.01 });
    let (status, started) = post(&admin, "replay", &slow).await;
    assert_eq!(status, 202, "{started}");
    let path = format!("{BASE}/jobs/{}", started["id"].as_str().expect("an id"));
    let first = |answer: &(u16, Value)| answer.1["progress"]["changed"] == 1;
    admin.until(&path, first).await;
    let (status, told) = post(&admin, "look", &json!({})).await;
    assert_eq!(status, 409, "{told}");
    let (status, _) = answer(admin.request(Method::DELETE, &path)).await;
    assert_eq!(status, 401, "without a token");

    let (status, _) = answer(admin.request(Method::DELETE, &path).bearer_auth(TOKEN)).await;
    assert_eq!(status, 202);
    let ended = |answer: &(u16, Value)| answer.1["state"] == "stopped";
    let (_, stopped) = admin.until(&path, ended).await;
    assert_eq!(stopped["result"]["changed"], 1, "{stopped}");
    vhost.wait_for_counts(DEAD, 3, 0, DEADLINE).await;
    look(&admin).await;
    assert_eq!(admin.read(&path).await["state"], "stopped");
    assert_eq!(admin.get(&format!("{BASE}/jobs/1")).await.0, 404);
    worker.drain().await;
}

/// Bodies are shown, and a look costs deliveries: so also those who only look need the token.
#[tokio::test]
async fn nobody_looks_without_the_token() {
    let vhost = vhost().await;
    let (worker, admin, _) = start(&vhost).await;
    for path in ["look", "show", "replay", "edit", "drop", "export", "import"] {
        let request = admin.request(Method::POST, &format!("{BASE}/{path}"));
        assert_eq!(answer(request.body("{}")).await.0, 401, "{path}");
    }
    for (path, body) in [("look", json!({})), ("replay", json!({ "all": true }))] {
        let (status, told) = post(&admin, &format!("../other/{path}"), &body).await;
        assert_eq!(status, 404, "{path}: {told}");
    }
    assert_eq!(admin.get("/api/v1/dead/other").await.0, 404);
    worker.drain().await;
}

/// A look at a queue that does not exist ends with an error, and the worker goes on.
#[tokio::test]
async fn a_job_that_fails_says_why() {
    let vhost = vhost().await;
    let (worker, admin, _) = start(&vhost).await;
    vhost.delete(DEAD).await;
    let failed = job(&admin, "look", &json!({})).await;
    assert_eq!(failed["state"], "failed");
    let error = failed["error"].as_str().unwrap_or_default();
    assert!(error.contains("there is no queue \"q.dead\""), "{error}");
    assert!(worker.handle.readiness().ready);
    worker.drain().await;
}

/// A roll-out ends the process soon after the drain. A job that is cut off then would replay a batch twice.
#[tokio::test]
async fn a_drain_ends_a_job_after_its_batch_and_logs_what_it_changed() {
    let vhost = vhost().await;
    let server = HttpHandler::answering(|_| Reply::status(422)).await;
    let settings = consumer(&vhost, "q").http(&server).with(ADMIN);
    let mut worker = WorkerProcess::start_with_admin(&settings.toml());
    let admin = Admin::of(&worker).await;
    worker.wait_for_consumers(&vhost, "q", 1).await;
    fail(&vhost, 4).await;
    let slow = json!({ "all": true, "rate": 0.01, "to": "q.other" });
    vhost.declare("q.other", QueueType::Classic).await;
    let (status, started) = post(&admin, "replay", &slow).await;
    assert_eq!(status, 202, "{started}");
    let id = started["id"].as_str().expect("an id");
    let first = |answer: &(u16, Value)| answer.1["progress"]["changed"] == 1;
    admin.until(&format!("{BASE}/jobs/{id}"), first).await;
    worker.drain(DEADLINE).await;
    let line = worker
        .wait_for_message("changed dead letters", DEADLINE)
        .await;
    assert_eq!(field(&line, "changed"), 1, "{line}");
    vhost.wait_for_counts(DEAD, 3, 0, DEADLINE).await;
    // Copies of one job can be told by its id.
    let copies = vhost.drain_all("q.other").await;
    assert_eq!(copies[0].header("lapwing-replay"), &json!(id));
}
