//! Layers, strictness, and every problem at once.

use std::{io::Write, os::unix::ffi::OsStringExt, time::Duration};

use tempfile::NamedTempFile;

use super::*;
use crate::config::{
    Decode, LogFormat, Secret,
    sample::{complete, keys},
};

fn file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn variables(variables: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = variables.iter();
    owned.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn load(text: &str, environment: &[(&str, &str)]) -> Result<Settings, ConfigError> {
    Settings::load(Some(file(text).path()), variables(environment))
}

/// What is shown, with `FILE` for the file's name.
fn shown(text: &str, environment: &[(&str, &str)]) -> String {
    let file = file(text);
    let error = Settings::load(Some(file.path()), variables(environment)).unwrap_err();
    error.to_string().replace(&file.path().display().to_string(), "FILE")
}

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
broker.prefech: unknown key; valid here: url, url_file, password_file, name, heartbeat, fail_fast, reconnect, tls (FILE, line 4)
broker.url: ends in `/`, which means the virtual host without a name: write `/%2f` for the default virtual host, or nothing (FILE, line 3)
consumers.mail.concurrency: is 100, must not be above `prefetch` (64) (FILE, line 20)
consumers.mail.retry.jitter: is 2, must be 0 to 1 (environment variable LAPWING__CONSUMERS__MAIL__RETRY__JITTER)
consumers.mail.timeout: expected a duration with its unit, such as "500ms", "30s" or "10m" (environment variable LAPWING__CONSUMERS__MAIL__TIMEOUT)
consumers.orders.bindings[1].exchange: expected a string, found true or false (FILE, line 14)
consumers.orders.bindings[1].key: unknown key; valid here: exchange, routing_key (FILE, line 14)
consumers.orders.decode: expected "auto" or "json" or "bytes"; did you mean "json"? (FILE, line 13)
consumers.orders.max_attempts: unknown key; did you mean `retry.max_attempts`? (FILE, line 15)
consumers.orders.prefetch: expected a whole number from 0 to 65535 (FILE, line 12)
consumers.orders.queue: expected a string, found a whole number (FILE, line 11)
consumers.orders.retry.rules[0].action: is required (FILE, line 16)
consumers.orders.retry.rules[0].status: expected a status such as 409, "500-599" or "5xx" (FILE, line 17)
drain.grace: expected a duration with its unit, such as "500ms", "30s" or "10m" (FILE, line 7)
drian: unknown key; did you mean `drain`? (environment variable LAPWING__DRIAN__GRACE)
log.format: expected "text" or "json" (FILE, line 9)
publish.channels: expected a whole number, 0 or more (environment variable LAPWING__PUBLISH__CHANNELS)"#;
    assert_eq!(shown(text, &environment), expected.trim_start());
}

#[test]
fn what_follows_from_a_problem_is_not_listed_beside_it() {
    let agree = "consumers.b = { queue = \"a\", retry.base = \"600ms\" }\n";
    for (text, paths) in [
        // Without its value, the default would be too small for what is right.
        (
            "consumers.a = { queue = \"a\", prefetch = \"x\", concurrency = 100 }",
            vec!["consumers.a.prefetch"],
        ),
        (
            "consumers.a = { queue = \"a\", prefech = 200, concurrency = 100 }",
            vec!["consumers.a.prefech"],
        ),
        ("consumers.a.queue = 5", vec!["consumers.a.queue"]),
        ("consumers.a.quue = \"a\"", vec!["consumers.a.quue"]),
        (
            &format!("{agree}consumers.a = {{ queue = \"a\", retry.base = 600 }}"),
            vec!["consumers.a.retry.base"],
        ),
        // The rule that lost its class has no status either; the second has another index now.
        (
            "consumers.a.queue = \"a\"\n\
             consumers.a.retry.rules = [{ class = 5, action = \"retry\" }, { action = \"retry\" }]",
            vec!["consumers.a.retry.rules[0].class"],
        ),
        // What is apart is listed.
        (
            "broker = { heartbeat = 5, tls = { cert_file = \"/missing\" } }",
            vec!["broker.heartbeat", "broker.tls.cert_file", "broker.tls.cert_file", "broker.tls.cert_file"],
        ),
    ] {
        let error = Settings::from_toml(text).unwrap_err();
        let found: Vec<&str> = error.problems.iter().map(|problem| &*problem.path).collect();
        assert_eq!(found, paths, "{text}\n{error}");
    }
}

