//! Several worker processes on one queue, started and ended as an orchestrator does.

mod rolling;
mod scale;

use std::time::{Duration, Instant, SystemTime};

use tokio::task::JoinHandle;

use lapwing::Ledger;

use crate::support::exchange::{Exchange, Seen};
use crate::support::{
    DEADLINE, Ending, Exit, HttpHandler, QueueType, VHost, WorkerProcess, assert_adds_up, consumer,
    field, wait_until,
};

/// One of several workers. Its requests have their own path, which identifies the worker.
struct Replica {
    number: usize,
    started: Instant,
    worker: WorkerProcess,
}

impl Replica {
    /// A worker on the queue `orders`.
    fn start(number: usize, vhost: &VHost, handler: &HttpHandler, changes: &str) -> Self {
        let url = format!("{}{number}", handler.url());
        let config = consumer(&vhost, "orders")
            .http_at(&url)
            .with(changes)
            .toml();
        Self {
            number,
            started: Instant::now(),
            worker: WorkerProcess::start_with(&config, |command| {
                command.env("LAPWING__ADMIN__PROBES", "127.0.0.1:0");
            }),
        }
    }

    /// Waits until its readiness probe succeeds.
    async fn ready(&self) {
        let line = self.worker.wait_for_message("probes listening", DEADLINE);
        let line = line.await;
        let address = field(&line, "address").as_str().expect("an address");
        let url = format!("http://{address}/readyz");
        let what = format!("replica {} is ready", self.number);
        let probe = async || {
            let answer = reqwest::get(&url).await.expect("it listens");
            answer.status().as_u16()
        };
        wait_until(&what, DEADLINE, probe, |status| *status == 200).await;
    }

    /// The time at which it began to consume, from its log.
    async fn subscribed(&self) -> Instant {
        let line = self.worker.wait_for_message("consuming", DEADLINE).await;
        let at = field(&line, "timestamp").as_str().expect("a time");
        let at = humantime::parse_rfc3339(at).expect("a time");
        let ago = SystemTime::now().duration_since(at).unwrap_or_default();
        Instant::now() - ago
    }

    /// Its requests up to now.
    fn requests<'seen>(&self, seen: &'seen Seen) -> impl Iterator<Item = &'seen Exchange> {
        let path = format!("/{}", self.number);
        let all = seen.exchanges.iter();
        all.filter(move |exchange| exchange.request.path == path)
    }

    /// Waits until it has sent this many requests.
    async fn works(&self, handler: &HttpHandler, requests: usize) -> Seen {
        let what = format!("replica {} has sent {requests} requests", self.number);
        let enough = |seen: &Seen| self.requests(seen).count() >= requests;
        handler.wait_for(&what, DEADLINE, enough).await
    }

    /// Sends SIGTERM, and returns a task that waits for the worker's end.
    fn ends(mut self) -> JoinHandle<(Exit, Ledger)> {
        self.worker.terminate();
        tokio::spawn(async move {
            let exit = self.worker.exited(DEADLINE).await;
            (exit, self.worker.ledger())
        })
    }
}

/// Asserts that all replicas ended with success within this time of their signals, and together
/// handled all messages. Returns how many messages they returned; there are some, as the signals
/// came under load.
async fn all_done(
    messages: usize,
    ended: Vec<JoinHandle<(Exit, Ledger)>>,
    longest: Duration,
) -> u64 {
    let mut sum = Ledger::default();
    for replica in ended {
        let (exit, ledger) = replica.await.expect("no panic");
        assert!(
            exit.status.success() && exit.took <= longest,
            "{exit:?} {ledger:?}"
        );
        assert_adds_up(&ledger);
        sum += ledger;
    }
    assert_eq!((sum.acked, sum.stale), (messages as u64, 0), "{sum:?}");
    assert_eq!(sum.received, sum.acked + sum.returned, "{sum:?}");
    assert!(sum.returned > 0, "{sum:?}");
    sum.returned
}

/// The times of successful answers, in order.
fn answers(seen: &Seen) -> Vec<Instant> {
    let ends = seen.exchanges.iter().filter_map(|exchange| exchange.ended);
    let mut answers: Vec<_> = ends
        .filter(|(_, ending)| *ending == Ending::Answered(200))
        .map(|(at, _)| at)
        .collect();
    answers.sort_unstable();
    answers
}

/// A queue `orders` of this kind in a consumer's configuration, with these limits.
fn limits(kind: QueueType, prefetch: usize, concurrency: usize) -> String {
    format!(
        "[consumers.orders]\nqueue_type = '{}'\nprefetch = {prefetch}\nconcurrency = {concurrency}",
        kind.name()
    )
}
