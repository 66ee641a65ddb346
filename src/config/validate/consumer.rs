//! `[consumers.NAME]`.

use std::time::Duration;

use humantime::format_duration;

use super::{Findings, HOUR, MILLISECOND, SECOND, handler};
use crate::config::{
    AckSettings, Binding, ConsumerSettings, HandlerKind, RetrySettings, problem::KeyPath,
};

/// Beyond this a run is no longer a run. Well beyond RabbitMQ's consumer timeout already, which an
/// operator may have raised.
const TIMEOUT_MAX: Duration = Duration::from_hours(12);

/// The longest rung is then 2²¹ s, which is 24.3 days: RabbitMQ takes a time to live of at most
/// 2³² − 1 ms, which is 49.7 days.
pub(super) const RETRY_CAP_MAX: Duration = Duration::from_hours(24 * 24);

const MAX_AGE_MAX: Duration = Duration::from_hours(365 * 24);

pub(super) fn check(findings: &mut Findings, name: &str, consumer: &ConsumerSettings) {
    let section = KeyPath::of("consumers").key(name);
    if !is_name(name) {
        let message = "a consumer's name is lower-case letters, digits and single underscores \
                       between them, and begins with a letter, so that each of its settings has \
                       an environment variable";
        findings.add(section.clone(), message);
    }
    limits(findings, &section, consumer);
    for (index, binding) in consumer.bindings.iter().enumerate() {
        check_binding(findings, &section.key("bindings").index(index), binding);
    }
    ack(findings, &section.key("ack"), &consumer.ack);
    retry(findings, &section.key("retry"), &consumer.retry);
    handler::check(findings, &section.key("handler"), &consumer.handler);
    for (message_type, by_type) in &consumer.types {
        let path = section.key("types").key(message_type);
        findings.name(path.clone(), message_type);
        if by_type.kind == HandlerKind::None {
            let message = "must be \"http\" or \"log\": a type without a handler is left out";
            findings.add(path.key("kind"), message);
        }
        handler::check(findings, &path, by_type);
    }
}

/// Two underscores would read as the end of the name in `LAPWING__CONSUMERS__NAME__KEY`.
fn is_name(name: &str) -> bool {
    name.starts_with(|first: char| first.is_ascii_lowercase())
        && !name.ends_with('_')
        && !name.contains("__")
        && name
            .bytes()
            .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
}

fn limits(findings: &mut Findings, section: &KeyPath, consumer: &ConsumerSettings) {
    let ConsumerSettings {
        delivery_limit,
        prefetch,
        concurrency,
        timeout,
        cancel_grace,
        ..
    } = *consumer;
    at_least_one(findings, section.key("delivery_limit"), delivery_limit);
    at_least_one(findings, section.key("prefetch"), prefetch);
    at_least_one(findings, section.key("concurrency"), concurrency);
    if concurrency > prefetch {
        let message = format!("is {concurrency}, must not be above `prefetch` ({prefetch})");
        let others = [section.key("prefetch")];
        findings.contradiction(section.key("concurrency"), others, message);
    }
    findings.duration(section.key("timeout"), timeout, MILLISECOND..=TIMEOUT_MAX);
    findings.duration(
        section.key("cancel_grace"),
        cancel_grace,
        Duration::ZERO..=HOUR,
    );
}

fn at_least_one(findings: &mut Findings, path: KeyPath, value: impl Into<u32>) {
    if value.into() == 0 {
        findings.add(path, "must be at least 1");
    }
}

fn check_binding(findings: &mut Findings, path: &KeyPath, binding: &Binding) {
    let Binding {
        exchange,
        routing_key,
    } = binding;
    findings.name(path.key("exchange"), exchange);
    if !routing_key.is_empty() {
        findings.name(path.key("routing_key"), routing_key);
    }
}

fn ack(findings: &mut Findings, section: &KeyPath, ack: &AckSettings) {
    let AckSettings { batch, delay } = *ack;
    at_least_one(findings, section.key("batch"), batch);
    findings.duration(section.key("delay"), delay, Duration::ZERO..=SECOND);
}

