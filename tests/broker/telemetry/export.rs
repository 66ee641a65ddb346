//! The export of telemetry: transports, switches, and collectors that are slow or missing.

use std::time::Duration;

use tokio::net::TcpListener;

use super::{Setup, export_soon, vhost_with_queue};
use crate::support::{
    BUSY, Collector, DEADLINE, HttpHandler, PublishSpec, Received, Reply, WorkerProcess, consumer,
    field, log_message,
};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn all_signals(received: &Received) -> bool {
    !received.spans.is_empty() && !received.logs.is_empty() && !received.metrics.is_empty()
}

#[tokio::test]
async fn the_standard_variables_are_enough_also_for_http() {
    let collector = Collector::http().await;
    let endpoint = collector.endpoint();
    let setup = Setup::with(
        collector,
        "",
        |_| Reply::ok(),
        |command| {
            command
                .env_remove("LAPWING__TELEMETRY__ENDPOINT")
                .env("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
                .env("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
                .env("OTEL_SERVICE_NAME", "orders")
                .env(
                    "OTEL_RESOURCE_ATTRIBUTES",
                    "deployment.environment.name=test",
                );
        },
    )
    .await;
    setup.vhost.publish_with(PublishSpec::to("q")).await;
    let seen = setup
        .collector
        .wait_for("all signals", DEADLINE, all_signals);
    let seen = seen.await;
    assert_eq!(seen.resource["service.name"], "orders");
    assert_eq!(seen.resource["deployment.environment.name"], "test");
}

#[tokio::test]
async fn settings_are_enough_for_http_too() {
    let setup = Setup::with(
        Collector::http().await,
        "[telemetry]\nprotocol = 'http/protobuf'",
        |_| Reply::ok(),
        |_| {},
    )
    .await;
    setup.vhost.publish_with(PublishSpec::to("q")).await;
    let seen = setup
        .collector
        .wait_for("all signals", DEADLINE, all_signals);
    seen.await;
}

#[tokio::test]
async fn nothing_is_exported_when_the_sdk_is_disabled() {
    let collector = Collector::grpc().await;
    let mut setup = Setup::with(
        collector,
        "",
        |_| Reply::ok(),
        |command| {
            command.env("OTEL_SDK_DISABLED", "true");
        },
    )
    .await;
    let spec = PublishSpec::to("q").header("traceparent", PARENT);
    setup.vhost.publish_with(spec).await;
    setup.server.wait_for_answered(1, DEADLINE).await;
    // At the latest the shutdown would have exported something.
    setup.worker.drain(DEADLINE).await;

    let seen = setup.collector.received();
    assert!(seen.spans.is_empty() && seen.logs.is_empty() && seen.metrics.is_empty());
    let exchanges = setup.server.seen().exchanges;
    let told = exchanges[0].request.header("traceparent");
    assert_eq!(told, PARENT, "the context is passed on as it is");
}

#[tokio::test]
async fn signals_are_switched_one_by_one() {
    let collector = Collector::grpc().await;
    let mut setup = Setup::with(
        collector,
        "[telemetry]\nlogs = false",
        |_| Reply::ok(),
        |command| {
            command.env("OTEL_METRICS_EXPORTER", "none");
        },
    )
    .await;
    setup.vhost.publish_with(PublishSpec::to("q")).await;
    setup.server.wait_for_answered(1, DEADLINE).await;
    setup.worker.drain(DEADLINE).await;

    let seen = setup.collector.received();
    assert!(seen.logs.is_empty() && seen.metrics.is_empty());
    assert_eq!(seen.named("process q").len(), 1);
}

/// What the log says of a signal whose exports begin to fail.
const LOST: &str = "telemetry cannot be exported and is lost; the worker works on";

/// Runs messages through a worker whose collector is at `endpoint`; the drain must end within the
/// time that telemetry has for its last exports. It begins when the log tells of this many signals
/// that are lost.
/// Returns the worker after its end.
async fn runs_and_ends_in_time(endpoint: &str, lost: usize) -> WorkerProcess {
    const MESSAGES: usize = 500;
    const FLUSH: Duration = Duration::from_millis(500);
    let vhost = vhost_with_queue().await;
    let server = HttpHandler::answering(|_| Reply::ok()).await;
    let changes = "[timeouts]\ntelemetry_flush = '500ms'\n[consumers.q]\ntopology = 'attach'";
    let config = consumer(&vhost, "q").http(&server).with(changes).toml();
    let mut worker = WorkerProcess::start_with(&config, |command| {
        export_soon(command);
        command.env("LAPWING__TELEMETRY__ENDPOINT", endpoint);
        // An export without a limit takes much longer than the time for the last exports.
        command.env("OTEL_EXPORTER_OTLP_TIMEOUT", "25000");
    });
    worker.wait_for_consumers(&vhost, "q", 1).await;
    vhost
        .publish_many("q", MESSAGES, |_| PublishSpec::of("{}"))
        .await;
    server.wait_for_answered(MESSAGES, DEADLINE).await;
    worker.wait_for_messages(LOST, lost).await;
    worker.terminate();
    let exit = worker.exited(DEADLINE).await;
    assert!(exit.status.success(), "{:?}", exit.status);
    assert!(exit.took < FLUSH + BUSY, "{:?}", exit.took);
    // The ledger is still the last line.
    let ledger = worker.ledger();
    assert_eq!(ledger.acked, MESSAGES as u64);
    worker
}

#[tokio::test]
async fn a_collector_that_is_gone_costs_its_telemetry_only() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    drop(listener);
    let worker = runs_and_ends_in_time(&format!("http://{address}"), 3).await;

    // Each of the three signals was exported many times, and the log tells of it once.
    let log = worker.log();
    let said = log.iter().filter(|line| log_message(line) == LOST);
    let mut signals: Vec<_> = said.map(|line| field(line, "signal").to_string()).collect();
    signals.sort();
    assert_eq!(signals, ["\"logs\"", "\"metrics\"", "\"traces\""]);
    let target = |line: &serde_json::Value| line["target"].as_str().map(str::to_owned);
    let theirs = log.iter().filter_map(target);
    let theirs: Vec<_> = theirs.filter(|target| target.contains("otlp")).collect();
    assert!(theirs.is_empty(), "{theirs:?}");
}

#[tokio::test]
async fn a_collector_that_never_answers_costs_its_telemetry_only() {
    // The operating system accepts the connection, and no program reads from it.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    runs_and_ends_in_time(&format!("http://{address}"), 0).await;
    drop(listener);
}
