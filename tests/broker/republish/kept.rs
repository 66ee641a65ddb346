//! Messages whose retry or dead letter the broker does not take wait, and do not run again.

use lapwing::{ConsumerState, Readiness};

use super::{DEAD, QUEUE, QUEUES, orders};
use crate::support::{
    Account, Broker, DEADLINE, Gate, HttpHandler, PublishSpec, QueueType, Reply, Request, VHost,
    require, vhost,
};

const NONE: &str = "[consumers.orders]\ntopology = 'none'\n";

fn reason(readiness: &Readiness) -> &str {
    readiness.consumers[QUEUE]
        .reason
        .as_deref()
        .unwrap_or_default()
}

/// Fails each message whose id begins with "bad" for good.
async fn handler() -> HttpHandler {
    HttpHandler::answering(
        |request: &Request| match request.message_id().starts_with("bad") {
            true => Reply::status(400),
            false => Reply::ok(),
        },
    )
    .await
}

async fn publish(vhost: &VHost, name: &str, count: usize) -> Vec<String> {
    let spec = |index| PublishSpec::of("{}").id(&format!("{name}-{index}"));
    vhost.publish_many(QUEUE, count, spec).await
}

/// The queues of the consumer, without its dead-letter queue.
async fn without_dead_letters(vhost: &VHost) {
    vhost.declare(QUEUE, QueueType::Quorum).await;
    vhost.declare_beside(QUEUE).await;
}

#[tokio::test]
async fn good_messages_pass_those_that_wait_for_a_missing_dead_letter_queue() {
    let (vhost, handler) = (vhost().await, handler().await);
    without_dead_letters(&vhost).await;
    let worker = orders(&vhost, &handler).at_once(8).with(NONE).start().await;
    vhost.delete(DEAD).await;
    // As many as the prefetch, and half as many more.
    let bad = publish(&vhost, "bad", 12).await;
    handler.wait_for_answered(12, DEADLINE).await;
    let good = publish(&vhost, "good", 40).await;

    handler.wait_for_success(&good).await;

    let told = |seen: &Readiness| reason(seen).contains("NO_ROUTE (312)");
    let seen = worker.until("tells what waits", told).await;
    assert!(seen.ready && seen.degraded, "{seen:?}");
    assert_eq!(handler.seen().exchanges.len(), 52, "each ran once");
    vhost.declare_beside(QUEUE).await;
    vhost.wait_for_counts(DEAD, 12, 0, DEADLINE).await;
    let ledger = worker.drain().await.ledger();
    assert_eq!((ledger.acked, ledger.dead_lettered), (40, 12), "{ledger:?}");
    assert_eq!((ledger.returned, ledger.stale), (0, 0), "{ledger:?}");
    assert_eq!(handler.seen().exchanges.len(), 52, "each ran once");
    let ids = bad.into_iter().chain(good).collect::<Vec<_>>();
    Account::take(&vhost, ids, &handler.seen(), &QUEUES)
        .await
        .assert_exactly_once();
}

#[tokio::test]
async fn a_consumer_is_held_with_the_brokers_reply_once_twice_its_prefetch_waits() {
    let (vhost, handler) = (vhost().await, handler().await);
    without_dead_letters(&vhost).await;
    let worker = orders(&vhost, &handler).at_once(4).with(NONE).start().await;
    vhost.delete(DEAD).await;
    publish(&vhost, "bad", 20).await;

    let is_held = |seen: &Readiness| seen.consumers[QUEUE].state == ConsumerState::Held;
    let held = worker.until("holds its consumer", is_held).await;

    assert!(!held.ready, "{held:?}");
    assert!(
        reason(&held).contains("8 retries or dead letters wait"),
        "{held:?}"
    );
    assert!(reason(&held).contains("NO_ROUTE (312)"), "{held:?}");
    vhost.wait_for_counts(QUEUE, 12, 8, DEADLINE).await;
    assert_eq!(handler.seen().exchanges.len(), 8);
    vhost.declare_beside(QUEUE).await;
    worker.ready().await;
    vhost.wait_for_counts(DEAD, 20, 0, DEADLINE).await;
    let ledger = worker.drain().await.ledger();
    assert_eq!(
        (ledger.dead_lettered, ledger.returned),
        (20, 0),
        "{ledger:?}"
    );
    assert_eq!(handler.seen().exchanges.len(), 20, "each ran once");
}

/// Lets the node refuse messages that are longer than this.
async fn refuse_longer_than(broker: &Broker, bytes: usize) {
    let set = format!(
        "application:set_env(rabbit, max_message_size, {bytes}), \
         persistent_term:put(max_message_size, {bytes})."
    );
    broker.ctl(&["eval", &set]).await;
}

#[tokio::test]
async fn own_node_that_takes_no_copy_of_a_message_for_its_size_dead_letters_it_by_itself() {
    let broker = require!(OwnNode, Broker::own("refuses-size").await);
    let (vhost, gate) = (broker.vhost().await, Gate::default());
    let handler = HttpHandler::behind(&gate, |_| Reply::status(400)).await;
    let worker = orders(&vhost, &handler).start().await;
    let large = PublishSpec::to(QUEUE).id("bad").body("x".repeat(10_000));
    vhost.publish_with(large).await;
    handler.wait_for_requests(1, DEADLINE).await;
    refuse_longer_than(&broker, 1_000).await;

    gate.open();

    vhost.wait_for_counts(DEAD, 1, 0, DEADLINE).await;
    let ledger = worker.drain().await.ledger();
    assert_eq!(
        (ledger.dead_lettered, ledger.returned),
        (1, 0),
        "{ledger:?}"
    );
    assert_eq!(handler.seen().exchanges.len(), 1);
    let dead = vhost.drain_all(DEAD).await;
    assert_eq!((dead.len(), dead[0].id()), (1, "bad"));
}
