//! Whether the queues of the consumers are those that the worker needs.

use super::{
    check::{Check, Found, Grade, Needs},
    in_force::InForce,
    scene::{ConsumerSeen, Scene},
};
use crate::{
    broker::{Difference, QueueRole, Standing, SurveyedQueue, Topology, Values},
    consumer::ConsumerSettings,
};

pub(super) const CHECKS: &[Check] = &[
    Check {
        name: "queues",
        why: "the worker refuses to start with queues that are missing or differ from the settings",
        needs: Needs::Connection,
        look: queues,
    },
    Check {
        name: "exchanges",
        why: "the worker refuses to start without the exchange of a binding, and results that go \
              nowhere keep their messages",
        needs: Needs::Connection,
        look: exchanges,
    },
    Check {
        name: "retry-queues",
        why: "a retry queue must give each message back to the work queue, and not before its time",
        needs: Needs::Connection,
        look: retry_queues,
    },
];

/// Each consumer with what was seen of it.
pub(super) fn consumers<'a>(
    scene: &'a Scene<'_>,
) -> impl Iterator<Item = (&'a str, &'a ConsumerSettings, &'a ConsumerSeen)> {
    let seen = &scene.broker.consumers;
    let all = scene.settings.consumers.iter();
    all.filter_map(move |(name, consumer)| Some((name.as_str(), consumer, seen.get(name)?)))
}

fn queues(scene: &Scene<'_>, found: &mut Found) {
    let (mut exist, mut missing) = (0, 0);
    for (name, _, seen) in consumers(scene) {
        for queue in &seen.queues {
            let about = queue.name();
            match &queue.standing {
                Standing::Fits => exist += 1,
                Standing::Missing if queue.is_creatable => missing += 1,
                Standing::Missing => found.fail(
                    about,
                    "the queue is missing",
                    format!(
                        "lapwing topology plan tells how; or set consumers.{name}.topology = \
                         \"declare\": then the worker creates it"
                    ),
                ),
                Standing::Differs(differences) => {
                    exist += 1;
                    differ(found, name, queue, differences);
                }
                Standing::Hidden(why) => found.warn(
                    about,
                    format!("the queue cannot be looked at: {why}"),
                    "rabbitmqctl list_queues name state, and the broker's log, tell more",
                ),
            }
        }
    }
    found.ok(match (exist, missing) {
        (_, 0) => format!("{exist} queues exist as the worker needs them"),
        (0, _) => format!("the worker will create {missing} queues"),
        _ => {
            format!("{exist} queues exist as the worker needs them; it will create {missing} more")
        }
    });
}

fn differ(found: &mut Found, name: &str, queue: &SurveyedQueue, differences: &[Difference]) {
    // The arguments of such a queue are the user's.
    let is_theirs = !queue.is_compared;
    for difference in differences {
        match difference {
            Difference::Unfit { why, .. } => {
                let section = format!("consumers.{name}");
                let mend = match queue.role {
                    QueueRole::Work => format!("give {section} another queue"),
                    QueueRole::DeadLetter => {
                        format!("set {section}.dead_letter_queue to another queue")
                    }
                    QueueRole::Retry => format!("set {section}.retry_queue_prefix to other queues"),
                };
                // With `none` the worker looks at its own queue only.
                let grade = match is_theirs && queue.role != QueueRole::Work {
                    true => Grade::Warn,
                    false => Grade::Fail,
                };
                found.add(grade, queue.name(), why.to_string(), mend);
            }
            _ if is_theirs => {}
            difference => {
                let text = difference.to_string();
                let text = text.split_once("\": ").map_or(text.as_str(), |(_, it)| it);
                found.fail(queue.name(), text, mend(name, queue, difference));
            }
        }
    }
}

