//! The contents of a copy: everything of the original, except what would misroute or mislabel it.

use lapin::BasicProperties;
use lapin::types::{AMQPValue, DecimalValue, FieldArray, FieldTable};
use serde_json::json;

use super::{DEAD, QUEUE, QUEUES, orders};
use crate::support::{
    Account, DEADLINE, Got, HttpHandler, PublishSpec, QueueType, Reply, VHost, management::encode,
    vhost,
};

/// Fails twice with a retry and then for good: a message is parked twice and then dead-lettered.
async fn twice_then_never() -> HttpHandler {
    HttpHandler::answering(|request| match request.attempt() {
        1 | 2 => Reply::status(500),
        _ => Reply::status(400),
    })
    .await
}

/// The dead letter of a message that is parked twice and then dead-lettered, and the ids that the
/// handler saw.
async fn dead_letter_of(vhost: &VHost, url: &str, spec: PublishSpec) -> (Got, Vec<String>) {
    let handler = twice_then_never().await;
    let worker = orders(url, &handler).start().await;
    vhost.publish_with(spec).await;
    vhost.wait_for_counts(DEAD, 1, 0, DEADLINE).await;
    let ledger = worker.drain().await.ledger();
    assert_eq!((ledger.parked, ledger.dead_lettered), (2, 1), "{ledger:?}");
    let seen = handler.seen();
    let told = seen.exchanges.iter();
    let ids = told
        .map(|one| one.request.message_id().to_owned())
        .collect();
    let mut dead = vhost.drain_all(DEAD).await;
    (dead.pop().expect("it was counted"), ids)
}

/// A user of the broker with every right in this virtual host.
async fn create_user(vhost: &VHost, name: &str) -> String {
    let management = vhost.broker().management();
    let password = "a-password";
    let user = json!({ "password": password, "tags": "" });
    management.put(&format!("users/{name}"), &user).await;
    let all = json!({ "configure": ".*", "write": ".*", "read": ".*" });
    let at = format!("permissions/{}/{name}", encode(vhost.name()));
    management.put(&at, &all).await;
    let mut url = url::Url::parse(&vhost.amqp_url()).expect("our own url is one");
    url.set_username(name).expect("an amqp url has a user");
    url.set_password(Some(password)).expect("and a password");
    url.into()
}

#[tokio::test]
async fn what_would_make_the_broker_refuse_or_misroute_a_copy_is_moved_aside() {
    let vhost = vhost().await;
    let name = format!("copies-{}", uuid::Uuid::now_v7().simple());
    let url = create_user(&vhost, &name).await;
    vhost.declare("other", QueueType::Classic).await;
    let publisher = vhost.broker().management().user().to_owned();
    let route = AMQPValue::LongString("other".into());
    let spec = PublishSpec::to(QUEUE)
        .id("order-1")
        .body("{}")
        .header("CC", AMQPValue::FieldArray(vec![route].into()))
        .header("x-delivery-count", 7)
        .header("x-first-death-queue", "elsewhere")
        .with(|properties| {
            properties
                .with_user_id(publisher.as_str().into())
                .with_expiration("60000".into())
                .with_delivery_mode(1)
        });

    let (dead, _) = dead_letter_of(&vhost, &url, spec).await;
    vhost
        .broker()
        .management()
        .delete(&format!("users/{name}"))
        .await;

    assert_eq!(dead.properties.user_id(), &None);
    assert_eq!(dead.header("lapwing-original-user-id"), &json!(publisher));
    assert_eq!(dead.properties.expiration(), &None);
    assert_eq!(dead.header("lapwing-original-expiration"), "60000");
    assert_eq!(dead.header("lapwing-original-cc"), &json!(["other"]));
    assert_eq!(
        vhost.ready("other").await,
        1,
        "the publisher's copy and no more"
    );
    assert_eq!(dead.properties.delivery_mode(), &Some(2));
    assert_eq!(dead.header("x-first-death-queue"), "elsewhere");
    for name in dead.headers.keys() {
        let is_known = name.starts_with("lapwing-") || name == "x-first-death-queue";
        assert!(is_known, "{name} is the broker's word on another message");
    }
}

