//! What is explained, against what the policy decides.

use std::collections::BTreeMap;

use super::*;
use crate::config::{from_toml, samples::sections};

sections!({ consumers: BTreeMap<String, ConsumerSettings> }, |_, _| {});

/// A consumer of `orders` with these further lines.
fn consumer(lines: &str) -> ConsumerSettings {
    let text = format!("[consumers.orders]\nqueue = 'orders'\n{lines}");
    let mut sections: Sections = from_toml(&text).unwrap_or_else(|error| panic!("{text}\n{error}"));
    sections.consumers.remove("orders").unwrap()
}

fn failing(class: &str) -> Failing {
    Failing {
        class: Some(class.to_owned()),
        ..Failing::default()
    }
}

fn status(status: u16) -> Failing {
    Failing {
        status: Some(status),
        ..Failing::default()
    }
}

/// Each row: attempts, delay, places.
fn rows(story: &Story) -> Vec<String> {
    let row = |it: &Attempts| {
        let charged = if it.charged { "" } else { " free" };
        format!(
            "{}-{}{charged}: {} in {}",
            it.first,
            it.last,
            it.waits(),
            it.waits_in.join(" ")
        )
    };
    story.attempts.iter().map(row).collect()
}

const HTTP: &str = "handler = { kind = 'http', url = 'http://a' }\n";

#[test]
fn each_attempt_has_its_delay_and_the_place_where_it_waits() {
    let consumer = consumer("retry = { max_attempts = 5, base = '500ms', jitter = 0.5 }");
    let explained = explain("orders", &consumer, &failing("error"));
    assert_eq!(explained.lives.len(), 1);
    let story = &explained.lives[0];
    assert_eq!(
        rows(story),
        [
            "1-1: 250ms to 500ms in worker",
            "2-2: 500ms to 1s in worker orders.retry.1s",
            "3-3: 1s to 2s in orders.retry.1s orders.retry.2s",
            "4-4: 2s to 4s in orders.retry.2s orders.retry.4s",
        ]
    );
    assert_eq!(
        (story.last_attempt, story.end),
        ([5, 5], SettlementKind::DeadLetter)
    );
    assert_eq!(story.reasons, ["max-attempts"]);
    assert_eq!(explained.stops, None);
}

#[test]
fn a_timeout_makes_the_message_older() {
    let consumer = consumer(
        "timeout = '20s'\nretry = { delays = ['10s', '10s', '10s', '10s'], max_age = '1m' }",
    );
    let explained = explain("orders", &consumer, &failing("timeout"));
    assert_eq!(
        (explained.outcome, explained.runs.as_secs()),
        (OutcomeKind::TimedOut, 20)
    );
    let story = &explained.lives[0];
    // Ages at the ends of the attempts: 20 s, 50 s, 80 s.
    assert_eq!(rows(story), ["1-2: 10s in orders.retry.16s"]);
    assert_eq!(story.reasons, ["max-age"]);
    let stops = explained.stops.unwrap();
    assert_eq!((stops.messages, stops.charges), (5, false));
}

#[test]
fn an_unavailable_service_charges_nothing_unless_the_message_alone_meets_it() {
    let consumer = consumer(&format!("{HTTP}retry.max_attempts = 3"));
    let explained = explain("orders", &consumer, &status(503));
    assert_eq!(explained.outcome, OutcomeKind::Unavailable);
    let [down, alone] = explained.lives.as_slice() else {
        panic!("{explained:?}")
    };
    assert!(down.attempts.iter().all(|it| !it.charged), "{down:?}");
    let longest = down.attempts.iter().map(|it| it.delay[1]).max();
    assert_eq!(longest, Some(Duration::from_secs(30)));
    assert_eq!(down.reasons, ["max-age"]);
    assert!(down.last_attempt[0] > 2000, "{down:?}");
    // The first attempt is free. Then each one counts.
    assert!(rows(alone)[0].starts_with("1-1 free: "), "{alone:?}");
    assert_eq!(
        (alone.last_attempt, &*alone.reasons),
        ([4, 4], &["max-attempts"][..])
    );
    let probes = explained.stops.unwrap().probes;
    let seconds: Vec<_> = probes.iter().map(Duration::as_secs).collect();
    assert_eq!(seconds, [1, 2, 4, 8, 10]);
}

#[test]
fn a_limit_is_never_charged_and_waits_as_long_as_the_service_says() {
    let consumer = consumer(HTTP);
    let limited = Failing {
        retry_after: Some(Duration::from_secs(120)),
        ..status(429)
    };
    let explained = explain("orders", &consumer, &limited);
    let [story] = explained.lives.as_slice() else {
        panic!("{explained:?}")
    };
    assert!(
        rows(story)[0].ends_with("free: 2m in orders.retry.128s"),
        "{:?}",
        rows(story)
    );
    assert_eq!(story.reasons, ["max-age"]);
}

