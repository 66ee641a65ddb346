//! Checks the queues of all consumers together.

use std::collections::BTreeMap;

use super::{ConsumerSettings, settings::section};
use crate::config::{Findings, KeyPath, NAME_BYTES};

type Consumers = BTreeMap<String, ConsumerSettings>;

pub(super) fn check(findings: &mut Findings, consumers: &Consumers) {
    let rungs = rungs(consumers);
    for (name, consumer) in consumers {
        names(findings, &section(name), consumer);
        if consumer.queue.is_empty() {
            continue;
        }
        collisions(findings, name, consumers, &rungs);
        if let Some((first, sibling)) = consumers
            .iter()
            .take_while(|(other, _)| *other < name)
            .find(|(_, other)| other.queue == consumer.queue)
        {
            same_queue(findings, (name, consumer), (first, sibling));
        }
    }
}

/// Each retry queue that a consumer may use, with the name of its consumer.
fn rungs(consumers: &Consumers) -> BTreeMap<String, &str> {
    let mut rungs = BTreeMap::new();
    for (name, consumer) in consumers {
        for rung in consumer.ladder().all() {
            rungs.insert(rung.queue, name.as_str());
        }
    }
    rungs
}

fn names(findings: &mut Findings, section: &KeyPath, consumer: &ConsumerSettings) {
    let at_queue = section.key("queue");
    let at_dead = section.key("dead_letter_queue");
    let queue = &consumer.queue;
    if queue.is_empty() {
        findings.add(
            at_queue.clone(),
            "is required: the name of the queue to consume",
        );
    } else {
        findings.name(at_queue.clone(), queue);
    }
    reserved(findings, at_queue.clone(), queue);
    if let Some(dead) = &consumer.dead_letter_queue {
        findings.name(at_dead.clone(), dead);
        reserved(findings, at_dead.clone(), dead);
    }
    let at_prefix = section.key("retry_queue_prefix");
    if let Some(prefix) = &consumer.retry_queue_prefix {
        findings.name(at_prefix.clone(), prefix);
        reserved(findings, at_prefix.clone(), prefix);
    }
    if queue.len() > NAME_BYTES {
        return;
    }
    let dead = consumer.dead_letter_queue();
    let longest = consumer.ladder().all().last().map(|rung| rung.queue);
    let at_cap = section.key("retry").key("cap");
    if let (Some(prefix), Some(longest)) = (&consumer.retry_queue_prefix, &longest)
        && longest.len() > NAME_BYTES
        && prefix.len() <= NAME_BYTES
    {
        let message = format!(
            "is too long: the name of the longest retry queue has {} bytes, must have at most \
             {NAME_BYTES}",
            longest.len()
        );
        findings.contradiction(at_prefix, [at_cap.clone()], message);
    }
    let longest = longest.filter(|_| consumer.retry_queue_prefix.is_none());
    let derived = [
        (
            "dead-letter queue",
            consumer.dead_letter_queue.is_none().then_some(dead),
        ),
        ("longest retry queue", longest),
    ];
    for (what, name) in derived {
        let Some(name) = name.filter(|name| name.len() > NAME_BYTES) else {
            continue;
        };
        let (suffix, length) = (&name[queue.len()..], name.len());
        let message = format!(
            "is too long for its {what}: that queue's name ends in `{suffix}` and has {length} \
             bytes, must have at most {NAME_BYTES}"
        );
        findings.contradiction(at_queue.clone(), [at_cap.clone()], message);
    }
}

fn reserved(findings: &mut Findings, path: KeyPath, queue: &str) {
    if queue.starts_with("amq.") {
        findings.add(
            path,
            "must not begin with `amq.`: the broker reserves such names",
        );
    }
}

