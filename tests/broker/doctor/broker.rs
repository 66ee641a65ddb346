//! What is wrong between the worker and the broker.

use lapwing::doctor::Grade;

use super::{allow, assert_well, bad, examined, forget, only, orders, silent_port, user};
use crate::support::{consumer, require, vhost};

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
    // And when all queues are there. No message is touched.
    let worker = orders(&vhost).start().await;
    worker.drain().await;
    let id = vhost.publish("orders", "{}").await;
    assert_well(&examined(&orders(&vhost)).await);
    let waiting = vhost.drain_all("orders").await;
    assert_eq!(waiting.len(), 1, "{waiting:#?}");
    assert!(!waiting[0].redelivered, "{waiting:#?}");
    let kept = waiting[0].properties.message_id().as_ref();
    assert_eq!(kept.map(ToString::to_string), Some(id));
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
    let (_silent, port) = silent_port();
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
        // The queues exist for every second one.
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
