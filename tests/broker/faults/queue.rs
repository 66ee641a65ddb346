//! A deleted queue: the worker declares it again, or waits for it.

use lapwing::ConsumerState;

use super::{QUEUE, QUEUES, orders, publish, slow_handler};
use crate::support::{
    Account, DEADLINE, Gate, HttpHandler, QueueType, Reply, Request, vhost, wait_until,
};

/// A handler whose first request waits for the gate and then fails.
async fn first_waits(gate: &Gate) -> HttpHandler {
    let first = |request: &Request| request.index == 0;
    HttpHandler::holding(gate, first, move |request| match first(request) {
        true => Reply::status(500),
        false => Reply::ok(),
    })
    .await
}

#[tokio::test]
async fn a_deleted_queue_is_declared_again_and_consumed() {
    let vhost = vhost().await;
    let gate = Gate::default();
    let handler = first_waits(&gate).await;
    let worker = orders(&vhost, &handler).start().await;
    let gone = publish(&vhost, "gone", 1).await;
    handler.wait_for_requests(1, DEADLINE).await;

    vhost.delete(QUEUE).await;
    let exists = async || vhost.exists(QUEUE).await;
    wait_until("the queue is declared again", DEADLINE, exists, |is| *is).await;
    worker.ready().await;
    let ids = publish(&vhost, "new", 20).await;
    handler.wait_for_success(&ids).await;
    // The message that ran when its queue was deleted is not lost: it fails, is parked and comes
    // back.
    gate.open();
    let all: Vec<_> = ids.into_iter().chain(gone).collect();
    handler.wait_for_success(&all).await;

    let ledger = worker.drain().await.ledger();
    assert_eq!((ledger.received, ledger.acked), (22, 21), "{ledger:?}");
    assert_eq!((ledger.parked, ledger.stale), (1, 0), "{ledger:?}");
    Account::take(&vhost, all, &handler.seen(), &QUEUES)
        .await
        .assert_exactly_once();
}

#[tokio::test]
async fn a_deleted_queue_is_waited_for_where_the_worker_may_not_declare_it() {
    let vhost = vhost().await;
    vhost.declare(QUEUE, QueueType::Quorum).await;
    vhost.declare_beside(QUEUE).await;
    let handler = slow_handler().await;
    let none = "timeouts.call = '30s'\n[consumers.orders]\ntopology = 'none'";
    let worker = orders(&vhost, &handler).with(none).start().await;
    let mut ids = publish(&vhost, "before", 5).await;
    handler.wait_for_answered(5, DEADLINE).await;
    vhost.wait_for_counts(QUEUE, 0, 0, DEADLINE).await;
    // An answered pause proves that the broker has the acks.
    assert_eq!(worker.handle.pause(QUEUE).await, Ok(()));
    assert_eq!(worker.handle.resume(QUEUE).await, Ok(()));
    worker.ready().await;

    vhost.delete(QUEUE).await;
    let missing = |readiness: &lapwing::Readiness| {
        let consumer = &readiness.consumers[QUEUE];
        let reason = consumer.reason.as_deref().unwrap_or_default();
        consumer.state == ConsumerState::Connecting && reason.contains("NOT_FOUND")
    };
    let down = worker
        .until("says that its queue is missing", missing)
        .await;
    assert!(!down.ready);
    assert!(!vhost.exists(QUEUE).await, "it may not declare");

    vhost.declare(QUEUE, QueueType::Quorum).await;
    worker.ready().await;
    ids.extend(publish(&vhost, "after", 5).await);
    handler.wait_for_success(&ids).await;
    let ledger = worker.drain().await.ledger();
    assert_eq!((ledger.received, ledger.acked), (10, 10), "{ledger:?}");
    assert_eq!((ledger.stale, ledger.duplicates), (0, 0), "{ledger:?}");
    Account::take(&vhost, ids, &handler.seen(), &QUEUES)
        .await
        .assert_exactly_once();
}
