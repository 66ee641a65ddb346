//! Counts the messages of each consumer's queue and of its dead-letter queue, every few seconds. All counts of a
//! worker are made on a channel of their own, so no lane waits for them.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::{
    sync::watch::Receiver,
    time::{Instant, sleep},
};

use crate::{
    broker::{Broker, BrokerError, Count},
    chance,
    status::{ConsumerHealth, ConsumerState, Figures, Limit, Look},
};

/// The time that each consumer adds to the time between two looks, once the sum is above `backlog_check`: the
/// broker is asked for the queues of at most twenty consumers a second.
const SHARE: Duration = Duration::from_millis(50);
/// The time until the next count of a queue that does not exist, or that the worker may not count. The broker
/// logs each such count as an error. The time doubles up to [`LONGEST`].
const REFUSED: Duration = Duration::from_mins(1);
const LONGEST: Duration = Duration::from_hours(1);

/// A consumer whose queues are counted.
pub(super) struct Watched {
    pub(super) figures: Arc<Figures>,
    pub(super) health: Receiver<ConsumerHealth>,
}

impl Watched {
    fn state(&self) -> ConsumerState {
        self.health.borrow().state
    }

    /// Waits until the consumer has declared its queues. A consumer that begins paused may have queues all the
    /// same. False if the consumer has ended.
    async fn until_declared(&mut self) -> bool {
        let has_begun = |health: &ConsumerHealth| {
            use ConsumerState::{Connecting, Draining, Stopped};
            !matches!(health.state, Connecting | Draining | Stopped)
        };
        self.health.wait_for(has_begun).await.is_ok()
    }
}

/// Counts the queues of these consumers until the future is dropped.
pub(super) async fn watch<B: Broker>(broker: B, consumers: Vec<Watched>) {
    let share = SHARE.saturating_mul(u32::try_from(consumers.len()).unwrap_or(u32::MAX));
    let watches = consumers.into_iter().filter_map(|consumer| {
        let every = consumer.figures.settings.backlog_check?.max(share);
        Some(look_again(broker.clone(), consumer, every))
    });
    join_all(watches).await;
}

/// Looks at the queues of one consumer, again and again.
async fn look_again<B: Broker>(mut broker: B, mut consumer: Watched, every: Duration) {
    if !consumer.until_declared().await {
        return;
    }
    let figures = Arc::clone(&consumer.figures);
    let mut queue = Queue::new(figures.settings.queue.clone());
    let mut dead = Queue::new(figures.settings.dead_letter_queue());
    loop {
        let look = |ready, dead_letters, is_subscribed| Look {
            ready,
            dead_letters,
            limit: limit(&figures),
            received: figures.report().ledger.received,
            is_subscribed,
            every,
        };
        if !broker.is_up() {
            let away = || Err("not connected to the broker".to_owned());
            figures.looks.add(look(away(), away(), false));
            broker.up().await;
        }
        // A count of one queue takes nothing from the other: each may be refused by itself.
        let sessions = figures.counters.sessions.get();
        let is_subscribed = consumer.state() == ConsumerState::Consuming;
        let ready = queue.look(&broker, sessions, is_subscribed).await;
        let dead_letters = dead.look(&broker, sessions, false).await;
        if let Some(ready) = ready {
            let dead_letters = dead_letters.unwrap_or(Ok(dead.last));
            figures.looks.add(look(ready, dead_letters, is_subscribed));
        }
        // Workers that started together do not stay in step.
        sleep(every.mul_f64(0.75 + chance::fraction() / 2.0)).await;
    }
}

/// A queue that is counted again and again.
struct Queue {
    name: String,
    /// The last count that was believed.
    last: u32,
    /// The answers since then that may be none.
    doubts: u32,
    refusal: Option<Refusal>,
}

/// The broker has refused to count a queue.
struct Refusal {
    why: String,
    /// The consumer's sessions at that time. A further one may have other rights, or has declared the queue.
    sessions: u64,
    wait: Duration,
    until: Instant,
}

impl Queue {
    fn new(name: String) -> Self {
        Self {
            name,
            last: 0,
            doubts: 0,
            refusal: None,
        }
    }

    /// Counts the queue: its messages, or why they are not known. `None`: the broker's answer may be none, so
    /// the last count stands.
    async fn look<B: Broker>(
        &mut self,
        broker: &B,
        sessions: u64,
        is_subscribed: bool,
    ) -> Option<Result<u32, String>> {
        let before = self.refusal.take().filter(|it| it.sessions == sessions);
        if let Some(refusal) = &before
            && Instant::now() < refusal.until
        {
            let why = refusal.why.clone();
            self.refusal = before;
            return Some(Err(why));
        }
        let name = &self.name;
        let (why, is_refused) = match broker.count(name).await {
            Ok(Some(count)) => return self.believe(count, is_subscribed),
            Ok(None) => (format!("queue `{name}` does not exist"), true),
            Err(error) => (
                format!("cannot count the messages of queue `{name}`: {error}"),
                matches!(error, BrokerError::Refused(_)),
            ),
        };
        if is_refused {
            let wait = before.map_or(REFUSED, |before| (before.wait * 2).min(LONGEST));
            self.refusal = Some(Refusal {
                why: why.clone(),
                sessions,
                wait,
                until: Instant::now() + wait,
            });
        }
        Some(Err(why))
    }

    /// Whether to believe a count. A queue to which this consumer has subscribed has a consumer, so an answer
    /// without one is none.
    fn believe(&mut self, count: Count, is_subscribed: bool) -> Option<Result<u32, String>> {
        /// The answers in a row that may be none until the queue is said to be unknown.
        const DOUBTS: u32 = 3;
        let is_doubtful = count.may_be_none() && (is_subscribed || self.last > 0);
        if is_doubtful {
            self.doubts += 1;
            if self.doubts == 1 || is_subscribed && self.doubts <= DOUBTS {
                return None;
            }
            if is_subscribed {
                let name = &self.name;
                return Some(Err(format!(
                    "cannot count the messages of queue `{name}`: its leader does not answer the broker"
                )));
            }
        }
        self.doubts = 0;
        self.last = count.ready;
        Some(Ok(count.ready))
    }
}

/// What keeps the consumer from running more at this moment. A slot that has just become free does not
/// count while messages wait for it.
fn limit(figures: &Figures) -> Option<Limit> {
    let report = figures.report();
    let has_rate = figures.settings.rate.is_some();
    match report.buffered {
        _ if report.running >= figures.slots.limit() => Some(Limit::Concurrency),
        1.. if has_rate => Some(Limit::Rate),
        1.. => Some(Limit::Concurrency),
        0 if report.in_flight >= figures.settings.prefetch.into() => Some(Limit::Prefetch),
        0 => None,
    }
}

#[cfg(test)]
mod tests;
