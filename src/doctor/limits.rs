//! What the broker does with messages by itself: delivery limits, dead letters, policies.

use super::{
    check::{Check, Found, Grade, Needs},
    queues::consumers,
    scene::{ConsumerSeen, Scene},
};
use crate::{
    broker::{DeliveryLimit, QueueSeen, QueueShown, QueueState, QueueType, Role, Topology, Version},
    consumer::ConsumerSettings,
};

pub(super) const CHECKS: &[Check] = &[
    Check {
        name: "delivery-limit",
        why: "beyond the limit the broker takes a message away, without a record of why",
        needs: Needs::Connection,
        look: delivery_limit,
    },
    Check {
        name: "dead-letters",
        why: "a message that reaches the delivery limit of its queue is lost without such a target",
        needs: Needs::Connection,
        look: dead_letters,
    },
    Check {
        name: "policies",
        why: "a policy or an argument like this removes messages that no handler has seen",
        needs: Needs::Connection,
        look: policies,
    },
];

/// The limit of the consumer's own queue, and whether the queue sets it. `None`: nothing is known.
fn limit(
    consumer: &ConsumerSettings,
    seen: &ConsumerSeen,
    version: Option<Version>,
) -> Option<(Option<u64>, bool)> {
    let work = work(seen)?;
    let shown = seen.shown.get(&work.queue).and_then(QueueShown::delivery_limit);
    let own = || {
        let arguments = work.arguments.as_ref()?;
        if arguments.get("x-queue-type").map(String::as_str) == Some("classic") {
            return Some(DeliveryLimit::None);
        }
        Some(match arguments.get("x-delivery-limit") {
            None => DeliveryLimit::OfTheRelease,
            Some(limit) => limit
                .parse()
                .map_or(DeliveryLimit::None, DeliveryLimit::Own),
        })
    };
    // The worker creates a missing queue with the limit of the settings.
    let planned = || match (consumer.topology, consumer.queue_type) {
        (Topology::Declare, QueueType::Quorum) => {
            Some(DeliveryLimit::Own(consumer.delivery_limit.into()))
        }
        (Topology::Declare, QueueType::Classic) => Some(DeliveryLimit::None),
        _ => None,
    };
    let known = shown.or_else(own).or_else(planned)?;
    Some((
        known.or_default(version),
        known != DeliveryLimit::OfTheRelease,
    ))
}

fn work(seen: &ConsumerSeen) -> Option<&QueueSeen> {
    seen.queues.iter().find(|queue| queue.role == Role::Work)
}

/// Whether the queue is missing, and the worker does not create it: the check `queues` tells of that.
fn is_missing(consumer: &ConsumerSettings, seen: &ConsumerSeen) -> bool {
    let is_missing = |queue: &QueueSeen| queue.state == QueueState::Missing;
    consumer.topology != Topology::Declare && work(seen).is_none_or(is_missing)
}

fn delivery_limit(scene: &Scene<'_>, found: &mut Found) {
    /// With fewer deliveries a few restarts of the worker bring a message to the limit.
    const FEW: u64 = 5;
    for (name, consumer, seen) in consumers(scene) {
        let queue = &consumer.queue;
        let ours = u64::from(consumer.delivery_limit);
        let is_ours = matches!(consumer.topology, Topology::Declare | Topology::Verify);
        if is_missing(consumer, seen) {
            continue;
        }
        let policies = seen.shown.get(queue).map(QueueShown::policies);
        let policies = policies.filter(|it| !it.is_empty());
        match limit(consumer, seen, scene.broker.version) {
            None => found.warn(
                queue,
                "the delivery limit of the queue is not known: the worker assumes 20",
                "set broker.management_url, or give the user the right to configure the queue",
            ),
            Some((None, _)) => found.ok(format!("{queue}: no limit")),
            Some((Some(limit), _)) if is_ours && limit < ours => found.warn(
                queue,
                format!("the limit is {limit} and not {ours}"),
                match policies {
                    Some(policies) => format!(
                        "remove delivery-limit from the policy `{policies}`, or set \
                         consumers.{name}.delivery_limit = {limit}"
                    ),
                    None => format!("set consumers.{name}.delivery_limit = {limit}"),
                },
            ),
            Some((Some(limit), false)) => found.warn(
                queue,
                format!("the queue sets no limit, so that of the release counts: {limit}"),
                "declare the queue with x-delivery-limit, or set delivery-limit by a policy",
            ),
            Some((Some(limit), true)) if limit < FEW => found.warn(
                queue,
                format!("a message is taken away after {limit} deliveries that failed"),
                match is_ours {
                    true => format!("raise consumers.{name}.delivery_limit"),
                    false => "declare the queue with a higher x-delivery-limit".to_owned(),
                },
            ),
            Some((Some(limit), true)) => found.ok(format!("{queue}: {limit}")),
        }
    }
}

