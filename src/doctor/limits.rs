//! What the broker does with messages that come back too often: delivery limits, dead letters.

use super::{
    check::{Check, Found, Needs},
    queues::consumers,
    scene::{ConsumerSeen, Scene, TargetSeen},
};
use crate::{
    broker::{
        DeliveryLimit, QueueSeen, QueueShown, QueueState, QueueType, Role, Topology, Version,
    },
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
];

/// The limit of the consumer's own queue, and whether the queue sets it. `None`: nothing is known.
fn limit(
    consumer: &ConsumerSettings,
    seen: &ConsumerSeen,
    version: Option<Version>,
) -> Option<(Option<u64>, bool)> {
    let work = work(seen)?;
    let shown = seen
        .shown
        .get(&work.queue)
        .and_then(QueueShown::delivery_limit);
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
        if is_missing(consumer, seen) {
            continue;
        }
        let beside = consumer.dead_letter_queue();
        if matches!(consumer.topology, Topology::Declare | Topology::Verify) {
            // The arguments of the queue lead there: the check `queues` compares them.
            found.ok(format!("{queue}: to {beside}"));
            continue;
        }
        let mend = format!(
            "rabbitmqctl set_policy -p {} {name}-dead '^{queue}$' \
             '{{\"dead-letter-exchange\":\"\",\"dead-letter-routing-key\":\"{beside}\"}}' --apply-to \
             queues",
            scene.broker.vhost
        );
        match &seen.dead_letters {
            Some(target) => target_of(found, consumer, target, mend),
            None => {
                let limit = limit(consumer, seen, scene.broker.version);
                no_target(found, consumer, seen, limit, mend);
            }
        }
    }
}

/// A queue for which no target is known.
fn no_target(
    found: &mut Found,
    consumer: &ConsumerSettings,
    seen: &ConsumerSeen,
    limit: Option<(Option<u64>, bool)>,
    mend: String,
) {
    let queue = &consumer.queue;
    let is_known =
        work(seen).is_some_and(|it| it.arguments.is_some()) || seen.shown.contains_key(queue);
    let drops = limit.is_none_or(|(limit, _)| limit.is_some());
    match (is_known, drops) {
        (true, true) => found.fail(queue, "the queue has no dead-letter exchange", mend),
        (true, false) => found.ok(format!("{queue}: no target, and no limit")),
        (false, _) => found.warn(
            queue,
            "nobody knows whether the queue has a dead-letter exchange",
            "set broker.management_url, or give the user the right to configure the queue",
        ),
    }
}

/// A queue that dead-letters there.
fn target_of(found: &mut Found, consumer: &ConsumerSettings, target: &TargetSeen, mend: String) {
    let (queue, exchange) = (&consumer.queue, &target.exchange);
    match (&target.queue, target.exists, target.routes) {
        // The worker creates its own dead-letter queue.
        (Some(dead), Some(false), _)
            if *dead != consumer.dead_letter_queue() || !consumer.topology.creates() =>
        {
            let text = format!("the dead-letter target `{dead}` does not exist");
            found.fail(
                queue,
                text,
                format!("create the queue `{dead}`, or: {mend}"),
            );
        }
        (None, Some(false), _) => {
            let text = format!("the dead-letter exchange `{exchange}` does not exist");
            found.fail(queue, text, format!("create the exchange, or: {mend}"));
        }
        (None, _, Some(false)) => {
            let text = format!("the dead-letter exchange `{exchange}` leads to no queue");
            found.fail(queue, text, format!("bind a queue to `{exchange}`"));
        }
        (Some(dead), ..) => found.ok(format!("{queue}: to {dead}")),
        (None, ..) => found.ok(format!("{queue}: to the exchange {exchange}")),
    }
}
