//! Queues, exchanges and policies that do not fit the worker.

use lapin::types::AMQPValue;
use lapwing::doctor::{Finding, Grade, Report};
use serde_json::{Value, json};

use super::{assert_well, bad, examined, only, orders, orders_with_management};
use crate::support::{
    Broker, Consumers, DEADLINE, QueueType, Release, VHost, management::encode, wait_until,
};

/// With a long name the broker cuts the texts that show the arguments of a queue.
async fn vhost() -> VHost {
    Broker::shared().await.vhost_with_a_short_name().await
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

fn int(number: i64) -> AMQPValue {
    AMQPValue::LongLongInt(number)
}

/// The arguments of the work queue, as the worker declares it.
fn work() -> Vec<(&'static str, AMQPValue)> {
    vec![
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text("orders.dead")),
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-overflow", text("reject-publish")),
        ("x-delivery-limit", int(100)),
    ]
}

/// The arguments of a retry queue of this length.
fn retry(millis: i64) -> Vec<(&'static str, AMQPValue)> {
    vec![
        ("x-message-ttl", int(millis)),
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text("orders")),
        ("x-dead-letter-strategy", text("at-least-once")),
        ("x-overflow", text("reject-publish")),
    ]
}

/// The finding about this object.
#[track_caller]
fn about<'a>(found: &[&'a Finding], check: &str, object: &str) -> &'a Finding {
    let is_it = |it: &&&Finding| it.check == check && it.about == object;
    let it = found.iter().find(is_it);
    it.unwrap_or_else(|| panic!("{check} {object}: {found:#?}"))
}

#[tokio::test]
async fn a_queue_that_differs_is_found_and_the_setting_in_the_report_mends_it() {
    let mut limited = work();
    limited.push(("x-max-length", int(1000)));
    let mut lower = work();
    lower.pop();
    lower.push(("x-delivery-limit", int(7)));
    let none: &[(&str, AMQPValue)] = &[];
    for (kind, arguments, mend) in [
        (
            QueueType::Classic,
            none,
            "set consumers.orders.queue_type = \"classic\"",
        ),
        (
            QueueType::Quorum,
            &limited,
            "set consumers.orders.arguments = { x-max-length = 1000 }",
        ),
        (
            QueueType::Quorum,
            &lower,
            "set consumers.orders.delivery_limit = 7",
        ),
    ] {
        let vhost = vhost().await;
        let mut arguments = arguments.to_vec();
        if kind == QueueType::Classic {
            arguments.extend(work().into_iter().take(2));
        }
        vhost.declare_with("orders", kind, &arguments).await;
        let report = examined(&orders(&vhost)).await;
        let found = bad(&report);
        let found = found.iter().find(|it| it.mend.contains(mend));
        let found = found.unwrap_or_else(|| panic!("{mend}: {report:#?}"));
        assert_eq!((found.check, found.grade), ("queues", Grade::Fail));
        let line = mend.strip_prefix("set ").expect("it is a setting");
        let mended = orders(&vhost).with(line);
        assert_well(&examined(&mended).await);
        let worker = mended.start().await;
        worker.drain().await;
    }
}

#[tokio::test]
async fn a_retry_queue_or_dead_letter_queue_of_another_kind_is_found() {
    let vhost = vhost().await;
    vhost
        .declare_with("orders.retry.1s", QueueType::Quorum, &retry(60_000))
        .await;
    vhost.declare("orders.dead", QueueType::Classic).await;
    let report = examined(&orders(&vhost)).await;
    let found = bad(&report);
    for (queue, mend) in [
        ("orders.retry.1s", "consumers.orders.retry_queue_prefix"),
        ("orders.dead", "consumers.orders.dead_letter_queue"),
    ] {
        let found = about(&found, "queues", queue);
        assert!(found.mend.contains(mend), "{found:?}");
        assert!(found.mend.contains("delete the queue"), "{found:?}");
        vhost.delete(queue).await;
    }
    assert_well(&examined(&orders(&vhost)).await);
}

#[tokio::test]
async fn a_queue_that_loses_messages_or_takes_none_back_is_found() {
    let vhost = vhost().await;
    let channel = vhost.channel().await;
    let mut stream = lapin::types::FieldTable::default();
    stream.insert("x-queue-type".into(), text("stream"));
    let durable = lapin::options::QueueDeclareOptions::durable();
    let declared = channel.queue_declare("orders".into(), durable, stream);
    declared.await.expect("the broker has streams");
    for topology in ["declare", "attach"] {
        let settings = orders(&vhost).with(&format!("consumers.orders.topology = '{topology}'"));
        let report = examined(&settings).await;
        let found = bad(&report);
        let found = about(&found, "queues", "orders");
        assert!(found.found.contains("is a stream"), "{found:?}");
        assert!(found.mend.contains("another queue"), "{found:?}");
    }
    vhost.delete("orders").await;
    assert_well(&examined(&orders(&vhost)).await);
}

