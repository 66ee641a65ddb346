//! Messages and settings that are wrong on purpose: the worker neither panics nor hangs nor loses
//! the message, and continues with the next one.

mod bodies;
mod frames;
mod observed;
mod settings;
mod story;

use crate::support::{
    ADMIN, DEADLINE, Got, HttpHandler, PublishSpec, Reply, Request, VHost, WorkerProcess, consumer,
    exchange::{Exchange, Seen},
    vhost,
};

/// The first failure is parked in the only retry queue, for an instant. The second failure
/// dead-letters the message.
const TWO_ATTEMPTS: &str = "[consumers.orders.retry]\nmax_attempts = 2\nbase = '10ms'\ncap = '1s'\n\
                            jitter = 0.0\ninline_below = '0s'\n";

/// The id of the message without a fault.
const GOOD: &str = "good";

/// A worker whose handler fails for everything but [`GOOD`].
struct Rig {
    vhost: VHost,
    handler: HttpHandler,
    worker: WorkerProcess,
}

/// The results of the bad messages.
struct Fate {
    /// Their dead letters, in the order of arrival.
    all: Vec<Got>,
    /// Everything that the handler received.
    seen: Seen,
    vhost: VHost,
}

impl Rig {
    /// Starts the worker, and waits until it consumes `orders`.
    async fn start() -> Self {
        Self::start_in(vhost().await, "").await
    }

    /// The same in a virtual host that the test has prepared, with further settings.
    async fn start_in(vhost: VHost, changes: &str) -> Self {
        Self::start_by(vhost, changes, WorkerProcess::start).await
    }

    /// The same, with its admin server.
    async fn start_with_admin(vhost: VHost, changes: &str) -> Self {
        let changes = format!("{ADMIN}{changes}");
        Self::start_by(vhost, &changes, WorkerProcess::start_with_admin).await
    }

    async fn start_by(vhost: VHost, changes: &str, start: fn(&str) -> WorkerProcess) -> Self {
        let handler = HttpHandler::answering(|request| match request.message_id() {
            GOOD => Reply::ok(),
            _ => Reply::status(500),
        })
        .await;
        let changes = format!("{TWO_ATTEMPTS}{changes}");
        let config = consumer(&vhost, "orders")
            .http(&handler)
            .with(&changes)
            .toml();
        let worker = start(&config);
        worker.wait_for_consumers(&vhost, "orders", 1).await;
        Self {
            vhost,
            handler,
            worker,
        }
    }

    /// A virtual host with the consumer's queues, and without a worker.
    async fn only_queues() -> VHost {
        let mut rig = Self::start().await;
        rig.worker.drain(DEADLINE).await;
        rig.vhost
    }

    /// Publishes a bad message and then a good one, and waits until both have ended.
    ///
    /// The bad message fails, comes back from its retry queue, fails again and is dead-lettered.
    /// The good message is handled. The worker keeps its session, and drains with nothing left.
    async fn fails_twice(self) -> Fate {
        self.all_fail_twice(1).await
    }

    /// The same for several bad messages.
    async fn all_fail_twice(self, bad: usize) -> Fate {
        let fate = self.end(bad, 2 * bad).await;
        for dead in &fate.all {
            assert_eq!(dead.header("lapwing-reason"), "max-attempts");
            assert_eq!(dead.header("lapwing-attempts"), 2);
        }
        fate
    }

    /// The same for messages that become dead letters after `runs` runs of the handler in total.
    /// Each run except the last one parks its message.
    async fn end(mut self, bad: usize, runs: usize) -> Fate {
        let letters = u32::try_from(bad).expect("a test sends fewer");
        self.vhost
            .publish_with(PublishSpec::to("orders").id(GOOD).body("{}"))
            .await;
        self.vhost
            .wait_for_counts("orders.dead", letters, 0, DEADLINE)
            .await;
        self.handler.wait_for_answered(runs + 1, DEADLINE).await;

        let ledger = self.worker.drain(DEADLINE).await;

        let seen = self.handler.seen();
        let good = |seen: &&Exchange| seen.request.message_id() == GOOD;
        assert_eq!(seen.exchanges.iter().filter(good).count(), 1);
        assert_eq!(seen.exchanges.len(), runs + 1);
        let (bad, parked) = (bad as u64, runs.saturating_sub(bad) as u64);
        assert_eq!(ledger.acked, 1, "{ledger:?}");
        assert_eq!(ledger.dead_lettered, bad, "{ledger:?}");
        assert_eq!(ledger.parked, parked, "{ledger:?}");
        assert_eq!(ledger.received, 1 + bad + parked, "{ledger:?}");
        for queue in ["orders", "orders.retry.1s"] {
            assert_eq!(self.vhost.counts(queue).await.total(), 0, "{queue}");
        }
        let all = self.vhost.drain_all("orders.dead").await;
        assert_eq!(all.len(), letters as usize);
        Fate {
            all,
            seen,
            vhost: self.vhost,
        }
    }
}

impl Fate {
    /// The dead letter, if there is exactly one.
    fn dead(&self) -> &Got {
        assert_eq!(self.all.len(), 1);
        &self.all[0]
    }

    /// The requests of the bad messages, in order.
    fn bad(&self) -> impl Iterator<Item = &Request> {
        let requests = self.seen.exchanges.iter().map(|seen| &*seen.request);
        requests.filter(|request| request.message_id() != GOOD)
    }
}
