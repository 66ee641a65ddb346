//! `lapwing run`: its exit codes and its log.

use serde_json::Value;

use super::{lapwing, output};
use crate::support::{
    DEADLINE, HttpHandler, PublishSpec, QueueType, Reply, WorkerProcess, consumer, field,
    log_message, vhost, within,
};

/// A worker with the consumer `q` that logs its messages.
fn logging(url: &str, changes: &str) -> String {
    let base = format!("[broker]\nurl = '{url}'\n[consumers.q]\nqueue = 'q'\n");
    format!("{base}handler.kind = 'log'\n{changes}")
}

/// The exit code of a worker that exits without a signal, and its log.
async fn code(config: &str) -> (Option<i32>, Vec<Value>) {
    let mut worker = WorkerProcess::start(config);
    let exit = worker.exited(DEADLINE).await;
    (exit.status.code(), worker.log())
}

#[tokio::test]
async fn the_log_handler_shows_messages_and_every_line_of_the_log_is_an_object() {
    let vhost = vhost().await;
    let mut worker = WorkerProcess::start(&logging(&vhost.amqp_url(), "[log]\nfilter = 'debug'"));
    worker.wait_for_consumers(&vhost, "q", 1).await;
    let spec = PublishSpec::to("q")
        .id("order-1")
        .body("line one\nline \"two\"")
        .header("tenant", "acme")
        .with(|properties| properties.with_type("order.paid".into()));
    vhost.publish_with(spec).await;
    vhost
        .publish_with(PublishSpec::to("q").id("binary").body([0xff, 0, b'\n']))
        .await;

    // The two handlers run side by side, so either line may be the first.
    let of = |id: &'static str| {
        move |line: &Value| log_message(line) == "message" && field(line, "id") == id
    };
    let shown = worker.wait_for("order-1", DEADLINE, of("order-1")).await;
    worker
        .wait_for("the binary one", DEADLINE, of("binary"))
        .await;
    let ledger = worker.drain(DEADLINE).await;

    assert_eq!((ledger.received, ledger.acked), (2, 2));
    let expected = [
        ("consumer", "q"),
        ("id", "order-1"),
        ("type", "order.paid"),
        ("routing_key", "q"),
        ("headers", r#"{"tenant":"acme"}"#),
        ("body", "line one\nline \"two\""),
        ("level", "INFO"),
    ];
    for (name, value) in expected {
        assert_eq!(field(&shown, name), value, "{name}");
    }
    assert_eq!(field(&shown, "attempt"), 1);
    assert_eq!(field(&shown, "bytes"), 19);
    for line in worker.log() {
        assert!(line.is_object(), "{line}");
        assert!(
            line["timestamp"].is_string() && line["level"].is_string(),
            "{line}"
        );
    }
}

#[tokio::test]
async fn an_unreachable_broker_ends_a_worker_that_is_to_fail_fast_with_69() {
    let config = logging("amqp://127.0.0.1:1", "[broker.reconnect]\nbase = '10ms'");
    let failing = config.replace("[broker]", "[broker]\nfail_fast = true");

    let (code, log) = code(&failing).await;

    assert_eq!(code, Some(69));
    let last = log.last().expect("it says why");
    assert_eq!(log_message(last), "cannot run");
    assert!(
        field(last, "error")
            .as_str()
            .expect("text")
            .contains("refused"),
        "{last}"
    );

    // Without `fail_fast` the worker waits for the broker, and can be stopped meanwhile.
    let mut waiting = WorkerProcess::start(&config);
    waiting.wait_for_message("not consuming", DEADLINE).await;
    assert!(waiting.is_running());
    assert_eq!(waiting.drain(DEADLINE).await.received, 0);
}

#[tokio::test]
async fn a_wrong_password_ends_a_worker_that_is_to_fail_fast_with_78_unprinted() {
    let vhost = vhost().await;
    let mut url = url::Url::parse(&vhost.amqp_url()).expect("it is one");
    url.set_password(Some("wr0ng")).expect("it has a host");
    let refused = logging(url.as_str(), "").replace("[broker]", "[broker]\nfail_fast = true");
    let (refused, log) = code(&refused).await;
    assert_eq!(refused, Some(78), "{log:?}");
    let text = log.iter().map(ToString::to_string).collect::<String>();
    assert!(!text.contains("wr0ng"), "{text}");
}

#[tokio::test]
async fn a_virtual_host_that_is_not_there_ends_a_worker_that_is_to_fail_fast_with_78() {
    let vhost = vhost().await;
    let mut url = url::Url::parse(&vhost.amqp_url()).expect("it is one");
    url.set_path("/no-such-host");
    let missing = logging(url.as_str(), "").replace("[broker]", "[broker]\nfail_fast = true");
    let (missing, log) = code(&missing).await;
    assert_eq!(missing, Some(78), "{log:?}");
}