/// What makes the settings fit an argument of a queue, which cannot be changed.
fn mend(name: &str, queue: &SurveyedQueue, difference: &Difference) -> String {
    let Difference::Argument {
        argument,
        values: Some(Values { has, .. }),
        ..
    } = difference
    else {
        return format!("give consumers.{name} another queue, or declare this one anew");
    };
    let section = format!("consumers.{name}");
    let has = has.as_deref();
    match (&queue.role, argument.as_str(), has) {
        (QueueRole::Work, "x-queue-type", Some(has @ ("classic" | "quorum"))) => {
            let queue = queue.name();
            let other = match has {
                "classic" => format!("lapwing topology migrate {queue} --to NAME"),
                _ => "give the consumer another queue".to_owned(),
            };
            format!("set {section}.queue_type = \"{has}\", or {other}")
        }
        (QueueRole::Work, "x-delivery-limit", Some(has)) if !has.starts_with('-') => {
            format!("set {section}.delivery_limit = {has}")
        }
        (
            QueueRole::Work,
            "x-dead-letter-exchange"
            | "x-dead-letter-routing-key"
            | "x-dead-letter-strategy"
            | "x-overflow"
            | "x-delivery-limit"
            | "x-expires",
            _,
        ) => format!("set {section}.topology = \"attach\", which leaves the queue as it is"),
        (QueueRole::Work, argument, Some(has)) => {
            let value = match has.parse::<i64>().is_ok() || has == "true" || has == "false" {
                true => has.to_owned(),
                false => format!("\"{has}\""),
            };
            format!("set {section}.arguments = {{ {argument} = {value} }}")
        }
        (QueueRole::Work, argument, None) => {
            format!("remove {argument} from {section}.arguments")
        }
        (QueueRole::DeadLetter, ..) => format!(
            "set {section}.dead_letter_queue to a new name, or delete the queue once it is empty: \
             the worker declares it anew"
        ),
        (QueueRole::Retry, ..) => format!(
            "set {section}.retry_queue_prefix to a new name, or delete the queue once it is empty: \
             the worker declares it anew"
        ),
    }
}

fn exchanges(scene: &Scene<'_>, found: &mut Found) {
    let mut count = 0;
    for (name, _, seen) in consumers(scene) {
        for binding in &seen.bindings {
            count += 1;
            if binding.is_missing {
                let exchange = &binding.exchange;
                found.fail(
                    exchange,
                    "the exchange of a binding is missing",
                    format!(
                        "declare it (rabbitmqadmin declare exchange name={exchange} type=topic), or \
                         correct consumers.{name}.bindings"
                    ),
                );
            }
        }
        let Some(forward) = &seen.forward else {
            continue;
        };
        count += 1;
        let at = format!("consumers.{name}.forward");
        match (&forward.queue, forward.exists, forward.routes) {
            (Some(queue), Some(false), _) => {
                let mend = format!("create the queue, or correct {at}.routing_key");
                found.fail(queue, "the queue for results is missing", mend);
            }
            (None, Some(false), _) => {
                let mend = format!("create the exchange, or correct {at}.exchange");
                found.fail(
                    &forward.exchange,
                    "the exchange for results is missing",
                    mend,
                );
            }
            (None, _, Some(false)) => {
                let mend = format!("bind a queue to the exchange, or correct {at}.exchange");
                let text = "the exchange for results leads to no queue";
                found.fail(&forward.exchange, text, mend);
            }
            _ => {}
        }
    }
    match count {
        0 => found.ok("the settings name no exchange"),
        _ => found.ok(format!("{count} exchanges and result queues exist")),
    }
}

fn retry_queues(scene: &Scene<'_>, found: &mut Found) {
    let mut count = 0;
    for (name, consumer, seen) in consumers(scene) {
        for queue in &seen.queues {
            let Some(length) = queue.waits() else {
                continue;
            };
            count += usize::from(queue.standing != Standing::Missing);
            // The worker itself compares the arguments, unless the settings say `none`.
            let values = InForce::of(seen, queue);
            if consumer.topology == Topology::None && values.has_arguments() {
                leads_back(found, name, consumer, queue, &values);
            }
            let shown = seen.shown.get(queue.name());
            let millis = |value: Option<String>| value?.parse::<u64>().ok();
            let policy = millis(values.policy("message-ttl"));
            let own = millis(values.argument("message-ttl"));
            let shortest = policy.into_iter().chain(own).min();
            let wanted = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
            if let Some(shortest) = shortest.filter(|it| *it < wanted) {
                let policies = shown.map(|it| it.policies()).unwrap_or_default();
                let mend = match policy {
                    Some(_) => format!("remove message-ttl from the policy `{policies}`"),
                    None => format!("declare the queue with x-message-ttl = {wanted}"),
                };
                let text = format!(
                    "messages leave the queue after {shortest} ms instead of {wanted} ms, and are \
                     parked again"
                );
                found.warn(queue.name(), text, mend);
            }
        }
    }
    found.ok(match count {
        0 => "there is none yet".to_owned(),
        _ => format!("{count} retry queues give their messages back in time"),
    });
}