fn dead_letters(scene: &Scene<'_>, found: &mut Found) {
    for (name, consumer, seen) in consumers(scene) {
        let queue = &consumer.queue;
        let is_ours = matches!(consumer.topology, Topology::Declare | Topology::Verify);
        if is_ours {
            // The arguments of the queue lead to the dead-letter queue: the check `queues` compares.
            found.ok(format!("{queue}: to {}", consumer.dead_letter_queue()));
            continue;
        }
        if is_missing(consumer, seen) {
            continue;
        }
        let limited = limit(consumer, seen, scene.broker.version);
        let drops = limited.is_none_or(|(limit, _)| limit.is_some());
        let beside = consumer.dead_letter_queue();
        let mend = format!(
            "rabbitmqctl set_policy -p {} {name}-dead '^{queue}$' \
             '{{\"dead-letter-exchange\":\"\",\"dead-letter-routing-key\":\"{beside}\"}}' --apply-to \
             queues",
            scene.broker.vhost
        );
        let is_known = work(seen).is_some_and(|it| it.arguments.is_some())
            || seen.shown.contains_key(queue);
        let Some(target) = &seen.dead_letters else {
            match (is_known, drops) {
                (true, true) => found.fail(queue, "the queue has no dead-letter exchange", mend),
                (true, false) => found.ok(format!("{queue}: no target, and no limit")),
                (false, _) => found.warn(
                    queue,
                    "nobody knows whether the queue has a dead-letter exchange",
                    "set broker.management_url, or give the user the right to configure the queue",
                ),
            }
            continue;
        };
        match (&target.queue, target.exists, target.routes) {
            (Some(dead), Some(false), _) => {
                // The worker creates its own dead-letter queue.
                let is_created = *dead == beside && consumer.topology.creates();
                match is_created {
                    true => found.ok(format!("{queue}: to {dead}")),
                    false => {
                        let text = format!("the dead-letter target `{dead}` does not exist");
                        found.fail(queue, text, format!("create the queue `{dead}`, or: {mend}"));
                    }
                }
            }
            (None, Some(false), _) => {
                let exchange = &target.exchange;
                let text = format!("the dead-letter exchange `{exchange}` does not exist");
                found.fail(queue, text, format!("create the exchange, or: {mend}"));
            }
            (None, _, Some(false)) => {
                let exchange = &target.exchange;
                let text = format!("the dead-letter exchange `{exchange}` leads to no queue");
                found.fail(queue, text, format!("bind a queue to `{exchange}`"));
            }
            (Some(dead), ..) => found.ok(format!("{queue}: to {dead}")),
            (None, ..) => found.ok(format!("{queue}: to the exchange {}", target.exchange)),
        }
    }
}

fn policies(scene: &Scene<'_>, found: &mut Found) {
    let mut seen_any = false;
    for (name, consumer, seen) in consumers(scene) {
        for queue in &seen.queues {
            let shown = seen.shown.get(&queue.queue);
            seen_any |= shown.is_some() || queue.arguments.is_some();
            for problem in removes(consumer, queue, shown) {
                let mend = match problem.policy {
                    true => {
                        let policies = shown.map(QueueShown::policies).unwrap_or_default();
                        format!("remove {} from the policy `{policies}`", problem.key)
                    }
                    false => format!(
                        "give consumers.{name} a queue without x-{}: arguments cannot be changed",
                        problem.key
                    ),
                };
                found.add(problem.grade, &queue.queue, problem.text, mend);
            }
        }
    }
    found.ok(match seen_any {
        true => "nothing removes messages from the queues",
        false => "neither arguments nor policies can be seen",
    });
}

/// Something that removes messages from a queue.
struct Problem {
    grade: Grade,
    key: &'static str,
    policy: bool,
    text: String,
}

fn removes(
    consumer: &ConsumerSettings,
    queue: &QueueSeen,
    shown: Option<&QueueShown>,
) -> Vec<Problem> {
    // Where the worker compares the arguments, the check `queues` tells of them.
    let is_theirs = match consumer.topology {
        Topology::None => true,
        Topology::Attach => queue.role == Role::Work,
        Topology::Declare | Topology::Verify => false,
    };
    let own = |key: &str| {
        let known = queue.arguments.as_ref();
        let known = known.and_then(|it| it.get(&format!("x-{key}")).cloned());
        let text = |value: &serde_json::Value| match value {
            serde_json::Value::String(text) => text.clone(),
            value => value.to_string(),
        };
        let told = || shown?.argument(key).map(text);
        known.or_else(told)
    };
    let policy = |key: &str| {
        let value = shown?.policy(key)?;
        Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    };
    // The settings ask for it.
    let is_wanted = |key: &str| {
        queue.role == Role::Work && consumer.arguments.contains_key(&format!("x-{key}"))
    };
    let of = |key: &'static str| {
        let (own, policy) = (own(key), policy(key));
        let value = own.clone().or_else(|| policy.clone())?;
        let is_told = own.is_none() || is_theirs;
        (!is_wanted(key) && is_told).then_some((value, own.is_none()))
    };
    let mut problems = Vec::new();
    let mut add = |grade, key, policy, text| {
        problems.push(Problem {
            grade,
            key,
            policy,
            text,
        });
    };
    if let Some((millis, policy)) = of("expires") {
        let text = format!(
            "the broker deletes the queue with its messages after {millis} ms without a consumer"
        );
        add(Grade::Fail, "expires", policy, text);
    }
    let is_retry = matches!(queue.role, Role::Retry(_));
    if let Some((millis, policy)) = of("message-ttl").filter(|_| !is_retry) {
        let text = format!("messages that wait longer than {millis} ms leave the queue unhandled");
        add(Grade::Warn, "message-ttl", policy, text);
    }
    let overflow = own("overflow").or_else(|| policy("overflow"));
    let drops = overflow.is_none_or(|it| it == "drop-head");
    for key in ["max-length", "max-length-bytes"] {
        if let Some((most, policy)) = of(key).filter(|_| drops) {
            let text = format!("beyond {key} = {most} the queue drops its oldest messages");
            let grade = match queue.role {
                Role::Work => Grade::Warn,
                Role::DeadLetters | Role::Retry(_) => Grade::Fail,
            };
            add(grade, key, policy, text);
        }
    }
    problems
}