#[tokio::test]
async fn a_message_without_an_id_is_given_one_that_it_keeps() {
    let vhost = vhost().await;
    let spec = PublishSpec::to(QUEUE).body("{}");

    let (dead, told) = dead_letter_of(&vhost, &vhost.amqp_url(), spec).await;

    let id = dead.id();
    let uuid: uuid::Uuid = id.parse().expect("a UUID");
    assert_eq!(uuid.get_version_num(), 7);
    assert_eq!(told, ["", id, id], "from its first copy on");
}

/// A value of every type of AMQP header that RabbitMQ accepts.
fn all_types() -> FieldTable {
    let text = |text: &str| AMQPValue::LongString(text.into());
    let mut inner = FieldTable::default();
    inner.insert("deep".into(), AMQPValue::LongLongInt(i64::MIN));
    inner.insert("text".into(), text("\u{e9}\u{1f426}"));
    let mut table = FieldTable::default();
    let mut add = |name: &str, value| {
        table.insert(name.into(), value);
    };
    add("boolean", AMQPValue::Boolean(true));
    add("int8", AMQPValue::ShortShortInt(-8));
    add("uint8", AMQPValue::ShortShortUInt(200));
    add("int16", AMQPValue::ShortInt(-300));
    add("uint16", AMQPValue::ShortUInt(60_000));
    add("int32", AMQPValue::LongInt(-70_000));
    add("uint32", AMQPValue::LongUInt(4_000_000_000));
    add("int64", AMQPValue::LongLongInt(i64::MAX));
    add("float", AMQPValue::Float(1.5));
    add("double", AMQPValue::Double(-0.125));
    let decimal = DecimalValue {
        scale: 2,
        value: 1234,
    };
    add("decimal", AMQPValue::DecimalValue(decimal));
    add("text", text("plain"));
    add(
        "bytes-in-text",
        AMQPValue::LongString(vec![0xff, 0xfe, 0].into()),
    );
    add("bytes", AMQPValue::ByteArray(vec![1, 2, 255].into()));
    add("timestamp", AMQPValue::Timestamp(1_700_000_000));
    add("void", AMQPValue::Void);
    let array = vec![
        AMQPValue::LongInt(1),
        text("two"),
        AMQPValue::FieldTable(inner.clone()),
    ];
    add("array", AMQPValue::FieldArray(FieldArray::from(array)));
    add("table", AMQPValue::FieldTable(inner));
    add("x-mine", text("the broker's are named, not guessed"));
    table
}

#[tokio::test]
async fn every_property_and_every_type_of_header_outlives_retries_and_dead_letter() {
    let vhost = vhost().await;
    let properties = BasicProperties::default()
        .with_delivery_mode(2)
        .with_message_id("order-1".into())
        .with_content_type("application/json".into())
        .with_content_encoding("identity".into())
        .with_priority(3)
        .with_correlation_id("correlation".into())
        .with_reply_to("answers".into())
        .with_timestamp(1_700_000_000)
        .with_type("order.paid".into())
        .with_app_id("shop".into())
        .with_cluster_id("cluster".into());
    let mut spec = PublishSpec::to(QUEUE).body(vec![b'"', 0xc3, 0xa9, b'"']);
    spec.properties = properties.clone();
    spec.headers = all_types();

    let (dead, told) = dead_letter_of(&vhost, &vhost.amqp_url(), spec).await;

    assert_eq!(told, ["order-1"; 3]);
    assert_eq!(dead.body, [b'"', 0xc3, 0xa9, b'"']);
    let headers = dead.properties.headers().clone().expect("some");
    let found = headers.inner();
    for (name, value) in all_types().inner() {
        assert_eq!(found.get(name), Some(value), "{name}");
    }
    let foreign = found
        .keys()
        .filter(|name| !name.as_str().starts_with("lapwing-"));
    assert_eq!(foreign.count(), all_types().inner().len(), "{found:?}");
    assert_eq!(dead.properties.with_headers(FieldTable::default()), {
        properties.with_headers(FieldTable::default())
    });
    Account::take(&vhost, [], &Default::default(), &QUEUES)
        .await
        .assert_exactly_once();
}
