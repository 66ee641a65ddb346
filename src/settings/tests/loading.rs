//! Layers, strictness, and reporting every problem at once.

use std::{path::Path, time::Duration};

use super::{complete, keys, load, shown, variables};
use crate::{
    config::samples::file,
    settings::{LogFormat, Settings},
};

#[test]
fn the_file_overrides_the_defaults_and_the_environment_the_file() {
    let text = "drain.grace = \"1s\"\ndrain.settle = \"2s\"\n[consumers.orders]\nqueue = \"a\"\nprefetch = 40";
    let settings = load(
        text,
        &[
            ("LAPWING__DRAIN__SETTLE", "3s"),
            ("LAPWING__CONSUMERS__ORDERS__QUEUE", "b"),
            ("LAPWING__CONSUMERS__MAIL__QUEUE", "c"),
            ("LAPWING__LOG__FORMAT", "json"),
            ("LAPWING_SERVICE_HOST", "not ours"),
            ("PATH", "not ours"),
        ],
    )
    .unwrap();
    assert_eq!(settings.drain.grace, Duration::from_secs(1));
    assert_eq!(settings.drain.settle, Duration::from_secs(3));
    assert_eq!(settings.publish.channels, 16);
    assert_eq!(settings.log.format, LogFormat::Json);
    assert_eq!(settings.consumers["orders"].queue, "b");
    assert_eq!(settings.consumers["orders"].prefetch, 40);
    assert_eq!(settings.consumers["mail"].queue, "c");
}

#[test]
fn without_sources_there_are_the_defaults() {
    assert_eq!(Settings::load(None, []), Ok(Settings::default()));
    assert_eq!(Settings::from_toml(""), Ok(Settings::default()));
}

#[test]
fn every_problem_is_listed_with_its_path_its_source_and_what_would_be_right() {
    let text = r#"
[broker]
url = "amqp://rabbit/"
prefech = 5
heartbeat = 10
[drain]
grace = "25"
[log]
format = "yaml"
[consumers.orders]
queue = 5
prefetch = 70000
decode = "jsn"
bindings = [{ exchange = "a" }, { exchange = true, key = "b" }]
max_attempts = 5
[[consumers.orders.retry.rules]]
status = "6x"
[consumers.mail]
queue = "mail"
concurrency = 100
"#;
    let environment = [
        ("LAPWING__CONSUMERS__MAIL__TIMEOUT", "30"),
        ("LAPWING__CONSUMERS__MAIL__RETRY__JITTER", "2"),
        ("LAPWING__PUBLISH__CHANNELS", "many"),
        ("LAPWING__DRIAN__GRACE", "5s"),
    ];
    let expected = r#"
broker.heartbeat: expected a duration with its unit, such as "500ms", "30s" or "10m", found a whole number (FILE, line 5)
broker.prefech: unknown key; valid here: url, url_file, password_file, user, trusted_users, name, heartbeat, fail_fast, management_url, reconnect, tls (FILE, line 4)
broker.url: ends in `/`, which means the virtual host without a name: write `/%2f` for the default virtual host, or nothing (FILE, line 3)
consumers.mail.concurrency: is 100, must not be above `prefetch` (64) (FILE, line 20)
consumers.mail.retry.jitter: is 2, must be 0 to 1 (environment variable LAPWING__CONSUMERS__MAIL__RETRY__JITTER)
consumers.mail.timeout: expected a duration with its unit, such as "500ms", "30s" or "10m" (environment variable LAPWING__CONSUMERS__MAIL__TIMEOUT)
consumers.orders.bindings[1].exchange: expected a string, found true or false (FILE, line 14)
consumers.orders.bindings[1].key: unknown key; valid here: exchange, routing_key (FILE, line 14)
consumers.orders.decode: expected "auto" or "json" or "bytes"; did you mean "json"? (FILE, line 13)
consumers.orders.max_attempts: unknown key; did you mean `retry.max_attempts`? (FILE, line 15)
consumers.orders.prefetch: expected a whole number from 1 to 65535 (FILE, line 12)
consumers.orders.queue: expected a string, found a whole number (FILE, line 11)
consumers.orders.retry.rules[0].action: is required (FILE, line 16)
consumers.orders.retry.rules[0].status: expected a status such as 409, "500-599" or "5xx" (FILE, line 17)
drain.grace: expected a duration with its unit, such as "500ms", "30s" or "10m" (FILE, line 7)
drian: unknown key; did you mean `drain`? (environment variable LAPWING__DRIAN__GRACE)
log.format: expected "text" or "json" (FILE, line 9)
publish.channels: expected a whole number, 1 or more (environment variable LAPWING__PUBLISH__CHANNELS)"#;
    assert_eq!(shown(text, &environment), expected.trim_start());
}

