//! Misconfigurations that need no broker, and what is seen of a broker.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::{
    scene::{BrokerSeen, ConsumerSeen, HandlerSeen, PlaceSeen},
    *,
};
use crate::{
    broker::{Access, BrokerError, QueueShown, Standing, SurveyedQueue},
    certificates::Certificate,
    handler::{HandlerError, Reached},
};

/// Settings and machine of a test.
pub(super) struct Start {
    pub(super) settings: Settings,
    pub(super) around: Surroundings,
}

impl Default for Start {
    fn default() -> Self {
        Self {
            settings: Settings::default(),
            around: Surroundings {
                variable: Box::new(|_| None),
                memory_limit: None,
                memory: None,
                open_files: None,
                pod_grace: None,
            },
        }
    }
}

/// A consumer of `orders` with these further lines.
pub(super) fn start(lines: &str) -> Start {
    let handler = match lines.contains("handler") {
        true => "",
        false => "handler = { kind = 'log' }",
    };
    let text = format!("[consumers.orders]\nqueue = 'orders'\n{handler}\n{lines}");
    let settings = Settings::from_toml(&text).unwrap_or_else(|error| panic!("{text}\n{error}"));
    Start {
        settings,
        ..Start::default()
    }
}

/// What is to be mended, as far as this check finds it.
pub(super) fn found(start: &Start, check: &str) -> Vec<String> {
    found_in(&Scene::at_start(&start.settings, &start.around), check)
}

pub(super) fn found_in(scene: &Scene<'_>, check: &str) -> Vec<String> {
    let check = checks().find(|it| it.name == check).unwrap();
    let findings = check.run(scene).into_iter();
    let bad = findings.filter(|finding| finding.grade > Grade::Ok);
    bad.map(|finding| {
        format!("{:?} {finding}", finding.grade)
            .replacen("Warn", "WARN", 1)
            .replacen("Fail", "FAIL", 1)
    })
    .collect()
}

#[test]
fn each_check_has_a_name_of_its_own_and_says_something_of_the_defaults() {
    let names: BTreeSet<_> = checks().map(|check| check.name).collect();
    assert_eq!(names.len(), checks().count());
    let start = start("");
    let scene = Scene::at_start(&start.settings, &start.around);
    for check in checks().filter(|check| check.needs == Needs::Settings) {
        let findings = check.run(&scene);
        assert!(!findings.is_empty(), "{}", check.name);
        assert!(
            findings.iter().all(|it| it.grade == Grade::Ok),
            "{findings:?}"
        );
    }
    assert_eq!(at_start(&start.settings, &start.around), []);
}

#[test]
fn a_finding_is_one_line_with_its_mend() {
    let start = start("timeout = '26s'");
    let found = at_start(&start.settings, &start.around);
    assert_eq!(found.len(), 1);
    assert_eq!(
        found[0].to_string(),
        "consumers.orders.timeout: is 26s, above `drain.grace` (25s): a stop of the worker, such as a \
         deployment, cancels handlers that run longer, and their messages run again; lower the \
         timeout, or set drain.grace = \"26s\""
    );
}

#[test]
fn without_a_broker_the_report_names_the_checks_that_were_not_made() {
    let start = start("");
    let report = report(&Scene::at_start(&start.settings, &start.around));
    assert!(report.not_made.contains(&"permissions"), "{report:?}");
    assert!(!report.not_made.contains(&"drain"), "{report:?}");
}

/// A broker of this release that has the queue `orders`, described by the management API like this.
pub(super) fn broker(version: &str, queue: serde_json::Value) -> BrokerSeen {
    let spec = start("").settings.consumers["orders"].queue_spec();
    let work = SurveyedQueue::standing_so(&spec, "orders", Standing::Fits);
    let consumer = ConsumerSeen {
        queues: vec![work],
        shown: BTreeMap::from([("orders".to_owned(), QueueShown::of(queue))]),
        consume: Some(Access::Granted),
        ..ConsumerSeen::default()
    };
    BrokerSeen {
        version: version.parse().ok(),
        publish: Some(Access::Granted),
        consumers: BTreeMap::from([("orders".to_owned(), consumer)]),
        ..BrokerSeen::default()
    }
}

/// What a check finds with such a broker.
pub(super) fn found_at(mut broker: BrokerSeen, start: &Start, check: &str) -> Vec<String> {
    for (name, seen) in &mut broker.consumers {
        let spec = start.settings.consumers[name].queue_spec();
        seen.queues
            .iter_mut()
            .for_each(|queue| *queue = queue.under(&spec));
    }
    let mut scene = Scene::at_start(&start.settings, &start.around);
    scene.broker = broker;
    found_in(&scene, check)
}

