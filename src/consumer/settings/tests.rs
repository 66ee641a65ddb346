//! Tests of a consumer's settings.

use super::*;
use crate::config::{
    from_toml,
    samples::{Sample, sections},
};

sections!({ consumers: BTreeMap<String, ConsumerSettings> }, |it, findings| {
    crate::consumer::check(findings, &it.consumers);
});

/// A consumer with these further lines.
fn orders(lines: &str) -> String {
    format!("[consumers.orders]\nqueue = \"orders\"\n{lines}")
}

#[track_caller]
fn orders_refused(cases: &[(&str, &str)]) {
    for (lines, beginning) in cases {
        let beginning = format!("consumers.orders.{beginning}");
        Sections::refused(&[(&orders(lines), &beginning)]);
    }
}

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
        let beginning = format!("consumers.{name}: a consumer's name must");
        Sections::refused(&[(&text, &beginning)]);
    }
    Sections::allowed(&["consumers.a_1_b.queue = \"orders\""]);
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
            "routes.\"\".handler.kind = \"log\"",
            "routes.\"\": must not be empty",
        ),
        (
            "bindings = [{ routing_key = \"a\" }]",
            "bindings[0].exchange: must not be empty",
        ),
        (
            "bindings = [{ exchange = \"a\", routing_key = \"\\n\" }]",
            "bindings[0].routing_key: must",
        ),
    ]);
    orders_refused(&[
        ("rate = \"100\"", "rate: expected a rate from 1 to 1000000"),
        ("rate = 100", "rate: expected a rate from 1 to 1000000"),
        ("burst = 5", "burst: needs `rate` too"),
        (
            "rate = \"1/s\"\nburst = 0",
            "burst: is 0, must be 1 to 1000000",
        ),
    ]);
    orders_refused(&[
        (
            "backlog_check = \"0s\"",
            "backlog_check: is 0s, must be 1s to 1h",
        ),
        ("backlog_check = \"never\"", "backlog_check: "),
    ]);
    Sections::allowed(&[
        &orders("rate = \"100/s\"\nburst = 20"),
        &orders("backlog_check = \"off\""),
        &orders("backlog_check = \"1m\""),
    ]);
    // A prefetch of 0 means no limit to the broker; no concurrency fits it either.
    assert_eq!(
        Sections::problems(&orders("prefetch = 0\nconcurrency = 0")),
        [
            "consumers.orders.concurrency: must be at least 1",
            "consumers.orders.prefetch: must be at least 1",
        ]
    );
    Sections::allowed(&[
        &orders("concurrency = 64"),
        &orders("timeout = \"12h\"\ncancel_grace = \"0s\"\nack.delay = \"0s\"\nack.batch = 1"),
        &orders("bindings = [{ exchange = \"amq.topic\" }]"),
    ]);
}

#[test]
fn routes_keep_the_ranges_of_their_consumer() {
    orders_refused(&[
        (
            "routes.a.timeout = \"0s\"",
            "routes.a.timeout: is 0s, must be 1ms to 12h",
        ),
        (
            "routes.a.retry.max_attempts = 0",
            "routes.a.retry.max_attempts: must be at least 1",
        ),
        (
            "routes.a.retry.base = \"5h\"",
            "routes.a.retry.cap: is 4h, must not be below `base` (5h)",
        ),
        (
            "routes.a.breaker.probe = \"20s\"",
            "routes.a.breaker.probe_cap: is 10s, must not be below `probe` (20s)",
        ),
        (
            "routes.a.retry.max_atempts = 3",
            "routes.a.retry.max_atempts: unknown key; did you mean `max_attempts`?",
        ),
        (
            "routes.a.handler = { kind = \"http\" }",
            "routes.a.handler.url: is required",
        ),
        ("route_by = \"kind\"", "route_by: expected \"type\""),
        ("route_by = \"body:kind\"", "route_by: expected \"type\""),
        (
            "unrouted = \"ack\"\nhandler.kind = \"log\"",
            "unrouted: has no effect",
        ),
        ("dialect = \"celary\"", "dialect: expected \"celery\""),
    ]);
    Sections::allowed(&[
        &orders("route_by = \"body:/a\"\nroutes.\"#\".retry.base = \"2h\""),
        &orders("unrouted = \"ack\"\nroutes.a.handler.kind = \"log\""),
        &orders("dialect = \"masstransit\""),
    ]);
}

