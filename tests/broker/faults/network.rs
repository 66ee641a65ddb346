//! The network between worker and broker: cut, gone for a while, silent.

use lapwing::LaneState;

use super::{QUEUE, QUEUES, orders, publish, slow_handler};
use crate::support::{Account, DEADLINE, Proxy, vhost};

#[tokio::test]
async fn connections_cut_again_and_again_under_load_lose_nothing() {
    let vhost = vhost().await;
    let proxy = Proxy::to(&vhost).await;
    let handler = slow_handler().await;
    let worker = orders(&proxy.url(&vhost), &handler).start().await;
    let ids = publish(&vhost, "cut", 400).await;

    for _ in 0..4 {
        let some = handler.seen().answered + 30;
        handler.wait_for_answered(some, DEADLINE).await;
        tokio::join!(worker.not_ready(), proxy.cut());
        worker.ready().await;
    }

    handler.wait_for_success(&ids).await;
    let ledger = worker.drain().await.ledger();
    assert!(ledger.stale > 0, "deliveries were in hand: {ledger:?}");
    let account = Account::take(&vhost, ids, &handler.seen(), &QUEUES).await;
    account.assert_nothing_lost();
    // A message runs again only where the broker delivered it again. The ledger's stale count is
    // not the measure: an ack that was written may have been cut off on its way.
    let twice = account.handled_twice().len() as u64;
    assert!(
        twice <= ledger.received - 400,
        "{twice} ran twice, {ledger:?}"
    );
}

#[tokio::test]
async fn a_network_that_is_gone_for_a_while_shows_in_readiness_until_it_is_back() {
    let vhost = vhost().await;
    let proxy = Proxy::to(&vhost).await;
    let handler = slow_handler().await;
    let worker = orders(&proxy.url(&vhost), &handler).start().await;
    let ids = publish(&vhost, "gone", 100).await;
    handler.wait_for_answered(20, DEADLINE).await;
    let tried = proxy.accepted();

    proxy.refuse().await;
    proxy.cut().await;
    let refused = |readiness: &lapwing::Readiness| {
        let lane = &readiness.lanes[QUEUE];
        let reason = lane.reason.as_deref().unwrap_or_default();
        lane.state == LaneState::Connecting && reason.contains("refused")
    };
    let down = worker.until("says that it is refused", refused).await;
    assert!(!down.ready && down.publishing.is_some(), "{down:?}");
    assert_eq!(proxy.accepted(), tried, "nobody got through meanwhile");

    proxy.accept_again();
    worker.ready().await;
    worker.publishes().await;
    handler.wait_for_success(&ids).await;
    worker.drain().await;
    Account::take(&vhost, ids, &handler.seen(), &QUEUES)
        .await
        .assert_nothing_lost();
}

#[tokio::test]
async fn all_lanes_are_back_with_the_connection_and_wait_for_nothing_else() {
    let vhost = vhost().await;
    let proxy = Proxy::to(&vhost).await;
    let handler = slow_handler().await;
    let lane = "queue = 'orders'\nhandler = { kind = 'log' }\n\
                retry = { base = '100ms', cap = '1s', inline_below = '0s' }\n";
    let lanes = (0..8).map(|number| format!("[consumers.l{number}]\n{lane}"));
    // Each wait is for 2 to 6 s, and there would be eight of them.
    let slow = "[broker]\nreconnect = { base = '2s', cap = '60s' }\n";
    let changes = slow.to_owned() + &lanes.collect::<String>();
    let worker = orders(&proxy.url(&vhost), &handler)
        .with(&changes)
        .start()
        .await;

    proxy.refuse().await;
    proxy.cut().await;
    worker.not_ready().await;
    proxy.accept_again();

    let consuming = |readiness: &lapwing::Readiness| {
        let lanes = readiness.lanes.values();
        lanes
            .filter(|lane| lane.state == LaneState::Consuming)
            .count()
    };
    worker.until("a lane is back", |it| consuming(it) > 0).await;
    let first = std::time::Instant::now();
    worker.until("all are back", |it| consuming(it) == 9).await;
    let spread = first.elapsed();
    assert!(spread < std::time::Duration::from_secs(1), "{spread:?}");
    worker.drain().await;
}

#[tokio::test]
async fn a_half_open_connection_is_found_by_heartbeats_and_replaced() {
    let vhost = vhost().await;
    let proxy = Proxy::to(&vhost).await;
    let handler = slow_handler().await;
    let alert = "
        [broker]
        heartbeat = '1s'
        [timeouts]
        handshake = '1s'
        ack = '20s'
    ";
    let worker = orders(&proxy.url(&vhost), &handler)
        .with(alert)
        .start()
        .await;
    let ids = publish(&vhost, "stalled", 100).await;
    handler.wait_for_answered(20, DEADLINE).await;

    proxy.stall();
    let stalled = std::time::Instant::now();
    let why = worker.not_ready().await;
    let found = stalled.elapsed();
    println!("found after {found:?}: {why}");
    assert!(
        found.as_secs() < 6,
        "two heartbeats and a little, not {found:?}"
    );
    // New connections meet the same silence and are given up too.
    let tries = proxy.accepted();
    proxy.wait_for_accepted(tries + 2).await;
    assert!(!worker.handle.readiness().ready);

    proxy.resume();
    worker.ready().await;
    handler.wait_for_success(&ids).await;
    worker.drain().await;
    Account::take(&vhost, ids, &handler.seen(), &QUEUES)
        .await
        .assert_nothing_lost();
}
