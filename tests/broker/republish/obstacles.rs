//! A missing retry queue, a full dead-letter queue, a lost connection: the original stays in its
//! queue until its copy is confirmed.

use std::collections::BTreeSet;

use lapin::types::AMQPValue;
use lapwing::{ConsumerReport, ConsumerState, Readiness};
use serde_json::Value;

use super::{DEAD, QUEUE, QUEUES, RUNG, orders, start_and_lose_the_rung};
use crate::support::{
    Account, DEADLINE, Gate, HttpHandler, Proxy, PublishSpec, QueueType, Reply, Request,
    WorkerProcess, field, log_message, vhost, wait_until,
};

/// Fails every first attempt.
fn fail_first(request: &Request) -> Reply {
    match request.attempt() {
        1 => Reply::status(500),
        _ => Reply::ok(),
    }
}

/// The same, once the gate is open.
async fn first_attempts_fail(gate: &Gate) -> HttpHandler {
    HttpHandler::behind(gate, fail_first).await
}

/// Whether this many messages wait for the broker.
fn waits(count: usize) -> impl Fn(&Readiness) -> bool {
    let beginning = format!("{count} retries or dead letters wait");
    move |readiness| {
        let reason = readiness.consumers[QUEUE].reason.as_deref();
        reason.is_some_and(|reason| reason.starts_with(&beginning))
    }
}

#[tokio::test]
async fn a_rung_deleted_under_load_is_declared_again_and_every_retry_parked_once() {
    let vhost = vhost().await;
    let gate = Gate::default();
    let handler = first_attempts_fail(&gate).await;
    let patient = "[publish]\nbudget = '20s'";
    let worker = orders(&vhost, &handler).with(patient).start().await;
    let ids = vhost
        .publish_many(QUEUE, 200, |_| PublishSpec::of("{}"))
        .await;
    handler.wait_for_requests(64, DEADLINE).await;

    vhost.delete(RUNG).await;
    gate.open();
    handler.wait_for_success(&ids).await;

    assert!(vhost.exists(RUNG).await);
    let report = worker.drain().await;
    let ledger = report.ledger();
    assert_eq!((ledger.parked, ledger.acked), (200, 200), "{ledger:?}");
    assert!(
        report.consumers[QUEUE].counts.publish_failures > 0,
        "{report:?}"
    );
    Account::take(&vhost, ids, &handler.seen(), &QUEUES)
        .await
        .assert_exactly_once();
}

#[tokio::test]
async fn without_its_rung_a_failed_message_stays_in_its_queue_and_does_not_run_again() {
    let vhost = vhost().await;
    let gate = Gate::default();
    gate.open();
    let handler = first_attempts_fail(&gate).await;
    let none = "[consumers.orders]\ntopology = 'none'";
    let worker = start_and_lose_the_rung(&vhost, orders(&vhost, &handler).with(none)).await;
    let ids = vhost
        .publish_many(QUEUE, 50, |_| PublishSpec::of("{}"))
        .await;

    let told = worker.until("tells what waits", waits(50)).await;
    assert!(told.ready && told.degraded, "{told:?}");
    let count = vhost.counts(QUEUE).await;
    assert_eq!(
        count.total(),
        50,
        "every original is in its queue: {count:?}"
    );
    let ledger = worker.report(QUEUE).await.ledger;
    assert_eq!((ledger.acked, ledger.parked), (0, 0), "{ledger:?}");
    assert_eq!(handler.seen().exchanges.len(), 50);

    vhost.declare_beside(QUEUE).await;
    handler.wait_for_success(&ids).await;
    let ledger = worker.drain().await.ledger();
    assert_eq!((ledger.parked, ledger.acked), (50, 50), "{ledger:?}");
    assert_eq!((ledger.returned, ledger.stale), (0, 0), "{ledger:?}");
    assert_eq!(handler.seen().exchanges.len(), 100);
    let account = Account::take(&vhost, ids, &handler.seen(), &QUEUES).await;
    account.assert_exactly_once();
}

#[tokio::test]
async fn a_paused_consumer_keeps_a_retry_that_cannot_be_published_and_a_drain_gives_it_back() {
    let vhost = vhost().await;
    let gate = Gate::default();
    let handler = first_attempts_fail(&gate).await;
    let none = "[consumers.orders]\ntopology = 'none'";
    let worker = start_and_lose_the_rung(&vhost, orders(&vhost, &handler).with(none)).await;
    vhost.publish(QUEUE, "{}").await;
    handler.wait_for_requests(1, DEADLINE).await;
    let pause = worker.handle.pause(QUEUE);
    pause.await.expect("the consumer answers");

    gate.open();

    let failing = |consumer: &ConsumerReport| consumer.counts.publish_failures > 3;
    worker.wait_for_report("it tries", QUEUE, failing).await;
    vhost.wait_for_counts(QUEUE, 0, 1, DEADLINE).await;
    let readiness = worker.handle.readiness();
    assert_eq!(readiness.consumers[QUEUE].state, ConsumerState::Paused);
    let ledger = worker.drain().await.ledger();
    assert_eq!((ledger.returned, ledger.received), (1, 1), "{ledger:?}");
    vhost.wait_for_counts(QUEUE, 1, 0, DEADLINE).await;
}

