//! Headers and properties with a meaning for the worker or the broker, set by other publishers.

use lapin::{
    Confirmation, Connection, ConnectionProperties,
    options::{BasicPublishOptions, ConfirmSelectOptions},
    types::{AMQPValue, FieldArray, FieldTable},
};
use serde_json::json;
use url::Url;

use super::Rig;
use crate::support::{
    DEADLINE, PublishSpec, QueueType, VHost, log_message, management::encode, wait_until, within,
};

fn bad(id: &str) -> PublishSpec {
    PublishSpec::to("orders").id(id).body("{}")
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

#[tokio::test]
async fn a_count_of_attempts_that_cannot_be_true_counts_as_none() {
    let rig = Rig::start().await;
    let values = [
        ("negative", AMQPValue::LongLongInt(-5)),
        ("least", AMQPValue::LongLongInt(i64::MIN)),
        ("text", text("7")),
        ("table", AMQPValue::FieldTable(FieldTable::default())),
        ("real", AMQPValue::Double(7.0)),
    ];
    for (id, value) in values.clone() {
        let spec = bad(id).header("lapwing-attempts", value);
        rig.vhost.publish_with(spec).await;
    }

    let fate = rig.all_fail_twice(values.len()).await;

    let first = fate.bad().filter(|request| request.attempt() == 1);
    assert_eq!(first.count(), values.len());
}

/// A message as a worker of the same user would have parked it.
fn parked(id: &str) -> PublishSpec {
    let now = humantime::format_rfc3339_millis(std::time::SystemTime::now()).to_string();
    let ours = |properties: lapin::BasicProperties| properties.with_user_id("guest".into());
    bad(id).with(ours).header("lapwing-first-seen", text(&now))
}

#[tokio::test]
async fn an_absurd_count_of_attempts_runs_once_and_is_used_up() {
    let rig = Rig::start().await;
    let most = [i64::MAX, i64::from(u32::MAX), i64::from(u32::MAX) - 1];
    for (index, attempts) in most.into_iter().enumerate() {
        let spec = parked(&index.to_string()).header("lapwing-attempts", attempts);
        rig.vhost.publish_with(spec).await;
    }

    let fate = rig.end(most.len(), most.len()).await;

    for dead in &fate.all {
        assert_eq!(dead.header("lapwing-reason"), "max-attempts");
        assert_eq!(dead.header("lapwing-attempts"), u32::MAX);
    }
}

#[tokio::test]
async fn a_broken_history_and_times_that_cannot_be_are_started_afresh() {
    let rig = Rig::start().await;
    let broken = [
        ("lapwing-history", text("[{\"at\":")),
        ("lapwing-history", text("{\"not\":\"a list\"}")),
        ("lapwing-history", AMQPValue::LongLongInt(3)),
        ("lapwing-first-seen", text("2999-01-01T00:00:00Z")),
        ("lapwing-first-seen", text("yesterday")),
        ("lapwing-not-before", text("soon")),
        ("lapwing-not-before", AMQPValue::Timestamp(u64::MAX)),
        ("lapwing-not-before", text("1970-01-01T00:00:00Z")),
        ("lapwing-crashes", AMQPValue::LongLongInt(-1)),
        ("lapwing-replays", text("many")),
    ];
    for (index, (name, value)) in broken.iter().enumerate() {
        let spec = parked(&index.to_string()).header(name, value.clone());
        rig.vhost.publish_with(spec).await;
    }

    let fate = rig.all_fail_twice(broken.len()).await;

    for dead in &fate.all {
        let history = dead.header("lapwing-history").as_str().unwrap_or_default();
        let history: Vec<serde_json::Value> = serde_json::from_str(history).expect("a list");
        assert_eq!(history.len(), 2, "{history:?}");
        let seen = dead.header("lapwing-first-seen").as_str();
        assert!(seen.is_some_and(|time| time < "2900"), "{seen:?}");
        assert!(dead.header("lapwing-not-before").is_null());
        assert_eq!(dead.header("lapwing-crashes"), 0);
        assert_eq!(dead.header("lapwing-replays"), 0);
    }
}

#[tokio::test]
async fn a_first_seen_in_the_far_past_is_an_age_like_any_other() {
    let rig = Rig::start().await;
    let spec = parked("old").header("lapwing-first-seen", "1970-01-01T00:00:00Z");
    rig.vhost.publish_with(spec).await;

    let fate = rig.end(1, 1).await;

    assert_eq!(fate.dead().header("lapwing-reason"), "max-age");
}

#[tokio::test]
async fn a_time_that_is_thousands_of_years_away_keeps_a_message_parked_and_nothing_else() {
    for when in ["2999-01-01T00:00:00Z", "9999-12-31T23:59:59.999999999Z"] {
        let mut rig = Rig::start().await;
        let spec = parked("later").header("lapwing-not-before", when);
        rig.vhost.publish_with(spec).await;
        let again = |line: &serde_json::Value| log_message(line) == "message parked for retry";
        let twice = async || rig.worker.log().iter().filter(|line| again(line)).count();
        wait_until("it is parked again", DEADLINE, twice, |n| *n >= 2).await;
        rig.vhost.publish_with(bad(super::GOOD)).await;
        rig.handler.wait_for_answered(1, DEADLINE).await;

        let ledger = rig.worker.drain(DEADLINE).await;

        assert_eq!(
            rig.handler.seen().exchanges.len(),
            1,
            "only the good one ran"
        );
        assert_eq!(ledger.acked, 1);
        assert_eq!(ledger.parked + ledger.returned, ledger.received - 1);
        let mut left = rig.vhost.drain_all("orders").await;
        while left.is_empty() {
            left = rig.vhost.drain_all("orders.retry.1s").await;
            left.extend(rig.vhost.drain_all("orders").await);
        }
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].id(), "later");
        assert_eq!(left[0].header("lapwing-attempts"), 0);
        let until = left[0].header("lapwing-not-before").as_str();
        assert!(until.is_some_and(|time| time > "2035"), "{until:?}");
    }
}