/// Refuses a queue with two purposes, which would send messages round and round or lose track of
/// them.
fn collisions(
    findings: &mut Findings,
    name: &str,
    consumers: &Consumers,
    rungs: &BTreeMap<String, &str>,
) {
    let consumer = &consumers[name];
    let at_queue = section(name).key("queue");
    let at_dead = section(name).key("dead_letter_queue");
    let dead = consumer.dead_letter_queue();
    let prefix = consumer.retry_queue_prefix();
    let mut before = consumers
        .iter()
        .take_while(|(other, _)| other.as_str() < name);
    let shares = |other: &ConsumerSettings| {
        other.queue != consumer.queue && other.retry_queue_prefix() == prefix
    };
    if let Some((other, _)) = before.find(|(_, other)| shares(other)) {
        let message = format!(
            "is that of consumers.{other}, whose retries would come back to the wrong queue"
        );
        let others = [at_queue.clone(), section(other).key("queue")];
        findings.contradiction(section(name).key("retry_queue_prefix"), others, message);
    }
    if let Some(other) = rungs.get(&consumer.queue) {
        let message = format!("is a retry queue of consumers.{other}");
        findings.contradiction(at_queue.clone(), [section(other).key("queue")], message);
    }
    if let Some(other) = rungs.get(&dead) {
        let message = format!("is a retry queue of consumers.{other}");
        let others = [at_queue.clone(), section(other).key("queue")];
        findings.contradiction(at_dead.clone(), others, message);
    }
    if dead == consumer.queue {
        let message =
            "must not be the queue itself: dead letters would be consumed again and again";
        findings.contradiction(at_dead, [at_queue], message);
    } else if let Some((other, _)) = consumers.iter().find(|(_, other)| other.queue == dead) {
        let message =
            format!("is the queue of consumers.{other}, which would consume the dead letters");
        let others = [at_queue, section(other).key("queue")];
        findings.contradiction(at_dead, others, message);
    }
}

