//! The admin server of `lapwing run`: during a drain, its addresses, its log; and `lapwing health`.

use std::net::TcpListener;

use reqwest::Method;
use serde_json::Value;
use tokio::process::Command;

use crate::support::{
    ADMIN, Admin, BUSY, DEADLINE, Gate, HttpHandler, Reply, VHost, WorkerProcess, admin::answer,
    consumer, field, log_message, vhost, within,
};

/// A worker process that consumes `q`, and its admin server.
async fn start(vhost: &VHost, handler: &HttpHandler) -> (WorkerProcess, Admin) {
    let consumer = consumer(vhost, "q").http(handler).with(ADMIN);
    let worker = WorkerProcess::start_with_admin(&consumer.toml());
    let admin = Admin::of(&worker).await;
    worker.wait_for_consumers(vhost, "q", 1).await;
    (worker, admin)
}

#[tokio::test]
async fn a_drain_makes_it_unready_at_once_and_is_answered_to_its_end() {
    let vhost = vhost().await;
    let gate = Gate::default();
    let handler = HttpHandler::behind(&gate, |_| Reply::ok()).await;
    let (mut worker, admin) = start(&vhost, &handler).await;
    admin.until("/readyz", |(status, _)| *status == 200).await;
    vhost.publish("q", "x").await;
    handler.wait_for_requests(1, DEADLINE).await;

    worker.terminate();
    let stopping = "waiting for running handlers; a second signal cancels them";
    worker.wait_for_message(stopping, DEADLINE).await;

    let draining = |(_, body): &(u16, Value)| body["consumers"]["q"]["state"] == "draining";
    let (status, body) = admin.until("/readyz", draining).await;
    assert_eq!((status, &body["draining"]), (503, &Value::Bool(true)));
    assert_eq!(admin.get("/livez").await.0, 200);
    assert_eq!(admin.get("/startupz").await.0, 200);
    let page = admin.read("/api/v1/in-flight").await;
    assert_eq!(page["messages"][0]["phase"], "handling", "{page}");
    gate.open();
    let exit = worker.exited(DEADLINE).await;
    assert!(exit.status.success(), "{exit:?}");
    let ledger = worker.ledger();
    assert_eq!((ledger.received, ledger.acked), (1, 1));
    let gone = admin.request(Method::GET, "/livez").send().await;
    assert!(gone.is_err(), "{gone:?}");
}

#[tokio::test]
async fn an_open_stream_of_events_does_not_hold_up_the_exit() {
    let vhost = vhost().await;
    let handler = HttpHandler::answering(|_| Reply::ok()).await;
    let (mut worker, admin) = start(&vhost, &handler).await;
    let mut events = crate::support::Events::open(&admin).await;
    events.next("state", |_| true).await;

    worker.terminate();
    events.ended().await;
    let exit = worker.exited(DEADLINE).await;

    assert!(exit.status.success(), "{exit:?}");
    assert!(exit.took < BUSY, "{exit:?}");
}

#[tokio::test]
async fn a_worker_works_without_an_address_that_is_taken_and_listens_once_it_is_free() {
    let vhost = vhost().await;
    let handler = HttpHandler::answering(|_| Reply::ok()).await;
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().expect("it is bound");
    let changes = format!("[admin]\nlisten = '{address}'");
    let config = consumer(&vhost, "q").http(&handler).with(&changes).toml();
    let mut worker = WorkerProcess::start_with_admin(&config);

    let in_use = |line: &Value| log_message(line).starts_with("the address is in use");
    let line = worker.wait_for("a warning", DEADLINE, in_use).await;
    assert_eq!(field(&line, "setting"), "admin.listen");
    assert_eq!(field(&line, "address"), &Value::from(address.to_string()));
    worker.wait_for_consumers(&vhost, "q", 1).await;
    vhost.publish("q", "x").await;
    handler.wait_for_answered(1, DEADLINE).await;
    drop(taken);

    let listening = "admin server listening";
    worker.wait_for_message(listening, DEADLINE).await;
    assert_eq!(worker.drain(DEADLINE).await.acked, 1);
}

#[tokio::test]
async fn an_address_of_another_machine_is_named_with_its_setting() {
    let vhost = vhost().await;
    let handler = HttpHandler::answering(|_| Reply::ok()).await;
    // An address for documentation: no machine has it.
    let changes = "[admin]\nlisten = 'off'\nprobes = '192.0.2.1:9091'";
    let config = consumer(&vhost, "q").http(&handler).with(changes).toml();
    let mut worker = WorkerProcess::start_with_admin(&config);
    let exit = worker.exited(DEADLINE).await;
    assert_eq!(exit.status.code(), Some(78));
    let log = worker.log();
    let last = log.last().expect("it says why");
    assert_eq!(log_message(last), "cannot run");
    let why = field(last, "error").as_str().expect("it is text");
    let beginning = "admin.probes: cannot listen at 192.0.2.1:9091: ";
    assert!(why.starts_with(beginning), "{why}");
}

