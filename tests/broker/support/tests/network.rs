//! The proxy between worker and broker, and the HTTP handler.

use std::time::Duration;

use futures_util::StreamExt;
use serde_json::json;

use super::stranger;
use crate::support::{
    DEADLINE, Ending, Gate, HttpHandler, Proxy, Reply, Request, VHost, vhost, within,
};

#[tokio::test]
async fn a_cut_is_seen_by_the_client_and_the_next_connection_passes() {
    let vhost = vhost().await;
    let proxy = Proxy::to(&vhost).await;
    let worker = stranger(&proxy.url(&vhost)).await;
    let mut events = worker.events_listener();
    assert_eq!((proxy.accepted(), proxy.open()), (1, 1));
    assert!(proxy.bytes_to_broker() > 0 && proxy.bytes_from_broker() > 0);

    proxy.cut().await;

    let what = "the client sees the cut";
    within(what, async {
        while let Some(event) = events.next().await {
            if matches!(event, lapin::Event::Error(_)) {
                return;
            }
        }
    })
    .await;
    assert!(!worker.status().connected());
    assert_eq!(proxy.open(), 0);
    let again = stranger(&proxy.url(&vhost)).await;
    assert!(again.status().connected());
    assert_eq!(proxy.accepted(), 2);
}

#[tokio::test]
async fn a_refusing_proxy_turns_clients_away_until_it_accepts_again() {
    let vhost = vhost().await;
    let proxy = Proxy::to(&vhost).await;
    let worker = stranger(&proxy.url(&vhost)).await;

    proxy.refuse().await;

    let refused = tokio::net::TcpStream::connect(proxy.address()).await;
    let refused = refused.expect_err("nobody listens").kind();
    assert_eq!(refused, std::io::ErrorKind::ConnectionRefused);
    worker
        .create_channel()
        .await
        .expect("open connections go on");
    proxy.accept_again();
    stranger(&proxy.url(&vhost)).await;
}

#[tokio::test]
async fn a_stalled_proxy_holds_everything_back_and_passes_it_on_later() {
    let vhost = vhost().await;
    let proxy = Proxy::to(&vhost).await;
    let worker = stranger(&proxy.url(&vhost)).await;
    proxy.stall();
    let passed = proxy.bytes_from_broker();

    let opening = tokio::spawn(async move { worker.create_channel().await.map(|_| ()) });
    let stalled = stranger_within(&proxy, &vhost, Duration::from_millis(300)).await;

    assert!(!stalled, "a new connection meets the same silence");
    assert!(!opening.is_finished());
    assert_eq!(proxy.bytes_from_broker(), passed);
    proxy.resume();
    within("what was held back", opening)
        .await
        .expect("no panic")
        .expect("the channel opens");
}

/// Whether a connection through the proxy opens within this time.
async fn stranger_within(proxy: &Proxy, vhost: &VHost, limit: Duration) -> bool {
    tokio::time::timeout(limit, stranger(&proxy.url(vhost)))
        .await
        .is_ok()
}

#[tokio::test]
async fn the_http_handler_knows_what_ran_at_once_what_ended_and_what_was_given_up() {
    let gate = Gate::default();
    let held = |request: &Request| request.path == "/held";
    let handler = HttpHandler::holding(&gate, held, |_| {
        Reply::status(202).header("retry-after", "7").body("noted")
    })
    .await;
    let client = reqwest::Client::new();
    let url = handler.url();
    let post = |path: &str| {
        client
            .post(format!("{url}{path}"))
            .header("x", "y")
            .body("{\"a\":1}")
    };

    let first = tokio::spawn(post("held").send());
    let second = tokio::spawn(post("held").send());
    handler.wait_for_requests(2, DEADLINE).await;
    second.abort();
    handler
        .wait_for("one is given up", DEADLINE, |seen| seen.abandoned == 1)
        .await;
    gate.open();
    let answer = first.await.expect("no panic").expect("an answer");
    let third = post("").send().await.expect("an answer");

    assert_eq!(
        (answer.status().as_u16(), third.status().as_u16()),
        (202, 202)
    );
    assert_eq!(answer.headers()["retry-after"], "7");
    let seen = handler.wait_for_answered(2, DEADLINE).await;
    assert_eq!((seen.exchanges.len(), seen.running, seen.peak), (3, 0, 2));
    assert!(
        seen.connections <= 3,
        "the third request may reuse the first one's connection"
    );
    let request = &seen.exchanges[2].request;
    assert_eq!(
        (request.header("x"), request.json()),
        ("y", json!({ "a": 1 }))
    );
    assert!(matches!(
        seen.exchanges[2].ended,
        Some((_, Ending::Answered(202)))
    ));
}