/// Consumers of one queue share its retry queues, its dead-letter queue and the attempts of its
/// messages.
fn same_queue(
    findings: &mut Findings,
    (name, consumer): (&str, &ConsumerSettings),
    (first, sibling): (&str, &ConsumerSettings),
) {
    let differs = [
        ("topology", consumer.topology != sibling.topology),
        ("queue_type", consumer.queue_type != sibling.queue_type),
        ("arguments", consumer.arguments != sibling.arguments),
        ("bindings", consumer.bindings != sibling.bindings),
        (
            "retry_queue_prefix",
            // Another type of queue has other retry queues, and its own error.
            consumer.queue_type == sibling.queue_type
                && consumer.retry_queue_prefix() != sibling.retry_queue_prefix(),
        ),
        (
            "dead_letter_queue",
            consumer.dead_letter_queue() != sibling.dead_letter_queue(),
        ),
        (
            "delivery_limit",
            consumer.delivery_limit != sibling.delivery_limit,
        ),
        ("retry", consumer.retry != sibling.retry),
    ];
    for (key, _) in differs.into_iter().filter(|(_, differs)| *differs) {
        let message = format!(
            "differs from that of consumers.{first}, which consumes the same queue: both must \
             have the same"
        );
        let others = [
            section(first).key(key),
            section(name).key("queue"),
            section(first).key("queue"),
        ];
        findings.contradiction(section(name).key(key), others, message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::samples::{Sample, sections};

    sections!({ consumers: BTreeMap<String, ConsumerSettings> }, |it, findings| {
        crate::consumer::check(findings, &it.consumers);
    });

    /// A consumer with these further lines.
    fn orders(lines: &str) -> String {
        format!("[consumers.orders]\nqueue = \"orders\"\n{lines}")
    }

    #[test]
    fn queue_names_fit_the_broker() {
        let named = |queue: &str| format!("[consumers.orders]\nqueue = \"{queue}\"");
        let bytes = |count| named(&"q".repeat(count));
        Sections::refused(&[
            ("[consumers.orders]", "consumers.orders.queue: is required"),
            (
                &named("amq.orders"),
                "consumers.orders.queue: must not begin with `amq.`",
            ),
            (
                &named("a\\nb"),
                "consumers.orders.queue: must not hold control characters",
            ),
            (
                &bytes(256),
                "consumers.orders.queue: has 256 bytes, must have at most 255",
            ),
            // `.retry.16384s` are 13 bytes.
            (
                &bytes(243),
                "consumers.orders.queue: is too long for its longest retry queue: that queue's name ends in `.retry.16384s`",
            ),
            (
                &orders("dead_letter_queue = \"\""),
                "consumers.orders.dead_letter_queue: must not be empty",
            ),
            (
                &orders("dead_letter_queue = \"amq.dead\""),
                "consumers.orders.dead_letter_queue: must not begin with `amq.`",
            ),
            (
                &orders(&format!("dead_letter_queue = \"{}\"", "q".repeat(256))),
                "consumers.orders.dead_letter_queue: has 256 bytes",
            ),
            (
                &orders("retry_queue_prefix = \"amq.retry\""),
                "consumers.orders.retry_queue_prefix: must not begin with `amq.`",
            ),
            // `.1024s` are 6 bytes.
            (
                &orders(&format!("retry_queue_prefix = \"{}\"", "q".repeat(250))),
                "consumers.orders.retry_queue_prefix: is too long: the name of the longest retry queue has 257 bytes",
            ),
        ]);
        // `.dead` are 5 bytes, `.retry.1s` 9.
        let both = format!("{}\nretry.cap = \"1s\"", bytes(251));
        let found = Sections::problems(&both);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found[0].contains("dead-letter queue: that queue's name ends in `.dead`"),
            "{found:?}"
        );
        Sections::allowed(&[&bytes(242), &format!("{}\nretry.cap = \"1s\"", bytes(246))]);
    }

    #[test]
    fn a_queue_has_one_purpose() {
        let two = |a: &str, b: &str| format!("[consumers.a]\n{a}\n[consumers.b]\n{b}");
        Sections::refused(&[
            (
                &orders("dead_letter_queue = \"orders\""),
                "consumers.orders.dead_letter_queue: must not be the queue itself",
            ),
            (
                &orders("dead_letter_queue = \"orders.retry.4s\""),
                "consumers.orders.dead_letter_queue: is a retry queue of consumers.orders",
            ),
            (
                &two("queue = \"x\"", "queue = \"x.dead\""),
                "consumers.a.dead_letter_queue: is the queue of consumers.b",
            ),
            (
                &two("queue = \"x\"", "queue = \"x.retry.1024s\""),
                "consumers.b.queue: is a retry queue of consumers.a",
            ),
            (
                &two(
                    "queue = \"x\"",
                    "queue = \"y\"\ndead_letter_queue = \"x.retry.1s\"",
                ),
                "consumers.b.dead_letter_queue: is a retry queue of consumers.a",
            ),
        ]);
        Sections::refused(&[(
            &two(
                "queue = \"x\"\nretry_queue_prefix = \"later\"",
                "queue = \"y\"\nretry_queue_prefix = \"later\"",
            ),
            "consumers.b.retry_queue_prefix: is that of consumers.a, whose retries would come back",
        )]);
        Sections::allowed(&[
            &two("queue = \"x\"", "queue = \"x.retry.32768s\""),
            &two(
                "queue = \"x\"\ndead_letter_queue = \"dead\"",
                "queue = \"y\"\ndead_letter_queue = \"dead\"",
            ),
        ]);
    }

    #[test]
    fn consumers_of_one_queue_agree_about_it() {
        let two =
            |b: &str| format!("[consumers.a]\nqueue = \"x\"\n[consumers.b]\nqueue = \"x\"\n{b}");
        for (key, line) in [
            ("topology", "topology = \"verify\""),
            ("queue_type", "queue_type = \"classic\""),
            ("arguments", "arguments = { x-max-length = 10 }"),
            ("bindings", "bindings = [{ exchange = \"a\" }]"),
            ("retry_queue_prefix", "retry_queue_prefix = \"y\""),
            ("dead_letter_queue", "dead_letter_queue = \"y\""),
            ("delivery_limit", "delivery_limit = 5"),
            ("retry", "retry.max_attempts = 5"),
        ] {
            let beginning = format!("consumers.b.{key}: differs from that of consumers.a");
            Sections::refused(&[(&two(line), &beginning)]);
        }
        assert_eq!(
            Sections::problems("[consumers.a]\n[consumers.b]\nretry.max_attempts = 5"),
            [
                "consumers.a.queue: is required: the name of the queue to consume",
                "consumers.b.queue: is required: the name of the queue to consume",
            ]
        );
        Sections::allowed(&[
            &two("prefetch = 100\nhandler.kind = \"log\""),
            &two("dead_letter_queue = \"x.dead\""),
        ]);
    }
}
