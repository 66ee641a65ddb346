use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::config::samples::{Sample, sections};

#[test]
fn a_pattern_takes_what_a_topic_exchange_routes() {
    let cases = [
        ("orders.*.created", "orders.eu.created", true),
        ("orders.*.created", "orders.created", false),
        ("orders.*.created", "orders.eu.x.created", false),
        ("orders.#", "orders", true),
        ("orders.#", "orders.eu.created", true),
        ("orders.#", "order", false),
        ("#.created", "created", true),
        ("#.created", "orders.eu.created", true),
        ("#", "", true),
        ("*", "", true),
        ("*", "orders", true),
        ("*", "orders.eu", false),
        ("#.eu.#", "orders.eu", true),
        ("#.eu.#", "orders.us", false),
        ("#.*", "a.b.c", true),
        ("ord*", "orders", false),
        ("", "", true),
    ];
    for (pattern, kind, wanted) in cases {
        assert_eq!(takes(pattern, kind), wanted, "{pattern} {kind}");
    }
}

#[test]
fn the_more_exact_of_two_patterns_takes_the_message() {
    let names = [
        "#",
        "*.paid",
        "order.#",
        "order.*",
        "order.paid",
        "order.*.eu",
    ];
    let route = |kind| find(names.into_iter(), kind);
    assert_eq!(route("order.paid"), Some("order.paid"));
    assert_eq!(route("order.sent"), Some("order.*"));
    assert_eq!(route("order.sent.eu"), Some("order.*.eu"));
    assert_eq!(route("order"), Some("order.#"));
    assert_eq!(route("invoice.paid"), Some("*.paid"));
    assert_eq!(route("x"), Some("#"));
    assert_eq!(find(["a.b"].into_iter(), "a"), None);
    // A kind that looks like a pattern is itself first.
    assert_eq!(find(["a.*", "a.#"].into_iter(), "a.#"), Some("a.#"));
}

proptest! {
    #[test]
    fn the_route_does_not_depend_on_the_order_of_the_names(
        mut names in proptest::collection::vec("([ab]|\\*|#)(\\.([ab]|\\*|#)){0,2}", 1..6),
        kind in "[ab](\\.[ab]){0,3}",
    ) {
        let first = find(names.iter().map(String::as_str), &kind).map(str::to_owned);
        names.reverse();
        let second = find(names.iter().map(String::as_str), &kind).map(str::to_owned);
        prop_assert_eq!(&first, &second);
        let any = names.iter().any(|name| takes(name, &kind));
        prop_assert_eq!(first.is_some(), any);
    }
}

#[test]
fn where_the_kind_is_read_is_written_as_it_is_read() {
    for text in [
        "type",
        "routing-key",
        "header:__TypeId__",
        "header:a:b",
        "body:/event/type",
        "cloudevents",
    ] {
        assert_eq!(text.parse::<RouteBy>().unwrap().to_string(), text);
    }
    for text in ["", "header", "header:", "body:event", "kind", "type:x"] {
        assert_eq!(text.parse::<RouteBy>(), Err(InvalidRouteBy), "{text}");
    }
}

fn consumer(text: &str) -> ConsumerSettings {
    toml::from_str(&format!("queue = 'q'\n{text}")).unwrap()
}

#[test]
fn a_route_has_the_consumers_settings_where_it_has_none_of_its_own() {
    let consumer = consumer(
        "timeout = '7s'\nretry = { max_attempts = 9, base = '3s' }\nbreaker.unavailable = 2
        handler.kind = 'log'
        routes.a = { timeout = '1m', retry = { max_attempts = 1 } }
        routes.b = { handler = { kind = 'http', url = 'http://b' }, breaker = { rejected = 3 } }",
    );
    let a = consumer.of_route(Some("a"));
    assert_eq!(a.timeout, Duration::from_mins(1));
    assert_eq!((a.retry.max_attempts, a.retry.base.as_secs()), (1, 3));
    assert_eq!(a.handler.kind(), "log");
    let b = consumer.of_route(Some("b"));
    assert_eq!((b.breaker.unavailable, b.breaker.rejected), (2, 3));
    assert_eq!((b.timeout.as_secs(), b.handler.kind()), (7, "http"));
    assert_eq!(consumer.of_route(None).as_ref(), &consumer);
    assert_eq!(consumer.longest_timeout(), Duration::from_mins(1));
    let sorts: Vec<_> = consumer.sorts().map(|(route, _)| route).collect();
    assert_eq!(sorts, [None, Some("a"), Some("b")]);
}

#[test]
fn a_route_with_a_number_of_attempts_has_not_the_consumers_list_of_delays() {
    let consumer = consumer(
        "retry.delays = ['5s', '1m', '10m']
        routes.once.retry.max_attempts = 1
        routes.young.retry.max_age = '1h'
        routes.other.retry.delays = ['1s']",
    );
    let attempts = |route| consumer.of_route(Some(route)).retry.attempts();
    assert_eq!(["once", "young", "other"].map(attempts), [1, 4, 2]);
}

#[test]
fn the_retry_queues_are_those_that_any_route_needs() {
    let consumer = consumer(
        "retry = { max_attempts = 2, base = '1s', cap = '2s', jitter = 0 }
        routes.slow.retry = { delays = ['1h'] }",
    );
    let ladder = consumer.ladder();
    let rungs: Vec<_> = ladder.rungs().map(|rung| rung.length.as_secs()).collect();
    assert_eq!(rungs, [1, 4096]);
    assert_eq!(ladder.all().last().unwrap().length.as_secs(), 4096);
}

sections!({ consumers: BTreeMap<String, ConsumerSettings> }, |it, findings| {
    for (name, consumer) in &it.consumers {
        consumer.check_routes(findings, &KeyPath::of("consumers").key(name));
    }
});

#[test]
fn a_route_whose_kind_no_message_of_the_dialect_has_is_refused() {
    let problems = |dialect: &str, route: &str| {
        Sections::problems(&format!(
            "[consumers.q]\nqueue = 'q'\ndialect = {dialect}\nroutes.'{route}'.handler.kind = 'log'"
        ))
    };
    let unsorted = r#"{"cmd":"sum","a":1}"#;
    for (dialect, route) in [
        ("'nestjs'", r#"{"a":1,"cmd":"sum"}"#),
        ("'nestjs'", "order.*"),
        ("'celery'", unsorted),
        ("'nservicebus'", "Shop.OrderPaid"),
        ("'nestjs'\nroute_by = 'routing-key'", unsorted),
    ] {
        assert_eq!(problems(dialect, route), [""; 0], "{dialect} {route}");
    }
    for (dialect, route, kind) in [
        ("'nestjs'", unsorted, r#"{"a":1,"cmd":"sum"}"#),
        ("'nservicebus'", "Shop.OrderPaid, Shop", "Shop.OrderPaid"),
    ] {
        let found = problems(dialect, route);
        let words = format!("takes no message: the worker reads this kind as `{kind}`");
        assert!(found.len() == 1 && found[0].ends_with(&words), "{found:?}");
    }
}
