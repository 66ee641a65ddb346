//! `topology = "declare"` creates missing queues.

use lapin::{ExchangeKind, types::AMQPValue};
use serde_json::{Value, json};

use super::{SHORT_LADDER, assert_says, consuming, queue, queues, refusal, set};
use crate::support::{Broker, DEADLINE, PublishSpec, QueueType, VHost, vhost};

async fn arguments(vhost: &VHost, name: &str) -> Value {
    let queue = queue(vhost, name).await;
    assert_eq!(queue["durable"], true, "{name}");
    assert_eq!(queue["auto_delete"], false, "{name}");
    assert_ne!(queue["exclusive"], true, "{name}");
    queue["arguments"].clone()
}

#[tokio::test]
async fn a_quorum_consumer_gets_its_queue_with_a_net_its_rungs_and_its_dead_letter_queue() {
    let vhost = vhost().await;

    let (_handler, _worker) = consuming(&vhost, SHORT_LADDER).await;

    let rungs = [
        ("orders.retry.1s", 1_000),
        ("orders.retry.2s", 2_000),
        ("orders.retry.4s", 4_000),
    ];
    let all = ["orders", "orders.dead", rungs[0].0, rungs[1].0, rungs[2].0];
    assert_eq!(queues(&vhost).await, set(&all));
    let work = json!({
        "x-queue-type": "quorum",
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": "orders.dead",
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
        "x-delivery-limit": 100,
    });
    assert_eq!(arguments(&vhost, "orders").await, work);
    for (rung, ttl) in rungs {
        let expected = json!({
            "x-queue-type": "quorum",
            "x-message-ttl": ttl,
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": "orders",
            "x-dead-letter-strategy": "at-least-once",
            "x-overflow": "reject-publish",
        });
        assert_eq!(arguments(&vhost, rung).await, expected, "{rung}");
    }
    let dead = json!({ "x-queue-type": "quorum", "x-delivery-limit": 100_000 });
    assert_eq!(arguments(&vhost, "orders.dead").await, dead);
}

#[tokio::test]
async fn a_classic_consumer_gets_quorum_queues_beside_its_own() {
    let vhost = vhost().await;
    let changes = format!(
        "[consumers.orders]\nqueue_type = 'classic'\ndead_letter_queue = 'failed'\n{SHORT_LADDER}"
    );

    let (handler, _worker) = consuming(&vhost, &changes).await;

    let work = json!({
        "x-queue-type": "classic",
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": "failed",
    });
    assert_eq!(arguments(&vhost, "orders").await, work);
    let rung = json!({
        "x-queue-type": "quorum",
        "x-message-ttl": 1_000,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": "orders",
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    });
    assert_eq!(arguments(&vhost, "orders.retry.quorum.1s").await, rung);
    let dead = arguments(&vhost, "failed").await;
    assert_eq!(dead["x-queue-type"], "quorum");
    vhost.publish("orders", "x").await;
    handler.wait_for_answered(1, DEADLINE).await;
}

#[tokio::test]
async fn a_second_worker_finds_everything_as_it_should_be() {
    let vhost = vhost().await;
    for topology in ["declare", "declare", "verify"] {
        let changes = format!("[consumers.orders]\ntopology = '{topology}'\n{SHORT_LADDER}");
        let (_handler, mut worker) = consuming(&vhost, &changes).await;
        worker.drain(DEADLINE).await;
    }
}

#[tokio::test]
async fn bindings_to_exchanges_that_exist_are_made() {
    let vhost = vhost().await;
    vhost.declare_exchange("shop", ExchangeKind::Topic).await;
    let changes = "[[consumers.orders.bindings]]\nexchange = 'shop'\nrouting_key = 'order.*'\n\
                   [[consumers.orders.bindings]]\nexchange = 'shop'\nrouting_key = '#.refund'\n";

    let (handler, _worker) = consuming(&vhost, changes).await;

    for key in ["order.paid", "late.refund"] {
        let spec = PublishSpec {
            exchange: "shop".to_owned(),
            routing_key: key.to_owned(),
            ..PublishSpec::default()
        };
        vhost.publish_with(spec.id(key)).await;
    }
    let seen = handler.wait_for_answered(2, DEADLINE).await;
    for exchange in seen.exchanges {
        let request = exchange.request;
        assert_eq!(request.header("lapwing-routing-key"), request.message_id());
    }
}