#[tokio::test]
async fn a_server_that_is_off_listens_nowhere_and_probes_have_an_address_of_their_own() {
    let vhost = vhost().await;
    let handler = HttpHandler::answering(|_| Reply::ok()).await;
    let changes = "[admin]\nlisten = 'off'\nprobes = '127.0.0.1:0'";
    let mut worker =
        WorkerProcess::start_with_admin(&consumer(&vhost, "q").http(&handler).with(changes).toml());
    let line = worker.wait_for_message("probes listening", DEADLINE).await;
    let address = field(&line, "address").as_str().expect("it is named");
    let client = reqwest::Client::new();
    let get = async |path: &str| {
        answer(client.get(format!("http://{address}{path}")))
            .await
            .0
    };
    worker.wait_for_consumers(&vhost, "q", 1).await;

    for path in ["/livez", "/startupz", "/metrics"] {
        assert_eq!(get(path).await, 200, "{path}");
    }
    for path in [
        "/",
        "/api/v1/consumers",
        "/api/v1/config",
        "/api/v1/openapi.json",
    ] {
        assert_eq!(get(path).await, 404, "{path}");
    }
    worker.drain(DEADLINE).await;
    let is_listening = |line: &Value| log_message(line) == "admin server listening";
    assert!(!worker.log().iter().any(is_listening));
}

#[tokio::test]
async fn changes_are_written_down_with_who_asked_and_what_became_of_it() {
    let vhost = vhost().await;
    let handler = HttpHandler::answering(|_| Reply::ok()).await;
    let (mut worker, admin) = start(&vhost, &handler).await;

    assert_eq!(admin.post("/api/v1/consumers/q/pause").await.0, 200);
    let request = admin.request(Method::PATCH, "/api/v1/consumers/q");
    let request = request
        .header("user-agent", "curl/8")
        .bearer_auth("wrong-wrong-wrong");
    assert_eq!(answer(request).await.0, 401);

    let asked = |message: &'static str, status: u64| {
        move |line: &Value| log_message(line) == message && field(line, "status") == status
    };
    let pause = asked("admin request", 200);
    let line = worker.wait_for("the pause", DEADLINE, pause).await;
    assert_eq!(field(&line, "path"), "/api/v1/consumers/q/pause");
    assert_eq!(field(&line, "method"), "POST");
    assert_eq!(line["level"], "INFO");
    let refusal = asked("admin request refused", 401);
    let line = worker.wait_for("the refusal", DEADLINE, refusal).await;
    assert_eq!(field(&line, "agent"), "curl/8");
    let peer = field(&line, "peer").as_str().expect("it is text");
    assert!(peer.starts_with("127.0.0.1:"), "{peer}");
    worker.drain(DEADLINE).await;
    let log = worker.log();
    let shown = log.iter().map(Value::to_string).collect::<String>();
    assert!(
        !shown.contains("wrong-wrong"),
        "tokens are not written down"
    );
}

#[tokio::test]
async fn health_asks_the_worker_of_the_same_configuration() {
    let vhost = vhost().await;
    let handler = HttpHandler::answering(|_| Reply::ok()).await;
    // The port was free a moment ago. No other process is likely to take it now.
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = free.local_addr().expect("it is bound");
    drop(free);
    let config = consumer(&vhost, "q")
        .http(&handler)
        .with(&format!("[admin]\nlisten = '{address}'"))
        .toml();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("lapwing.toml");
    std::fs::write(&file, &config).expect("a temporary file");
    let health = async |ready: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lapwing"));
        command.arg("health").arg("--config").arg(&file).args(ready);
        let ended = within("lapwing health", command.output()).await;
        let ended = ended.expect("it starts");
        let said = String::from_utf8(ended.stderr).expect("it prints text");
        (ended.status.code(), said)
    };
    let (code, said) = health(&[]).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&format!("http://{address}/livez")), "{said}");

    let mut worker = WorkerProcess::start_with_admin(&config);
    let admin = Admin::of(&worker).await;
    admin.until("/readyz", |(status, _)| *status == 200).await;
    assert_eq!(health(&[]).await, (Some(0), String::new()));
    assert_eq!(health(&["--ready"]).await, (Some(0), String::new()));

    // Somebody edits the file. The worker has read it, and is as healthy as before.
    std::fs::write(&file, format!("[consumers\nqueue = \n{config}")).expect("a file");
    assert_eq!(health(&[]).await, (Some(0), String::new()));

    // Alive, but not ready.
    vhost.delete("q").await;
    admin.until("/readyz", |(status, _)| *status == 503).await;
    assert_eq!(health(&[]).await.0, Some(0));
    worker.kill();
    worker.exited(DEADLINE).await;
    assert_eq!(health(&["--ready"]).await.0, Some(1));
}
