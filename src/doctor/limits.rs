//! What the broker does with messages that come back too often: delivery limits, dead letters.

use serde_json::json;

use super::{
    check::{Check, Found, Needs},
    in_force::InForce,
    queues::consumers,
    scene::{ConsumerSeen, Scene, TargetSeen},
    shell,
};
use crate::{
    broker::{
        DeliveryLimit, QueueRole, QueueShown, QueueType, Standing, SurveyedQueue, Topology, Version,
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
        why: "without a dead-letter target the broker drops a message that reaches the delivery limit of its queue",
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
        .get(work.name())
        .and_then(QueueShown::delivery_limit);
    let own = || {
        let arguments = work.has.as_ref()?;
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

fn work(seen: &ConsumerSeen) -> Option<&SurveyedQueue> {
    seen.queues
        .iter()
        .find(|queue| queue.role == QueueRole::Work)
}

/// Whether the queue is missing, and the worker does not create it: the check `queues` tells of that.
fn is_missing(consumer: &ConsumerSettings, seen: &ConsumerSeen) -> bool {
    let is_missing = |queue: &SurveyedQueue| queue.standing == Standing::Missing;
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
            Some((Some(limit), false)) => of_the_release(found, queue, limit, has_policies(seen)),
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

/// A queue for which no limit of its own is seen.
fn of_the_release(found: &mut Found, queue: &str, limit: u64, has_policies: bool) {
    let (text, also) = match has_policies {
        true => ("the queue sets no limit, so", ""),
        false => (
            "no argument sets a limit: unless a policy does,",
            "; with broker.management_url the doctor sees policies",
        ),
    };
    found.warn(
        queue,
        format!("{text} that of the release counts: {limit}"),
        format!("declare the queue with x-delivery-limit, or set delivery-limit by a policy{also}"),
    );
}

/// Whether the policies of the consumer's own queue are seen.
fn has_policies(seen: &ConsumerSeen) -> bool {
    work(seen).is_some_and(|work| InForce::of(seen, work).has_policies())
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
        let mend = set_target(&scene.broker.vhost, name, consumer, seen);
        match &seen.dead_letters {
            Some(target) => target_of(found, consumer, target, mend),
            None => {
                let limit = limit(consumer, seen, scene.broker.version);
                no_target(found, consumer, seen, limit, mend);
            }
        }
    }
}

/// What gives the queue a dead-letter target. The broker applies one policy to a queue, so another one would
/// displace a policy that is there, or do nothing.
fn set_target(vhost: &str, name: &str, consumer: &ConsumerSettings, seen: &ConsumerSeen) -> String {
    let key = consumer.dead_letter_queue();
    let target = json!({ "dead-letter-exchange": "", "dead-letter-routing-key": key }).to_string();
    let shown = seen.shown.get(&consumer.queue);
    if let Some(policy) = shown.and_then(QueueShown::own_policy) {
        return format!(
            "add to the policy `{policy}`: {}",
            target.trim_matches(['{', '}'])
        );
    }
    let pattern = shell::pattern([consumer.queue.as_str()]);
    let [vhost, name] = [vhost, &format!("{name}-dead")].map(shell::word);
    let target = shell::quoted(&target);
    format!("rabbitmqctl set_policy -p {vhost} {name} {pattern} {target} --apply-to queues")
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
    let values = work(seen).map(|work| InForce::of(seen, work));
    let has_arguments = values.is_some_and(|it| it.has_arguments());
    let drops = limit.is_none_or(|(limit, _)| limit.is_some());
    match (has_arguments, drops) {
        (true, true) if has_policies(seen) => {
            found.fail(queue, "the queue has no dead-letter exchange", mend);
        }
        (true, true) => found.warn(
            queue,
            "no argument gives the queue a dead-letter exchange, and the doctor cannot tell whether a policy does",
            "set broker.management_url: only the management API shows policies",
        ),
        (true, false) => found.ok(format!("{queue}: no target, and no limit")),
        (false, _) => found.warn(
            queue,
            "the doctor cannot tell whether the queue has a dead-letter exchange",
            "set broker.management_url, or give the user the right to configure the queue",
        ),
    }
}

/// A queue that dead-letters there.
fn target_of(found: &mut Found, consumer: &ConsumerSettings, target: &TargetSeen, mend: String) {
    let (queue, exchange) = (&consumer.queue, &target.exchange);
    match (&target.queue, target.exists, target.routes) {
        (None, ..) if exchange.is_empty() => {
            let text =
                "dead letters keep their own routing key, which leads back to the queue or nowhere";
            found.fail(queue, text, mend);
        }
        (Some(dead), ..) if dead == queue => {
            let text = "dead letters go back to the queue itself, and the broker drops them";
            let key = consumer.dead_letter_queue();
            let mend = format!(
                "declare the queue with x-dead-letter-routing-key = '{key}', or correct \
                 dead-letter-routing-key in its policy"
            );
            found.fail(queue, text, mend);
        }
        // The worker creates its own dead-letter queue.
        (Some(dead), Some(false), _)
            if *dead != consumer.dead_letter_queue() || !consumer.topology.creates() =>
        {
            let text = format!("the dead-letter target `{dead}` does not exist");
            found.fail(queue, text, format!("create the queue `{dead}`"));
        }
        (None, Some(false), _) => {
            let text = format!("the dead-letter exchange `{exchange}` does not exist");
            found.fail(queue, text, format!("create the exchange `{exchange}`"));
        }
        (None, _, Some(false)) => {
            let text = format!("the dead-letter exchange `{exchange}` leads to no queue");
            found.fail(queue, text, format!("bind a queue to `{exchange}`"));
        }
        (Some(dead), ..) => found.ok(format!("{queue}: to {dead}")),
        (None, ..) => found.ok(format!("{queue}: to the exchange {exchange}")),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{
        super::{
            scene::BrokerSeen,
            tests::{broker, found_at, found_consumer, start},
        },
        *,
    };

    const ATTACH: &str = "topology = 'attach'";

    /// A queue with this limit and no other argument, and this description by the management API.
    fn with(limit: Option<&str>, shown: Option<serde_json::Value>) -> BrokerSeen {
        let mut broker = broker("4.0", json!({}));
        let seen = found_consumer(&mut broker);
        let limit = limit.map(|limit| ("x-delivery-limit".to_owned(), limit.to_owned()));
        seen.queues[0].has = Some(limit.into_iter().collect());
        let shown = shown.map(|it| ("orders".to_owned(), QueueShown::of(it)));
        seen.shown = shown.into_iter().collect::<BTreeMap<_, _>>();
        broker
    }

    fn quorum(policy: &str, definition: &serde_json::Value) -> serde_json::Value {
        json!({
            "type": "quorum", "policy": policy, "arguments": {"x-delivery-limit": 20},
            "effective_policy_definition": definition,
        })
    }

    #[test]
    fn without_a_target_messages_are_lost_only_if_no_policy_names_one() {
        let start = start(ATTACH);
        let told = |broker| found_at(broker, &start, "dead-letters").concat();
        let unseen = told(with(Some("20"), None));
        assert!(unseen.starts_with("WARN orders: no argument"), "{unseen}");
        assert!(unseen.contains("set broker.management_url"), "{unseen}");
        // The broker shows the policies of a new queue some seconds later.
        let new = json!({ "type": "quorum", "arguments": {} });
        assert!(told(with(Some("20"), Some(new))).starts_with("WARN"));
        let seen = told(with(Some("20"), Some(quorum("", &json!([])))));
        assert!(seen.starts_with("FAIL orders: the queue has no"), "{seen}");
        let command = "rabbitmqctl set_policy -p '' orders-dead '^(orders)$' \
                       '{\"dead-letter-exchange\":\"\",\"dead-letter-routing-key\":\"orders.dead\"}' \
                       --apply-to queues";
        assert!(seen.ends_with(command), "{seen}");
        let beside = told(with(Some("20"), Some(quorum("low", &json!({})))));
        assert!(
            beside.contains("add to the policy `low`: \"dead"),
            "{beside}"
        );
    }

    #[test]
    fn a_limit_that_only_a_policy_can_set_is_not_said_to_be_missing() {
        let start = start(ATTACH);
        let told = found_at(with(None, None), &start, "delivery-limit").concat();
        assert!(
            told.contains("unless a policy does, that of the release"),
            "{told}"
        );
        assert!(told.contains("broker.management_url"), "{told}");
    }

    #[test]
    fn dead_letters_that_come_back_are_lost() {
        let start = start(ATTACH);
        let to = |queue: Option<&str>| {
            let mut broker = with(Some("20"), None);
            found_consumer(&mut broker).dead_letters = Some(TargetSeen {
                exchange: String::new(),
                queue: queue.map(str::to_owned),
                exists: queue.map(|_| true),
                routes: None,
                publish: None,
            });
            found_at(broker, &start, "dead-letters").concat()
        };
        assert_eq!(to(Some("orders.dead")), "");
        let own_key = to(None);
        assert!(
            own_key.starts_with("FAIL orders: dead letters keep"),
            "{own_key}"
        );
        let itself = to(Some("orders"));
        assert!(
            itself.starts_with("FAIL orders: dead letters go back"),
            "{itself}"
        );
    }
}
