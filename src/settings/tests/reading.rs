//! Types, and the content of errors.

use super::{complete, keys, load, variables};
use crate::settings::{Decode, HandlerSettings, Secret, Settings, Source};

#[test]
fn a_document_is_taken_at_its_word() {
    for (text, expected) in [
        (
            "publish.channels = \"16\"",
            "expected a whole number, 1 or more, found a string",
        ),
        (
            "publish.channels = 10.7",
            "found a number with a decimal point",
        ),
        (
            "publish.channels = -1",
            "expected a whole number, 1 or more",
        ),
        (
            "broker.fail_fast = \"yes\"",
            "expected true or false, found a string",
        ),
        (
            "broker.fail_fast = 1",
            "expected true or false, found a whole number",
        ),
        ("broker.name = 5", "expected a string, found a whole number"),
        (
            "broker.url = 5",
            "expected a URL or a list of URLs, found a whole number",
        ),
        (
            "broker.url = [5]",
            "expected a string, found a whole number",
        ),
        (
            "broker.url_file = 5",
            "expected a path, found a whole number",
        ),
        ("broker = 5", "expected a table, found a whole number"),
        (
            "consumers.a.handler = \"http://127.0.0.1/\"",
            "expected a table, such as { kind = \"http\", url = \"http://127.0.0.1:8000/orders\" }",
        ),
        ("consumers = []", "expected a table, found a list"),
        (
            "consumers.a.bindings = {}",
            "expected a list, found a table",
        ),
        ("log.format = 5", "expected \"text\" or \"json\""),
        ("log.format = \"TEXT\"", "expected \"text\" or \"json\""),
        (
            "broker.heartbeat = 1979-05-27",
            "dates and numbers beyond 64 bits",
        ),
        (
            "publish.channels = 99999999999999999999",
            "dates and numbers beyond 64 bits",
        ),
        ("\"broker.name\" = \"x\"", "unknown key"),
    ] {
        let error = Settings::from_toml(text).unwrap_err();
        let first = &error.problems[0];
        assert!(first.message.contains(expected), "{text}\n{error}");
        assert_eq!(first.source, Source::Text { line: Some(1) }, "{text}");
    }
}

/// Errors ask for numbers from 1 everywhere, because no integer setting may be 0.
#[test]
fn whole_numbers_begin_where_the_settings_do() {
    for (key, value) in keys(&complete()) {
        if !value.is_integer() {
            continue;
        }
        let kind = match key.contains(".handler.") {
            true => "consumers.orders.handler.kind = \"http\"\n",
            false => "",
        };
        let key = key.replace("routes.order.paid", "routes.\"order.paid\"");
        for (value, beginnings) in [
            ("0", ["must be at least 1", "is 0, must be 1 to "]),
            (
                "\"x\"",
                [
                    "expected a whole number from 1 to ",
                    "expected a whole number, 1 or more",
                ],
            ),
        ] {
            let error = Settings::from_toml(&format!("{kind}{key} = {value}")).unwrap_err();
            let about = error.problems.iter().find(|problem| problem.path == key);
            let message = &about.unwrap_or_else(|| panic!("{key}\n{error}")).message;
            let begins = |beginning: &&str| message.starts_with(beginning);
            assert!(beginnings.iter().any(begins), "{key}\n{error}");
        }
    }
}

/// serde's derive accepts a list for a table, by position.
#[test]
fn a_list_is_no_table() {
    for (key, list) in [
        ("broker", "[]"),
        ("broker.reconnect", "[\"1s\"]"),
        ("drain", "[]"),
        ("consumers", "[]"),
        ("consumers.a", "[\"a\"]"),
        ("consumers.a.ack", "[7]"),
        ("consumers.a.retry", "[3, \"5m\"]"),
        ("consumers.a.handler", "[]"),
        ("consumers.a.handler.headers", "[]"),
        ("consumers.a.routes.b", "[\"log\"]"),
        ("consumers.a.routes.b.retry", "[3]"),
    ] {
        let name = format!("LAPWING__{}", key.replace('.', "__").to_uppercase());
        let (text, kind) = match key {
            "consumers.a.handler.headers" => ("\nconsumers.a.handler.kind = \"http\"", "http"),
            _ => ("", ""),
        };
        let mut environment = variables(&[(&name, list)]);
        if !kind.is_empty() {
            environment.extend(variables(&[("LAPWING__CONSUMERS__A__HANDLER__KIND", kind)]));
        }
        for error in [
            Settings::from_toml(&format!("{key} = {list}{text}")).unwrap_err(),
            Settings::load(None, environment).unwrap_err(),
        ] {
            let about = error.problems.iter().filter(|it| it.path == key);
            let about: Vec<&str> = about.map(|it| &*it.message).collect();
            let [message] = about[..] else {
                panic!("{key}\n{error}");
            };
            assert!(message.starts_with("expected a table"), "{key}\n{error}");
            assert!(message.ends_with(", found a list"), "{key}\n{error}");
        }
    }
    for (key, list) in [
        ("consumers.a.bindings", "[{ exchange = \"a\" }, [\"a\"]]"),
        (
            "consumers.a.retry.rules",
            "[{ class = \"a\", action = \"retry\" }, [\"a\", \"5xx\", \"retry\"]]",
        ),
    ] {
        let error = Settings::from_toml(&format!("consumers.a.queue = \"a\"\n{key} = {list}"));
        let error = error.unwrap_err().to_string();
        assert_eq!(
            error,
            format!("{key}[1]: expected a table, found a list (text, line 2)")
        );
    }
}

