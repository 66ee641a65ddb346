//! A consumer with a fixed rate.

use std::time::{Duration, Instant};

use crate::support::{HttpHandler, PublishSpec, Reply, consumer, vhost};

#[tokio::test]
async fn attempts_do_not_start_faster_than_the_rate_retries_included() {
    const MESSAGES: usize = 60;
    let vhost = vhost().await;
    let server = HttpHandler::answering(|request| {
        let number = request.message_id().parse::<usize>().unwrap_or(0);
        match number % 3 == 0 && request.attempt() == 1 {
            true => Reply::status(500),
            false => Reply::ok(),
        }
    })
    .await;
    let slow =
        "[consumers.q]\nrate = '40/s'\nburst = 2\nretry = { base = '20ms', inline_below = '1s' }";
    let worker = consumer(&vhost, "q").http(&server).with(slow).start().await;
    let began = Instant::now();
    let id = |index: usize| PublishSpec::of("x").id(&index.to_string());
    let ids = vhost.publish_many("q", MESSAGES, id).await;

    server.wait_for_success(&ids).await;

    let attempts = server.seen().exchanges.len();
    assert_eq!(attempts, MESSAGES + MESSAGES / 3);
    // The burst is one attempt more than evenly spread ones.
    let least = Duration::from_secs(1) * (attempts as u32 - 2) / 40;
    assert!(began.elapsed() >= least, "{:?}", began.elapsed());
    let ledger = worker.drain().await.ledger();
    assert_eq!(ledger.acked, MESSAGES as u64, "{ledger:?}");
}