#[test]
fn a_permanent_failure_is_dead_lettered_at_once_and_a_storm_of_them_stops_the_consumer() {
    let explained = explain("orders", &consumer(HTTP), &status(404));
    let story = &explained.lives[0];
    assert_eq!((story.attempts.len(), story.last_attempt), (0, [1, 1]));
    assert_eq!(story.reasons, ["rejected"]);
    let stops = explained.stops.unwrap();
    assert_eq!((stops.messages, stops.charges), (50, false));
    let calm = consumer(&format!("{HTTP}breaker.storms = false"));
    assert_eq!(explain("orders", &calm, &status(404)).stops, None);
}

#[test]
fn rules_and_exit_codes_decide_as_in_a_worker() {
    let rule = consumer(&format!(
        "{HTTP}retry.rules = [{{ status = '4xx', action = 'unavailable' }}]"
    ));
    assert_eq!(
        explain("o", &rule, &status(404)).outcome,
        OutcomeKind::Unavailable
    );
    assert_eq!(
        explain("o", &rule, &status(200)).lives[0].end,
        SettlementKind::Ack
    );
    let command = consumer("handler = { kind = 'command', argv = ['true'] }");
    for (code, outcome) in [
        (1, OutcomeKind::Failed),
        (69, OutcomeKind::Unavailable),
        (0, OutcomeKind::Succeeded),
    ] {
        assert_eq!(
            explain("o", &command, &status(code)).outcome,
            outcome,
            "{code}"
        );
    }
    assert_eq!(
        explain("o", &command, &status(65)).lives[0].reasons,
        ["rejected"]
    );
    let connect = explain("o", &consumer(HTTP), &failing("http-connect"));
    assert_eq!(connect.outcome, OutcomeKind::Unavailable);
    let said = Failing {
        says: Some(Says::Permanent),
        ..failing("no-stock")
    };
    assert_eq!(
        explain("o", &consumer(""), &said).lives[0].reasons,
        ["rejected"]
    );
}

#[test]
fn ends_without_a_handler_are_explained_too() {
    for (class, reason) in [
        ("decode", "decode"),
        ("unroutable-type", "unroutable-type"),
        ("expired", "expired"),
    ] {
        let explained = explain("o", &consumer(HTTP), &failing(class));
        assert_eq!(explained.lives[0].reasons, [reason]);
        assert_eq!(explained.stops, None, "{class}");
    }
    let typed = consumer("routes.'order.paid'.handler.kind = 'log'");
    let other = Failing {
        route: Some("other".to_owned()),
        ..Failing::default()
    };
    assert_eq!(
        explain("o", &typed, &other).outcome,
        OutcomeKind::Unroutable
    );
}

#[test]
fn a_route_is_explained_with_its_own_settings() {
    let routed = consumer(&format!(
        "{HTTP}\nroutes.'order.*' = {{ timeout = '3s', retry.delays = ['1h'] }}"
    ));
    let of = |route: Option<&str>| {
        let failing = Failing {
            class: Some("timeout".to_owned()),
            route: route.map(str::to_owned),
            ..Failing::default()
        };
        let explained = explain("o", &routed, &failing);
        (explained.runs.as_secs(), explained.lives[0].last_attempt)
    };
    assert_eq!(of(Some("order.paid")), (3, [2, 2]));
    assert_eq!(of(Some("order.*")), (3, [2, 2]));
    assert_eq!(of(Some("invoice")), (20, [20, 20]));
    assert_eq!(of(None), (20, [20, 20]));
}

#[test]
fn with_queues_that_others_declare_the_message_waits_in_one_that_there_is() {
    let fixed = consumer("topology = 'none'\nretry = { delays = ['5s', '1m'] }");
    let story = explain("o", &fixed, &failing("error")).lives.remove(0);
    assert_eq!(
        rows(&story),
        ["1-1: 5s in orders.retry.8s", "2-2: 1m in orders.retry.64s"]
    );
}

#[test]
fn a_class_that_nothing_can_give_is_doubted() {
    let doubt =
        |lines: &str, class: &str| explain("orders", &consumer(lines), &failing(class)).doubt;
    let refused = doubt(HTTP, "timout").unwrap();
    let wanted = "no failure of a handler of kind \"http\" has the class \"timout\". Did you mean \"timeout\"?";
    assert_eq!(refused, wanted);
    let far = doubt(HTTP, "no-stock").unwrap();
    assert!(far.ends_with("has the class \"no-stock\"; it has: http, http-answer, http-connect, http-echo, http-proxy, http-request, http-timeout, http-token, panic, result, timeout"), "{far}");
    for known in ["timeout", "panic", "expired", "http", "http-connect"] {
        assert_eq!(doubt(HTTP, known), None, "{known}");
    }
    let command = "handler = { kind = 'command', argv = ['/bin/true'] }";
    assert!(doubt(command, "comand").is_some_and(|it| it.contains("\"command\"")));
    // Code gives classes of its own, so only one that looks like a known one is doubted.
    assert_eq!(doubt("", "no-stock"), None);
    let own = "\"timout\" is taken for a class that the handler gives. Did you mean \"timeout\"?";
    assert_eq!(doubt("", "timout").as_deref(), Some(own));
    let rule = "retry.rules = [{ class = 'timout', action = 'retry' }]";
    assert_eq!(doubt(rule, "timout"), None, "a rule names it");
}
