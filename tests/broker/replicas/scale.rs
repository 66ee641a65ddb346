//! Scaling out and in during a backlog.
//!
//! A new replica gets messages although the others have prefetched. The broker gives each consumer
//! at most its prefetch, and the rest of the backlog stays in the queue for the next consumer with
//! room.

use std::time::{Duration, Instant};

use super::{Replica, all_done, answers, limits};
use crate::support::{
    Account, BUSY, DEADLINE, HttpHandler, PublishSpec, QueueType, Reply, vhost, wait_until,
};

const BACKLOG: usize = 2_600;
const PREFETCH: usize = 24;
const CONCURRENCY: usize = 8;
const WORK: Duration = Duration::from_millis(50);
/// Messages that first one replica handles, and then four replicas together.
const ALONE: usize = 300;
const TOGETHER: usize = 1_600;
/// The gain of four replicas over one: less than four, as two cores also run the broker and the
/// handler.
const GROWTH: f64 = 2.0;

/// Messages a second between two moments.
fn rate(answers: &[Instant], from: Instant, to: Instant) -> f64 {
    let during = answers.iter().filter(|at| (from..to).contains(*at)).count();
    during as f64 / (to - from).as_secs_f64()
}

async fn one_four_one(kind: QueueType) {
    let vhost = vhost().await;
    let handler = HttpHandler::answering(|_| Reply::ok().after(WORK)).await;
    let changes = limits(kind, PREFETCH, CONCURRENCY);
    let start = |number| Replica::start(number, &vhost, &handler, &changes);
    let first = start(0);
    first.ready().await;
    let make = |_| PublishSpec::of("{}");
    let ids = vhost.publish_many("orders", BACKLOG, make).await;

    let one = Instant::now();
    let done = handler.seen().answered;
    handler.wait_for_answered(done + ALONE, DEADLINE).await;
    // The first replica holds its prefetch and no more, so other replicas can get work.
    let counts = vhost.counts("orders").await;
    assert!(
        counts.unacked as usize <= PREFETCH && counts.ready > 0,
        "{counts:?}"
    );
    let out = Instant::now();
    let more: Vec<_> = (1..4).map(&start).collect();
    for replica in &more {
        let seen = replica.works(&handler, 1).await;
        let request = replica.requests(&seen).next().expect("waited for above");
        let at = request.request.at;
        let took = at.saturating_duration_since(replica.subscribed().await);
        println!(
            "{kind:?}: replica {} has its first message {:?} after the start of its process, \
             {took:?} after its subscription",
            replica.number,
            at - replica.started
        );
    }

    let four = Instant::now();
    let done = handler.seen().answered;
    let left = BACKLOG.checked_sub(done + 4 * PREFETCH);
    let left = left.expect("each has its first message amid the backlog");
    handler
        .wait_for_answered(done + TOGETHER.min(left), DEADLINE)
        .await;
    let counts = vhost.counts("orders").await;
    assert!(counts.unacked as usize <= 4 * PREFETCH, "{counts:?}");
    let back = Instant::now();
    let mut ended: Vec<_> = more.into_iter().map(Replica::ends).collect();
    handler.wait_for_answered(BACKLOG, DEADLINE).await;
    let empty = async || vhost.counts("orders").await.total();
    wait_until("the backlog is settled", DEADLINE, empty, |total| {
        *total == 0
    })
    .await;
    ended.push(first.ends());
    let handed_over = all_done(BACKLOG, ended, WORK + BUSY).await;

    let seen = handler.seen();
    let account = Account::take(&vhost, ids, &seen, &["orders", "orders.dead"]).await;
    account.assert_exactly_once();

    let answers = answers(&seen);
    let (alone, together) = (rate(&answers, one, out), rate(&answers, four, back));
    println!(
        "{kind:?}: {alone:.0}/s with one replica, {together:.0}/s with four, {handed_over} handed over"
    );
    assert!(
        together >= GROWTH * alone,
        "{alone:.0}/s, then {together:.0}/s"
    );
}

#[tokio::test]
async fn from_one_to_four_and_back_under_load_each_replica_gets_work_at_once_from_a_quorum_queue() {
    one_four_one(QueueType::Quorum).await;
}

#[tokio::test]
async fn from_one_to_four_and_back_under_load_each_replica_gets_work_at_once_from_a_classic_queue()
{
    one_four_one(QueueType::Classic).await;
}