#[tokio::test]
async fn what_the_broker_sets_is_not_believed_counts_are_not_passed_on_and_deaths_are_not_mixed() {
    let rig = Rig::start().await;
    let died = |count| {
        let table = [
            ("queue", text("orders.retry.1s")),
            ("reason", text("expired")),
            ("count", AMQPValue::LongLongInt(count)),
            ("exchange", text("")),
            (
                "routing-keys",
                AMQPValue::FieldArray(vec![text("x")].into()),
            ),
        ];
        let mut died = FieldTable::default();
        for (name, value) in table {
            died.insert(name.into(), value);
        }
        AMQPValue::FieldArray(FieldArray::from(vec![AMQPValue::FieldTable(died)]))
    };
    let set = [
        ("x-death", died(1_000_000)),
        ("x-death", text("garbage")),
        (
            "x-death",
            AMQPValue::FieldArray(vec![text("garbage")].into()),
        ),
        ("x-delivery-count", AMQPValue::LongLongInt(1_000_000)),
        ("x-delivery-count", text("garbage")),
        ("x-acquired-count", AMQPValue::LongLongInt(-1)),
        ("x-first-death-reason", text("rejected")),
        ("x-last-death-queue", text("elsewhere")),
    ];
    for (index, (name, value)) in set.iter().enumerate() {
        let spec = bad(&index.to_string()).header(name, value.clone());
        rig.vhost.publish_with(spec).await;
    }

    let fate = rig.all_fail_twice(set.len()).await;

    for dead in &fate.all {
        for count in ["x-delivery-count", "x-acquired-count"] {
            assert!(dead.header(count).is_null(), "{count} of {}", dead.id());
        }
        if dead.id() != "0" {
            let headers = serde_json::to_string(&dead.headers).expect("it is JSON");
            assert!(!headers.contains(".retry."), "{headers}");
        }
    }
}