#[test]
fn a_document_is_taken_at_its_word() {
    for (text, expected) in [
        ("publish.channels = \"16\"", "expected a whole number, 0 or more, found a string"),
        ("publish.channels = 10.7", "found a number with a decimal point"),
        ("publish.channels = -1", "expected a whole number, 0 or more"),
        ("broker.fail_fast = \"yes\"", "expected true or false, found a string"),
        ("broker.fail_fast = 1", "expected true or false, found a whole number"),
        ("broker.name = 5", "expected a string, found a whole number"),
        ("broker.url = 5", "expected a URL or a list of URLs, found a whole number"),
        ("broker.url = [5]", "expected a string, found a whole number"),
        ("broker.url_file = 5", "expected a path, found a whole number"),
        ("broker = 5", "expected a table, found a whole number"),
        ("consumers = []", "expected a table, found a list"),
        ("consumers.a.bindings = {}", "expected a list, found a table"),
        ("log.format = 5", "expected \"text\" or \"json\""),
        ("log.format = \"TEXT\"", "expected \"text\" or \"json\""),
        ("broker.heartbeat = 1979-05-27", "dates and numbers beyond 64 bits"),
        ("publish.channels = 99999999999999999999", "dates and numbers beyond 64 bits"),
        ("\"broker.name\" = \"x\"", "unknown key"),
    ] {
        let error = Settings::from_toml(text).unwrap_err();
        let first = &error.problems[0];
        assert!(first.message.contains(expected), "{text}\n{error}");
        assert_eq!(first.source, Source::Text { line: Some(1) }, "{text}");
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
            ("LAPWING__CONSUMERS__A__BINDINGS", "[{ exchange = \"y\" }, { exchange = \"z\" }]"),
            ("LAPWING__CONSUMERS__A__HANDLER__KIND", "http"),
            ("LAPWING__CONSUMERS__A__HANDLER__URL", "http://a"),
            ("LAPWING__CONSUMERS__A__HANDLER__HEADERS", "{ \"x-api-key\" = \"007\" }"),
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
    assert_eq!(consumer.handler.headers["x-api-key"], Secret::from("007"));

    for (name, value, expected) in [
        ("LAPWING__PUBLISH__CHANNELS", "10.7", "expected a whole number, 0 or more"),
        ("LAPWING__PUBLISH__CHANNELS", "", "expected a whole number, 0 or more"),
        ("LAPWING__BROKER__FAIL_FAST", "yes", "expected true or false"),
        ("LAPWING__BROKER", "x", "expected a table, which a variable holds as TOML"),
        ("LAPWING__BROKER", "{ name = 5 }", "expected a string, found a whole number"),
        ("LAPWING__BROKER__URL__X", "x", "expected a URL or a list of URLs, found a table"),
        ("LAPWING__BROKER____NAME", "x", "unknown key"),
        ("LAPWING__", "x", "unknown key"),
    ] {
        let error = Settings::load(None, variables(&[(name, value)])).unwrap_err();
        assert!(error.problems[0].message.starts_with(expected), "{name}={value}\n{error}");
        let source = Source::Environment { variable: name.to_owned() };
        assert_eq!(error.problems[0].source, source);
    }
}

#[test]
fn each_key_has_its_environment_variable() {
    let certificate = file("-----BEGIN CERTIFICATE-----");
    for (key, value) in keys(&complete()) {
        if key.contains('"') || key.contains("types.") {
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
        let settings = Settings::load_unvalidated(None, [(name.clone(), text.clone())]);
        let settings = settings.unwrap_or_else(|error| panic!("{name}={text}\n{error}"));
        let set = keys(&settings).remove(&key);
        if !key.ends_with("_file") {
            assert_eq!(set, Some(value), "{name}");
        }
    }
}

#[test]
fn a_key_set_twice_in_the_environment_is_refused() {
    for environment in [
        [("LAPWING__BROKER__NAME", "a"), ("LAPWING__BROKER__name", "b")],
        [("LAPWING__BROKER", "{ name = \"a\" }"), ("LAPWING__BROKER__NAME", "b")],
    ] {
        let error = Settings::load(None, variables(&environment)).unwrap_err();
        assert_eq!(error.problems.len(), 1, "{error}");
        assert!(error.problems[0].message.starts_with("set twice"), "{error}");
    }
}

#[test]
fn a_problem_is_laid_at_the_door_of_the_source_that_can_mend_it() {
    let text = "[consumers.a]\nqueue = \"a\"\n";
    for (environment, source) in [
        // Neither is in the file; the one that was changed is to blame.
        (("LAPWING__CONSUMERS__A__PREFETCH", "5"), "LAPWING__CONSUMERS__A__PREFETCH"),
        // The variable replaces the list with all that was in it.
        (("LAPWING__CONSUMERS__A__BINDINGS", "[{}]"), "LAPWING__CONSUMERS__A__BINDINGS"),
        // A consumer that only a variable names lacks a queue.
        (("LAPWING__CONSUMERS__B__PREFETCH", "50"), "LAPWING__CONSUMERS__B__PREFETCH"),
    ] {
        let shown = shown(&format!("{text}bindings = [{{ exchange = \"x\" }}]"), &[environment]);
        assert!(shown.ends_with(&format!("(environment variable {source})")), "{shown}");
    }
    let shown = shown("[consumers.a]\nprefetch = 5\nconcurrency = 2", &[]);
    assert_eq!(
        shown,
        "consumers.a.queue: is required: the name of the queue to consume (FILE, line 1)"
    );
}

#[test]
fn syntax_errors_are_listed_with_their_lines_and_never_quoted() {
    let shown = shown("[broker]\nurl = \"amqp://u:s3cret@a\nname = s3cret\n[drain]\ngrace = \n", &[]);
    assert!(!shown.contains("s3cret"), "{shown}");
    for line in ["FILE, line 2: ", "FILE, line 3: ", "FILE, line 5: "] {
        assert!(shown.contains(line), "{shown}");
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let error = Settings::load(Some(Path::new("/missing.toml")), []).unwrap_err();
    assert!(error.to_string().starts_with("/missing.toml: cannot be read: No such file"), "{error}");
}

#[test]
fn a_variable_that_is_not_text_is_refused_and_not_shown() {
    let variable = |name: &str, value: &[u8]| (name.into(), std::ffi::OsString::from_vec(value.to_vec()));
    let ours = variable("LAPWING__BROKER__URL", b"s3cret\xff");
    let theirs = variable("THEIRS", b"\xff");
    assert_eq!(text_of([theirs.clone()]), Ok(Vec::new()));
    let error = text_of([ours, theirs]).unwrap_err();
    assert_eq!(error.to_string(), "environment variable LAPWING__BROKER__URL: is not valid UTF-8");
}

/// Whatever stands where, in whichever type: errors describe it and do not show it. Names of files
/// are shown, as they must be.
#[test]
fn no_error_shows_a_value() {
    let wrong = [
        "\"s3cret\"", "\"amqp://u:s3cret@a/\"", "[\"s3cret\"]", "[[\"s3cret\"]]", "{ a = \"s3cret\" }",
        "[{ a = \"s3cret\" }]", "53037", "53037.5", "-53037",
    ];
    let mut refused = 0;
    for key in keys(&complete()).into_keys().filter(|key| !key.ends_with("_file")) {
        for value in wrong {
            let key = key.replace("types.order.paid", "types.\"order.paid\"");
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