#[tokio::test]
async fn queues_and_exchanges_that_nobody_creates_are_found() {
    let vhost = vhost().await;
    let changes = "[consumers.orders]\ntopology = 'verify'\n\
                   bindings = [{ exchange = 'shop', routing_key = 'order.*' }]\n\
                   forward = { routing_key = 'invoices' }";
    let settings = orders(&vhost).with(changes);
    let report = examined(&settings).await;
    let found = bad(&report);
    for queue in [
        "orders",
        "orders.dead",
        "orders.retry.1s",
        "orders.retry.2s",
    ] {
        let found = about(&found, "queues", queue);
        assert!(found.mend.contains("topology = \"declare\""), "{found:?}");
    }
    about(&found, "exchanges", "shop");
    about(&found, "exchanges", "invoices");
    vhost
        .declare_exchange("shop", lapin::ExchangeKind::Topic)
        .await;
    vhost.declare("invoices", QueueType::Quorum).await;
    let settings = settings.with("consumers.orders.topology = 'declare'");
    assert_well(&examined(&settings).await);
}

#[tokio::test]
async fn queues_of_others_from_which_messages_would_be_lost_are_found() {
    let vhost = vhost().await;
    let limit = [("x-delivery-limit", int(20))];
    vhost
        .declare_with("orders", QueueType::Quorum, &limit)
        .await;
    let kept = [("x-delivery-limit", int(100_000))];
    vhost
        .declare_with("orders.dead", QueueType::Quorum, &kept)
        .await;
    // One retry queue leads nowhere, and one to another queue.
    let nowhere = [("x-message-ttl", int(1000))];
    vhost
        .declare_with("orders.retry.1s", QueueType::Quorum, &nowhere)
        .await;
    let elsewhere = [
        ("x-message-ttl", int(2000)),
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text("others")),
    ];
    vhost
        .declare_with("orders.retry.2s", QueueType::Quorum, &elsewhere)
        .await;
    let none = "consumers.orders.topology = 'none'";
    // Policies may do what the arguments do not, and nobody has seen any.
    let unseen = examined(&orders(&vhost).with(none)).await;
    let unseen = bad(&unseen);
    for (check, queue) in [
        ("retry-queues", "orders.retry.1s"),
        ("dead-letters", "orders"),
    ] {
        let found = about(&unseen, check, queue);
        assert_eq!(found.grade, Grade::Warn, "{found:?}");
    }
    let settings = orders_with_management(&vhost).with(none);
    let report = until(&settings, "the broker shows policies", |found| {
        found.len() == 3 && found.iter().all(|it| it.grade == Grade::Fail)
    })
    .await;
    let found = bad(&report);
    let lost = about(&found, "retry-queues", "orders.retry.1s");
    assert!(lost.found.contains("are lost"), "{lost:?}");
    assert!(
        lost.mend.contains("x-dead-letter-routing-key = 'orders'"),
        "{lost:?}"
    );
    let strays = about(&found, "retry-queues", "orders.retry.2s");
    assert!(strays.found.contains("go to `others`"), "{strays:?}");
    let dropped = about(&found, "dead-letters", "orders");
    assert_eq!(dropped.grade, Grade::Fail);
    assert!(
        dropped.mend.contains("rabbitmqctl set_policy"),
        "{dropped:?}"
    );
    assert_eq!(found.len(), 3, "{found:#?}");

    for (queue, millis) in [("orders.retry.1s", 1000), ("orders.retry.2s", 2000)] {
        vhost.delete(queue).await;
        vhost
            .declare_with(queue, QueueType::Quorum, &retry(millis))
            .await;
    }
    let command = words(&dropped.mend).await;
    let [_, _, _, _, name, pattern, definition, ..] = command.as_slice() else {
        panic!("{command:?}")
    };
    let definition = serde_json::from_str(definition).expect("the definition is JSON");
    set_policy(&vhost, name, pattern, &definition).await;
    until(&settings, "the doctor finds nothing", |found| {
        found.is_empty()
    })
    .await;
}

