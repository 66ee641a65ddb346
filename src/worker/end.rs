//! The end of a worker that ends by itself: when its queues are empty, after a number of messages, or
//! after a time.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::WorkerHandle;
use crate::{
    status::{ConsumerState, Ledger},
    words::words,
};

/// A queue counts as empty if it has delivered nothing for this long while the consumer had room.
const EMPTY_AFTER: Duration = Duration::from_secs(5);
/// The time between two looks at the figures.
const LOOK: Duration = Duration::from_millis(100);

/// When a worker ends by itself: at the first of these. None by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndWhen {
    /// Every consumer has subscribed, so that all queues exist.
    pub ready: bool,
    /// Every consumer consumes, nothing is in flight, and no queue has delivered a message for 5
    /// seconds. Retries that wait at the broker do not count. Default: `false`.
    pub empty: bool,
    /// This many messages are acked, parked or dead-lettered. Handlers that run then finish too, so
    /// there can be more. Default: `None`.
    pub messages: Option<u64>,
    /// This time has passed. Default: `None`.
    pub time: Option<Duration>,
}

words! {
    /// Why a worker ended by itself.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    #[non_exhaustive]
    pub enum EndedBy {
        /// [`EndWhen::ready`].
        Ready = "until-ready",
        /// [`EndWhen::empty`].
        Empty = "until-empty",
        /// [`EndWhen::messages`].
        Messages = "max-messages",
        /// [`EndWhen::time`].
        Time = "max-time",
    }
}

impl WorkerHandle {
    /// Waits until the worker should end by itself. Without any limit this waits without end. The
    /// caller then begins the drain: give this future to [`Worker::run`](crate::Worker::run).
    pub async fn end_of_work(&self, when: &EndWhen) -> EndedBy {
        tokio::select! {
            biased;
            ended = self.work_ends(when) => ended,
            () = passed(when.time) => EndedBy::Time,
        }
    }

    async fn work_ends(&self, when: &EndWhen) -> EndedBy {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut received = None;
        let mut quiet_since = Instant::now();
        loop {
            looks.tick().await;
            if when.ready && self.readiness().ready {
                return EndedBy::Ready;
            }
            let ledger = self.ledger();
            let done = ledger.acked + ledger.parked + ledger.dead_lettered;
            if when.messages.is_some_and(|most| done >= most) {
                return EndedBy::Messages;
            }
            // Without a delivery, and with room for one, the queue has no ready message.
            let now = Instant::now();
            if received != Some(ledger.received) || !self.is_idle() {
                received = Some(ledger.received);
                quiet_since = now;
            }
            if when.empty && now - quiet_since >= EMPTY_AFTER {
                return EndedBy::Empty;
            }
        }
    }

    /// The sum of all consumers' ledgers.
    fn ledger(&self) -> Ledger {
        let mut sum = Ledger::default();
        for report in self.consumers().filter_map(|name| self.report(name).ok()) {
            sum += report.ledger;
        }
        sum
    }

    /// Whether every consumer consumes and holds no message.
    fn is_idle(&self) -> bool {
        self.consumers().all(|name| {
            let health = self.health(name);
            let consumes = health.is_some_and(|health| health.state == ConsumerState::Consuming);
            consumes && self.report(name).is_ok_and(|report| report.in_flight == 0)
        })
    }
}

async fn passed(time: Option<Duration>) {
    match time {
        Some(time) => sleep(time).await,
        None => std::future::pending().await,
    }
}