#[tokio::test]
async fn routes_a_publisher_added_get_no_copy_of_a_retry() {
    let rig = Rig::start().await;
    rig.vhost.declare("audit", QueueType::Classic).await;
    let audit = || AMQPValue::FieldArray(vec![text("audit")].into());
    rig.vhost
        .publish_with(bad("cc").header("CC", audit()))
        .await;
    rig.vhost
        .publish_with(bad("bcc").header("BCC", audit()))
        .await;
    rig.vhost.wait_for_counts("audit", 2, 0, DEADLINE).await;

    let fate = rig.all_fail_twice(2).await;

    assert_eq!(fate.vhost.ready("audit").await, 2, "one for each publish");
    let dead = |id: &str| fate.all.iter().find(|dead| dead.id() == id).expect("it is");
    assert_eq!(dead("cc").header("lapwing-original-cc"), &json!(["audit"]));
    assert!(dead("cc").header("CC").is_null());
    assert!(dead("bcc").header("BCC").is_null());
}

#[tokio::test]
async fn a_foreign_user_id_is_moved_aside_so_that_copies_are_taken() {
    let rig = Rig::start().await;
    let management = rig.vhost.broker().management();
    let user = format!("stranger-{}", uuid::Uuid::now_v7().simple());
    let account = json!({ "password": "secret", "tags": "" });
    management.put(&format!("users/{user}"), &account).await;
    let everything = json!({ "configure": ".*", "write": ".*", "read": ".*" });
    let vhost = encode(rig.vhost.name());
    management
        .put(&format!("permissions/{vhost}/{user}"), &everything)
        .await;
    let spec = bad("theirs").with(|properties| properties.with_user_id(user.as_str().into()));
    publish_as(&rig.vhost, &user, spec).await;
    management.delete(&format!("users/{user}")).await;

    let fate = rig.fails_twice().await;

    assert_eq!(fate.dead().header("lapwing-original-user-id"), &json!(user));
    assert!(fate.dead().properties.user_id().is_none());
}

/// Publishes on the connection of another user.
async fn publish_as(vhost: &VHost, user: &str, spec: PublishSpec) {
    let mut url = Url::parse(&vhost.amqp_url()).expect("it is one");
    url.set_username(user).expect("an amqp url has a user");
    url.set_password(Some("secret")).expect("and a password");
    let connecting = Connection::connect(url.as_str(), ConnectionProperties::default());
    let connection = within("connecting", connecting).await.expect("it may");
    let channel = connection.create_channel().await.expect("a channel");
    let confirming = channel.confirm_select(ConfirmSelectOptions::default());
    within("confirm mode", confirming).await.expect("it is new");
    let (options, properties) = (BasicPublishOptions::default(), spec.properties);
    let queue = spec.routing_key.as_str().into();
    let publishing = channel.basic_publish("".into(), queue, options, &spec.body, properties);
    let confirm = within("a publish", publishing).await.expect("it is open");
    let confirm = within("a confirm", confirm).await.expect("it is open");
    assert_eq!(confirm, Confirmation::Ack(None));
}

#[tokio::test]
async fn a_message_without_an_id_gets_one_with_its_first_copy() {
    let rig = Rig::start().await;
    rig.vhost
        .publish_with(PublishSpec::to("orders").body("{}"))
        .await;

    let fate = rig.fails_twice().await;

    let ids: Vec<_> = fate.bad().map(|request| request.message_id()).collect();
    assert_eq!(ids[0], "");
    assert_eq!(ids[1], fate.dead().id(), "it keeps the one it got");
    assert!(uuid::Uuid::parse_str(ids[1]).is_ok(), "{ids:?}");
}

#[tokio::test]
async fn an_expiration_of_zero_meets_a_waiting_consumer_and_is_not_passed_on() {
    let rig = Rig::start().await;
    let now = |properties: lapin::BasicProperties| properties.with_expiration("0".into());
    rig.vhost.publish_with(bad("now").with(now)).await;

    let fate = rig.fails_twice().await;

    assert_eq!(fate.dead().header("lapwing-original-expiration"), "0");
    assert!(fate.dead().properties.expiration().is_none());
}

#[tokio::test]
async fn what_expires_with_nobody_there_falls_into_the_net() {
    let vhost = Rig::only_queues().await;
    let now = |properties: lapin::BasicProperties| properties.with_expiration("0".into());
    vhost.publish_with(bad("late").with(now)).await;

    vhost.wait_for_counts("orders.dead", 1, 0, DEADLINE).await;

    let dead = vhost.drain_all("orders.dead").await;
    assert_eq!(dead[0].id(), "late");
    assert_eq!(dead[0].header("x-first-death-reason"), "expired");
}