/// The words of a command, as a shell reads them.
async fn words(command: &str) -> Vec<String> {
    let script = format!("printf '%s\\n' {command}");
    let mut shell = tokio::process::Command::new("sh");
    let output = shell.arg("-c").arg(script).output().await;
    let output = output.expect("there is a shell").stdout;
    let text = String::from_utf8(output).expect("it prints text");
    text.lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn dead_letters_that_keep_their_own_key_are_found() {
    let vhost = vhost().await;
    let arguments = [
        ("x-delivery-limit", int(20)),
        ("x-dead-letter-exchange", text("")),
    ];
    vhost
        .declare_with("orders", QueueType::Quorum, &arguments)
        .await;
    let settings = orders(&vhost).with("consumers.orders.topology = 'attach'");
    let report = examined(&settings).await;
    let found = only(&report, "dead-letters", Grade::Fail);
    assert!(found.found.contains("their own routing key"), "{found:?}");
}

#[tokio::test]
async fn a_dead_letter_target_that_does_not_exist_is_found() {
    for (exchange, key, mend) in [
        ("", "nowhere", "create the queue `nowhere`"),
        ("lost", "any", "create the exchange"),
    ] {
        let vhost = vhost().await;
        let arguments = [
            ("x-delivery-limit", int(20)),
            ("x-dead-letter-exchange", text(exchange)),
            ("x-dead-letter-routing-key", text(key)),
        ];
        vhost
            .declare_with("orders", QueueType::Quorum, &arguments)
            .await;
        let settings = orders(&vhost).with("consumers.orders.topology = 'attach'");
        let report = examined(&settings).await;
        let found = only(&report, "dead-letters", Grade::Fail);
        assert!(found.mend.contains(mend), "{found:?}");
        match exchange {
            "" => vhost.declare(key, QueueType::Quorum).await,
            exchange => {
                vhost
                    .declare_exchange(exchange, lapin::ExchangeKind::Fanout)
                    .await
            }
        }
        assert_well(&examined(&settings).await);
    }
}

#[tokio::test]
async fn a_queue_without_a_limit_of_its_own_is_found_where_the_release_has_one() {
    let vhost = vhost().await;
    let dead = [
        ("x-dead-letter-exchange", text("")),
        ("x-dead-letter-routing-key", text("orders.dead")),
    ];
    vhost.declare_with("orders", QueueType::Quorum, &dead).await;
    let settings = orders(&vhost).with("consumers.orders.topology = 'attach'");
    let report = examined(&settings).await;
    match vhost.broker().release() {
        Release::V3_10 => assert_well(&report),
        _ => {
            let found = only(&report, "delivery-limit", Grade::Warn);
            assert!(
                found.found.contains("that of the release counts: 20"),
                "{found:?}"
            );
            assert!(found.mend.contains("x-delivery-limit"), "{found:?}");
        }
    }
}

/// Sets a policy of this name.
async fn set_policy(vhost: &VHost, name: &str, pattern: &str, definition: &Value) {
    let policy = json!({
        "pattern": pattern, "definition": definition, "apply-to": "queues", "priority": 1,
    });
    let path = format!("policies/{}/{name}", encode(vhost.name()));
    vhost.broker().management().put(&path, &policy).await;
}

/// Waits until the doctor finds this. The broker shows a policy some seconds after it is set.
async fn until(settings: &Consumers, what: &str, is_it: impl Fn(&[&Finding]) -> bool) -> Report {
    let found = async || examined(settings).await;
    wait_until(what, DEADLINE, found, |report| is_it(&bad(report))).await
}

#[tokio::test]
async fn policies_that_remove_messages_or_lower_limits_are_found() {
    let vhost = vhost().await;
    let settings = orders_with_management(&vhost);
    let worker = settings.start().await;
    worker.drain().await;
    let policies = [
        ("low", "^orders$", json!({ "delivery-limit": 3 })),
        ("short", "^orders.retry.2s$", json!({ "message-ttl": 500 })),
        ("small", "^orders.dead$", json!({ "max-length": 10 })),
    ];
    for (name, pattern, definition) in &policies {
        set_policy(&vhost, name, pattern, definition).await;
    }
    let expected = [
        (
            "delivery-limit",
            "orders",
            "remove delivery-limit from the policy `low`",
        ),
        (
            "retry-queues",
            "orders.retry.2s",
            "remove message-ttl from the policy `short`",
        ),
        (
            "policies",
            "orders.dead",
            "remove max-length from the policy `small`",
        ),
    ];
    let all = |found: &[&Finding]| {
        expected.iter().all(|(check, object, mend)| {
            let is_it =
                |it: &&Finding| it.check == *check && it.about == *object && it.mend.contains(mend);
            found.iter().any(is_it)
        })
    };
    until(&settings, "the doctor finds all policies", all).await;
    for (name, ..) in &policies {
        let path = format!("policies/{}/{name}", encode(vhost.name()));
        vhost.broker().management().delete(&path).await;
    }
    until(&settings, "the doctor finds nothing", |found| {
        found.is_empty()
    })
    .await;
}