#[test]
fn what_follows_from_a_problem_is_not_listed_beside_it() {
    let agree = "consumers.b = { queue = \"a\", retry.base = \"600ms\" }\n";
    for (text, paths) in [
        // Without its own value, a wrong key would fall back to a default that is too small for the
        // other values.
        (
            "consumers.a = { queue = \"a\", prefetch = \"x\", concurrency = 100 }",
            vec!["consumers.a.prefetch"],
        ),
        (
            "consumers.a = { queue = \"a\", prefech = 200, concurrency = 100 }",
            vec!["consumers.a.prefech"],
        ),
        ("consumers.a.queue = 5", vec!["consumers.a.queue"]),
        ("consumers.a.queue = 1979-05-27", vec!["consumers.a.queue"]),
        ("consumers.a.quue = \"a\"", vec!["consumers.a.quue"]),
        (
            &format!("{agree}consumers.a = {{ queue = \"a\", retry.base = 600 }}"),
            vec!["consumers.a.retry.base"],
        ),
        // The rule whose class was refused has no status either.
        (
            "consumers.a.queue = \"a\"\n\
             consumers.a.retry.rules = [{ class = 5, action = \"retry\" }, { action = \"retry\" }, \
             { class = \"x\", action = \"retry\" }]",
            vec![
                "consumers.a.retry.rules[0].class",
                "consumers.a.retry.rules[1].class",
            ],
        ),
        // Every problem that is independent of the others is listed.
        (
            "consumers.a = { queue = \"a\", handler = { kind = \"htp\", headers = { \"a b\" = \"x\" } } }",
            vec![
                "consumers.a.handler.headers.\"a b\"",
                "consumers.a.handler.kind",
            ],
        ),
        (
            "broker = { heartbeat = 5, tls = { cert_file = \"/missing\" } }",
            vec![
                "broker.heartbeat",
                "broker.tls.cert_file",
                "broker.tls.cert_file",
                "broker.tls.cert_file",
            ],
        ),
    ] {
        let error = Settings::from_toml(text).unwrap_err();
        let found: Vec<&str> = error
            .problems
            .iter()
            .map(|problem| &*problem.path)
            .collect();
        assert_eq!(found, paths, "{text}\n{error}");
    }
}

#[test]
fn every_item_of_a_list_is_looked_at_whatever_is_wrong_with_its_neighbours() {
    let rules = r#"[
        { class = "a", action = "drop" },
        { action = "drop" },
        { class = "", action = 5 },
        { class = "b" },
        5,
        { action = "retry" },
        { class = 5, status = "9x", acton = "retry" },
        { class = "c", action = 1979-05-27 },
        { class = "", action = "retry" }]"#;
    let bindings = r#"[{ exchange = 5 }, { routing_key = "x" }, ["a"], { exchange = "" }]"#;
    let at_rules = r#"
consumers.a.retry.rules[0].action: expected "retry" or "dead-letter" or "unavailable" (FILE, line 4)
consumers.a.retry.rules[1].action: expected "retry" or "dead-letter" or "unavailable" (FILE, line 5)
consumers.a.retry.rules[1].class: is required, or `status`: a rule without both matches every failure, so only the last rule may be one (FILE, line 5)
consumers.a.retry.rules[2].action: expected "retry" or "dead-letter" or "unavailable" (FILE, line 6)
consumers.a.retry.rules[2].class: must not be empty (FILE, line 6)
consumers.a.retry.rules[3].action: is required (FILE, line 7)
consumers.a.retry.rules[4]: expected a table, found a whole number (FILE, line 8)
consumers.a.retry.rules[5].class: is required, or `status`: a rule without both matches every failure, so only the last rule may be one (FILE, line 9)
consumers.a.retry.rules[6].acton: unknown key; did you mean `action`? (FILE, line 10)
consumers.a.retry.rules[6].class: expected a string, found a whole number (FILE, line 10)
consumers.a.retry.rules[6].status: expected a status such as 409, "500-599" or "5xx" (FILE, line 10)
consumers.a.retry.rules[7].action: dates and numbers beyond 64 bits are not allowed here (FILE, line 11)
consumers.a.retry.rules[8].class: must not be empty (FILE, line 12)"#;
    let at_bindings = r#"
consumers.a.bindings[0].exchange: expected a string, found a whole number (FILE, line 2)
consumers.a.bindings[1].exchange: must not be empty (FILE, line 2)
consumers.a.bindings[2]: expected a table, found a list (FILE, line 2)
consumers.a.bindings[3].exchange: must not be empty (FILE, line 2)"#;
    let text = format!("consumers.a.queue = \"a\"\nconsumers.a.bindings = {bindings}\n");
    let both = format!("{text}consumers.a.retry.rules = {rules}");
    assert_eq!(
        shown(&both, &[]),
        format!("{at_bindings}{at_rules}").trim_start()
    );

    // One variable holds a whole list.
    let variable = "LAPWING__CONSUMERS__A__BINDINGS";
    let expected = at_bindings.replace("FILE, line 2", &format!("environment variable {variable}"));
    assert_eq!(
        shown("consumers.a.queue = \"a\"", &[(variable, bindings)]),
        expected.trim_start()
    );
}

