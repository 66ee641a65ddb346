//! Abandoned subscriptions: the broker may still create one, and must not deliver to it messages
//! that nobody takes.

use lapwing::{CallError, ConsumerReport, ConsumerState, Readiness};

use crate::support::{
    DEADLINE, Gate, Notes, Proxy, PublishSpec, QueueType, RunningWorker, VHost, consumer, vhost,
    within,
};

fn is_paused(readiness: &Readiness) -> bool {
    readiness.consumers["q"].state == ConsumerState::Paused
}

fn consumes(readiness: &Readiness) -> bool {
    readiness.consumers["q"].state == ConsumerState::Consuming
}

/// A consumer that sends no request before it subscribes again, and the proxy between it and the broker.
async fn worker(
    vhost: &VHost,
    changes: &str,
    gate: &Gate,
    notes: &Notes,
) -> (RunningWorker, Proxy) {
    vhost.declare("q", QueueType::Classic).await;
    vhost.declare_beside("q").await;
    let proxy = Proxy::to(vhost).await;
    let changes = format!(
        "broker.url = '{}'\nconsumers.q.topology = 'none'\n\
         consumers.q.retry.cap = '1s'\n{changes}",
        proxy.url(vhost)
    );
    let consumer = consumer(vhost, "q").with(&changes);
    let (gate, notes) = (gate.clone(), notes.clone());
    let handler = move |context: lapwing::Context| {
        let gate = gate.clone();
        notes.note(&context);
        async move { gate.passed().await }
    };
    (consumer.start_with(handler).await, proxy)
}

/// Resumes the consumer while the proxy passes nothing: the consumer subscribes, and gets no
/// answer.
async fn resume_in_vain(worker: &RunningWorker, proxy: &Proxy) {
    proxy.stall();
    worker
        .handle
        .resume("q")
        .await
        .expect("the consumer answers");
    // No event shows that the consumer waits for the broker. It does so after one turn of its loop.
    for _ in 0..100 {
        let asked = worker.handle.in_flight(Some("q"), 0, 0);
        asked.await.expect("the consumer answers");
    }
}

#[tokio::test]
async fn a_consumer_that_is_paused_while_it_resumes_holds_no_message() {
    let vhost = vhost().await;
    let (gate, notes) = (Gate::default(), Notes::default());
    let (mut worker, proxy) = worker(&vhost, "", &gate, &notes).await;
    vhost.publish("q", "x").await;
    notes.wait_for(1).await;
    worker
        .handle
        .pause("q")
        .await
        .expect("the consumer answers");
    vhost.publish_many("q", 5, |_| PublishSpec::of("x")).await;

    resume_in_vain(&worker, &proxy).await;
    // The pause is complete when the subscription under way is made and cancelled.
    let pausing = worker.handle.pause("q").await;
    assert_eq!(pausing, Err(CallError::TimedOut));
    proxy.resume();

    within("the paused consumer", worker.handle.until(is_paused)).await;
    vhost.wait_for_counts("q", 5, 1, DEADLINE).await;
    vhost.wait_for_consumers("q", 0, DEADLINE).await;
    assert_eq!(notes.runs().len(), 1);
    // Messages that ran meanwhile are settled on their own channel.
    gate.open();
    vhost.wait_for_counts("q", 5, 0, DEADLINE).await;
    worker
        .handle
        .resume("q")
        .await
        .expect("the consumer answers");
    let all = |consumer: &ConsumerReport| consumer.ledger.acked == 6;
    worker.wait_for_report("all are done", "q", all).await;
    let ledger = worker.drain().await.ledger();
    assert_eq!((ledger.stale, ledger.duplicates), (0, 0), "{ledger:?}");
}

#[tokio::test]
async fn a_consumer_that_drains_while_it_resumes_settles_what_runs() {
    let vhost = vhost().await;
    let (gate, notes) = (Gate::default(), Notes::default());
    let (worker, proxy) = worker(&vhost, "", &gate, &notes).await;
    vhost.publish("q", "x").await;
    notes.wait_for(1).await;
    worker
        .handle
        .pause("q")
        .await
        .expect("the consumer answers");
    vhost.publish_many("q", 5, |_| PublishSpec::of("x")).await;

    resume_in_vain(&worker, &proxy).await;
    worker.handle.stop();
    proxy.resume();

    vhost.wait_for_counts("q", 5, 1, DEADLINE).await;
    gate.open();
    let ledger = worker.drain().await.ledger();
    assert_eq!((ledger.acked, ledger.duplicates), (1, 0), "{ledger:?}");
    vhost.wait_for_counts("q", 5, 0, DEADLINE).await;
}

#[tokio::test]
async fn a_subscription_that_comes_too_late_holds_no_message() {
    let vhost = vhost().await;
    let (gate, notes) = (Gate::default(), Notes::default());
    gate.open();
    let short = "timeouts.declare = '500ms'";
    let (mut worker, proxy) = worker(&vhost, short, &gate, &notes).await;
    worker
        .handle
        .pause("q")
        .await
        .expect("the consumer answers");
    vhost.publish_many("q", 5, |_| PublishSpec::of("x")).await;

    resume_in_vain(&worker, &proxy).await;
    let gave_up = |readiness: &Readiness| {
        let reason = readiness.consumers["q"].reason.as_deref();
        // Soon afterwards the worker is without a new channel.
        let reasons = ["subscribing", "opening a channel"];
        reason.is_some_and(|reason| reasons.iter().any(|it| reason.contains(it)))
    };
    within("the end of its patience", worker.handle.until(gave_up)).await;
    proxy.resume();

    within("the resumed consumer", worker.handle.until(consumes)).await;
    let all = |consumer: &ConsumerReport| consumer.ledger.acked == 5;
    worker.wait_for_report("all are done", "q", all).await;
    vhost.wait_for_counts("q", 0, 0, DEADLINE).await;
    worker.drain().await;
}
