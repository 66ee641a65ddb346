//! What is wrong between the worker and the broker.

use lapwing::doctor::{Grade, Report};

use super::{allow, assert_well, bad, closed_port, examined, forget, only, orders, user};
use crate::support::{Broker, DEADLINE, consumer, require, vhost, wait_until};

#[tokio::test]
async fn a_set_up_that_is_right_is_well_and_nothing_is_made() {
    let vhost = vhost().await;
    assert_well(&examined(&orders(&vhost)).await);
    let path = format!(
        "queues/{}?disable_stats=true",
        crate::support::management::encode(vhost.name())
    );
    let queues = vhost.broker().management().get(&path).await;
    assert_eq!(queues.as_array().map(Vec::len), Some(0), "{queues}");
    // And when all queues are there. The message that waits there is not touched.
    let worker = orders(&vhost).start().await;
    worker.drain().await;
    vhost.publish("orders", "waits").await;
    assert_well(&examined(&orders(&vhost)).await);
    let channel = vhost.channel().await;
    let options = lapin::options::BasicGetOptions::default();
    let message = channel.basic_get("orders".into(), options).await;
    let message = message.expect("the queue exists").expect("and the message");
    assert!(!message.redelivered, "{message:?}");
    let headers = message.properties.headers().clone().unwrap_or_default();
    // Some releases name a count of 0.
    let count = headers.inner().get("x-delivery-count");
    let is_none = matches!(count, None | Some(lapin::types::AMQPValue::LongLongInt(0)));
    assert!(is_none, "{headers:?}");
}

#[tokio::test]
async fn own_node_with_an_alarm_is_found_and_is_well_after_it() {
    let broker = require!(OwnNode, Broker::own("doctor-alarm").await);
    let vhost = broker.vhost().await;
    vhost
        .declare_exchange("shop", lapin::ExchangeKind::Topic)
        .await;
    let forward = "consumers.orders.forward = { exchange = 'shop', routing_key = 'done' }";
    let settings = orders(&vhost).with(forward);
    let watermark = "set_vm_memory_high_watermark";
    broker.ctl(&[watermark, "0.0000001"]).await;
    let found = async || examined(&settings).await;
    let is_blocked = |report: &Report| bad(report).iter().any(|it| it.check == "alarms");
    let report = wait_until("the alarm", DEADLINE, found, is_blocked).await;
    only(&report, "alarms", Grade::Fail);
    // The answer never depends on what comes first, the refusal or the alarm.
    for _ in 0..3 {
        only(&examined(&settings).await, "alarms", Grade::Fail);
    }
    broker.ctl(&[watermark, "absolute", "2GB"]).await;
    let is_well = |report: &Report| bad(report).is_empty();
    wait_until("the end of the alarm", DEADLINE, found, is_well).await;
}

#[tokio::test]
async fn topic_permissions_count_for_the_keys_of_the_bindings() {
    let vhost = vhost().await;
    vhost
        .declare_exchange("shop", lapin::ExchangeKind::Topic)
        .await;
    let (user, url) = user(&vhost, ".*", ".*", ".*").await;
    let topics = async |read: &str| {
        let path = format!(
            "topic-permissions/{}/{user}",
            crate::support::management::encode(vhost.name())
        );
        let rights = serde_json::json!({ "exchange": "shop", "write": "^$", "read": read });
        vhost.broker().management().put(&path, &rights).await;
    };
    let bindings = "consumers.orders.bindings = [{ exchange = 'shop', routing_key = 'order.*' }]";
    let settings = orders(&vhost)
        .with(bindings)
        .with(&format!("broker.url = '{url}'"));
    let worker = settings.start().await;
    worker.drain().await;
    topics("^order").await;
    assert_well(&examined(&settings).await);
    topics("^invoice").await;
    let report = examined(&settings).await;
    let found = only(&report, "permissions", Grade::Fail);
    let command = format!("rabbitmqctl set_topic_permissions -p {}", vhost.name());
    assert!(found.mend.starts_with(&command), "{found:?}");
    let patterns: Vec<_> = found.mend.split('\'').skip(1).step_by(2).collect();
    topics(patterns[1]).await;
    assert_well(&examined(&settings).await);
    // The question has not removed the binding.
    let path = format!(
        "exchanges/{}/shop/bindings/source",
        crate::support::management::encode(vhost.name())
    );
    let left = vhost.broker().management().get(&path).await;
    assert_eq!(left.as_array().map(Vec::len), Some(1), "{left}");
    forget(&vhost, &user).await;
}

