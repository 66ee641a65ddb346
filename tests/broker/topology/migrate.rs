//! `lapwing topology migrate`.

use lapin::{ExchangeKind, options::QueueDeclareOptions, types::AMQPValue};
use serde_json::{Value, json};

use super::{
    Tool, assert_says,
    existing::{limited_user, user_without_configure},
    queue, run, with_management,
};
use crate::support::{
    Account, Broker, Consumers, DEADLINE, HttpHandler, PublishSpec, QueueType, Release, Reply,
    VHost, consumers, management::encode, vhost, wait_until, within,
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
pub(super) async fn publish(vhost: &VHost, name: &str, count: usize) -> Vec<String> {
    let named = |number| order(number).id(&format!("{name}-{number:04}"));
    vhost.publish_many("", count, named).await
}

/// A classic queue `orders` that is bound to the exchange `shop`.
pub(super) async fn classic() -> VHost {
    let vhost = Broker::shared().await.vhost_with_a_short_name().await;
    vhost.declare("orders", QueueType::Classic).await;
    vhost.declare_exchange("shop", ExchangeKind::Topic).await;
    vhost.bind("orders", "shop", "order.*").await;
    vhost
}

/// The settings while both queues are consumed.
pub(super) fn both(vhost: &VHost) -> Consumers {
    consumers(vhost, &["orders", "orders2"]).with(&format!(
        "{}\n[consumers.orders]\ntopology = 'attach'\nretry.cap = '1s'\n\
         [consumers.orders2]\nretry.cap = '1s'\n",
        with_management(vhost)
    ))
}

pub(super) const MIGRATE: [&str; 6] = ["migrate", "orders", "--to", "orders2", "--yes", "--json"];

pub(super) async fn migrate(settings: &Consumers, code: i32) -> Value {
    run(settings, &MIGRATE).await.json(code)
}

/// Runs a migration that is refused, and returns why.
async fn refusal(settings: &Consumers) -> String {
    let refused = run(settings, &MIGRATE).await;
    assert_eq!(refused.code, Some(4), "{refused:?}");
    refused.err
}

#[tokio::test]
async fn a_migration_under_traffic_that_is_killed_goes_on_and_loses_nothing() {
    let vhost = classic().await;
    let mut published = publish(&vhost, "before", 500).await;
    let settings = both(&vhost);

    // Ten seconds for all: the kill comes in time.
    let mut slow = Tool::new(&settings, &[&MIGRATE[..], &["--rate", "50"]].concat());
    let mut child = slow.command.spawn().expect("it starts");
    let moved = async || match vhost.exists("orders2").await {
        true => vhost.ready("orders2").await,
        false => 0,
    };
    wait_until("messages move", DEADLINE, moved, |ready| *ready >= 100).await;
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
    let (during, ended) = tokio::join!(publish(&vhost, "during", 100), migrate(&settings, 3));
    published.extend(during);
    assert_eq!(ended["done"], false);
    let obstacles = ended["obstacles"].to_string();
    assert_says(&obstacles, &["orders has 1 consumer:", "orders.retry.1s"]);
    handler.wait_for_success(&published).await;
    worker.drain().await;

    let seen = handler.seen();
    let account = Account::take(&vhost, published, &seen, &["orders", "orders2"]).await;
    account.assert_nothing_lost();
    let twice = account.handled_twice().len();
    assert!(twice <= 100, "{twice} messages were handled twice");
    for exchange in seen.exchanges {
        let request = exchange.request;
        assert_eq!(request.header("lapwing-routing-key"), "order.paid");
    }
}

/// A queue that dead-letters to `orders` after ten minutes.
pub(super) async fn declare_later(vhost: &VHost) {
    let text = |text: &str| AMQPValue::LongString(text.into());
    let rung = [
        ("x-message-ttl", AMQPValue::LongLongInt(600_000)),
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text("orders")),
    ];
    vhost.declare_with("later", QueueType::Classic, &rung).await;
}