#[tokio::test]
async fn the_help_tells_the_exit_codes() {
    for (command, codes) in [
        ("run", &["0", "3", "4", "69", "78"][..]),
        ("publish", &["0", "1"]),
    ] {
        let help = output(&mut lapwing(&[command, "--help"])).await;
        let (_, told) = help.out.split_once("Exit codes:").expect("it tells them");
        let told: Vec<_> = told.split_whitespace().collect();
        for code in codes {
            assert!(told.contains(code), "{command}: {code}");
        }
    }
}

#[tokio::test]
async fn a_queue_of_another_kind_ends_a_worker_with_78() {
    let vhost = vhost().await;
    vhost.declare("q", QueueType::Classic).await;
    let (other, log) = code(&logging(&vhost.amqp_url(), "")).await;
    assert_eq!(other, Some(78), "{log:?}");
    let last = log.last().expect("it says why");
    let error = field(last, "error").as_str().expect("text");
    assert!(error.contains("x-queue-type"), "{error}");
    assert!(
        error.contains("classic") && error.contains("quorum"),
        "{error}"
    );
}

#[tokio::test]
async fn no_consumer_and_no_handler_end_a_run_with_78() {
    for config in ["", "[consumers.q]\nqueue = 'q'"] {
        let (code, log) = code(config).await;
        assert_eq!(code, Some(78), "{log:?}");
    }
}

#[tokio::test]
async fn sigint_drains_as_sigterm_does_and_a_second_signal_does_not_wait() {
    let vhost = vhost().await;
    let gate = crate::support::Gate::default();
    let server = HttpHandler::behind(&gate, |_| Reply::ok()).await;
    let config = consumer(&vhost, "q").http(&server).toml();
    let mut worker = WorkerProcess::start(&config);
    worker.wait_for_consumers(&vhost, "q", 1).await;
    vhost.publish("q", "x").await;
    server.wait_for_requests(1, DEADLINE).await;

    worker.interrupt();
    worker.wait_for_message("draining", DEADLINE).await;
    assert!(worker.is_running(), "the handler runs");
    worker.terminate();
    let exit = worker.exited(DEADLINE).await;

    assert_eq!(exit.status.code(), Some(4), "a handler was cancelled");
    assert!(
        exit.took < std::time::Duration::from_secs(10),
        "{:?}",
        exit.took
    );
    let ledger = worker.ledger();
    assert_eq!((ledger.received, ledger.returned), (1, 1));
    server
        .wait_for("it was given up", DEADLINE, |seen| seen.abandoned == 1)
        .await;
    within("the queue", vhost.wait_for_counts("q", 1, 0, DEADLINE)).await;
}

/// Queues are worked off, and the worker ends without a signal. A retry that waits at the broker stays.
#[tokio::test]
async fn a_worker_works_its_queue_off_and_ends() {
    let vhost = vhost().await;
    let handler = HttpHandler::answering(|request| match request.message_id() {
        "fails" => Reply::status(500),
        _ => Reply::ok(),
    })
    .await;
    let config = consumer(&vhost, "q")
        .http(&handler)
        .with("[consumers.q.retry]\ndelays = ['1h']")
        .toml();
    let limited = |limits: &[&str]| {
        WorkerProcess::start_with(&config, |command| {
            command.args(limits);
        })
    };
    // The first worker makes the queue.
    let mut first = limited(&["--until-ready"]);
    let exit = first.exited(DEADLINE).await;
    assert_eq!(exit.status.code(), Some(0));
    assert_eq!(ended_by(&first), "until-ready");
    for n in 0..20 {
        vhost
            .publish_with(PublishSpec::to("q").id(&format!("id-{n}")))
            .await;
    }
    vhost.publish_with(PublishSpec::to("q").id("fails")).await;

    let mut worker = limited(&["--until-empty", "--max-time", "1h"]);
    let exit = worker.exited(DEADLINE).await;
    assert_eq!(exit.status.code(), Some(0));
    assert_eq!(ended_by(&worker), "until-empty");
    let ledger = worker.ledger();
    assert_eq!((ledger.acked, ledger.parked), (20, 1), "{ledger:?}");
    vhost.wait_for_counts("q", 0, 0, DEADLINE).await;
    let log = worker.log();
    let parked = log
        .iter()
        .find(|line| log_message(line) == "message parked for retry");
    let rung = field(parked.expect("it is logged"), "retry_queue").as_str();
    let rung = rung.expect("a queue");
    vhost.wait_for_counts(rung, 1, 0, DEADLINE).await;

    let mut worker = limited(&["--max-time", "1s"]);
    let exit = worker.exited(DEADLINE).await;
    assert_eq!(exit.status.code(), Some(0));
    assert_eq!(ended_by(&worker), "max-time");
    assert_eq!(worker.ledger().received, 0);
}

/// What the last line of the log says about the reason of the end.
fn ended_by(worker: &WorkerProcess) -> String {
    let log = worker.log();
    let last = log.last().expect("a ledger");
    field(last, "ended_by")
        .as_str()
        .unwrap_or_default()
        .to_owned()
}
