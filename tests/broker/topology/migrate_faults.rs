//! `lapwing topology migrate` that is killed at the worst moment, or refused by the broker.

use super::{
    Tool, assert_says,
    migrate::{MIGRATE, both, classic, declare_later, migrate, publish},
};
use crate::support::{
    Broker, DEADLINE, HttpHandler, Proxy, PublishSpec, QueueType, Reply, consumer, require,
    wait_until, within,
};

/// The beginning of the request that unbinds `orders`: class 50, method 50, a reserved number, the name.
const UNBIND: &[u8] = b"\x00\x32\x00\x32\x00\x00\x06orders";

#[tokio::test]
async fn a_kill_between_bind_and_unbind_leaves_both_queues_bound_and_the_next_run_goes_on() {
    let vhost = classic().await;
    // The old queue stays, so no run watches it for a minute.
    declare_later(&vhost).await;
    let mut published = publish(&vhost, "before", 3).await;
    let proxy = Proxy::to(&vhost).await;
    proxy.hold_at(UNBIND);
    let through = format!("[broker]\nurl = '{}'", proxy.url(&vhost));
    let mut tool = Tool::new(&both(&vhost).with(&through), &MIGRATE);
    let mut child = tool.command.spawn().expect("it starts");
    proxy.held().await;
    child.start_kill().expect("it runs");
    within("the command", child.wait()).await.expect("it ends");
    // The kernel closes the connections of a process that was killed.
    proxy.cut().await;

    let twice = publish(&vhost, "twice", 2).await;
    vhost.wait_for_counts("orders", 5, 0, DEADLINE).await;
    vhost.wait_for_counts("orders2", 2, 0, DEADLINE).await;
    published.extend(twice.clone());

    let ended = migrate(&both(&vhost), 3).await;
    assert_eq!(ended["migrated"]["moved"], 5, "{ended}");
    let rebound = ended["migrated"]["rebound"].as_array().map(Vec::len);
    assert_eq!(rebound, Some(1), "{ended}");
    published.extend(publish(&vhost, "after", 2).await);
    vhost.wait_for_counts("orders", 0, 0, DEADLINE).await;
    let got = vhost.drain_all("orders2").await;
    let mut got: Vec<_> = got.iter().map(|got| got.id().to_owned()).collect();
    published.extend(twice);
    got.sort_unstable();
    published.sort_unstable();
    assert_eq!(
        got, published,
        "only what came while both were bound is there twice"
    );
}

/// A batch of 50 is published at once. Of a batch that is refused nobody knows which message it was.
#[tokio::test]
async fn own_node_that_refuses_a_message_gets_those_before_it_once_and_those_behind_it_later() {
    let broker = require!(OwnNode, Broker::own("migrate-size").await);
    let vhost = broker.vhost().await;
    vhost.declare("orders", QueueType::Classic).await;
    declare_later(&vhost).await;
    let make = |number: usize| match number {
        60 => PublishSpec::of("x".repeat(10_000)),
        _ => PublishSpec::of("{}"),
    };
    let ids = vhost.publish_many("orders", 100, make).await;
    let limit = |bytes: usize| {
        format!(
            "application:set_env(rabbit, max_message_size, {bytes}), \
             persistent_term:put(max_message_size, {bytes})."
        )
    };
    broker.ctl(&["eval", &limit(5_000)]).await;

    let ended = migrate(&both(&vhost), 3).await;
    assert_eq!(ended["migrated"]["moved"], 60, "{ended}");
    assert_says(
        &ended["obstacles"].to_string(),
        &["orders-00060", "messages were not moved"],
    );
    // It may be tried again: the messages before it are not copied another time.
    let ended = migrate(&both(&vhost), 3).await;
    assert_eq!(ended["migrated"]["moved"], 0, "{ended}");
    vhost.wait_for_counts("orders", 40, 0, DEADLINE).await;

    broker.ctl(&["eval", &limit(100_000)]).await;
    let ended = migrate(&both(&vhost), 3).await;
    assert_eq!(ended["migrated"]["moved"], 40, "{ended}");
    let got = vhost.drain_all("orders2").await;
    let mut copies = std::collections::BTreeMap::<String, u32>::new();
    for got in &got {
        *copies.entry(got.id().to_owned()).or_default() += 1;
    }
    let came: Vec<_> = copies.keys().cloned().collect();
    assert_eq!(came, ids);
    // Those of the refused batch that stand before the message have been published twice: at most 49.
    copies.retain(|_, copies| *copies > 1);
    let twice: Vec<_> = copies.into_iter().collect();
    let before = &ids[11..60];
    assert!(
        twice
            .iter()
            .all(|(id, copies)| before.contains(id) && *copies == 2),
        "{twice:?}"
    );
}

/// With EXTERNAL and OAuth 2 the URL does not tell the user. The command learns the name before it reads a record.
#[tokio::test]
async fn a_user_whom_the_broker_knows_under_another_name_moves_retries_with_their_record() {
    let vhost = classic().await;
    declare_later(&vhost).await;
    let handler = HttpHandler::answering(|_| Reply::status(500)).await;
    let of_old = "[consumers.orders]\ntopology = 'attach'";
    let old = consumer(&vhost, "orders")
        .http(&handler)
        .retry_at_broker()
        .with(of_old);
    let worker = old.start().await;
    vhost.publish("orders", "{}").await;
    handler.wait_for_requests(1, DEADLINE).await;
    worker.drain().await;
    // The retry comes back from its retry queue, and nobody takes it.
    vhost.wait_for_counts("orders", 1, 0, DEADLINE).await;

    let renamed = both(&vhost).with("[broker]\nuser = 'somebody'");
    let ended = migrate(&renamed, 3).await;
    assert_eq!(ended["migrated"]["moved"], 1, "{ended}");

    let seen = handler.seen().exchanges.len() as u32;
    let new = consumer(&vhost, "orders2").http(&handler).retry_at_broker();
    let worker = new.start().await;
    let next = async || {
        handler
            .seen()
            .exchanges
            .last()
            .map(|it| it.request.attempt())
    };
    let wanted = |attempt: &Option<u32>| *attempt > Some(seen);
    wait_until("its next attempt", DEADLINE, next, wanted).await;
    worker.drain().await;
}