/// The minute in which the command watches the queue cannot be shorter.
#[tokio::test]
async fn the_old_queue_is_deleted_when_no_queue_dead_letters_to_it_by_arguments_or_policies() {
    let vhost = classic().await;
    publish(&vhost, "first", 1).await;
    declare_later(&vhost).await;
    vhost.declare("other", QueueType::Classic).await;
    let management = vhost.broker().management();
    let policy = format!("policies/{}/other", encode(vhost.name()));
    let definition = json!({"dead-letter-exchange": "", "dead-letter-routing-key": "orders"});
    management
        .put(
            &policy,
            &json!({"pattern": "^other$", "definition": definition}),
        )
        .await;
    let shown = async || queue(&vhost, "other").await["policy"] == "other";
    wait_until("the policy", DEADLINE, shown, |is| *is).await;
    let settings = both(&vhost);

    let ended = migrate(&settings, 3).await;
    let left = &ended["migrated"]["left"];
    assert_eq!(left["leading"], json!(["later", "other"]), "{ended}");
    assert_eq!(ended["migrated"]["moved"], 1, "{ended}");
    assert_eq!(
        ended["obstacles"].as_array().map(Vec::len),
        Some(1),
        "{ended}"
    );

    management.delete(&policy).await;
    vhost.delete("other").await;
    vhost.delete("later").await;
    let ended = migrate(&settings, 0).await;
    assert_eq!(ended["done"], true, "{ended}");
    assert!(!vhost.exists("orders").await);
    vhost.wait_for_counts("orders2", 1, 0, DEADLINE).await;

    declare_later(&vhost).await;
    let ended = migrate(&settings, 3).await;
    let obstacles = ended["obstacles"].to_string();
    assert_says(&obstacles, &["later", "declare orders again"]);
    vhost.delete("later").await;
    migrate(&settings, 0).await;
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

    let ended = migrate(&both(&vhost), 3).await;
    assert_says(
        &ended["obstacles"].to_string(),
        &["1 message of orders delivered"],
    );
    assert!(vhost.exists("orders").await);
}

#[tokio::test]
async fn without_the_management_api_the_old_queue_stays_and_the_command_that_deletes_it_is_printed()
{
    let vhost = classic().await;
    publish(&vhost, "first", 3).await;
    let settings =
        consumers(&vhost, &["orders", "orders2"]).with("[consumers.orders]\ntopology = 'attach'\n");
    let ended = migrate(&settings, 3).await;
    let obstacles = ended["obstacles"].to_string();
    let command = "delete_queue orders --if-empty --if-unused";
    assert_says(&obstacles, &["broker.management_url", command]);
    assert_eq!(ended["migrated"]["moved"], 3);
    assert!(vhost.exists("orders").await);
}

#[tokio::test]
async fn a_queue_that_the_broker_may_delete_by_itself_keeps_its_messages() {
    let vhost = vhost().await;
    let settings = both(&vhost);
    let channel = vhost.channel().await;
    for (durable, exclusive, auto_delete) in [
        (false, false, true),
        (true, false, true),
        (false, true, false),
    ] {
        // 4.3 and later have no transient queue that is not exclusive.
        let durable = durable || (!exclusive && vhost.broker().release() >= Release::V4_3);
        let options = QueueDeclareOptions {
            durable,
            exclusive,
            auto_delete,
            ..QueueDeclareOptions::default()
        };
        let declared = channel.queue_declare("orders".into(), options, Default::default());
        within("a declaration", declared).await.expect("it is new");
        vhost
            .publish_many("orders", 100, |_| PublishSpec::of("{}"))
            .await;
        refusal(&settings).await;
        let purged = channel.queue_purge("orders".into(), Default::default());
        let purged = within("a purge", purged).await.expect("it exists");
        assert_eq!(purged, 100, "{options:?}");
        let deleted = channel.queue_delete("orders".into(), Default::default());
        within("a deletion", deleted).await.expect("it exists");
    }
    let expires = [("x-expires", AMQPValue::LongLongInt(600_000))];
    vhost
        .declare_with("orders", QueueType::Classic, &expires)
        .await;
    assert_says(&refusal(&settings).await, &["orders expires"]);
    assert!(!vhost.exists("orders2").await);
}

#[tokio::test]
async fn a_second_migration_of_a_queue_and_a_user_who_may_not_look_are_refused() {
    let vhost = classic().await;
    publish(&vhost, "stays", 3).await;
    let channel = vhost.channel().await;
    let exclusive = QueueDeclareOptions {
        exclusive: true,
        ..QueueDeclareOptions::default()
    };
    let name = "lapwing.migrate.orders";
    let first = channel.queue_declare(name.into(), exclusive, Default::default());
    within("a declaration", first).await.expect("it is new");
    let why = refusal(&both(&vhost)).await;
    assert_says(&why, &["another migration of orders runs"]);

    let gone = channel.queue_delete(name.into(), Default::default());
    within("a deletion", gone).await.expect("it exists");
    let (_, url) = user_without_configure(&vhost).await;
    let settings =
        consumers(&url, &["orders", "orders2"]).with("[consumers.orders]\ntopology = 'attach'\n");
    let why = refusal(&settings).await;
    assert_says(&why, &["refused"]);
    assert_eq!(vhost.ready("orders").await, 3);
    assert!(!vhost.exists("orders2").await);
}

