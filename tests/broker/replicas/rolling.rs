//! A rolling update: each replica is replaced in turn, and the new one is ready before the old one
//! ends.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::interval;

use super::{Replica, all_done, answers, limits};
use crate::support::{
    Account, BUSY, DEADLINE, HttpHandler, PublishSpec, QueueType, Reply, VHost, vhost,
};

const REPLICAS: usize = 3;
/// Messages in the queue before the update begins.
const BACKLOG: usize = 1_500;
/// The time between two messages during the update.
const PACE: Duration = Duration::from_millis(4);
const WORK: Duration = Duration::from_millis(40);
/// Some messages take longer than the pause between two replicas: drains overlap.
const SLOW: Duration = Duration::from_millis(1_500);
/// Messages that each new replica handles before the next old one ends.
const SHARE: usize = 50;
/// The longest pause between two finished messages.
const SILENCE: Duration = Duration::from_secs(4);

/// Publishes messages at this pace until the test stops it, and returns their ids.
async fn publish_until(vhost: &VHost, stop: &watch::Sender<bool>) -> Vec<String> {
    let (mut ids, mut pace, mut stopped) = (Vec::new(), interval(PACE), stop.subscribe());
    loop {
        tokio::select! {
            stopped = stopped.wait_for(|stop| *stop) => {
                stopped.expect("the sender is ours");
                return ids;
            }
            _ = pace.tick() => {}
        }
        let n = BACKLOG + ids.len();
        ids.push(vhost.publish("orders", format!("{{\"n\":{n}}}")).await);
    }
}

async fn all_replaced(kind: QueueType) {
    let vhost = vhost().await;
    let handler = HttpHandler::answering(|request| match request.json()["n"].as_u64() {
        Some(n) if n % 40 == 39 => Reply::ok().after(SLOW),
        _ => Reply::ok().after(WORK),
    })
    .await;
    let changes = limits(kind, 32, 8);
    let start = |number| Replica::start(number, &vhost, &handler, &changes);
    let mut replicas: VecDeque<_> = (0..REPLICAS).map(&start).collect();
    for replica in &replicas {
        replica.ready().await;
    }
    let make = |n| PublishSpec::of(format!("{{\"n\":{n}}}"));
    let mut ids = vhost.publish_many("orders", BACKLOG, make).await;
    handler.wait_for_answered(100, DEADLINE).await;

    let stop = watch::Sender::new(false);
    let begun = Instant::now();
    let replace = async {
        let mut ended = Vec::new();
        for number in REPLICAS..2 * REPLICAS {
            let new = start(number);
            new.ready().await;
            let old = replicas.pop_front().expect("as many as there are numbers");
            ended.push(old.ends());
            new.works(&handler, SHARE).await;
            replicas.push_back(new);
        }
        stop.send_replace(true);
        ended
    };
    let (published, mut ended) = tokio::join!(publish_until(&vhost, &stop), replace);
    let over = Instant::now();
    ids.extend(published);
    handler.wait_for_answered(ids.len(), DEADLINE).await;
    ended.extend(replicas.into_iter().map(Replica::ends));
    let handed_over = all_done(ids.len(), ended, SLOW + BUSY).await;

    let seen = handler.seen();
    assert!(
        seen.exchanges
            .iter()
            .all(|exchange| exchange.request.attempt() == 1)
    );
    assert_eq!(seen.abandoned, 0, "every handler was waited for");
    let account = Account::take(&vhost, ids.clone(), &seen, &["orders", "orders.dead"]).await;
    account.assert_exactly_once();
    assert_eq!(account.finished().count(), ids.len());

    let answers = answers(&seen);
    let during: Vec<_> = answers
        .iter()
        .filter(|at| (begun..over).contains(*at))
        .collect();
    let longest = during.windows(2).map(|two| *two[1] - *two[0]).max();
    let longest = longest.expect("something was done");
    println!(
        "{kind:?}: {REPLICAS} replaced in {:?}, {} messages meanwhile, {} of {} handed over, \
         longest silence {longest:?}",
        over - begun,
        during.len(),
        handed_over,
        ids.len()
    );
    assert!(longest < SILENCE, "{longest:?}");
}

#[tokio::test]
async fn three_replicas_replaced_in_turn_under_load_lose_and_repeat_nothing_from_a_quorum_queue() {
    all_replaced(QueueType::Quorum).await;
}

#[tokio::test]
async fn three_replicas_replaced_in_turn_under_load_lose_and_repeat_nothing_from_a_classic_queue() {
    all_replaced(QueueType::Classic).await;
}
