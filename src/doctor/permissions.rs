//! Whether the user may do everything that the worker does.

use std::collections::BTreeSet;

use super::{
    check::{Check, Found, Needs},
    scene::{ConsumerSeen, Scene},
};
use crate::{
    broker::{Access, Topology},
    consumer::ConsumerSettings,
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
    let broker = &scene.broker;
    for (name, consumer) in &scene.settings.consumers {
        if let Some(seen) = broker.consumers.get(name) {
            refused.extend(of_consumer(consumer, seen));
        }
    }
    if let Some(Access::Refused(text)) = &broker.publish {
        refused.insert(("write", DEFAULT_EXCHANGE.to_owned(), text.clone()));
    }
    if refused.is_empty() {
        let user = &broker.user;
        return found.ok(format!("user `{user}` may use all queues and exchanges"));
    }
    let mend = grant(scene);
    for (right, object, text) in refused {
        let text = text.trim_start_matches("ACCESS_REFUSED - ");
        found.fail(object, format!("no right to {right}: {text}"), &mend);
    }
}

/// The rights that are missing: which one, to what, and the broker's text.
fn of_consumer(
    consumer: &ConsumerSettings,
    seen: &ConsumerSeen,
) -> Vec<(&'static str, String, String)> {
    let mut refused = Vec::new();
    if let Some(Access::Refused(text)) = &seen.consume {
        refused.push(("read", consumer.queue.clone(), text.clone()));
    }
    // With `none` the worker only looks whether the queues exist.
    let configures = |queue: &str| match consumer.topology {
        Topology::None => false,
        Topology::Attach => queue != consumer.queue,
        Topology::Declare | Topology::Verify => true,
    };
    for queue in seen.queues.iter().filter(|seen| configures(&seen.queue)) {
        if let Some(text) = &queue.refused {
            // The queue itself, or the dead-letter exchange that its declaration names.
            let usual = match text.contains("exchange") {
                true => "write",
                false => "configure or read",
            };
            refused.push((right(text, usual), queue.queue.clone(), text.clone()));
        }
    }
    for binding in &seen.bindings {
        if let (Access::Refused(text), Topology::Declare) = (&binding.bind, consumer.topology) {
            let usual = match text.contains("exchange") {
                true => "read",
                false => "write",
            };
            refused.push((right(text, usual), binding.exchange.clone(), text.clone()));
        }
    }
    let forward = seen.forward.as_ref();
    if let Some((Access::Refused(text), exchange)) =
        forward.and_then(|it| Some((it.publish.as_ref()?, &it.exchange)))
    {
        refused.push(("write", exchange.clone(), text.clone()));
    }
    refused
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
fn grant(scene: &Scene<'_>) -> String {
    let (mut configure, mut write, mut read) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    write.insert(DEFAULT_EXCHANGE.to_owned());
    for consumer in scene.settings.consumers.values() {
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
    let (user, vhost) = (&scene.broker.user, &scene.broker.vhost);
    let [configure, write, read] = [configure, write, read].map(|names| pattern(&names));
    format!("rabbitmqctl set_permissions -p {vhost} {user} {configure} {write} {read}")
}

/// The regular expression for these names. `.*` at the end of a name stands for anything.
fn pattern(names: &BTreeSet<String>) -> String {
    let escaped = names.iter().map(|name| {
        let (name, rest) = match name.strip_suffix(".*") {
            Some(name) => (name, "\\..*"),
            None => (name.as_str(), ""),
        };
        let mut text = String::new();
        for letter in name.chars() {
            if !letter.is_alphanumeric() && !"-_".contains(letter) {
                text.push('\\');
            }
            text.push(letter);
        }
        text + rest
    });
    let all: Vec<_> = escaped.collect();
    match all.is_empty() {
        true => "'^$'".to_owned(),
        false => format!("'^({})$'", all.join("|")),
    }
}
