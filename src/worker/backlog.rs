//! Counts the messages of each consumer's queue and of its dead-letter queue, every few seconds. The counts
//! are asked for on channels of their own, so no lane waits for them.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio::time::{Instant, sleep};

use crate::{
    broker::{Broker, BrokerError},
    status::{Figures, Limit, Look},
};

/// The time that each consumer adds to the time between two looks, once the sum is above `backlog_check`: the
/// broker is asked for the queues of at most twenty consumers a second.
const SHARE: Duration = Duration::from_millis(50);
/// How often the watch sees whether a consumer has had its first subscription, which declares its queues.
const SOON: Duration = Duration::from_millis(250);
/// How long the watch waits for this subscription.
const LATE: Duration = Duration::from_secs(10);
/// The time until the next look at a queue that does not exist, or that the worker may not look at. The
/// broker logs each such look as an error.
const REFUSED: Duration = Duration::from_secs(60);

/// Counts the queues of these consumers until the future is dropped.
pub(super) async fn watch<B: Broker>(broker: B, consumers: Vec<Arc<Figures>>) {
    let share = SHARE.saturating_mul(u32::try_from(consumers.len()).unwrap_or(u32::MAX));
    let consumers = consumers.iter().zip(0u32..);
    let watches = consumers.map(|(figures, index)| {
        let broker = broker.clone();
        async move {
            sleep(SHARE.saturating_mul(index)).await;
            look_again(broker, figures, share).await;
        }
    });
    join_all(watches).await;
}

/// Looks at the queues of one consumer, again and again.
async fn look_again<B: Broker>(mut broker: B, figures: &Figures, share: Duration) {
    // A consumer that was paused before its first subscription may have a queue all the same.
    let until = Instant::now() + LATE;
    while figures.counters.sessions.get() == 0 && Instant::now() < until {
        sleep(SOON).await;
    }
    let every = figures.settings.backlog_check.max(share);
    loop {
        if !broker.is_up() {
            let away = || Err("not connected to the broker".to_owned());
            figures.looks.add(Look {
                ready: away(),
                dead_letters: away(),
                limit: None,
            });
            broker.up().await;
        }
        let look = look(&broker, figures).await;
        let has_failed = look.ready.is_err() || look.dead_letters.is_err();
        let is_refused = has_failed && broker.is_up();
        figures.looks.add(look);
        sleep(if is_refused {
            every.max(REFUSED)
        } else {
            every
        })
        .await;
    }
}

/// Counts the messages of both queues of a consumer.
async fn look<B: Broker>(broker: &B, figures: &Figures) -> Look {
    let [queue, dead] = [
        figures.settings.queue.clone(),
        figures.settings.dead_letter_queue(),
    ];
    let both = broker.depths(vec![queue.clone(), dead.clone()]).await;
    let limit = limit(figures);
    let (ready, dead_letters) = match both {
        Ok(_) => (count(&both, &queue), count(&both, &dead)),
        // One of them is refused. The other one may not be.
        Err(BrokerError::Refused(_)) => {
            let ready = broker.depths(vec![queue.clone()]).await;
            let dead_letters = broker.depths(vec![dead.clone()]).await;
            (count(&ready, &queue), count(&dead_letters, &dead))
        }
        Err(_) => (count(&both, &queue), count(&both, &dead)),
    };
    Look {
        ready,
        dead_letters,
        limit,
    }
}

/// The count of one queue, or why it is not known.
fn count(
    found: &Result<Vec<(String, Option<u32>)>, BrokerError>,
    queue: &str,
) -> Result<u32, String> {
    let found = found
        .as_ref()
        .map_err(|error| format!("cannot count the messages of queue `{queue}`: {error}"))?;
    let count = found.iter().find(|(name, _)| name == queue);
    let count = count.and_then(|(_, count)| *count);
    count.ok_or_else(|| format!("queue `{queue}` does not exist"))
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