pub(super) fn quorum(policy: serde_json::Value) -> serde_json::Value {
    json!({
        "type": "quorum", "policy": "theirs", "arguments": {"x-delivery-limit": 100},
        "effective_policy_definition": policy, "messages": 10, "message_bytes": 10_000_000,
    })
}

#[test]
fn a_release_that_nobody_tested_and_a_broker_that_is_blocked_are_found() {
    let start = start("");
    let at = |version| found_at(broker(version, quorum(json!({}))), &start, "release");
    assert_eq!(at("3.10"), [""; 0]);
    assert_eq!(at("4.3"), [""; 0]);
    assert!(at("3.9")[0].starts_with("FAIL broker.url: RabbitMQ 3.9 is older than 3.10"));
    let mut blocked = broker("4.0", quorum(json!({})));
    assert_eq!(
        found_at(broker("4.0", quorum(json!({}))), &start, "alarms"),
        [""; 0]
    );
    blocked.publish = Some(Access::Blocked);
    assert!(
        found_at(blocked, &start, "alarms")[0].starts_with("FAIL broker: the broker has blocked")
    );
}

#[test]
fn a_question_that_the_broker_does_not_answer_is_not_well() {
    let start = start("");
    let silent = || {
        let mut broker = broker("4.0", quorum(json!({})));
        broker.publish = Some(Access::Unknown("no answer".to_owned()));
        broker
    };
    let alarms = found_at(silent(), &start, "alarms");
    assert!(
        alarms[0].starts_with("WARN broker: the doctor cannot tell"),
        "{alarms:?}"
    );
    let rights = found_at(silent(), &start, "permissions");
    let beginning = "WARN amq.default: the doctor cannot tell whether the user has the right to write: no answer";
    assert!(rights[0].starts_with(beginning), "{rights:?}");
}

#[test]
fn the_mend_of_a_refused_connection_fits_the_refusal() {
    let start = start("");
    let refused = |text: &str| {
        let mut scene = Scene::at_start(&start.settings, &start.around);
        scene.places = Ok(vec![PlaceSeen {
            at: "rabbit:5672".to_owned(),
            user: "it's".to_owned(),
            vhost: "/".to_owned(),
            connected: Err(BrokerError::Refused(format!("NOT_ALLOWED - {text} (530)"))),
            certificates: Vec::new(),
        }]);
        found_in(&scene, "broker").concat()
    };
    for full in [
        "access to vhost '/' refused for user 'it's': connection limit (5) is reached",
        "connection refused for user 'it's': user connection limit (5) is reached",
    ] {
        let told = refused(full);
        assert!(told.contains("close connections"), "{told}");
        assert!(!told.contains("set_permissions"), "{told}");
    }
    let down = refused("access to vhost '/' refused for user 'it's': vhost '/' is down");
    assert!(down.contains("restart_vhost"), "{down}");
    let right = refused("access to vhost '/' refused for user 'it's'");
    let command =
        r"rabbitmqctl set_permissions -p / 'it'\''s' '^(orders|orders\.dead|orders\.retry\..*)$'";
    assert!(right.contains(command), "{right}");
    assert!(right.contains("replaces all rights"), "{right}");
}

#[test]
fn text_of_others_cannot_forge_a_line() {
    let start = start("");
    let mut scene = Scene::at_start(&start.settings, &start.around);
    scene.places = Err("a\nOK   permissions\u{1b}[2J".to_owned());
    let told = found_in(&scene, "broker").concat();
    assert!(told.contains(r"a\nOK   permissions\u{1b}[2J"), "{told}");
}

#[test]
fn two_consumers_of_one_queue_have_its_finding_once() {
    let mut start = start("");
    let consumer = start.settings.consumers["orders"].clone();
    start.settings.consumers.insert("more".to_owned(), consumer);
    let mut broker = broker("4.0", quorum(json!({"expires": 1000})));
    let seen = found_consumer(&mut broker).clone();
    broker.consumers.insert("more".to_owned(), seen);
    assert_eq!(found_at(broker, &start, "policies").len(), 1);
}

/// What a broker of a test shows of the consumer.
pub(super) fn found_consumer(broker: &mut BrokerSeen) -> &mut ConsumerSeen {
    broker.consumers.get_mut("orders").unwrap()
}