#[test]
fn each_key_has_its_environment_variable() {
    let certificate = file("-----BEGIN CERTIFICATE-----");
    for (key, value) in keys(&complete()) {
        if key.contains('"') || key.contains("routes.") || key.contains("arguments.") {
            continue;
        }
        let name = format!("LAPWING__{}", key.replace('.', "__").to_uppercase());
        let text = match &value {
            toml::Value::String(_) if key.ends_with("_file") => {
                certificate.path().display().to_string()
            }
            toml::Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let mut environment = variables(&[(&name, &text)]);
        if key.contains(".handler.") && !key.ends_with("kind") {
            environment.extend(variables(&[(
                "LAPWING__CONSUMERS__ORDERS__HANDLER__KIND",
                "http",
            )]));
        }
        let settings = Settings::load_unvalidated(None, environment);
        let settings = settings.unwrap_or_else(|error| panic!("{name}={text}\n{error}"));
        let set = keys(&settings).remove(&key);
        if !key.ends_with("_file") {
            assert_eq!(set, Some(value), "{name}");
        }
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let error = Settings::load(Some(Path::new("/missing.toml")), []).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("/missing.toml: cannot be read: No such file"),
        "{error}"
    );
}

#[test]
fn a_key_set_twice_in_the_environment_is_refused() {
    for environment in [
        [
            ("LAPWING__BROKER__NAME", "a"),
            ("LAPWING__BROKER__name", "b"),
        ],
        [
            ("LAPWING__BROKER", "{ name = \"a\" }"),
            ("LAPWING__BROKER__NAME", "b"),
        ],
    ] {
        let error = Settings::load(None, variables(&environment)).unwrap_err();
        assert_eq!(error.problems.len(), 1, "{error}");
        assert!(
            error.problems[0].message.starts_with("set twice"),
            "{error}"
        );
    }
}

#[test]
fn a_problem_is_laid_at_the_door_of_the_source_that_can_mend_it() {
    let text = "[consumers.a]\nqueue = \"a\"\n";
    for (environment, source) in [
        // Neither key is in the file, so the changed key is reported.
        (
            ("LAPWING__CONSUMERS__A__PREFETCH", "5"),
            "LAPWING__CONSUMERS__A__PREFETCH",
        ),
        // The variable replaces the list and all its items.
        (
            ("LAPWING__CONSUMERS__A__BINDINGS", "[{}]"),
            "LAPWING__CONSUMERS__A__BINDINGS",
        ),
        // A consumer that only a variable names lacks a queue.
        (
            ("LAPWING__CONSUMERS__B__PREFETCH", "50"),
            "LAPWING__CONSUMERS__B__PREFETCH",
        ),
    ] {
        let shown = shown(
            &format!("{text}bindings = [{{ exchange = \"x\" }}]"),
            &[environment],
        );
        assert!(
            shown.ends_with(&format!("(environment variable {source})")),
            "{shown}"
        );
    }
    let shown = shown("[consumers.a]\nprefetch = 5\nconcurrency = 2", &[]);
    assert_eq!(
        shown,
        "consumers.a.queue: is required: the name of the queue to consume (FILE, line 1)"
    );
}

#[test]
fn syntax_errors_are_listed_with_their_lines_and_never_quoted() {
    let shown = shown(
        "[broker]\nurl = \"amqp://u:s3cret@a\nname = s3cret\n[drain]\ngrace = \n",
        &[],
    );
    assert!(!shown.contains("s3cret"), "{shown}");
    for line in ["FILE, line 2: ", "FILE, line 3: ", "FILE, line 5: "] {
        assert!(shown.contains(line), "{shown}");
    }
}

#[test]
fn a_key_that_is_set_twice_is_named() {
    let shown = shown("[broker]\nname = \"a\"\nname = \"b\"\n", &[]);
    assert_eq!(shown, "FILE, line 3: `name` is set twice");
}

mod properties {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_document_and_environment_is_answered(
            text in "([a-z_]{1,9}|broker|consumers)(\\.[a-z]{1,5}){0,2} = (5|\"x\"|\\[\\{\\}, 5\\]|\\{ a = 1 \\})\n",
            name in "LAPWING__(BROKER|CONSUMERS|[A-Z_]{0,9})(__[A-Z_\\.\\[\\]]{0,8}){0,3}",
            value in ".*",
        ) {
            if let Err(error) = load(&text, &[(&name, &value)]) {
                prop_assert!(!error.problems.is_empty());
                prop_assert_eq!(error.to_string().lines().count(), error.problems.len());
            }
        }

        #[test]
        fn durations_read_back_as_they_print(millis in 1u64..43_200_000) {
            let mut settings = complete();
            settings.consumers.get_mut("orders").unwrap().timeout = Duration::from_millis(millis);
            let text = toml::to_string(&settings).unwrap();
            let read = Settings::load_unvalidated(Some(file(&text).path()), []).unwrap();
            prop_assert_eq!(read.consumers["orders"].timeout, Duration::from_millis(millis));
        }
    }
}
