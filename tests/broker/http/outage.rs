//! A server that goes away for a while.

use std::time::Duration;

use lapwing::{ConsumerState, Readiness};
use tokio::time::timeout;

use crate::support::{
    DEADLINE, HttpHandler, Proxy, PublishSpec, Reply, consumer, vhost, wait_until,
};

#[tokio::test]
async fn messages_wait_unharmed_until_a_server_that_is_away_is_back() {
    const MESSAGES: usize = 300;
    let vhost = vhost().await;
    let server = HttpHandler::answering(|_| Reply::ok()).await;
    let proxy = Proxy::to_address(server.address().to_string()).await;
    proxy.refuse().await;
    let url = format!("http://{}/", proxy.address());
    let hasty = "consumers.q.breaker = { probe = '100ms', probe_cap = '500ms' }";
    let worker = consumer(&vhost, "q")
        .http_at(&url)
        .with(hasty)
        .start()
        .await;
    let id = |index: usize| PublishSpec::of("x").id(&index.to_string());
    let ids = vhost.publish_many("q", MESSAGES, id).await;

    let state = |readiness: &Readiness| readiness.consumers["q"].state;
    let is_down = |it: &Readiness| state(it) == ConsumerState::ServiceDown;
    let down = worker.until("finds its service down", is_down).await;
    assert!(down.ready && down.degraded, "{down:?}");
    // Once it has let go, the messages are in the queue for others, but for the one of a probe and
    // those that are parked.
    let look = async || vhost.counts("q").await;
    wait_until("it has given its messages back", DEADLINE, look, |counts| {
        counts.ready > MESSAGES as u32 / 2 && counts.unacked <= 1
    })
    .await;
    let reason = worker.handle.readiness().consumers["q"].reason.clone();
    let reason = reason.expect("it says why");
    assert!(
        reason.contains(&url) && reason.contains("refused") && reason.contains("probe"),
        "{reason}"
    );
    proxy.accept_again();

    server.wait_for_success(&ids).await;
    let is_up = |it: &Readiness| state(it) == ConsumerState::Consuming && !it.degraded;
    worker.until("is back", is_up).await;
    let report = worker.handle.report("q").expect("it runs");
    assert_eq!(
        report.counts.sessions, 1,
        "probes are no lost subscriptions"
    );
    let ledger = worker.drain().await.ledger();
    assert_eq!((ledger.acked, ledger.dead_lettered), (300, 0), "{ledger:?}");
    assert_eq!(server.seen().exchanges.len(), MESSAGES, "each ran once");
    let attempts = server
        .seen()
        .exchanges
        .iter()
        .map(|it| it.request.attempt())
        .max();
    assert_eq!(attempts, Some(1), "no attempt is charged");
}

#[tokio::test]
async fn a_worker_whose_queue_is_empty_is_not_degraded_by_a_service_that_was_down() {
    let vhost = vhost().await;
    let server = HttpHandler::answering(|_| Reply::ok()).await;
    let proxy = Proxy::to_address(server.address().to_string()).await;
    proxy.refuse().await;
    let hasty = "[consumers.q]\nretry = { max_age = '5s' }\n\
                 breaker = { probe = '100ms', probe_cap = '200ms' }";
    let worker = consumer(&vhost, "q")
        .http_at(&format!("http://{}/", proxy.address()))
        .with(hasty)
        .start()
        .await;
    vhost.publish_many("q", 8, |_| PublishSpec::of("x")).await;
    worker.until("is degraded", |it| it.degraded).await;

    // The messages become too old. A minute later nobody knows whether the service is back.
    let mut handle = worker.handle.clone();
    let quiet = handle.until(|it| it.ready && !it.degraded);
    let quiet = timeout(Duration::from_secs(240), quiet).await;
    let quiet = quiet.expect("it is not degraded for ever");
    let state = |it: &Readiness| it.consumers["q"].state;
    assert_eq!(state(&quiet), ConsumerState::ServiceUnknown, "{quiet:?}");
    assert_eq!(vhost.counts("q.dead").await.ready, 8);

    proxy.accept_again();
    let ids = vhost.publish_many("q", 3, |_| PublishSpec::of("x")).await;
    server.wait_for_success(&ids).await;
    let is_up = |it: &Readiness| state(it) == ConsumerState::Consuming;
    worker.until("is back", is_up).await;
    let ledger = worker.drain().await.ledger();
    assert_eq!((ledger.acked, ledger.dead_lettered), (3, 8), "{ledger:?}");
}