#[test]
fn a_queue_has_further_arguments_that_the_worker_does_not_set() {
    orders_refused(&[
        (
            "arguments = { x-queue-type = \"stream\" }",
            "arguments.x-queue-type: has a setting of its own: `queue_type`",
        ),
        (
            "arguments = { x-dead-letter-exchange = \"dlx\" }",
            "arguments.x-dead-letter-exchange: is set by the worker",
        ),
        (
            "arguments = { x-overflow = \"drop-head\" }",
            "arguments.x-overflow: is set by the worker",
        ),
        (
            "arguments = { x-expires = 1000 }",
            "arguments.x-expires: is not allowed: a queue that expires",
        ),
        (
            "topology = \"attach\"\narguments = { x-max-length = 5 }",
            "arguments: has no effect",
        ),
        (
            "arguments = { x-max-length = 1.5 }",
            "arguments.x-max-length: expected true, false, a whole number or a string",
        ),
    ]);
    let arguments =
        "{ x-single-active-consumer = true, x-max-length = 5, x-overflow = \"reject-publish\" }";
    let all = orders(&format!(
        "queue_type = \"classic\"\narguments = {arguments}"
    ));
    Sections::allowed(&[&all]);
    let sections: Sections = from_toml(&all).unwrap();
    let read = &sections.consumers["orders"].arguments;
    assert_eq!(read["x-single-active-consumer"], QueueArgument::Bool(true));
    assert_eq!(read["x-max-length"], QueueArgument::Int(5));
    assert_eq!(
        read["x-overflow"],
        QueueArgument::Text("reject-publish".to_owned())
    );
}

#[test]
fn the_retry_queues_of_a_classic_queue_have_names_that_no_earlier_version_gave() {
    let first = |lines: &str| {
        let sections: Sections = from_toml(&orders(lines)).unwrap();
        let ladder = sections.consumers["orders"].ladder();
        ladder.rungs().next().map(|rung| rung.queue)
    };
    assert_eq!(first("").as_deref(), Some("orders.retry.1s"));
    let classic = "queue_type = \"classic\"";
    assert_eq!(first(classic).as_deref(), Some("orders.retry.quorum.1s"));
    let chosen = format!("{classic}\nretry_queue_prefix = \"later\"");
    assert_eq!(first(&chosen).as_deref(), Some("later.1s"));
}

#[test]
fn a_batch_fits_the_slots_and_the_timeout() {
    let handler = "handler.kind = \"http\"\nhandler.url = \"http://a/\"\nhandler.batch";
    let routed = "routes.a.handler.kind = \"process\"\nroutes.a.handler.argv = [\"sh\"]\nroutes.a.handler.batch";
    orders_refused(&[
        (
            &format!("{handler}.size = 33"),
            "handler.batch.size: is 33, must not be above the consumer's `concurrency` (32)",
        ),
        (
            &format!("{routed}.size = 33"),
            "routes.a.handler.batch.size: is 33, must not be above the consumer's `concurrency` (32)",
        ),
        (
            &format!("timeout = \"1s\"\n{handler} = {{ size = 2, max_wait = \"1s\" }}"),
            "handler.batch.max_wait: must be shorter than the consumer's `timeout` (1s)",
        ),
        (
            &format!("{handler}.size = 0"),
            "handler.batch.size: is 0, must be 1 to 10000",
        ),
        (
            &format!("{handler}.max_wait = \"2m\""),
            "handler.batch.max_wait: is 2m, must be 0s to 1m",
        ),
    ]);
    Sections::allowed(&[
        &orders(&format!("{handler}.size = 32")),
        // Without batches their wait does not count.
        &orders(&format!("timeout = \"1ms\"\n{handler}.size = 1")),
    ]);
}
