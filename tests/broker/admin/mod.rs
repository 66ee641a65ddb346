//! The admin server and the worker's handle: what an operator sees and changes while a worker runs.

mod backlog;
mod changes;
mod commands;
mod connections;
mod dead;
mod dead_import;
mod document;
mod events;
mod handle;
mod kept;
mod probes;
mod process;
mod reads;

use lapwing::Settings;
use lapwing::{Context, Worker};

use crate::support::{ADMIN, Admin, Gate, Notes, RunningWorker, VHost, consumer};

/// Settings for the consumer `q` and an admin server with a token.
fn settings(vhost: &VHost, changes: &str) -> Settings {
    consumer(vhost, "q")
        .with(&format!("{ADMIN}{changes}"))
        .settings()
}

/// A worker with its admin server.
async fn start_both(settings: Settings, worker: Worker) -> (RunningWorker, Admin) {
    let worker = RunningWorker::start(worker).await;
    let admin = Admin::start(&settings, &worker.handle);
    (worker, admin)
}

type Waiting = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// A handler that records its runs and waits at a gate.
fn gated(notes: &Notes, gate: &Gate) -> impl Fn(Context) -> Waiting + Clone + use<> {
    let (notes, gate) = (notes.clone(), gate.clone());
    move |context| {
        let gate = gate.clone();
        notes.note(&context);
        Box::pin(async move { gate.passed().await })
    }
}
