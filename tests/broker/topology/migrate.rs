//! `lapwing topology migrate`.

use lapin::{ExchangeKind, types::AMQPValue};
use serde_json::{Value, json};

use super::{Tool, assert_says, run, with_management};
use crate::support::{
    Account, Broker, Consumers, DEADLINE, HttpHandler, PublishSpec, QueueType, Reply, VHost,
    consumer, consumers, vhost, wait_until, within,
};

/// A message for the exchange `shop`.
fn order(_: usize) -> PublishSpec {
    PublishSpec {
        exchange: "shop".to_owned(),
        routing_key: "order.paid".to_owned(),
        ..PublishSpec::of("{}")
    }
}

/// Publishes messages to the exchange, with ids that begin so.
async fn publish(vhost: &VHost, name: &str, count: usize) -> Vec<String> {
    let named = |number| order(number).id(&format!("{name}-{number:04}"));
    vhost.publish_many("", count, named).await
}

/// A classic queue `orders` that is bound to the exchange `shop`.
async fn classic() -> VHost {
    let vhost = Broker::shared().await.vhost_with_a_short_name().await;
    vhost.declare("orders", QueueType::Classic).await;
    vhost.declare_exchange("shop", ExchangeKind::Topic).await;
    vhost.bind("orders", "shop", "order.*").await;
    vhost
}

/// The settings while both queues are consumed.
fn both(vhost: &VHost) -> Consumers {
    consumers(vhost, &["orders", "orders2"]).with(&format!(
        "{}\n[consumers.orders]\ntopology = 'attach'\nretry.cap = '1s'\n\
         [consumers.orders2]\nretry.cap = '1s'\n",
        with_management(vhost)
    ))
}

const MIGRATE: [&str; 7] = [
    "migrate", "orders", "--to", "orders2", "--yes", "--json", "--watch",
];

async fn migrate(settings: &Consumers, watch: &str, code: i32) -> Value {
    let arguments = [&MIGRATE[..], &[watch]].concat();
    run(settings, &arguments).await.json(code)
}

#[tokio::test]
async fn a_migration_under_traffic_that_is_killed_goes_on_and_loses_nothing() {
    const COUNT: usize = 2000;
    let vhost = classic().await;
    let mut published = publish(&vhost, "before", COUNT).await;
    let settings = both(&vhost);

    // Eight seconds for all: the kill comes in time.
    let slow = [&MIGRATE[..], &["1s", "--rate", "250"]].concat();
    let mut slow = Tool::new(&settings, &slow);
    let mut child = slow.command.spawn().expect("it starts");
    let moved = async || match vhost.exists("orders2").await {
        true => vhost.ready("orders2").await,
        false => 0,
    };
    wait_until("messages move", DEADLINE, moved, |ready| *ready >= 200).await;
    child.start_kill().expect("it runs");
    within("the command", child.wait()).await.expect("it ends");
    let back = async || vhost.counts("orders").await;
    let left = wait_until("the messages are back", DEADLINE, back, |it| {
        it.unacked == 0
    })
    .await;
    assert!(left.ready > 0, "the kill came too late to show anything");

    let handler = HttpHandler::answering(|_| Reply::ok()).await;
    let worker = settings.clone().http(&handler).start().await;
    let (during, ended) = tokio::join!(
        publish(&vhost, "during", 200),
        migrate(&settings, "100ms", 3)
    );
    published.extend(during);
    assert_eq!(ended["done"], false);
    let obstacles = ended["obstacles"].to_string();
    assert_says(&obstacles, &["orders has 1 consumer:"]);
    handler.wait_for_success(&published).await;
    worker.drain().await;

    let only = consumer(&vhost, "orders2").with(&with_management(&vhost));
    let only = only.with("consumers.orders2.retry.cap = '1s'");
    let ended = migrate(&only, "100ms", 0).await;
    assert_eq!(ended["done"], true, "{ended}");
    assert!(!vhost.exists("orders").await);
    let again = migrate(&only, "100ms", 0).await;
    assert_eq!(again["done"], true, "{again}");

    let seen = handler.seen();
    let account = Account::take(&vhost, published, &seen, &["orders2"]).await;
    account.assert_nothing_lost();
    let twice = account.handled_twice().len();
    assert!(twice <= 100, "{twice} messages were handled twice");
    for exchange in seen.exchanges {
        let request = exchange.request;
        assert_eq!(request.header("lapwing-routing-key"), "order.paid");
    }
}

