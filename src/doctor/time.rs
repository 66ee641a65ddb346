//! Whether the times of the settings fit each other, the broker and the pod.

use std::time::Duration;

use humantime::format_duration;

use super::{
    check::{Check, Found, Needs},
    in_force::InForce,
    queues,
    scene::{ConsumerSeen, Scene},
    schedules,
};
use crate::{
    broker::{QueueArgument, QueueRole, Version},
    config::KeyPath,
    consumer::ConsumerSettings,
};

pub(super) const CHECKS: &[Check] = &[
    Check {
        name: "drain",
        why: "a stop of the worker, such as a deployment, cancels handlers that run longer, and their \
              messages run again",
        needs: Needs::Settings,
        look: drain,
    },
    Check {
        name: "pod-grace",
        why: "Kubernetes kills the process at the end of the pod's grace, and what it holds runs again",
        needs: Needs::Settings,
        look: pod_grace,
    },
    Check {
        name: "consumer-timeout",
        why: "the broker takes a message back that waits so long for its ack, and it runs again",
        needs: Needs::Settings,
        look: consumer_timeout,
    },
    Check {
        name: "queue-timeout",
        why: "the broker takes a message back that waits so long for its ack, and it runs again",
        needs: Needs::Connection,
        look: queue_timeout,
    },
    Check {
        name: "retry-schedule",
        why: "a message that fails after retry.max_age is dead-lettered, however few attempts it had",
        needs: Needs::Settings,
        look: schedules::retry_schedule,
    },
];

fn section(name: &str) -> KeyPath {
    KeyPath::of("consumers").key(name)
}

/// The setting of the longest timeout of a consumer: its own, or that of a route.
fn at_timeout(name: &str, consumer: &ConsumerSettings) -> KeyPath {
    let longest = consumer.longest_timeout();
    let mut routes = consumer.routes.iter();
    let route = routes.find(|(_, route)| route.timeout == Some(longest));
    let section = section(name);
    match route.filter(|_| consumer.timeout < longest) {
        Some((route, _)) => section.key("routes").key(route).key("timeout"),
        None => section.key("timeout"),
    }
}

fn drain(scene: &Scene<'_>, found: &mut Found) {
    let grace = scene.settings.drain.grace;
    let long = format_duration(grace);
    for (name, consumer) in &scene.settings.consumers {
        let longest = consumer.longest_timeout();
        if longest > grace {
            let timeout = format_duration(longest);
            found.warn(
                at_timeout(name, consumer).to_string(),
                format!("is {timeout}, above `drain.grace` ({long})"),
                format!("lower the timeout, or set drain.grace = \"{timeout}\""),
            );
        }
    }
    found.ok(format!("no timeout is above drain.grace ({long})"));
}

fn pod_grace(scene: &Scene<'_>, found: &mut Found) {
    let settings = scene.settings;
    let consumers = settings.consumers.values();
    let cancel = consumers
        .map(|it| it.cancel_grace)
        .max()
        .unwrap_or_default();
    let grace = settings.drain.grace;
    let needed = grace + cancel + settings.timeouts.telemetry_flush;
    let [needs, long] = [needed, grace].map(format_duration);
    let Some(pod) = scene.around.pod_grace else {
        return found.ok(format!(
            "not known; the worker needs {needs}, better some seconds more"
        ));
    };
    let has = format_duration(pod);
    let mend = format!(
        "set terminationGracePeriodSeconds to {} or more, or lower drain.grace",
        (needed + SPARE).as_secs()
    );
    if pod <= grace {
        let text = format!("is {has}, not above `drain.grace` ({long})");
        found.fail("terminationGracePeriodSeconds", text, mend);
    } else if pod < needed {
        let text = format!("is {has}, and the worker may need {needs} to stop");
        found.warn("terminationGracePeriodSeconds", text, mend);
    } else {
        found.ok(format!("is {has}, and the worker needs {needs}"));
    }
}

/// The time for the last acks and for closing the connections.
const SPARE: Duration = Duration::from_secs(10);

/// The broker's default `consumer_timeout`.
const USUAL: Duration = Duration::from_mins(30);

/// A limit for the time between a delivery and its ack.
struct Limit {
    time: Duration,
    /// What sets it, for people.
    by: &'static str,
}

