//! The broker in memory tells the truth: the same script ends in the same way on it and on RabbitMQ.

use std::{panic::resume_unwind, time::Duration};

use lapwing::{Context, Failure, Ledger, Outcome, Worker, testing::TestWorker};

use crate::support::{Consumers, DEADLINE, Notes, RunningWorker, VHost, consumer, vhost};

/// What a script ends in: the account, and the messages in two queues, by body.
#[derive(Debug, PartialEq)]
struct Fate {
    ledger: Ledger,
    left: Vec<Kept>,
    dead: Vec<Kept>,
}

/// A message in a queue: its body, and the text of the headers that the worker writes.
#[derive(Debug, PartialEq, PartialOrd, Eq, Ord)]
struct Kept {
    body: String,
    headers: Vec<Option<String>>,
}

const HEADERS: [&str; 6] = [
    "lapwing-reason",
    "lapwing-error",
    "lapwing-error-kind",
    "lapwing-fingerprint",
    "lapwing-source-queue",
    "lapwing-source-routing-key",
];

const SETTINGS: &str = "
    [consumers.q]
    timeout = '200ms'
    cancel_grace = '100ms'
    retry = { max_attempts = 2, base = '50ms', jitter = 0.0 }
    [drain]
    grace = '300ms'
";

/// Does what the body says.
async fn act(context: &Context, attempt: usize) -> Outcome {
    match context.message().body() {
        b"fails" => Outcome::Failed(Failure::retryable("busy", "not yet")),
        b"flaky" if attempt == 1 => Outcome::Failed(Failure::retryable("busy", "not yet")),
        b"parked" if attempt == 1 => {
            let later = Duration::from_millis(1200);
            Outcome::Failed(Failure::retryable("busy", "not yet").retry_after(later))
        }
        b"snoozed" if attempt == 1 => Outcome::snooze(Duration::from_millis(1200)),
        b"refused" => Outcome::Failed(Failure::permanent("price", "negative")),
        b"unwanted" => Outcome::dropped("not wanted"),
        // Without the report of the panic hook: it takes so long that the handler counts as stuck.
        b"panics" => resume_unwind(Box::new("the script wants it")),
        b"slow" => std::future::pending().await,
        _ => Outcome::Succeeded,
    }
}

/// A worker for the script, whose handler writes down each run.
fn worker(consumer: &Consumers) -> (Worker, Notes) {
    let notes = Notes::default();
    let noting = notes.clone();
    let handler = move |context: Context| {
        let attempt = noting.note(&context);
        async move { act(&context, attempt).await }
    };
    let worker = Worker::new(consumer.settings()).handler("q", handler);
    (worker, notes)
}

async fn on_rabbitmq(vhost: &VHost, consumer: &Consumers, bodies: &[&str], runs: usize) -> Fate {
    let (worker, notes) = worker(consumer);
    let worker = RunningWorker::start(worker).await;
    for body in bodies {
        vhost.publish("q", *body).await;
    }
    notes.wait_for(runs).await;
    let ledger = worker.drain().await.ledger();
    Fate {
        ledger,
        left: on_rabbitmq_in(vhost, "q").await,
        dead: on_rabbitmq_in(vhost, "q.dead").await,
    }
}

async fn on_rabbitmq_in(vhost: &VHost, queue: &str) -> Vec<Kept> {
    let messages = vhost.drain_all(queue).await;
    let mut kept: Vec<_> = messages
        .iter()
        .map(|message| Kept {
            body: message.text().to_owned(),
            headers: HEADERS
                .map(|name| message.header(name).as_str().map(str::to_owned))
                .to_vec(),
        })
        .collect();
    kept.sort();
    kept
}

async fn in_memory(consumer: &Consumers, bodies: &[&str], runs: usize) -> Fate {
    let (worker, notes) = worker(consumer);
    let worker = TestWorker::start(worker).await;
    let broker = worker.broker().clone();
    for body in bodies {
        broker.publish("q", body.as_bytes(), None, None);
    }
    notes.wait_for(runs).await;
    let ledger = worker.drain().await.expect("the worker ran").ledger();
    let kept_in = |queue: &str| {
        let mut kept: Vec<_> = broker
            .messages(queue)
            .iter()
            .map(|message| Kept {
                body: String::from_utf8_lossy(&message.body).into_owned(),
                headers: HEADERS
                    .map(|name| message.header(name).map(str::to_owned))
                    .to_vec(),
            })
            .collect();
        kept.sort();
        kept
    };
    Fate {
        ledger,
        left: kept_in("q"),
        dead: kept_in("q.dead"),
    }
}

/// Runs the script on both brokers. The last of `runs` handler runs begins the drain.
async fn same_on_both(settings: &str, bodies: &[&str], runs: usize) -> Fate {
    let vhost = vhost().await;
    let consumer = consumer(&vhost, "q").with(SETTINGS).with(settings);
    let real = on_rabbitmq(&vhost, &consumer, bodies, runs).await;
    let ours = tokio::time::timeout(DEADLINE, in_memory(&consumer, bodies, runs)).await;
    let ours = ours.expect("the broker in memory is not slower");
    assert_eq!(ours, real, "in memory, and on RabbitMQ");
    real
}

#[tokio::test]
async fn each_outcome_ends_in_memory_as_it_ends_on_rabbitmq() {
    let bodies = [
        "ok", "fails", "flaky", "refused", "unwanted", "panics", "slow", "parked", "snoozed",
    ];
    // Two runs for all but "ok", "refused" and "unwanted".
    let fate = same_on_both("", &bodies, 3 + 6 * 2).await;
    let dead: Vec<_> = fate.dead.iter().map(|kept| kept.body.as_str()).collect();
    assert_eq!(dead, ["fails", "panics", "refused", "slow"]);
    assert_eq!(fate.left, []);
}

#[tokio::test]
async fn a_drain_leaves_the_same_in_memory_as_on_rabbitmq() {
    let settings = "[consumers.q]\ntimeout = '30s'\nprefetch = 4\nconcurrency = 2";
    let bodies = ["slow"; 6];
    let fate = same_on_both(settings, &bodies, 2).await;
    assert_eq!(fate.left.len(), 6);
    assert_eq!((fate.ledger.returned, fate.ledger.acked), (4, 0));
}

#[tokio::test]
async fn a_classic_queue_ends_the_same_in_memory_as_on_rabbitmq() {
    let bodies = ["ok", "parked", "refused", "fails"];
    let classic = "[consumers.q]\nqueue_type = 'classic'";
    let fate = same_on_both(classic, &bodies, 1 + 2 + 1 + 2).await;
    assert_eq!(fate.dead.len(), 2);
}
