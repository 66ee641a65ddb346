//! `/metrics` in a real Prometheus, and Lapwing's alert rules and dashboard. `scripts/backends`
//! fetches Debian's Prometheus and promtool.

mod expressions;
mod metrics;
mod rules;
mod server;

use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::support::{
    DEADLINE, Gate, HttpHandler, Reply, Request, VHost, WorkerProcess, backends, consumer, field,
    vhost,
};

/// Lapwing's alert rules.
const RULES: &str = "deploy/prometheus/rules.yml";

/// A file of the repository.
fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// A program of the Prometheus package.
async fn program(name: &str) -> Command {
    let folder = backends(&["install", "prometheus"]).await;
    Command::new(Path::new(&folder).join(name))
}

/// A worker with a consumer `q` on HTTP, whose `/metrics` is served.
struct Setup {
    vhost: VHost,
    server: HttpHandler,
    worker: WorkerProcess,
    /// The address of `/metrics`: host and port.
    address: String,
    /// Lets the handlers of messages named `held` end.
    gate: Gate,
}

/// Requests that [`Setup::three_messages`] makes.
const REQUESTS: usize = 4;

impl Setup {
    async fn new() -> Self {
        let vhost = vhost().await;
        let gate = Gate::default();
        let held = |request: &Request| request.message_id() == "held";
        let server = HttpHandler::holding(&gate, held, |request| {
            match (request.message_id(), request.attempt()) {
                ("late", 1) => Reply::status(500),
                ("never", _) => Reply::status(400),
                _ => Reply::ok(),
            }
        })
        .await;
        let changes = "[consumers.q]\nbacklog_check = '1s'\nretry = { base = '1s', jitter = 0 }";
        let config = consumer(&vhost, "q").http(&server).with(changes).toml();
        let worker = WorkerProcess::start_with(&config, |command| {
            command.env("LAPWING__ADMIN__LISTEN", "127.0.0.1:0");
        });
        let listening = worker.wait_for_message("admin server listening", DEADLINE);
        let address = field(&listening.await, "address").clone();
        let address = address.as_str().expect("it is text").to_owned();
        worker.wait_for_consumers(&vhost, "q", 1).await;
        Self {
            vhost,
            server,
            worker,
            address,
            gate,
        }
    }

    /// `lapwing publish`, which gives messages a timestamp.
    async fn publish(&self, id: &str) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lapwing"));
        command
            .args(["publish", "--queue", "q", "--message-id", id, "{}"])
            .env("LAPWING__BROKER__URL", self.vhost.amqp_url());
        let ended = tokio::time::timeout(DEADLINE, command.output()).await;
        let ended = ended.expect("it ends").expect("it runs");
        let stderr = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success(), "{stderr}");
    }

    /// Publishes a message that succeeds, one that is parked and then succeeds, and one that is
    /// dead-lettered. Waits until the messages of all `rounds` rounds have ended.
    async fn three_messages(&self, rounds: usize) {
        for id in ["at-once", "late", "never"] {
            self.publish(id).await;
        }
        self.server
            .wait_for_answered(rounds * REQUESTS, DEADLINE)
            .await;
    }
}