#[test]
fn a_service_that_is_away_is_a_warning_and_one_that_cannot_be_used_is_not() {
    let start = start("handler = { kind = 'http', url = 'http://shop/' }");
    let with = |reached| {
        let mut scene = Scene::at_start(&start.settings, &start.around);
        scene.handlers = vec![HandlerSeen {
            at: crate::config::KeyPath::of("consumers")
                .key("orders")
                .key("handler"),
            settings: start.settings.consumers["orders"].handler.clone(),
            reached: Some(reached),
        }];
        found_in(&scene, "handlers").concat()
    };
    let away = with(Ok(Reached {
        what: "shop:80: connection refused".to_owned(),
        certificates: Vec::new(),
        is_away: true,
    }));
    assert!(
        away.starts_with("WARN consumers.orders.handler: shop:80"),
        "{away}"
    );
    let unusable = with(Err(HandlerError::new("TLS: unknown issuer")));
    assert!(
        unusable.starts_with("FAIL consumers.orders.handler: "),
        "{unusable}"
    );
}

#[test]
fn policies_that_do_harm_are_found_and_named() {
    let start = start("timeout = '2m'\nconcurrency = 64");
    let with = |policy, check| found_at(broker("4.0", quorum(policy)), &start, check);
    for check in ["policies", "delivery-limit", "queue-timeout"] {
        assert_eq!(with(json!({}), check), [""; 0], "{check}");
    }
    let expires = with(json!({"expires": 1000}), "policies");
    assert!(
        expires[0].starts_with("FAIL orders: the broker deletes the queue"),
        "{expires:?}"
    );
    assert!(
        expires[0].ends_with("remove expires from the policy `theirs`"),
        "{expires:?}"
    );
    let ttl = with(json!({"message-ttl": 1000}), "policies");
    assert!(
        ttl[0].starts_with("WARN orders: messages that wait longer than 1000 ms"),
        "{ttl:?}"
    );
    let length = with(json!({"max-length": 5}), "policies");
    assert!(
        length[0].starts_with("WARN orders: beyond max-length = 5"),
        "{length:?}"
    );
    let kept = json!({"max-length": 5, "overflow": "reject-publish"});
    assert_eq!(with(kept, "policies"), [""; 0]);
    let low = with(json!({"delivery-limit": 3}), "delivery-limit");
    assert!(
        low[0].starts_with("WARN orders: the limit is 3 and not 100"),
        "{low:?}"
    );
    let short = with(json!({"consumer-timeout": 60_000}), "queue-timeout");
    let beginning = "WARN consumers.orders.timeout: is 2m, which is not below consumer-timeout of the \
                     queue's policy (1m)";
    assert!(short[0].starts_with(beginning), "{short:?}");
}

#[test]
fn messages_that_do_not_fit_the_machine_are_found() {
    let mut start = start("prefetch = 1000");
    let mut with = |memory, budget| {
        start.around.memory = Some(memory);
        start.settings.memory.prefetch_bytes = budget;
        found_at(broker("4.0", quorum(json!({}))), &start, "message-sizes")
    };
    // A thousand messages of a million bytes.
    assert_eq!(with(3_000_000_000, None), [""; 0]);
    assert!(with(2_999_999_999, None)[0].starts_with("WARN memory.prefetch_bytes: is not set"));
    assert_eq!(with(2_999_999_999, Some(1_000_000)), [""; 0]);
}

#[test]
fn a_certificate_of_the_broker_that_has_expired_is_found() {
    let start = start("");
    let mut scene = Scene::at_start(&start.settings, &start.around);
    let hours = |hours| std::time::Duration::from_hours(hours);
    let now = crate::clock::now();
    let mut with = |expires| {
        let certificate = Certificate {
            subject: "CN=rabbit".to_owned(),
            begins: now - hours(10_000),
            expires,
        };
        scene.places = Ok(vec![PlaceSeen {
            at: "rabbit:5671".to_owned(),
            user: "worker".to_owned(),
            vhost: "/".to_owned(),
            connected: Ok(None),
            certificates: vec![certificate],
        }]);
        found_in(&scene, "broker-certificate")
    };
    assert_eq!(with(now + hours(24 * 15)), [""; 0]);
    assert!(
        with(now + hours(24 * 13))[0]
            .starts_with("WARN broker.url: the certificate of rabbit:5671")
    );
    assert!(with(now - hours(1))[0].starts_with("FAIL broker.url: the certificate of rabbit:5671"));
}
