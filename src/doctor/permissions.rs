//! Whether the user may do everything that the worker does.

use std::collections::BTreeSet;

use super::{
    check::{Check, Found, Needs},
    scene::{ConsumerSeen, Scene},
    shell,
};
use crate::{
    broker::{Access, Topology, is_about_a_topic},
    consumer::ConsumerSettings,
    settings::Settings,
};

pub(super) const CHECKS: &[Check] = &[Check {
    name: "permissions",
    why: "what the broker refuses fails when it is needed: at the start, or when a message fails",
    needs: Needs::Connection,
    look: permissions,
}];

/// The default exchange, as permissions name it.
const DEFAULT_EXCHANGE: &str = "amq.default";

fn permissions(scene: &Scene<'_>, found: &mut Found) {
    let mut refused = BTreeSet::new();
    let mut unknown = BTreeSet::new();
    let broker = &scene.broker;
    for (name, consumer) in &scene.settings.consumers {
        if let Some(seen) = broker.consumers.get(name) {
            refused.extend(of_queues(seen));
            for (right, object, access) in of_consumer(consumer, seen) {
                sort(right, object, access, &mut refused, &mut unknown);
            }
        }
    }
    if let Some(access) = &broker.publish {
        sort(
            "write",
            DEFAULT_EXCHANGE,
            access,
            &mut refused,
            &mut unknown,
        );
    }
    let (user, vhost) = (&broker.user, &broker.vhost);
    let mend = grant(scene.settings, user, vhost);
    for (right, object, text) in refused {
        let mend = match is_about_a_topic(&text) {
            true => grant_topics(scene.settings, user, vhost, &object),
            false => mend.clone(),
        };
        let text = text.trim_start_matches("ACCESS_REFUSED - ");
        found.fail(object, format!("no right to {right}: {text}"), mend);
    }
    for (right, object, reason) in unknown {
        let text =
            format!("the doctor cannot tell whether the user has the right to {right}: {reason}");
        let mend = format!("run the doctor again; rabbitmqctl list_permissions -p {vhost}");
        found.warn(object, text, mend);
    }
    found.ok(format!("user `{user}` may use all queues and exchanges"));
}

/// A right, the object of it, and the broker's text.
type Rights = BTreeSet<(&'static str, String, String)>;

/// Notes a right that is missing, or of which the doctor cannot tell.
fn sort(
    usual: &'static str,
    object: &str,
    access: &Access,
    refused: &mut Rights,
    unknown: &mut Rights,
) {
    match access {
        Access::Refused(text) => {
            refused.insert((right(text, usual), object.to_owned(), text.clone()));
        }
        Access::Unknown(reason) => {
            unknown.insert((usual, object.to_owned(), reason.clone()));
        }
        // Other checks tell of objects that are missing, and of alarms.
        Access::Granted | Access::Missing | Access::Blocked => {}
    }
}

/// The rights that are missing to declare the queues. At a queue that the worker uses as it is it only looks
/// whether the queue exists.
fn of_queues(seen: &ConsumerSeen) -> Rights {
    let mut refused = BTreeSet::new();
    for queue in seen.queues.iter().filter(|queue| queue.is_compared) {
        if let Some(text) = &queue.refused {
            // The queue itself, or the dead-letter exchange that its declaration names.
            let usual = match text.contains("exchange") {
                true => "write",
                false => "configure or read",
            };
            refused.insert((right(text, usual), queue.name().to_owned(), text.clone()));
        }
    }
    refused
}

/// What the broker says of the other rights: which one, to what, and the answer.
fn of_consumer<'a>(
    consumer: &'a ConsumerSettings,
    seen: &'a ConsumerSeen,
) -> Vec<(&'static str, &'a str, &'a Access)> {
    let mut asked = Vec::new();
    if let Some(access) = &seen.consume {
        asked.push(("read", consumer.queue.as_str(), access));
    }
    for binding in &seen.bindings {
        if consumer.topology == Topology::Declare {
            let usual = match &binding.bind {
                Access::Refused(text) if !text.contains("exchange") => "write",
                _ => "read",
            };
            asked.push((usual, binding.exchange.as_str(), &binding.bind));
        }
    }
    if let Some(forward) = &seen.forward
        && let Some(access) = &forward.publish
    {
        asked.push(("write", forward.exchange.as_str(), access));
    }
    asked
}

/// The right that the broker's text names. RabbitMQ 3.10 names none.
fn right(text: &str, usual: &'static str) -> &'static str {
    let rights = ["configure", "write", "read"];
    let named = rights
        .into_iter()
        .find(|right| text.contains(&format!("{right} access")));
    named.unwrap_or(usual)
}

/// The command that gives the user all rights that the worker needs. It replaces the rights that the
/// user has, so it names those as well that are not missing.
pub(super) fn grant(settings: &Settings, user: &str, vhost: &str) -> String {
    let (mut configure, mut write, mut read) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    write.insert(DEFAULT_EXCHANGE.to_owned());
    for consumer in settings.consumers.values() {
        read.insert(consumer.queue.clone());
        let beside = [
            consumer.dead_letter_queue(),
            format!("{}.*", consumer.retry_queue_prefix()),
        ];
        if consumer.topology != Topology::None {
            configure.extend(beside.clone());
            read.extend(beside);
        }
        if matches!(consumer.topology, Topology::Declare | Topology::Verify) {
            configure.insert(consumer.queue.clone());
        }
        if consumer.topology == Topology::Declare && !consumer.bindings.is_empty() {
            write.insert(consumer.queue.clone());
            read.extend(consumer.bindings.iter().map(|it| it.exchange.clone()));
        }
        let forwards = consumer.forward.routing_key.is_some();
        if forwards && !consumer.forward.exchange.is_empty() {
            write.insert(consumer.forward.exchange.clone());
        }
    }
    let [user, vhost] = [user, vhost].map(shell::word);
    let [configure, write, read] = [configure, write, read].map(|names| pattern(&names));
    format!(
        "rabbitmqctl set_permissions -p {vhost} {user} {configure} {write} {read} (this replaces all \
         rights of the user in this virtual host)"
    )
}

/// The command that gives the user the topic permissions for the keys that the worker uses at an exchange.
fn grant_topics(settings: &Settings, user: &str, vhost: &str, exchange: &str) -> String {
    let (mut write, mut read) = (BTreeSet::new(), BTreeSet::new());
    for consumer in settings.consumers.values() {
        let here = consumer
            .bindings
            .iter()
            .filter(|it| it.exchange == exchange);
        read.extend(here.map(|it| it.routing_key.clone()));
        let key = consumer.forward.routing_key.as_ref();
        if let Some(key) = key.filter(|_| consumer.forward.exchange == exchange) {
            // A key with names in braces is another one for each message.
            write.insert(match key.contains('{') {
                true => ".*".to_owned(),
                false => key.clone(),
            });
        }
    }
    let [user, vhost, exchange] = [user, vhost, exchange].map(shell::word);
    let [write, read] = [write, read].map(|keys| pattern(&keys));
    format!(
        "rabbitmqctl set_topic_permissions -p {vhost} {user} {exchange} {write} {read} (this replaces \
         the topic permissions of the user for this exchange)"
    )
}

fn pattern(names: &BTreeSet<String>) -> String {
    shell::pattern(names.iter().map(String::as_str))
}