const DEFAULT: Limit = Limit {
    time: USUAL,
    by: "the broker's default consumer timeout",
};

/// Older releases take no notice of a queue's own consumer timeout.
const OLD: Limit = Limit {
    time: USUAL,
    by: "the broker's default consumer timeout, because releases before 3.12 have none for a queue",
};

fn consumer_timeout(scene: &Scene<'_>, found: &mut Found) {
    for (name, consumer) in &scene.settings.consumers {
        // The check `queue-timeout` tells of a queue whose limit the broker shows.
        let seen = scene.broker.consumers.get(name);
        if seen.is_some_and(|seen| at_broker(scene.broker.version, seen).is_some()) {
            continue;
        }
        let own = match consumer.arguments.get("x-consumer-timeout") {
            Some(QueueArgument::Int(millis)) => u64::try_from(*millis).ok(),
            _ => None,
        };
        let limit = own.map_or(DEFAULT, |millis| Limit {
            time: Duration::from_millis(millis),
            by: "x-consumer-timeout of the queue",
        });
        hold(found, name, consumer, &limit);
    }
    found.ok("no message is held longer than the broker allows by default");
}

fn queue_timeout(scene: &Scene<'_>, found: &mut Found) {
    for (name, consumer, seen) in queues::consumers(scene) {
        if let Some(limit) = at_broker(scene.broker.version, seen) {
            hold(found, name, consumer, &limit);
        }
    }
    found.ok("no queue has a lower limit than it needs, as far as its arguments and policies show");
}

/// The limit of the consumer's queue, as far as the broker shows it: the lower one of argument and policy.
fn at_broker(version: Option<Version>, seen: &ConsumerSeen) -> Option<Limit> {
    let queue = seen.queues.iter().find(|it| it.role == QueueRole::Work)?;
    let values = InForce::of(seen, queue);
    let limits = [
        (values.argument(KEY), "x-consumer-timeout of the queue"),
        (values.policy(KEY), "consumer-timeout of the queue's policy"),
    ];
    let limits = limits.into_iter().filter_map(|(millis, by)| {
        let time = Duration::from_millis(millis?.parse().ok()?);
        Some(Limit { time, by })
    });
    let lowest = limits.min_by_key(|limit| limit.time)?;
    match version.is_some_and(|it| it < Version::QUEUE_TIMEOUTS) {
        true => Some(OLD),
        false => Some(lowest),
    }
}

/// What arguments and policies call the consumer timeout of a queue.
const KEY: &str = "consumer-timeout";

/// Tells if messages are held too long for this limit.
fn hold(found: &mut Found, name: &str, consumer: &ConsumerSettings, limit: &Limit) {
    let section = section(name);
    let Limit { time, by } = *limit;
    let most = format!("{by} ({})", format_duration(time));
    let longest = consumer.longest_timeout();
    let timeout = format_duration(longest);
    let (prefetch, concurrency) = (consumer.prefetch, consumer.concurrency);
    let waits = longest_in_flight(consumer);
    if longest >= time {
        found.warn(
            at_timeout(name, consumer).to_string(),
            format!("is {timeout}, which is not below {most}"),
            "lower the timeout, or raise the broker's: x-consumer-timeout of the queue, or \
             consumer_timeout in rabbitmq.conf, which the doctor cannot see",
        );
    } else if waits >= time {
        let fits = time.as_secs() / longest.as_secs().max(1);
        let fits = fits.saturating_sub(1).max(1) * u64::from(concurrency);
        found.warn(
            section.key("prefetch").to_string(),
            format!(
                "is {prefetch} with `concurrency` {concurrency} and `timeout` {timeout}: the last \
                 message may wait {} for its ack, which is not below {most}",
                format_duration(waits),
            ),
            format!("lower `prefetch` to {fits} or less, or raise `concurrency`"),
        );
    }
    if let Some(rate) = consumer.rate {
        let wait = rate.interval().saturating_mul(prefetch.into());
        if wait >= time {
            found.warn(
                section.key("prefetch").to_string(),
                format!(
                    "is {prefetch}: with a `rate` of {rate} the last of these messages waits {}, \
                     which is not below {most}",
                    format_duration(wait)
                ),
                "lower `prefetch`",
            );
        }
    }
}