#[tokio::test]
async fn a_binding_to_an_exchange_that_is_not_there_is_refused() {
    let vhost = vhost().await;
    let changes = "[[consumers.orders.bindings]]\nexchange = 'shop'\nrouting_key = '#'\n";

    let error = refusal(&vhost, changes).await;

    assert_eq!(queues(&vhost).await, set(&[]), "nothing is left behind");
    assert_says(
        &error,
        &["consumer \"orders\"", "exchange \"shop\": missing"],
    );
}

#[tokio::test]
async fn a_queue_with_other_arguments_is_refused_with_every_difference_and_left_as_it_was() {
    let vhost = Broker::shared().await.vhost_with_a_short_name().await;
    let other = [
        ("x-delivery-limit", AMQPValue::LongLongInt(5)),
        ("x-max-length", AMQPValue::LongLongInt(10)),
    ];
    vhost
        .declare_with("orders", QueueType::Quorum, &other)
        .await;
    let before = queue(&vhost, "orders").await["arguments"].clone();

    let error = refusal(&vhost, SHORT_LADDER).await;

    let differences = [
        "consumer \"orders\": queue \"orders\": ",
        "x-delivery-limit is '5', wanted '100'",
        "x-max-length is '10', wanted not set",
        "x-dead-letter-exchange is not set, wanted ''",
        "x-dead-letter-routing-key is not set, wanted 'orders.dead'",
    ];
    assert_says(&error, &differences);
    assert_eq!(
        error.lines().count(),
        1,
        "one queue is one thing to mend: {error}"
    );
    assert_eq!(
        queues(&vhost).await,
        set(&["orders"]),
        "nothing is left behind"
    );
    assert_eq!(queue(&vhost, "orders").await["arguments"], before);
}

#[tokio::test]
async fn a_higher_cap_adds_rungs_to_a_ladder_that_exists() {
    let vhost = vhost().await;
    let (_handler, mut worker) = consuming(&vhost, "[consumers.orders.retry]\ncap = '2s'\n").await;
    worker.drain(DEADLINE).await;
    let before = [
        "orders",
        "orders.dead",
        "orders.retry.1s",
        "orders.retry.2s",
    ];
    assert_eq!(queues(&vhost).await, set(&before));

    let (_handler, mut worker) = consuming(&vhost, "[consumers.orders.retry]\ncap = '7s'\n").await;

    let added = ["orders.retry.4s", "orders.retry.8s"];
    assert_eq!(queues(&vhost).await, set(&[&before[..], &added].concat()));
    worker.drain(DEADLINE).await;
}

#[tokio::test]
async fn a_queue_is_declared_with_the_users_arguments_and_compared_with_them() {
    let vhost = vhost().await;
    let changes = |length: u32| {
        format!(
            "[consumers.orders]\n\
             arguments = {{ x-single-active-consumer = true, x-max-length = {length} }}\n{SHORT_LADDER}"
        )
    };

    let (handler, mut worker) = consuming(&vhost, &changes(5_000)).await;

    let work = arguments(&vhost, "orders").await;
    assert_eq!(work["x-single-active-consumer"], true);
    assert_eq!(work["x-max-length"], 5_000);
    vhost.publish("orders", "x").await;
    handler.wait_for_answered(1, DEADLINE).await;
    worker.drain(DEADLINE).await;
    let error = refusal(&vhost, &changes(6_000)).await;
    assert_says(&error, &["queue \"orders\": x-max-length"]);
    let (_handler, mut worker) = consuming(&vhost, &changes(5_000)).await;
    worker.drain(DEADLINE).await;
}

#[tokio::test]
async fn a_classic_queue_takes_priorities_and_its_retries_keep_them() {
    let vhost = vhost().await;
    let changes = "[consumers.orders]\nqueue_type = 'classic'\n\
                   arguments = { x-max-priority = 5 }\nretry.cap = '1s'\n";
    let (_handler, mut worker) = consuming(&vhost, changes).await;
    assert_eq!(arguments(&vhost, "orders").await["x-max-priority"], 5);
    worker.drain(DEADLINE).await;
}