fn retry(findings: &mut Findings, section: &KeyPath, retry: &RetrySettings) {
    let RetrySettings {
        max_attempts,
        max_age,
        base,
        factor,
        cap,
        jitter,
        inline_below,
        rules,
    } = retry;
    at_least_one(findings, section.key("max_attempts"), *max_attempts);
    findings.duration(section.key("max_age"), *max_age, MILLISECOND..=MAX_AGE_MAX);
    let delays = MILLISECOND..=RETRY_CAP_MAX;
    findings.duration(section.key("base"), *base, delays.clone());
    findings.duration(section.key("cap"), *cap, delays);
    if cap < base {
        let [cap, base] = [*cap, *base].map(format_duration);
        let message = format!("is {cap}, must not be below `base` ({base})");
        findings.contradiction(section.key("cap"), [section.key("base")], message);
    }
    if inline_below > cap {
        let [below, cap] = [*inline_below, *cap].map(format_duration);
        let message = format!("is {below}, must not be above `cap` ({cap})");
        findings.contradiction(section.key("inline_below"), [section.key("cap")], message);
    }
    // Neither range holds what is no number at all.
    findings.number(section.key("factor"), factor, 1.0..=1000.0);
    findings.number(section.key("jitter"), jitter, 0.0..=1.0);
    for (index, rule) in rules.iter().enumerate() {
        if rule.class.is_none() && rule.status.is_none() {
            let rule = section.key("rules").index(index);
            let message = "is required, or `status`: the rule would be about every failure";
            findings.contradiction(rule.key("class"), [rule.key("status")], message);
        }
        if rule.class.as_deref() == Some("") {
            let path = section.key("rules").index(index).key("class");
            findings.add(path, "must not be empty");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::RETRY_CAP_MAX;
    use crate::config::validate::tests::{allowed, orders, orders_refused, problems, refused};

    #[test]
    fn consumers_are_named_so_that_the_environment_can_name_them() {
        for name in [
            "Orders",
            "1st",
            "order-paid",
            "a__b",
            "a_",
            "_a",
            "\"\"",
            "\"ä\"",
        ] {
            let text = format!("[consumers.{name}]\nqueue = \"orders\"");
            let beginning = format!("consumers.{name}: a consumer's name is");
            refused(&[(&text, &beginning)]);
        }
        allowed(&["consumers.a_1_b.queue = \"orders\""]);
    }

    #[test]
    fn consumers_keep_their_ranges() {
        orders_refused(&[
            ("delivery_limit = 0", "delivery_limit: must be at least 1"),
            ("concurrency = 0", "concurrency: must be at least 1"),
            (
                "concurrency = 65",
                "concurrency: is 65, must not be above `prefetch` (64)",
            ),
            (
                "prefetch = 31",
                "concurrency: is 32, must not be above `prefetch` (31)",
            ),
            ("timeout = \"0s\"", "timeout: is 0s, must be 1ms to 12h"),
            ("timeout = \"13h\"", "timeout: is 13h, must be"),
            (
                "cancel_grace = \"2h\"",
                "cancel_grace: is 2h, must be 0s to 1h",
            ),
            ("ack.batch = 0", "ack.batch: must be at least 1"),
            ("ack.delay = \"2s\"", "ack.delay: is 2s, must be 0s to 1s"),
            (
                "bindings = [{ routing_key = \"a\" }]",
                "bindings[0].exchange: must not be empty",
            ),
            (
                "bindings = [{ exchange = \"a\", routing_key = \"\\n\" }]",
                "bindings[0].routing_key: must",
            ),
        ]);
        // A prefetch of 0 means no limit to the broker; no concurrency fits it either.
        assert_eq!(
            problems(&orders("prefetch = 0\nconcurrency = 0")),
            [
                "consumers.orders.concurrency: must be at least 1",
                "consumers.orders.prefetch: must be at least 1",
            ]
        );
        allowed(&[
            &orders("concurrency = 64"),
            &orders("timeout = \"12h\"\ncancel_grace = \"0s\"\nack.delay = \"0s\"\nack.batch = 1"),
            &orders("bindings = [{ exchange = \"amq.topic\" }]"),
        ]);
    }

    #[test]
    fn retries_keep_their_ranges() {
        orders_refused(&[
            (
                "retry.max_attempts = 0",
                "retry.max_attempts: must be at least 1",
            ),
            (
                "retry.max_age = \"0s\"",
                "retry.max_age: is 0s, must be 1ms to",
            ),
            (
                "retry.max_age = \"2years\"",
                "retry.max_age: is 2years, must be",
            ),
            ("retry.base = \"0s\"", "retry.base: is 0s, must be 1ms to"),
            (
                "retry.base = \"11m\"",
                "retry.cap: is 10m, must not be below `base` (11m)",
            ),
            (
                "retry.cap = \"25days\"",
                "retry.cap: is 25days, must be 1ms to 24days",
            ),
            (
                "retry.cap = \"999ms\"",
                "retry.inline_below: is 1s, must not be above `cap` (999ms)",
            ),
            (
                "retry.factor = 0.9",
                "retry.factor: is 0.9, must be 1 to 1000",
            ),
            ("retry.factor = inf", "retry.factor: is inf, must be"),
            ("retry.factor = nan", "retry.factor: is NaN, must be"),
            (
                "retry.jitter = -0.1",
                "retry.jitter: is -0.1, must be 0 to 1",
            ),
            ("retry.jitter = 1.1", "retry.jitter: is 1.1, must be"),
            ("retry.jitter = nan", "retry.jitter: is NaN, must be"),
            (
                "retry.rules = [{ action = \"retry\" }]",
                "retry.rules[0].class: is required, or `status`",
            ),
            (
                "retry.rules = [{ class = \"\", action = \"retry\" }]",
                "retry.rules[0].class: must not be empty",
            ),
        ]);
        allowed(&[
            &orders("retry.factor = 1\nretry.jitter = 0\nretry.max_attempts = 1"),
            &orders("retry.cap = \"24days\"\nretry.jitter = 1.0\nretry.inline_below = \"0s\""),
            &orders("retry.rules = [{ status = \"5xx\", action = \"dead-letter\" }]"),
        ]);
    }

    #[test]
    fn the_longest_rung_fits_the_brokers_time_to_live() {
        let ladder = crate::ladder::Ladder::new("orders", RETRY_CAP_MAX);
        let longest = ladder.rungs().last().unwrap().length;
        assert!(longest.as_millis() < u128::from(u32::MAX), "{longest:?}");
    }
}