#[tokio::test]
async fn a_broker_that_cannot_be_used_is_found_with_the_reason() {
    let vhost = vhost().await;
    let good = url::Url::parse(&vhost.amqp_url()).expect("it is one");
    let changed = |change: &dyn Fn(&mut url::Url)| {
        let mut url = good.clone();
        change(&mut url);
        url.to_string()
    };
    let (_closed, port) = closed_port();
    let wrong_password = changed(&|url| url.set_password(Some("wrong")).expect("it has one"));
    let wrong_vhost = changed(&|url| url.set_path("missing"));
    let wrong_port = changed(&|url| url.set_port(Some(port)).expect("it has one"));
    for (url, mend) in [
        (&wrong_password, "rabbitmqctl authenticate_user"),
        (&wrong_vhost, "rabbitmqctl add_vhost missing"),
        (&wrong_port, "start the broker"),
    ] {
        let report = examined(&orders(&vhost).with(&format!("broker.url = '{url}'"))).await;
        let found = only(&report, "broker", Grade::Fail);
        assert!(found.mend.contains(mend), "{found:?}");
        assert!(report.not_made.contains(&"permissions"), "{report:?}");
    }
    // One of two addresses.
    let both = format!("broker.url = ['{wrong_port}', '{good}']");
    let report = examined(&orders(&vhost).with(&both)).await;
    only(&report, "broker", Grade::Warn);
    assert_eq!(report.not_made, [""; 0]);
}

#[tokio::test]
async fn a_user_without_a_right_to_the_virtual_host_is_found() {
    let vhost = vhost().await;
    let (user, url) = user(&vhost, ".*", ".*", ".*").await;
    let path = format!(
        "permissions/{}/{user}",
        crate::support::management::encode(vhost.name())
    );
    vhost.broker().management().delete(&path).await;
    let settings = orders(&vhost).with(&format!("broker.url = '{url}'"));
    let report = examined(&settings).await;
    let found = only(&report, "broker", Grade::Fail);
    assert!(
        found.mend.contains("rabbitmqctl set_permissions -p"),
        "{found:?}"
    );
    allow(&vhost, &user, [".*", ".*", ".*"]).await;
    assert_well(&examined(&settings).await);
    forget(&vhost, &user).await;
}

#[tokio::test]
async fn each_missing_right_is_found_and_the_command_in_the_report_mends_it() {
    let vhost = vhost().await;
    vhost
        .declare_exchange("shop", lapin::ExchangeKind::Topic)
        .await;
    let settings = "[consumers.orders]\nbindings = [{ exchange = 'shop', routing_key = 'order.*' }]\n\
                    forward = { exchange = 'shop', routing_key = 'done' }";
    for (rights, object, right) in [
        (["^orders$|retry", ".*", ".*"], "orders.dead", "configure"),
        (["^$", ".*", ".*"], "orders", "configure"),
        ([".*", ".*", "^shop$|retry|dead"], "orders", "read"),
        ([".*", "^shop$|^orders$", ".*"], "amq.default", "write"),
        ([".*", "^amq.default$|^orders$", ".*"], "shop", "write"),
        ([".*", ".*", "orders"], "shop", "read"),
    ] {
        // From the second one on the queues exist.
        let [configure, write, read] = rights;
        let (user, url) = user(&vhost, configure, write, read).await;
        let settings = orders(&vhost)
            .with(settings)
            .with(&format!("broker.url = '{url}'"));
        let report = examined(&settings).await;
        let found = bad(&report);
        let is_it = |it: &&&lapwing::doctor::Finding| {
            it.check == "permissions"
                && it.about == object
                && it.found.contains(&format!("no right to {right}"))
        };
        let first = found.iter().find(is_it);
        let first = first.unwrap_or_else(|| panic!("{rights:?}: {found:#?}"));
        assert_eq!(first.grade, Grade::Fail);
        let patterns: Vec<_> = first.mend.split('\'').skip(1).step_by(2).collect();
        let [configure, write, read] = patterns.as_slice() else {
            panic!("{}", first.mend)
        };
        allow(&vhost, &user, [configure, write, read]).await;
        assert_well(&examined(&settings).await);
        // The worker needs no more than that.
        let worker = settings.start().await;
        worker.drain().await;
        forget(&vhost, &user).await;
    }
}

#[tokio::test]
async fn an_authority_that_did_not_sign_is_found_and_the_expiry_of_the_right_one_is_told() {
    let vhost = vhost().await;
    let (url, files) = require!(Tls, vhost.tls());
    let with = |file: &std::path::Path| {
        let trust = format!(
            "[broker.tls]\nca_file = '{}'\nsystem_authorities = false",
            file.display()
        );
        let log = "[consumers.orders]\nhandler = { kind = 'log' }";
        consumer(&url, "orders").with(&trust).with(log)
    };
    let report = examined(&with(&files.client_certificate)).await;
    let found = only(&report, "broker", Grade::Fail);
    assert!(found.mend.contains("broker.tls.ca_file"), "{found:?}");
    let report = examined(&with(&files.ca)).await;
    assert_well(&report);
    let told = |check: &str| {
        let it = report.findings.iter().find(|it| it.check == check);
        it.is_some_and(|it| it.found.contains(" expires 20"))
    };
    assert!(
        told("broker-certificate") && told("certificate-files"),
        "{report:#?}"
    );
}
