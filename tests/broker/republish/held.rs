//! What a consumer does, and says, while it is held.

use lapwing::{ConsumerReport, ConsumerState, Readiness};

use super::{QUEUE, orders, start_and_lose_the_rung};
use crate::support::{
    DEADLINE, Gate, HttpHandler, Proxy, PublishSpec, Reply, RunningWorker, vhost, wait_until,
};

/// The rung is deleted, and nobody declares it again: the first failure holds the consumer, for good.
const FOR_GOOD: &str = "publish.hold = '10m'\n[consumers.orders]\ntopology = 'none'\n";

fn is_held(readiness: &Readiness) -> bool {
    readiness.consumers[QUEUE].state == ConsumerState::Held
}

/// The message `fails` waits for the first gate and fails, others wait for the second.
async fn handler(failing: &Gate, gate: &Gate) -> HttpHandler {
    let (failing, gate) = (failing.clone(), gate.clone());
    HttpHandler::answering_async(move |request| {
        let (failing, gate) = (failing.clone(), gate.clone());
        async move {
            if request.message_id() == "fails" {
                failing.passed().await;
                return Reply::status(500);
            }
            gate.passed().await;
            Reply::ok()
        }
    })
    .await
}

async fn report(worker: &RunningWorker, what: &str, accept: impl Fn(&ConsumerReport) -> bool) {
    wait_until(what, DEADLINE, async || worker.report(QUEUE).await, accept).await;
}

#[tokio::test]
async fn a_held_consumer_starts_nothing_in_a_slot_that_comes_free() {
    let (vhost, gate, open) = (vhost().await, Gate::default(), Gate::default());
    open.open();
    let handler = handler(&open, &gate).await;
    let one = format!("{FOR_GOOD}concurrency = 1");
    let worker = start_and_lose_the_rung(&vhost, orders(&vhost, &handler).with(&one)).await;
    for id in ["fails", "gated", "waits"] {
        vhost.publish_with(PublishSpec::to(QUEUE).id(id)).await;
    }
    worker.until("holds its consumer", is_held).await;
    report(&worker, "one waits", |consumer| {
        (consumer.running, consumer.buffered) == (1, 1)
    })
    .await;

    gate.open();

    report(&worker, "one is done", |consumer| {
        consumer.ledger.acked == 1
    })
    .await;
    let consumer = worker.report(QUEUE).await;
    assert_eq!(
        (consumer.buffered, consumer.running),
        (1, 0),
        "{consumer:?}"
    );
    assert_eq!(handler.seen().exchanges.len(), 2);
    let ledger = worker.drain().await.ledger();
    assert_eq!((ledger.acked, ledger.returned), (1, 2), "{ledger:?}");
}

#[tokio::test]
async fn a_consumer_that_is_held_while_it_subscribes_says_so_when_it_has() {
    let (vhost, gate) = (vhost().await, Gate::default());
    let (handler, proxy) = (handler(&gate, &gate).await, Proxy::to(&vhost).await);
    let impatient = format!("timeouts.confirm = '200ms'\n{FOR_GOOD}");
    let orders = orders(&proxy.url(&vhost), &handler).with(&impatient);
    let worker = start_and_lose_the_rung(&vhost, orders).await;
    let all = |seen: &Readiness| seen.ready && seen.publishing.is_none();
    worker.until("can publish", all).await;
    vhost.publish_with(PublishSpec::to(QUEUE).id("fails")).await;
    handler.wait_for_requests(1, DEADLINE).await;
    let pause = worker.handle.pause(QUEUE);
    pause.await.expect("the consumer answers");
    proxy.stall();
    let resume = worker.handle.resume(QUEUE);
    resume.await.expect("the consumer answers");

    gate.open();
    worker.until("holds its consumer", is_held).await;
    proxy.resume();

    report(&worker, "it subscribed", |consumer| {
        consumer.counts.sessions == 2
    })
    .await;
    let readiness = worker.handle.readiness();
    assert!(is_held(&readiness), "{readiness:?}");
    worker.drain().await;
}