/// The longest time between the delivery of a message and its ack, if each attempt takes `timeout`: as
/// many attempts one after the other as the prefetch has messages for each handler.
fn longest_in_flight(consumer: &ConsumerSettings) -> Duration {
    let turns = u32::from(consumer.prefetch).div_ceil(u32::from(consumer.concurrency.max(1)));
    consumer.longest_timeout().saturating_mul(turns)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{broker, found, found_at, quorum, start};

    #[test]
    fn a_timeout_above_the_grace_of_a_drain_is_found() {
        assert_eq!(found(&start(""), "drain"), [""; 0]);
        let told = found(&start("timeout = '26s'"), "drain");
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(
            told[0].starts_with("WARN consumers.orders.timeout: is 26s, above `drain.grace` (25s)")
        );
        assert!(told[0].ends_with("set drain.grace = \"26s\""), "{told:?}");
    }

    #[test]
    fn the_longest_timeout_of_all_routes_counts() {
        let lines = "routes.a.timeout = '26s'\nroutes.b.timeout = '2s'";
        let told = found(&start(lines), "drain");
        assert_eq!(told.len(), 1, "{told:?}");
        let text = "WARN consumers.orders.routes.a.timeout: is 26s, above `drain.grace` (25s)";
        assert!(told[0].starts_with(text), "{told:?}");
        let told = found(&start("routes.a.timeout = '30m'"), "consumer-timeout");
        let text = "WARN consumers.orders.routes.a.timeout: is 30m, which is not below";
        assert!(told[0].starts_with(text), "{told:?}");
        let told = found(&start("routes.a.timeout = '20m'"), "consumer-timeout");
        let text = "WARN consumers.orders.prefetch: is 64";
        assert!(told[0].starts_with(text), "{told:?}");
    }

    #[test]
    fn a_message_that_waits_longer_than_the_broker_allows_is_found() {
        let keys = |lines: &str| {
            let told = found(&start(lines), "consumer-timeout");
            let key = |line: &String| line.split(": ").next().unwrap_or_default().to_owned();
            told.iter().map(key).collect::<Vec<_>>()
        };
        let none: [&str; 0] = [];
        assert_eq!(keys("timeout = '29m'\nconcurrency = 64"), none);
        assert_eq!(keys("timeout = '30m'"), ["WARN consumers.orders.timeout"]);
        let in_turn = |prefetch| {
            keys(&format!(
                "timeout = '1m'\nconcurrency = 2\nprefetch = {prefetch}"
            ))
        };
        assert_eq!(in_turn(58), none);
        assert_eq!(in_turn(59), ["WARN consumers.orders.prefetch"]);
        assert_eq!(keys("rate = '3/m'"), none);
        assert_eq!(keys("rate = '2/m'"), ["WARN consumers.orders.prefetch"]);
        let own = "timeout = '50m'\nconcurrency = 64\narguments = { x-consumer-timeout = 3600000 }";
        assert_eq!(keys(own), none);
    }

    #[test]
    fn the_limit_that_the_broker_shows_decides_instead_of_the_default() {
        let told = |version, millis: u64, lines: &str| {
            let start = start(&format!("timeout = '40m'\nconcurrency = 64\n{lines}"));
            let seen = || broker(version, quorum(json!({ "consumer-timeout": millis })));
            ["consumer-timeout", "queue-timeout"].map(|check| found_at(seen(), &start, check).len())
        };
        assert_eq!(told("4.0", 3_600_000, ""), [0, 0]);
        assert_eq!(told("4.0", 1_200_000, ""), [0, 1], "said once");
        assert_eq!(
            told("3.10", 3_600_000, ""),
            [0, 1],
            "the release knows no such limit"
        );
    }

    #[test]
    fn a_pod_that_is_killed_before_the_drain_is_over_is_found() {
        let with = |seconds| {
            let mut start = start("");
            start.around.pod_grace = Some(std::time::Duration::from_secs(seconds));
            found(&start, "pod-grace")
        };
        assert_eq!(with(30), [""; 0]);
        assert!(with(25)[0].starts_with("FAIL terminationGracePeriodSeconds: is 25s"));
        assert!(with(27)[0].starts_with("WARN terminationGracePeriodSeconds: is 27s"));
        assert!(with(27)[0].contains("terminationGracePeriodSeconds to 38"));
    }
}
