//! Messages that come back to their queue again and again. Before RabbitMQ 4.3 a return counts against
//! the delivery limit of the queue, and a lost channel counts on each release.

use lapin::types::AMQPValue;
use lapwing::{ConsumerState, Context, Readiness};
use serde_json::{Value, json};
use url::Url;

use crate::support::{
    Account, Consumers, DEADLINE, Gate, HttpHandler, Notes, Proxy, PublishSpec, QueueType, Release,
    Reply, RunningWorker, VHost, WorkerProcess, consumer, management::encode, vhost, wait_until,
    within,
};

const MESSAGES: u32 = 64;
/// The handlers that run at once.
const RUNNING: u32 = 2;
/// More often than RabbitMQ 4 delivers a message by default.
const TIMES: usize = 25;

/// A queue of the user's without a limit of its own and without a dead-letter exchange: a message that
/// the broker takes away is lost. RabbitMQ 4 gives the queue a limit of 20.
async fn theirs(vhost: &VHost) -> Vec<String> {
    vhost.declare("orders", QueueType::Quorum).await;
    vhost.declare_beside("orders").await;
    let make = |_| PublishSpec::of("{}");
    vhost.publish_many("orders", MESSAGES as usize, make).await
}

/// A consumer of this queue, which takes all of its messages and runs two.
fn orders(vhost: &VHost) -> Consumers {
    let changes = format!(
        "[drain]\ngrace = '30s'\n[consumers.orders]\ntopology = 'none'\nretry.cap = '1s'\n\
         timeout = '5m'\nprefetch = {MESSAGES}\nconcurrency = {RUNNING}"
    );
    consumer(vhost, "orders").with(&changes)
}

/// Whether RabbitMQ takes a message of such a queue away that is returned too often.
fn is_limited(vhost: &VHost) -> bool {
    let release = vhost.broker().release();
    release >= Release::V4_0 && release < Release::V4_3
}

/// Whether a return counts against the delivery limit.
fn counts_returns(vhost: &VHost) -> bool {
    vhost.broker().release() < Release::V4_3
}

#[tokio::test]
async fn no_message_is_lost_over_many_restarts() {
    let vhost = vhost().await;
    let ids = theirs(&vhost).await;
    let gate = Gate::default();
    let handler = HttpHandler::behind(&gate, |_| Reply::ok()).await;
    let config = orders(&vhost).http(&handler).toml();
    let mut copied = 0;
    for round in 1..=TIMES {
        let mut worker = WorkerProcess::start(&config);
        vhost.wait_for_counts("orders", 0, MESSAGES, DEADLINE).await;
        handler
            .wait_for_requests(round * RUNNING as usize, DEADLINE)
            .await;
        // The first signal returns what waits, and the second one what runs.
        worker.terminate();
        vhost
            .wait_for_counts("orders", MESSAGES - RUNNING, RUNNING, DEADLINE)
            .await;
        worker.terminate();
        let exit = worker.exited(DEADLINE).await;
        assert!(matches!(exit.status.code(), Some(0 | 4)), "{exit:?}");
        vhost.wait_for_counts("orders", MESSAGES, 0, DEADLINE).await;
        copied += worker.ledger().copied;
    }
    assert_eq!(copied > 0, is_limited(&vhost), "{copied} copies");
    gate.open();
    let mut last = WorkerProcess::start(&config);
    handler.wait_for_success(&ids).await;
    last.drain(DEADLINE).await;
    let queues = ["orders", "orders.dead"];
    let account = Account::take(&vhost, ids, &handler.seen(), &queues).await;
    account.assert_exactly_once();
    assert_eq!(account.left_in("orders.dead"), 0);
    let mut attempts = handler.seen().exchanges.into_iter();
    assert!(
        attempts.all(|it| it.request.attempt() == 1),
        "none is charged"
    );
}

fn is_paused(readiness: &Readiness) -> bool {
    readiness.consumers["orders"].state == ConsumerState::Paused
}

/// Pauses and resumes the consumer many times.
async fn pauses(vhost: &VHost, worker: &RunningWorker, notes: &Notes) {
    // These handlers run until the gate opens.
    notes.wait_for(RUNNING as usize).await;
    for _ in 0..TIMES {
        vhost.wait_for_counts("orders", 0, MESSAGES, DEADLINE).await;
        // On a busy machine the answer may be late.
        let _ = worker.handle.pause("orders").await;
        worker.until("is paused", is_paused).await;
        vhost
            .wait_for_counts("orders", MESSAGES - RUNNING, RUNNING, DEADLINE)
            .await;
        let resumed = worker.handle.resume("orders").await;
        resumed.expect("the consumer answers");
    }
    vhost.wait_for_counts("orders", 0, MESSAGES, DEADLINE).await;
}

/// Pauses the consumer many times: returns go back as copies if `are_copied`, and each message runs once.
async fn outlives_pauses(
    vhost: &VHost,
    gate: &Gate,
    notes: &Notes,
    worker: RunningWorker,
    are_copied: bool,
) {
    pauses(vhost, &worker, notes).await;
    let copied = worker.report("orders").await.ledger.copied;
    assert_eq!(copied > 0, are_copied, "{copied} copies");
    all_run(vhost, gate, notes, worker).await;
}

/// A worker whose handlers wait for the gate.
async fn behind(gate: &Gate, notes: &Notes, consumer: &Consumers) -> RunningWorker {
    let (gate, notes) = (gate.clone(), notes.clone());
    let handler = move |context: Context| {
        let gate = gate.clone();
        notes.note(&context);
        async move { gate.passed().await }
    };
    consumer.start_with(handler).await
}

