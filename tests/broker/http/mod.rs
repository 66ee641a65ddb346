//! The HTTP handler: its requests, and what it does with the answers.

mod answers;
mod authentication;
mod bodies;
mod descriptors;
mod outage;
mod rate;
mod requests;
mod unreachable;

use crate::support::{DEADLINE, Got, HttpHandler, VHost, WorkerProcess, consumer, vhost};

/// A worker with the consumer `q`, its virtual host and its handler.
struct Setup {
    vhost: VHost,
    server: HttpHandler,
    worker: WorkerProcess,
}

impl Setup {
    /// The consumer is changed by `changes`, TOML without its table's name.
    async fn new(server: HttpHandler, changes: &str) -> Self {
        let vhost = vhost().await;
        let changes = format!("[consumers.q]\n{changes}");
        let config = consumer(&vhost, "q").http(&server).with(&changes).toml();
        let worker = WorkerProcess::start(&config);
        worker.wait_for_consumers(&vhost, "q", 1).await;
        Self {
            vhost,
            server,
            worker,
        }
    }

    /// Waits for a dead letter, which must be the only one.
    async fn dead_letter(&self) -> Got {
        self.vhost.wait_for_counts("q.dead", 1, 0, DEADLINE).await;
        let mut dead = self.vhost.drain_all("q.dead").await;
        dead.pop().expect("it was counted")
    }
}