#[tokio::test]
async fn a_queue_stays_while_retries_come_back_to_it() {
    let vhost = classic().await;
    let text = |text: &str| AMQPValue::LongString(text.into());
    let rung = [
        ("x-message-ttl", AMQPValue::LongLongInt(2000)),
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text("orders")),
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-overflow", text("reject-publish")),
    ];
    // Of settings that are gone: only the management API tells where it leads.
    vhost
        .declare_with("later.2s", QueueType::Quorum, &rung)
        .await;
    vhost.publish("later.2s", "{}").await;
    let settings = both(&vhost);

    let ended = migrate(&settings, "10ms", 3).await;
    let parked = &ended["migrated"]["left"]["parked"];
    assert_eq!(parked["later.2s"], 1, "{ended}");
    assert_says(&ended["obstacles"].to_string(), &["1 retry in later.2s"]);

    vhost.wait_for_counts("orders", 1, 0, DEADLINE).await;
    let ended = migrate(&settings, "10ms", 0).await;
    assert_eq!(ended["migrated"]["moved"], 1, "{ended}");
    assert!(!vhost.exists("orders").await);
    vhost.wait_for_counts("orders2", 1, 0, DEADLINE).await;
}

#[tokio::test]
async fn deliveries_that_are_not_settled_keep_the_old_queue() {
    let vhost = classic().await;
    publish(&vhost, "held", 1).await;
    let channel = vhost.channel().await;
    // A delivery without a consumer: the broker would delete the queue with it.
    let got = channel.basic_get("orders".into(), Default::default());
    let got = within("a get", got).await.expect("the queue exists");
    assert!(got.is_some());

    let settings = both(&vhost);
    let ended = migrate(&settings, "10ms", 3).await;
    assert_says(
        &ended["obstacles"].to_string(),
        &["1 message of orders delivered"],
    );
    assert!(vhost.exists("orders").await);

    let closing = channel.close(200, "done".into());
    within("closing a channel", closing)
        .await
        .expect("an open channel closes");
    vhost.wait_for_counts("orders", 1, 0, DEADLINE).await;
    migrate(&settings, "10ms", 0).await;
    assert!(!vhost.exists("orders").await);
}

#[tokio::test]
async fn of_a_quorum_queue_the_messages_move_in_order_and_the_command_that_deletes_it_is_printed() {
    let vhost = vhost().await;
    vhost.declare("orders", QueueType::Quorum).await;
    let make = |number: usize| {
        let spec = PublishSpec::of(vec![0, 255, (number % 256) as u8]).header("tenant", "acme");
        spec.with(|it| {
            it.with_priority(3)
                .with_user_id("guest".into())
                .with_reply_to("r".into())
        })
    };
    let ids = vhost.publish_many("orders", 300, make).await;
    let settings = both(&vhost);
    let refused = [&MIGRATE[..4], &["--json"]].concat();
    let refused = run(&settings, &refused).await;
    assert_eq!(refused.code, Some(1), "nobody can answer: {refused:?}");
    assert!(!vhost.exists("orders2").await);

    let ended = migrate(&settings, "10ms", 3).await;
    let obstacles = ended["obstacles"].to_string();
    assert_says(&obstacles, &["rabbitmqctl -p", "delete_queue orders"]);
    assert!(vhost.exists("orders").await);
    assert_eq!(vhost.ready("orders").await, 0);
    let got = vhost.drain_all("orders2").await;
    let order: Vec<_> = got.iter().map(|got| got.id().to_owned()).collect();
    assert_eq!(order, ids);
    for (number, got) in got.iter().enumerate() {
        assert_eq!(got.body, [0, 255, (number % 256) as u8]);
        assert_eq!(got.header("tenant"), &json!("acme"));
        assert_eq!(got.header("lapwing-original-user-id"), &json!("guest"));
        assert_eq!(*got.properties.priority(), Some(3));
    }
}

#[tokio::test]
async fn a_target_with_other_arguments_is_refused_before_anything_is_changed() {
    let vhost = classic().await;
    publish(&vhost, "stays", 3).await;
    vhost.declare("orders2", QueueType::Classic).await;
    let settings = both(&vhost);
    let arguments = [&MIGRATE[..], &["10ms"]].concat();
    let refused = run(&settings, &arguments).await;
    assert_eq!(refused.code, Some(4), "{refused:?}");
    assert_says(
        &refused.err,
        &["x-queue-type is 'classic', wanted 'quorum'"],
    );
    assert_eq!(vhost.ready("orders").await, 3);
    publish(&vhost, "still", 1).await;
    assert_eq!(vhost.ready("orders").await, 4, "it is still bound");

    let rebinding = settings.with(
        "[consumers.orders]\ntopology = 'declare'\nqueue_type = 'classic'\n\
         bindings = [{ exchange = 'shop', routing_key = 'order.*' }]\n",
    );
    let refused = run(&rebinding, &arguments).await;
    assert_eq!(refused.code, Some(4), "{refused:?}");
    assert_says(&refused.err, &["consumers.orders.topology = \"attach\""]);
}
