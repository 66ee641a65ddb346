//! Liveness: do the loops of all consumers still run?

use std::{collections::BTreeMap, sync::Mutex, time::Duration};

use tokio::time::Instant;

use crate::{WorkerHandle, lock::lock, worker::WorkerSettings};

/// Notes when the loop of each consumer last ran.
#[derive(Debug)]
pub(super) struct Liveness {
    /// The longest time between two turns of a healthy consumer's loop.
    limit: Duration,
    /// The number of turns of each loop at the last look, and when that number was first seen.
    consumers: Mutex<BTreeMap<String, (u64, Instant)>>,
}

impl Liveness {
    /// The loop of a consumer runs at least every 250 ms. It stands still only at the end of a drain:
    /// there it lets the broker apply the last acks (`drain.settle`) and closes its channel
    /// (`timeouts.close`). A busy machine gets five seconds more.
    pub(super) fn new(settings: &WorkerSettings) -> Self {
        let at_the_end = settings.drain.settle + settings.timeouts.close;
        Self {
            limit: at_the_end + Duration::from_secs(5),
            consumers: Mutex::default(),
        }
    }

    /// The longest time between two turns of a healthy consumer's loop.
    pub(super) fn limit(&self) -> Duration {
        self.limit
    }

    /// Returns the consumers that are dead, and why. The monitor calls this every second, so the last
    /// turn of each loop is known to the second.
    pub(super) fn look(&self, worker: &WorkerHandle) -> Vec<(String, String)> {
        let now = Instant::now();
        let mut consumers = lock(&self.consumers);
        let mut dead = Vec::new();
        for name in worker.consumers() {
            if worker.is_gone(name) {
                dead.push((
                    name.to_owned(),
                    "the consumer has ended unexpectedly".to_owned(),
                ));
                continue;
            }
            let Some(turns) = worker.turns(name) else {
                // The consumer has stopped in order.
                continue;
            };
            let seen = consumers.entry(name.to_owned()).or_insert((turns, now));
            if seen.0 != turns {
                *seen = (turns, now);
            }
            let still = now.duration_since(seen.1);
            if still > self.limit {
                let seconds = still.as_secs();
                dead.push((
                    name.to_owned(),
                    format!("the loop of the consumer has not run for {seconds} s"),
                ));
            }
        }
        dead
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Worker, config::from_toml, status::Standing};

    const SETTINGS: &str = "[timeouts]\nclose = '1s'\n\
                            [consumers.orders]\nqueue = 'orders'";

    #[tokio::test(start_paused = true)]
    async fn a_consumer_whose_loop_stands_still_is_dead_after_a_while_and_alive_when_it_turns() {
        let settings: WorkerSettings = from_toml(SETTINGS).unwrap();
        let worker = Worker::new(settings.clone());
        let liveness = Liveness::new(&settings);
        assert_eq!(liveness.limit(), Duration::from_secs(1 + 5 + 5));
        let handle = worker.handle();
        assert_eq!(liveness.look(&handle), []);
        tokio::time::advance(liveness.limit()).await;
        assert_eq!(liveness.look(&handle), []);
        tokio::time::advance(Duration::from_secs(1)).await;
        let dead = liveness.look(&handle);
        let why = "the loop of the consumer has not run for 12 s".to_owned();
        assert_eq!(dead, [("orders".to_owned(), why)]);
        let figures = handle.figures("orders").unwrap();
        figures.turned(Standing::default());
        assert_eq!(liveness.look(&handle), []);
    }

    #[tokio::test]
    async fn a_consumer_that_is_gone_without_having_stopped_is_dead_at_once() {
        let settings: WorkerSettings = from_toml(SETTINGS).unwrap();
        let worker = Worker::new(settings.clone());
        let handle = worker.handle();
        drop(worker);
        let dead = Liveness::new(&settings).look(&handle);
        assert_eq!(dead.len(), 1);
        assert_eq!(dead[0].1, "the consumer has ended unexpectedly");
    }
}