/// Opens the gate. Each message runs once, and the worker drains.
async fn all_run(vhost: &VHost, gate: &Gate, notes: &Notes, worker: RunningWorker) {
    gate.open();
    let runs = notes.wait_for(MESSAGES as usize).await;
    assert!(runs.iter().all(|run| run.attempt == 1), "none is charged");
    let mut ids: Vec<_> = runs.into_iter().map(|run| run.id).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), MESSAGES as usize, "each ran once");
    vhost.wait_for_counts("orders", 0, 0, DEADLINE).await;
    assert_eq!(vhost.ready("orders.dead").await, 0);
    worker.drain().await;
}

#[tokio::test]
async fn no_message_is_lost_over_many_pauses() {
    let vhost = vhost().await;
    theirs(&vhost).await;
    let (gate, notes) = (Gate::default(), Notes::default());
    let worker = behind(&gate, &notes, &orders(&vhost)).await;
    outlives_pauses(&vhost, &gate, &notes, worker, is_limited(&vhost)).await;
}

#[tokio::test]
async fn many_pauses_dead_letter_no_message_of_a_queue_with_a_limit() {
    let vhost = vhost().await;
    let (gate, notes) = (Gate::default(), Notes::default());
    let limited = "[consumers.orders]\ntopology = 'declare'\ndelivery_limit = 8";
    let worker = behind(&gate, &notes, &orders(&vhost).with(limited)).await;
    let make = |_| PublishSpec::of("{}");
    vhost.publish_many("orders", MESSAGES as usize, make).await;
    outlives_pauses(&vhost, &gate, &notes, worker, counts_returns(&vhost)).await;
}

#[tokio::test]
async fn the_limit_of_a_policy_is_read_from_the_management_api() {
    let vhost = vhost().await;
    let policy = json!({
        "pattern": "^orders$",
        "definition": { "delivery-limit": 6 },
        "apply-to": "queues",
    });
    let management = vhost.broker().management();
    let name = encode(vhost.name());
    management
        .put(&format!("policies/{name}/limit"), &policy)
        .await;
    theirs(&vhost).await;
    // The broker does not show the policies of a new queue for some seconds.
    let path = format!("queues/{name}/orders");
    let look = async || management.get(&path).await;
    let is_shown = |queue: &Value| queue.get("effective_policy_definition").is_some();
    wait_until("the policy is shown", DEADLINE, look, is_shown).await;
    // The worker uses its own user.
    let node = vhost.broker().node();
    let mut url: Url = node.management_url.expect("asked above").parse().unwrap();
    url.set_username("").expect("an http url can lose its user");
    url.set_password(None).expect("and its password");
    let changes = format!("broker.management_url = '{url}'");
    let (gate, notes) = (Gate::default(), Notes::default());
    let worker = behind(&gate, &notes, &orders(&vhost).with(&changes)).await;
    outlives_pauses(&vhost, &gate, &notes, worker, counts_returns(&vhost)).await;
}

#[tokio::test]
async fn messages_that_wait_outlive_lost_connections() {
    const LIMIT: u32 = 4;
    let vhost = vhost().await;
    let limit = [("x-delivery-limit", AMQPValue::LongLongInt(LIMIT.into()))];
    vhost
        .declare_with("orders", QueueType::Quorum, &limit)
        .await;
    vhost.declare_beside("orders").await;
    let proxy = Proxy::to(&vhost).await;
    let changes = format!("broker.url = '{}'", proxy.url(&vhost));
    let (gate, notes) = (Gate::default(), Notes::default());
    let consumer = orders(&vhost).quick().with(&changes);
    let worker = behind(&gate, &notes, &consumer).await;
    let make = |_| PublishSpec::of("{}");
    // These two handlers keep their slots. The broker takes their messages away in the end: only a
    // message that has not started goes back as a copy.
    vhost.publish_many("orders", 2, make).await;
    notes.wait_for(2).await;
    let ids = vhost.publish_many("orders", 8, make).await;
    let all_wait = |session: u64| {
        let wait = move |report: &lapwing::ConsumerReport| {
            report.counts.sessions >= session && report.buffered >= 8
        };
        worker.wait_for_report("all wait for a slot", "orders", wait)
    };
    for lost in 1..=u64::from(3 * LIMIT) {
        all_wait(lost).await;
        proxy.cut().await;
        let sessions = |report: &lapwing::ConsumerReport| report.counts.sessions > lost;
        worker
            .wait_for_report("it subscribes again", "orders", sessions)
            .await;
        if lost % u64::from(LIMIT) == 0 {
            // An ack that was not proven before its connection was cut counts as a duplicate.
            let copied = |report: &lapwing::ConsumerReport| {
                report.ledger.copied + report.ledger.duplicates >= 2 * lost
            };
            worker
                .wait_for_report("copies are made", "orders", copied)
                .await;
        }
    }
    all_wait(u64::from(3 * LIMIT) + 1).await;
    gate.open();
    let all = |runs: &[crate::support::HandlerRun]| {
        ids.iter().all(|id| runs.iter().any(|run| run.id == *id))
    };
    notes.wait_until("each message runs", all).await;
    vhost.wait_for_counts("orders", 0, 0, DEADLINE).await;
    assert_eq!(vhost.ready("orders.dead").await, 0);
    worker.handle.stop();
    let ended = within("the drain", worker.running).await;
    let report = ended.expect("no panic").expect("it ran");
    assert_eq!(
        report.left(),
        2,
        "the messages that ran each time: {report:?}"
    );
}
