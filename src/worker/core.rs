//! The thread `lapwing-core`: connections and lanes, on a runtime that no handler can block.

use std::sync::Arc;

use super::{Report, RunError, assembly::Setup, backlog};
use crate::{broker::Links, state};

/// Runs the worker on a runtime of this thread, until the worker has ended.
pub(super) fn run(setup: Setup) -> Result<Report, RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_name("lapwing-core")
        .build()
        .map_err(|error| RunError::Thread(error.to_string()))?;
    let result = runtime.block_on(work(setup));
    // Only a DNS lookup can still be running; do not wait for it.
    runtime.shutdown_background();
    result
}

async fn work(setup: Setup) -> Result<Report, RunError> {
    let settings = &setup.settings;
    let timeouts = Arc::new(settings.timeouts.clone());
    let state = state::start_in_thread(settings.state.mailbox, timeouts.call)
        .map_err(|error| RunError::Thread(error.to_string()))?;
    let worker = settings.broker.worker_name();
    let links = Links::start(&Arc::new(settings.broker.clone()), &timeouts, &worker);
    let broker = links.broker(settings.publish.channels, &timeouts);
    let watching = tokio::spawn(backlog::watch(broker.clone(), setup.calls.watched()));
    let result = setup.run(broker, state).await;
    watching.abort();
    links.close(timeouts.close).await;
    result
}