#[tokio::test]
async fn a_command_that_may_not_unbind_says_that_both_queues_get_each_message() {
    let vhost = classic().await;
    let (_, url) = limited_user(&vhost, ".*", "^(?!orders$).*").await;
    let settings = consumers(&url, &["orders", "orders2"]).with(
        "[consumers.orders]\ntopology = 'attach'\n\
         bindings = [{ exchange = 'shop', routing_key = 'order.*' }]\n",
    );
    let failed = run(&settings, &MIGRATE).await;
    assert_eq!(failed.code, Some(1), "{failed:?}");
    assert_says(&failed.err, &["orders was not unbound", "to both queues"]);
    publish(&vhost, "twice", 1).await;
    for queue in ["orders", "orders2"] {
        vhost.wait_for_counts(queue, 1, 0, DEADLINE).await;
    }
}

#[tokio::test]
async fn a_full_target_takes_each_message_once_and_a_policy_that_drops_is_refused() {
    let vhost = classic().await;
    let ids = publish(&vhost, "m", 120).await;
    let settings = both(&vhost).with("consumers.orders2.arguments.x-max-length = 70\n");
    let ended = migrate(&settings, 3).await;
    assert_says(
        &ended["obstacles"].to_string(),
        &["messages were not moved"],
    );
    migrate(&settings, 3).await;
    let moved = vhost.drain_all("orders2").await;
    assert!((70..120).contains(&moved.len()), "{}", moved.len());
    let left = vhost.drain_all("orders").await;
    let all: Vec<_> = moved.iter().chain(&left).map(|it| it.id()).collect();
    assert_eq!(all, ids);

    publish(&vhost, "m", 3).await;
    let management = vhost.broker().management();
    let policy = format!("policies/{}/drops", encode(vhost.name()));
    let definition = json!({"max-length": 5, "overflow": "drop-head"});
    management
        .put(
            &policy,
            &json!({"pattern": "^orders2$", "definition": definition}),
        )
        .await;
    let shown = async || queue(&vhost, "orders2").await["policy"] == "drops";
    wait_until("the policy", DEADLINE, shown, |is| *is).await;
    let refused = run(&settings, &MIGRATE).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert_says(&refused.err, &["overflow drop-head"]);
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

    let ended = migrate(&settings, 3).await;
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
    let why = refusal(&settings).await;
    assert_says(&why, &["x-queue-type is 'classic', wanted 'quorum'"]);
    assert_eq!(vhost.ready("orders").await, 3);
    publish(&vhost, "still", 1).await;
    assert_eq!(vhost.ready("orders").await, 4, "it is still bound");

    let rebinding = settings.with(
        "[consumers.orders]\ntopology = 'declare'\nqueue_type = 'classic'\n\
         bindings = [{ exchange = 'shop', routing_key = 'order.*' }]\n",
    );
    let why = refusal(&rebinding).await;
    assert_says(&why, &["consumers.orders.topology = \"attach\""]);
}

/// Copies would be confirmed, the originals acked, and the broker would drop the copies.
#[tokio::test]
async fn a_new_queue_that_is_used_as_it_is_and_may_lose_messages_is_refused() {
    let vhost = classic().await;
    publish(&vhost, "stays", 3).await;
    let settings = both(&vhost).with("[consumers.orders2]\ntopology = 'attach'\n");
    let short = [("x-max-length", AMQPValue::LongLongInt(1))];
    vhost
        .declare_with("orders2", QueueType::Quorum, &short)
        .await;
    let why = refusal(&settings).await;
    assert_says(&why, &["orders2 may lose messages", "x-max-length"]);
    assert_eq!(vhost.ready("orders").await, 3);

    // Without such an argument it is used. The old queue stays, as another one leads to it.
    vhost.delete("orders2").await;
    vhost.declare("orders2", QueueType::Quorum).await;
    declare_later(&vhost).await;
    let ended = migrate(&settings, 3).await;
    assert_eq!(ended["migrated"]["moved"], 3, "{ended}");
}