/// Looks whether a retry queue that somebody else declared dead-letters to the work queue.
fn leads_back(
    found: &mut Found,
    name: &str,
    consumer: &ConsumerSettings,
    queue: &SurveyedQueue,
    values: &InForce<'_>,
) {
    let work = &consumer.queue;
    let mend = format!(
        "declare the queue with x-dead-letter-exchange = '' and x-dead-letter-routing-key = \
         '{work}', or set consumers.{name}.topology = \"attach\""
    );
    let key = values.value("dead-letter-routing-key");
    let problem = match (values.value("dead-letter-exchange").as_deref(), key) {
        (None, _) if !values.has_policies() => Some((
            Grade::Warn,
            "messages that have waited here are lost, unless a policy names a dead-letter exchange: \
             without broker.management_url nobody sees policies"
                .to_owned(),
        )),
        (None, _) => Some((
            Grade::Fail,
            "messages that have waited here are lost: the queue has no dead-letter exchange".to_owned(),
        )),
        (Some(""), Some(key)) if key == *work => None,
        (Some(""), Some(key)) => Some((
            Grade::Fail,
            format!("messages that have waited here go to `{key}` instead of `{work}`"),
        )),
        // The worker publishes to the default exchange, so their own key is the name of this queue.
        (Some(""), None) => Some((
            Grade::Fail,
            "messages that have waited here are lost: they keep their own routing key, which leads \
             back to this queue"
                .to_owned(),
        )),
        (Some(exchange), _) => Some((
            Grade::Warn,
            format!(
                "messages that have waited here go to the exchange `{exchange}`: the doctor cannot tell \
                 whether it leads back to `{work}`"
            ),
        )),
    };
    match problem {
        Some((grade, text)) => found.add(grade, queue.name(), text, &mend),
        None if values.value("dead-letter-strategy").as_deref() != Some("at-least-once") => found.warn(
            queue.name(),
            "the queue dead-letters without confirms: messages are lost while the work queue is \
             full or its node is down",
            "declare the queue as a quorum queue with x-dead-letter-strategy = 'at-least-once' and \
             x-overflow = 'reject-publish'",
        ),
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        super::{
            scene::BrokerSeen,
            tests::{Start, broker, found_at, found_consumer, start},
        },
        *,
    };
    use crate::broker::{QueueShown, Unfit};

    const NONE: &str = "topology = 'none'";

    /// A retry queue of a second that others have declared.
    fn retry(start: &Start, standing: Standing) -> SurveyedQueue {
        let spec = start.settings.consumers["orders"].queue_spec();
        SurveyedQueue::standing_so(&spec, "orders.retry.1s", standing)
    }

    fn with(queue: SurveyedQueue, shown: Option<serde_json::Value>) -> BrokerSeen {
        let mut broker = broker("4.0", json!({}));
        let seen = found_consumer(&mut broker);
        if let Some(shown) = shown {
            seen.shown
                .insert(queue.name().to_owned(), QueueShown::of(shown));
        }
        seen.queues.push(queue);
        broker
    }

    #[test]
    fn a_retry_queue_gives_its_messages_back_by_its_arguments_or_by_a_policy() {
        let start = start(NONE);
        let told = |arguments: &[(&str, &str)], policy: Option<serde_json::Value>| {
            let mut queue = retry(&start, Standing::Fits);
            let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
            queue.has = Some(arguments.iter().map(owned).collect());
            let shown = policy.map(|it| json!({ "effective_policy_definition": it }));
            found_at(with(queue, shown), &start, "retry-queues").concat()
        };
        let back = json!({
            "dead-letter-exchange": "", "dead-letter-routing-key": "orders",
            "dead-letter-strategy": "at-least-once",
        });
        assert_eq!(told(&[], Some(back)), "");
        let unseen = told(&[], None);
        assert!(unseen.starts_with("WARN orders.retry.1s: "), "{unseen}");
        let lost = told(&[], Some(json!([])));
        assert!(
            lost.starts_with("FAIL orders.retry.1s: messages that have waited"),
            "{lost}"
        );
        let own_key = told(&[("x-dead-letter-exchange", "")], None);
        assert!(own_key.contains("keep their own routing key"), "{own_key}");
    }

    #[test]
    fn with_none_a_queue_of_another_kind_is_a_failure_only_if_it_is_the_consumers_own() {
        let start = start(NONE);
        let unfit = |queue: &str| {
            Standing::Differs(vec![Difference::Unfit {
                queue: queue.to_owned(),
                why: Unfit::Stream,
            }])
        };
        let beside = with(retry(&start, unfit("orders.retry.1s")), None);
        let told = found_at(beside, &start, "queues").concat();
        assert!(told.starts_with("WARN orders.retry.1s: "), "{told}");
        assert!(
            told.contains("consumers.orders.retry_queue_prefix"),
            "{told}"
        );
        let mut own = broker("4.0", json!({}));
        let spec = start.settings.consumers["orders"].queue_spec();
        found_consumer(&mut own).queues[0] =
            SurveyedQueue::standing_so(&spec, "orders", unfit("orders"));
        let told = found_at(own, &start, "queues").concat();
        assert!(told.starts_with("FAIL orders: "), "{told}");
    }
}