#[test]
fn the_environment_is_taken_as_the_type_that_is_asked_for() {
    let settings = load(
        "[consumers.a]\nqueue = \"a\"\nbindings = [{ exchange = \"x\" }]",
        &[
            ("LAPWING__BROKER__NAME", "00123"),
            ("LAPWING__BROKER__FAIL_FAST", "true"),
            ("LAPWING__BROKER__URL", "amqp://a\n amqp://b"),
            ("LAPWING__PUBLISH__CHANNELS", " 5 "),
            ("LAPWING__CONSUMERS__A__RETRY__FACTOR", "3"),
            ("LAPWING__CONSUMERS__A__DECODE", "json"),
            ("LAPWING__CONSUMERS__A__DEAD_LETTER_QUEUE", "1e5"),
            (
                "LAPWING__CONSUMERS__A__BINDINGS",
                "[{ exchange = \"y\" }, { exchange = \"z\" }]",
            ),
            ("LAPWING__CONSUMERS__A__HANDLER__KIND", "http"),
            ("LAPWING__CONSUMERS__A__HANDLER__URL", "http://a"),
            (
                "LAPWING__CONSUMERS__A__HANDLER__HEADERS",
                "{ \"x-api-key\" = \"007\" }",
            ),
        ],
    )
    .unwrap();
    assert_eq!(settings.broker.name, "00123");
    assert!(settings.broker.fail_fast);
    assert_eq!(settings.broker.url.expose(), ["amqp://a", "amqp://b"]);
    assert_eq!(settings.publish.channels, 5);
    let consumer = &settings.consumers["a"];
    assert!((consumer.retry.factor - 3.0).abs() < f64::EPSILON);
    assert_eq!(consumer.decode, Decode::Json);
    assert_eq!(consumer.dead_letter_queue(), "1e5");
    assert_eq!(consumer.bindings.len(), 2);
    let HandlerSettings::Http(handler) = &consumer.handler else {
        panic!("{consumer:?}");
    };
    assert_eq!(handler.headers["x-api-key"], Secret::from("007"));

    for (name, value, expected) in [
        (
            "LAPWING__PUBLISH__CHANNELS",
            "10.7",
            "expected a whole number, 1 or more",
        ),
        (
            "LAPWING__PUBLISH__CHANNELS",
            "",
            "expected a whole number, 1 or more",
        ),
        (
            "LAPWING__BROKER__FAIL_FAST",
            "yes",
            "expected true or false",
        ),
        ("LAPWING__BROKER", "x", "expected a table, written as TOML"),
        (
            "LAPWING__BROKER",
            "{ name = 5 }",
            "expected a string, found a whole number",
        ),
        (
            "LAPWING__BROKER__URL__X",
            "x",
            "expected a URL or a list of URLs, found a table",
        ),
        ("LAPWING__BROKER____NAME", "x", "unknown key"),
        ("LAPWING__", "x", "unknown key"),
    ] {
        let error = Settings::load(None, variables(&[(name, value)])).unwrap_err();
        assert!(
            error.problems[0].message.starts_with(expected),
            "{name}={value}\n{error}"
        );
        let source = Source::Environment {
            variable: name.to_owned(),
        };
        assert_eq!(error.problems[0].source, source);
    }
}

/// Errors describe values and do not show them, whatever the value and its place. Names of files
/// are shown, because the reader needs them.
#[test]
fn no_error_shows_a_value() {
    let wrong = [
        "\"s3cret\"",
        "\"amqp://u:s3cret@a/\"",
        "[\"s3cret\"]",
        "[[\"s3cret\"]]",
        "{ a = \"s3cret\" }",
        "[{ a = \"s3cret\" }]",
        "53037",
        "53037.5",
        "-53037",
    ];
    let mut refused = 0;
    for key in keys(&complete())
        .into_keys()
        .filter(|key| !key.ends_with("_file"))
    {
        for value in wrong {
            let key = key.replace("routes.order.paid", "routes.\"order.paid\"");
            let name = format!("LAPWING__{}", key.replace('.', "__").to_uppercase());
            let bare = value.trim_matches('"');
            for result in [
                Settings::from_toml(&format!("{key} = {value}")),
                Settings::load(None, variables(&[(&name, value)])),
                Settings::load(None, variables(&[(&name, bare)])),
            ] {
                let Err(error) = result else { continue };
                refused += 1;
                // Numbers out of range are shown: no key with a number is secret.
                let shown = format!("{error} {error:?}");
                assert!(!shown.contains("s3cret"), "{key} = {value}\n{error}");
            }
        }
    }
    assert!(refused > 500, "{refused}");
}
