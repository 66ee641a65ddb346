//! The thread `lapwing-core`: connections and lanes, on a runtime that no handler can block.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::{task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{Report, RunError, assembly::Setup};
use crate::{
    broker::{BrokerSettings, Link, Publisher, Purpose, Rabbit, Scouting, TimeoutSettings, Told},
    state,
};

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
    let result = setup.run(broker, state).await;
    links.close(timeouts.close).await;
    result
}

/// The worker's connections: one consumes, one publishes.
struct Links {
    consuming: Link,
    publishing: Link,
    ended: [JoinHandle<()>; 2],
    stop: CancellationToken,
}

impl Links {
    fn start(broker: &Arc<BrokerSettings>, timeouts: &Arc<TimeoutSettings>, worker: &str) -> Self {
        let stop = CancellationToken::new();
        let (scouting, told) = (Scouting::default(), Arc::new(Told::default()));
        let link = |purpose| {
            let (broker, timeouts) = (Arc::clone(broker), Arc::clone(timeouts));
            let (name, told) = (worker.to_owned(), Arc::clone(&told));
            let scouting = scouting.clone();
            Link::start(
                purpose,
                broker,
                timeouts,
                name,
                scouting,
                told,
                stop.clone(),
            )
        };
        let (consuming, consuming_ended) = link(Purpose::Consume);
        let (publishing, publishing_ended) = link(Purpose::Publish);
        Self {
            consuming,
            publishing,
            ended: [consuming_ended, publishing_ended],
            stop,
        }
    }

    /// The broker as lanes use it.
    fn broker(&self, channels: usize, timeouts: &Arc<TimeoutSettings>) -> Rabbit {
        let publisher = Publisher::new(self.publishing.clone(), channels, Arc::clone(timeouts));
        Rabbit::new(self.consuming.clone(), publisher, Arc::clone(timeouts))
    }

    /// Closes both connections.
    async fn close(self, limit: Duration) {
        self.stop.cancel();
        // Each supervisor limits its own close. This limit is for a supervisor that is connecting.
        let _ = timeout(limit * 2, join_all(self.ended)).await;
    }
}
