//! Repeated SIGKILL of a working worker.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::support::{
    Account, DEADLINE, HttpHandler, PublishSpec, QueueType, Reply, Request, VHost, WorkerProcess,
    consumer, exchange::Seen, vhost, wait_until,
};

const MESSAGES: usize = 4_000;
const KILLS: usize = 5;
const PREFETCH: usize = 64;

/// The longest time between a handler's answer and its ack. An ack waits some milliseconds for
/// others, and a busy machine adds to that.
const UNACKED: Duration = Duration::from_secs(2);

/// The queues that a message can be in.
/// The queues that hold messages: the work queue, its retry queue and its dead-letter queue.
fn queues(kind: QueueType) -> [&'static str; 3] {
    let retry = match kind {
        QueueType::Quorum => "orders.retry.1s",
        QueueType::Classic => "orders.retry.quorum.1s",
    };
    ["orders", retry, "orders.dead"]
}

/// Every tenth message fails at its first attempt.
fn fails(n: u64) -> bool {
    n % 10 == 3
}

fn answer(request: &Request) -> Reply {
    let n = request.json()["n"].as_u64().expect("a number");
    let work = Duration::from_millis(n % 7);
    match fails(n) && request.attempt() == 1 {
        true => Reply::status(500).after(work),
        false => Reply::ok().after(work),
    }
}

/// A kill: the requests to the handler before it, and its time.
struct Kill {
    requests: usize,
    at: Instant,
}

/// The ids that a kill made run again: they ran before the kill, and again after it, in the same
/// attempt or in a later attempt of a second copy.
fn ran_again(seen: &Seen) -> BTreeMap<String, Vec<usize>> {
    let mut runs: BTreeMap<(String, u32), Vec<usize>> = BTreeMap::new();
    for (index, exchange) in seen.exchanges.iter().enumerate() {
        let request = &exchange.request;
        let key = (request.message_id().to_owned(), request.attempt());
        runs.entry(key).or_default().push(index);
    }
    let mut again: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for ((id, _), indexes) in runs.into_iter().filter(|(_, indexes)| indexes.len() > 1) {
        again.entry(id).or_default().extend(indexes);
    }
    again
}

async fn all_settled(vhost: &VHost, queues: &[&str; 3]) {
    let look = async || {
        let mut total = 0;
        for queue in &queues[..2] {
            total += vhost.counts(queue).await.total();
        }
        total
    };
    // A message on its way from a retry queue is in no queue for a moment, so this must hold twice.
    for _ in 0..2 {
        wait_until("everything is settled", DEADLINE, look, |total| *total == 0).await;
    }
}

async fn killed_five_times(kind: QueueType) {
    let vhost = vhost().await;
    let handler = HttpHandler::answering(answer).await;
    let changes = format!(
        "[consumers.orders]\nqueue_type = '{}'\nprefetch = {PREFETCH}\nconcurrency = 24\n\
         [consumers.orders.retry]\nbase = '500ms'\njitter = 0.0\ncap = '1s'\ninline_below = '0s'",
        kind.name()
    );
    let config = consumer(&vhost, "orders")
        .http(&handler)
        .with(&changes)
        .toml();
    let mut worker = WorkerProcess::start(&config);
    worker.wait_for_consumers(&vhost, "orders", 1).await;
    let make = |n| PublishSpec::of(format!("{{\"n\":{n}}}"));
    let ids = vhost.publish_many("orders", MESSAGES, make).await;

    let mut kills = Vec::new();
    for round in 1..=KILLS {
        let requests = round * MESSAGES / (KILLS + 1);
        handler.wait_for_requests(requests, DEADLINE).await;
        worker.kill();
        let at = Instant::now();
        worker.exited(DEADLINE).await;
        let seen = handler
            .wait_for("its requests are gone", DEADLINE, |seen| seen.running == 0)
            .await;
        vhost.wait_for_consumers("orders", 0, DEADLINE).await;
        kills.push(Kill {
            requests: seen.exchanges.len(),
            at,
        });
        worker = WorkerProcess::start(&config);
    }
    worker.wait_for_consumers(&vhost, "orders", 1).await;
    let queues = queues(kind);
    all_settled(&vhost, &queues).await;
    let ledger = worker.drain(DEADLINE).await;
    assert_eq!((ledger.stale, ledger.returned), (0, 0), "{ledger:?}");

    let seen = handler.seen();
    let account = Account::take(&vhost, ids.clone(), &seen, &queues).await;
    account.assert_nothing_lost();
    let finished: BTreeSet<_> = account.finished().collect();
    assert_eq!(finished.len(), MESSAGES, "every message was handled");
    for queue in queues {
        assert_eq!(account.left_in(queue), 0, "{queue}");
    }

    // Every message that ran again was in flight at a kill: delivered, and not acked.
    let again = ran_again(&seen);
    println!(
        "{kind:?}: {} of {MESSAGES} ran again after {KILLS} kills",
        again.len()
    );
    let mut per_kill = [0; KILLS];
    for (id, runs) in &again {
        let in_flight = |kill: &Kill| {
            runs.iter().any(|run| {
                let ended = seen.exchanges[*run].ended;
                let late = ended.is_none_or(|(ended, _)| ended + UNACKED >= kill.at);
                *run < kill.requests && late
            })
        };
        let kill = kills.iter().position(in_flight);
        let kill = kill.unwrap_or_else(|| panic!("{id} was not in flight at any kill"));
        per_kill[kill] += 1;
    }
    assert!(again.len() <= KILLS * PREFETCH, "{} ran again", again.len());
    assert!(
        per_kill.iter().all(|again| *again <= PREFETCH),
        "a kill costs no more than the prefetch: {per_kill:?}"
    );
}

#[tokio::test]
async fn five_kills_amid_a_run_from_a_quorum_queue_lose_nothing_and_repeat_only_what_was_in_flight()
{
    killed_five_times(QueueType::Quorum).await;
}

#[tokio::test]
async fn five_kills_amid_a_run_from_a_classic_queue_lose_nothing_and_repeat_only_what_was_in_flight()
 {
    killed_five_times(QueueType::Classic).await;
}
