//! Traces, metrics and logs of the worker, as a collector receives them.

mod batches;
mod export;
mod logs;
mod metrics;
mod traces;

use tokio::process::Command;

use crate::support::{
    Collector, DEADLINE, HttpHandler, QueueType, Reply, Request, VHost, WorkerProcess, consumer,
    vhost,
};

/// A worker with a consumer `q` on HTTP, observed by a collector.
struct Setup {
    vhost: VHost,
    server: HttpHandler,
    collector: Collector,
    worker: WorkerProcess,
}

/// Short export intervals, for tests.
fn export_soon(command: &mut Command) {
    command
        .env("OTEL_BSP_SCHEDULE_DELAY", "50")
        .env("OTEL_BLRP_SCHEDULE_DELAY", "50")
        .env("OTEL_METRIC_EXPORT_INTERVAL", "100");
}

impl Setup {
    /// A worker with these `changes` to the configuration, and a handler that gives these answers.
    async fn new(
        changes: &str,
        answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::with(Collector::grpc().await, changes, answer, |_| {}).await
    }

    async fn with(
        collector: Collector,
        changes: &str,
        answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
        adjust: impl FnOnce(&mut Command),
    ) -> Self {
        let vhost = vhost().await;
        let server = HttpHandler::answering(answer).await;
        let config = consumer(&vhost, "q").http(&server).with(changes).toml();
        let endpoint = collector.endpoint();
        let worker = WorkerProcess::start_with(&config, |command| {
            export_soon(command);
            command.env("LAPWING__TELEMETRY__ENDPOINT", endpoint);
            adjust(command);
        });
        worker.wait_for_consumers(&vhost, "q", 1).await;
        Self {
            vhost,
            server,
            collector,
            worker,
        }
    }

    /// Runs `lapwing publish`, which exports its traces to the same collector.
    async fn publish(&self, arguments: &[&str]) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lapwing"));
        command
            .args(["publish", "--queue", "q"])
            .args(arguments)
            .env("LAPWING__BROKER__URL", self.vhost.amqp_url())
            .env("LAPWING__TELEMETRY__ENDPOINT", self.collector.endpoint());
        let ended = tokio::time::timeout(DEADLINE, command.output()).await;
        let ended = ended.expect("it ends").expect("it runs");
        assert!(
            ended.status.success(),
            "{}",
            String::from_utf8_lossy(&ended.stderr)
        );
    }
}

/// A virtual host with a classic queue `q`, for workers that do not declare it.
async fn vhost_with_queue() -> VHost {
    let vhost = vhost().await;
    vhost.declare("q", QueueType::Classic).await;
    vhost
}