#[tokio::test]
async fn dead_letters_for_a_full_queue_wait_until_there_is_room() {
    let vhost = vhost().await;
    let handler = HttpHandler::answering(|_| Reply::status(400)).await;
    let none = "[consumers.orders]\ntopology = 'none'";
    vhost.declare(QUEUE, QueueType::Quorum).await;
    vhost.declare_beside(QUEUE).await;
    vhost.delete(DEAD).await;
    let full = [
        ("x-max-length", AMQPValue::LongLongInt(5)),
        ("x-overflow", AMQPValue::LongString("reject-publish".into())),
    ];
    vhost.declare_with(DEAD, QueueType::Classic, &full).await;
    let worker = orders(&vhost, &handler).with(none).start().await;
    let ids = vhost
        .publish_many(QUEUE, 12, |_| PublishSpec::of("{}"))
        .await;

    worker.until("tells what waits", waits(7)).await;
    vhost.wait_for_counts(DEAD, 5, 0, DEADLINE).await;
    vhost.wait_for_counts(QUEUE, 0, 7, DEADLINE).await;

    // Makes room for all, in two steps.
    let mut dead = Vec::new();
    while dead.len() < 12 {
        let ready = async || vhost.ready(DEAD).await;
        let filled = (12 - dead.len()).min(5);
        let what = format!("{filled} dead letters more");
        wait_until(&what, DEADLINE, ready, |n| *n as usize >= filled).await;
        dead.extend(vhost.drain_all(DEAD).await);
    }
    vhost.wait_for_counts(QUEUE, 0, 0, DEADLINE).await;
    let ledger = worker.drain().await.ledger();
    assert_eq!((ledger.dead_lettered, ledger.acked), (12, 0), "{ledger:?}");
    assert_eq!((ledger.returned, ledger.stale), (0, 0), "{ledger:?}");
    let names: BTreeSet<_> = dead.iter().map(|got| got.id().to_owned()).collect();
    assert_eq!(names, ids.into_iter().collect());
    assert_eq!(dead.len(), 12, "each is dead-lettered once");
    for got in &dead {
        assert_eq!(got.header("lapwing-reason"), "rejected");
    }
    assert_eq!(handler.seen().exchanges.len(), 12, "each ran once");
    Account::take(&vhost, [], &Default::default(), &QUEUES)
        .await
        .assert_exactly_once();
}

#[tokio::test]
async fn a_publishing_connection_that_dies_again_and_again_costs_no_retry() {
    const EACH: usize = 60;
    let vhost = vhost().await;
    let proxy = Proxy::to(&vhost).await;
    let gate = Gate::default();
    // The worker is publishing retries of the first half when the connection is lost, and begins
    // with those of the second half afterwards.
    let late = |request: &Request| request.message_id().ends_with("late");
    let handler = HttpHandler::holding(&gate, late, fail_first).await;
    let patient = "publish.budget = '20s'";
    let worker = orders(&proxy.url(&vhost), &handler)
        .with(patient)
        .start()
        .await;
    let mut ids = Vec::new();
    for round in 0..4 {
        let publisher = async || {
            let mut listed = vhost.connections().await.into_iter();
            listed.find(|peer| peer.client_name.ends_with("publish"))
        };
        let peer = wait_until("it publishes", DEADLINE, publisher, Option::is_some).await;
        let failures = worker.report(QUEUE).await.counts.publish_failures;
        gate.close();
        let name = |index| if index < EACH / 2 { "early" } else { "late" };
        let spec = |index| PublishSpec::of("{}").id(&format!("{round}-{index}-{}", name(index)));
        ids.extend(vhost.publish_many(QUEUE, EACH, spec).await);
        let some = handler.seen().answered + 10;
        handler.wait_for_answered(some, DEADLINE).await;

        proxy.refuse().await;
        let peer = peer.expect("waited for");
        vhost.close_connection(&peer.name).await;
        gate.open();
        let failed = |consumer: &ConsumerReport| consumer.counts.publish_failures > failures;
        worker
            .wait_for_report("a retry is not published", QUEUE, failed)
            .await;
        proxy.accept_again();

        handler.wait_for_success(&ids).await;
    }

    let ledger = worker.drain().await.ledger();
    assert_eq!(
        (ledger.stale, ledger.returned),
        (0, 0),
        "consuming went on: {ledger:?}"
    );
    assert_eq!(ledger.parked, 4 * EACH as u64, "{ledger:?}");
    let account = Account::take(&vhost, ids, &handler.seen(), &QUEUES).await;
    account.assert_nothing_lost();
    println!(
        "{} ran twice: their confirms were lost",
        account.handled_twice().len()
    );
}

#[tokio::test]
async fn a_copy_that_comes_back_is_told_without_its_bytes() {
    const BODY: &str = "in confidence";
    let vhost = vhost().await;
    vhost.declare(QUEUE, QueueType::Quorum).await;
    vhost.declare_beside(QUEUE).await;
    let handler = HttpHandler::answering(|_| Reply::status(400)).await;
    let changes = "[log]\nfilter = 'trace'\n\
                   [consumers.orders]\ntopology = 'none'\n";
    let mut worker = WorkerProcess::start(&orders(&vhost, &handler).with(changes).toml());
    worker.wait_for_consumers(&vhost, QUEUE, 1).await;
    vhost.delete(DEAD).await;
    vhost.publish(QUEUE, BODY).await;

    let told = |line: &Value| log_message(line).contains("dead letters are not confirmed");
    let line = worker.wait_for("what waits", DEADLINE, told).await;

    let why = field(&line, "error").to_string();
    assert!(why.contains("NO_ROUTE"), "{why}");
    worker.drain(DEADLINE).await;
    // The body in lapin's debug format.
    let numbers = format!("{:?}", BODY.as_bytes());
    let numbers = numbers.trim_matches(['[', ']']);
    for line in worker.log() {
        let line = line.to_string();
        assert!(!line.contains(BODY) && !line.contains(numbers), "{line}");
    }
}
