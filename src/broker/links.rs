//! A program's two connections: one consumes, one publishes.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::{task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    BrokerError, BrokerSettings, Link, Publisher, Purpose, Rabbit, Scouting, TimeoutSettings, Told,
};

/// A connection that consumes and one that publishes, each with a supervisor.
pub(crate) struct Links {
    consuming: Link,
    publishing: Link,
    ended: [JoinHandle<()>; 2],
    stop: CancellationToken,
}

impl Links {
    /// Starts both supervisors on the current runtime. `name` appears in the broker's list of
    /// connections.
    pub(crate) fn start(
        broker: &Arc<BrokerSettings>,
        timeouts: &Arc<TimeoutSettings>,
        name: &str,
    ) -> Self {
        let stop = CancellationToken::new();
        let (scouting, told) = (Scouting::default(), Arc::new(Told::default()));
        let link = |purpose| {
            let (broker, timeouts) = (Arc::clone(broker), Arc::clone(timeouts));
            let (name, told) = (name.to_owned(), Arc::clone(&told));
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

    /// Waits until both connections are up.
    ///
    /// # Errors
    /// When the first attempt of one of them fails.
    pub(crate) async fn connected(&self) -> Result<(), BrokerError> {
        for link in [&self.consuming, &self.publishing] {
            let first = link.clone().connected().await;
            first.ok_or_else(|| BrokerError::Lost("closed".to_owned()))??;
        }
        Ok(())
    }

    /// The broker, with at most `channels` publishes at a time.
    pub(crate) fn broker(&self, channels: usize, timeouts: &Arc<TimeoutSettings>) -> Rabbit {
        let publisher = Publisher::new(self.publishing.clone(), channels, Arc::clone(timeouts));
        Rabbit::new(self.consuming.clone(), publisher, Arc::clone(timeouts))
    }

    /// Closes both connections.
    pub(crate) async fn close(self, limit: Duration) {
        self.stop.cancel();
        // Each supervisor limits its own close. This limit is for a supervisor that is connecting.
        let _ = timeout(limit * 2, join_all(self.ended)).await;
    }
}
