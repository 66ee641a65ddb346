//! Each check by what it refuses, and what it must let through.

use std::io::Write;

use tempfile::NamedTempFile;

use super::*;

/// The problems of this text, without their sources.
fn problems(text: &str) -> Vec<String> {
    let Err(error) = Settings::from_toml(text) else {
        return Vec::new();
    };
    let problems = error.problems.iter();
    problems
        .map(|Problem { path, message, .. }| format!("{path}: {message}"))
        .collect()
}

/// Each text has one problem, which begins so.
#[track_caller]
fn refused(cases: &[(&str, &str)]) {
    for (text, beginning) in cases {
        match problems(text).as_slice() {
            [only] if only.starts_with(beginning) => {}
            found => panic!("{text}\nwanted: {beginning}\nfound: {found:#?}"),
        }
    }
}

#[track_caller]
fn allowed(cases: &[&str]) {
    for text in cases {
        assert_eq!(problems(text), [""; 0], "{text}");
    }
}

/// A consumer with these further lines.
fn orders(lines: &str) -> String {
    format!("[consumers.orders]\nqueue = \"orders\"\n{lines}")
}

#[track_caller]
fn orders_refused(cases: &[(&str, &str)]) {
    for (lines, beginning) in cases {
        let beginning = format!("consumers.orders.{beginning}");
        refused(&[(&orders(lines), &beginning)]);
    }
}

fn file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

#[test]
fn the_defaults_are_allowed() {
    allowed(&["", &orders("")]);
    assert_eq!(Settings::default().validate(), Ok(()));
}

#[test]
fn settings_changed_in_code_are_checked_too() {
    let mut settings = Settings::default();
    settings.publish.channels = 0;
    assert_eq!(
        settings.validate().unwrap_err().to_string(),
        "publish.channels: is 0, must be 1 to 1000"
    );
}

#[test]
fn a_worker_needs_consumers_and_handlers() {
    let settings = Settings::from_toml("").unwrap();
    assert!(settings.require_consumers().is_err());
    assert_eq!(settings.require_handlers(), Ok(()));

    let settings = Settings::from_toml(&orders("")).unwrap();
    assert_eq!(settings.require_consumers(), Ok(()));
    let error = settings.require_handlers().unwrap_err();
    assert_eq!(error.problems[0].path, "consumers.orders.handler");

    for with in ["handler.kind = \"log\"", "types.a.kind = \"log\""] {
        let settings = Settings::from_toml(&orders(with)).unwrap();
        assert_eq!(settings.require_handlers(), Ok(()), "{with}");
    }
}

#[test]
fn a_timeout_near_the_brokers_own_is_warned_of() {
    let warnings = |lines: &str| Settings::from_toml(&orders(lines)).unwrap().warnings();
    assert_eq!(warnings("timeout = \"29m\""), []);
    let warned = warnings("timeout = \"30m\"");
    assert_eq!(warned.len(), 1);
    assert_eq!(warned[0].path, "consumers.orders.timeout");
}

#[test]
fn broker_and_publish_settings_keep_their_ranges() {
    refused(&[
        ("broker.name = \"\"", "broker.name: must not be empty"),
        ("broker.name = \"a\\nb\"", "broker.name: must not hold control"),
        ("broker.heartbeat = \"0s\"", "broker.heartbeat: is 0s, must be 1s to"),
        ("broker.heartbeat = \"65536s\"", "broker.heartbeat: is 18h 12m 16s, must be"),
        ("broker.heartbeat = \"1500ms\"", "broker.heartbeat: must be whole seconds"),
        ("broker.reconnect.base = \"0s\"", "broker.reconnect.base: is 0s, must be 1ms"),
        ("broker.reconnect.base = \"31s\"", "broker.reconnect.cap: is 30s, must not be below"),
        ("broker.reconnect.cap = \"61m\"", "broker.reconnect.cap: is 1h 1m, must be"),
        ("publish.channels = 0", "publish.channels: is 0, must be 1 to 1000"),
        ("publish.channels = 1001", "publish.channels: is 1001, must be"),
        ("publish.budget = \"0s\"", "publish.budget: is 0s, must be 1ms"),
        ("publish.hold = \"0s\"", "publish.hold: is 0s, must be 1ms"),
    ]);
    let long = format!("broker.name = \"{}\"", "x".repeat(256));
    refused(&[(&long, "broker.name: has 256 bytes")]);
    allowed(&[
        "broker.heartbeat = \"1s\"",
        "broker.heartbeat = \"65535s\"",
        "publish.channels = 1000",
    ]);
}

#[test]
fn process_settings_keep_their_ranges() {
    refused(&[
        ("drain.grace = \"25h\"", "drain.grace: is 1day 1h, must be 0s to 1day"),
        ("drain.settle = \"0s\"", "drain.settle: is 0s, must be 1ms to 1m"),
        ("state.mailbox = 0", "state.mailbox: is 0, must be 1 to"),
        ("state.mailbox = 1000001", "state.mailbox: is 1000001"),
        ("log.filter = \"\"", "log.filter: expected a level"),
        ("log.filter = \"info,\"", "log.filter: expected a level"),
        ("log.filter = \"info, lapwing=debug\"", "log.filter: expected a level"),
        ("log.filter = \"inof\"", "log.filter: expected a level"),
        ("log.filter = \"info,lapwing=lot\"", "log.filter: expected a level"),
    ]);
    for key in [
        "connect", "handshake", "declare", "checkout", "publish", "confirm", "ack", "call",
        "close", "telemetry_flush",
    ] {
        let beginning = format!("timeouts.{key}: is 0s, must be 1ms to 1h");
        refused(&[(&format!("timeouts.{key} = \"0s\""), &beginning)]);
    }
    allowed(&[
        "drain.grace = \"0s\"",
        "log.filter = \"off\"",
        "log.filter = \"WARN,lapwing::broker=debug\"",
        "log.filter = \"info,[delivery{lane}]=trace\"",
    ]);
}

#[test]
fn broker_urls_are_whole_and_encoded() {
    for (url, beginning) in [
        ("", "at least one URL is required"),
        ("rabbit", "is not a URL; expected amqp://user:password@host:5672/%2f"),
        ("u:s3cret@rabbit:5672", "must begin with amqp:// or amqps://"),
        ("http://rabbit", "must begin with amqp:// or amqps://"),
        ("amqp:///%2f", "has no host"),
        ("amqp:rabbit", "has no host"),
        ("amqp://u:s3/cret@rabbit/%2f", "is not a URL"),
        ("amqp://u:12/s3cret@rabbit/%2f", "has characters that are not percent-encoded"),
        ("amqp://u:12?s3cret@rabbit/%2f", "has characters that are not percent-encoded"),
        ("amqp://u:12#s3cret", "has characters that are not percent-encoded"),
        ("amqp://rabbit/", "ends in `/`, which means the virtual host without a name"),
        ("amqp://rabbit//", "a `/` in the virtual host's name is written `%2f`"),
        ("amqp://rabbit/a/b", "a `/` in the virtual host's name is written `%2f`"),
        ("amqp://rabbit/%2f?heartbeat=5", "`heartbeat` is a setting, not a parameter: broker.heartbeat"),
        ("amqp://rabbit/%2f?connection_timeout=5", "`connection_timeout` is two settings"),
        ("amqp://rabbit/%2f?frame_max=x", "`frame_max` must be"),
        ("amqp://rabbit/%2f?channel_max=65536", "`channel_max` must be"),
        ("amqp://rabbit/%2f?channel_max=15", "`channel_max` leaves no room"),
        ("amqp://rabbit/%2f?auth_mechanism=none", "`auth_mechanism` must be one of plain"),
        ("amqp://rabbit/%2f?s3cret=5", "has an unknown parameter"),
    ] {
        let text = format!("broker.url = \"{url}\"");
        refused(&[(&text, &format!("broker.url: {beginning}"))]);
        let shown = problems(&text).concat();
        assert!(!shown.contains("s3cret"), "{shown}");
    }
    allowed(&[
        "broker.url = \"amqp://rabbit\"",
        "broker.url = \"amqps://u:p%2f@[::1]:5671/a%2fb?auth_mechanism=EXTERNAL\"",
        "broker.url = \"amqp://rabbit/%2f?channel_max=0&frame_max=8192\"",
        "broker.url = \"amqp://a amqp://b/%2f\"",
        "broker.url = [\"amqp://a\", \"amqp://b/%2f\"]",
    ]);
    refused(&[(
        "broker.url = [\"amqp://a\", \"amqp://b/\"]",
        "broker.url[1]: ends in `/`",
    )]);
}

#[test]
fn files_with_secrets_are_there_and_hold_something() {
    let empty = file(" \n");
    let urls = file("amqp://u:p@a/%2f\namqps://u:p@b/%2f\n");
    let wrong = file("amqp://u:s3cret@a/\n");
    let (empty, urls, wrong) = (empty.path().display(), urls.path().display(), wrong.path().display());
    allowed(&[
        &format!("broker.url_file = \"{urls}\""),
        &format!("broker.password_file = \"{urls}\""),
    ]);
    refused(&[
        ("broker.url_file = \"/missing\"", "broker.url_file: cannot read /missing: No such file"),
        ("broker.url_file = \"/\"", "broker.url_file: cannot read /: Is a directory"),
        (&format!("broker.url_file = \"{empty}\""), "broker.url_file: "),
        (&format!("broker.url_file = \"{wrong}\""), "broker.url_file: ends in `/`"),
        ("broker.password_file = \"/missing\"", "broker.password_file: cannot read /missing"),
        (&format!("broker.password_file = \"{empty}\""), "broker.password_file: "),
        (
            &format!("broker.url = \"amqp://rabbit\"\nbroker.url_file = \"{urls}\""),
            "broker.url_file: is used in place of `url`, which is set too",
        ),
    ]);
}

#[test]
fn certificates_need_tls_and_one_another() {
    let pem = file("-----BEGIN CERTIFICATE-----");
    let pem = pem.path().display();
    let with = |url: &str, files: &[&str]| {
        let files = files.iter().map(|key| format!("broker.tls.{key} = \"{pem}\"\n"));
        format!("broker.url = {url}\n{}", files.collect::<String>())
    };
    let (plain, tls) = ("\"amqp://a\"", "\"amqps://a\"");
    allowed(&[
        &with(tls, &["ca_file", "cert_file", "key_file"]),
        &with("[\"amqp://a\", \"amqps://b\"]", &["ca_file"]),
    ]);
    refused(&[
        (&with(plain, &["ca_file"]), "broker.tls.ca_file: is of no use without TLS"),
        (&with(tls, &["cert_file"]), "broker.tls.cert_file: needs `key_file`"),
        (&with(tls, &["key_file"]), "broker.tls.key_file: needs `cert_file`"),
        (
            "broker.url = \"amqps://a\"\nbroker.tls.ca_file = \"/missing\"",
            "broker.tls.ca_file: cannot read /missing",
        ),
    ]);
}

#[test]
fn consumers_are_named_so_that_the_environment_can_name_them() {
    for name in ["Orders", "1st", "order-paid", "a__b", "a_", "_a", "\"\"", "\"ä\""] {
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
        ("concurrency = 65", "concurrency: is 65, must not be above `prefetch` (64)"),
        ("prefetch = 31", "concurrency: is 32, must not be above `prefetch` (31)"),
        ("timeout = \"0s\"", "timeout: is 0s, must be 1ms to 12h"),
        ("timeout = \"13h\"", "timeout: is 13h, must be"),
        ("cancel_grace = \"2h\"", "cancel_grace: is 2h, must be 0s to 1h"),
        ("ack.batch = 0", "ack.batch: must be at least 1"),
        ("ack.delay = \"2s\"", "ack.delay: is 2s, must be 0s to 1s"),
        ("bindings = [{ routing_key = \"a\" }]", "bindings[0].exchange: must not be empty"),
        ("bindings = [{ exchange = \"a\", routing_key = \"\\n\" }]", "bindings[0].routing_key: must"),
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
        ("retry.max_attempts = 0", "retry.max_attempts: must be at least 1"),
        ("retry.max_age = \"0s\"", "retry.max_age: is 0s, must be 1ms to"),
        ("retry.max_age = \"2years\"", "retry.max_age: is 2years, must be"),
        ("retry.base = \"0s\"", "retry.base: is 0s, must be 1ms to"),
        ("retry.base = \"11m\"", "retry.cap: is 10m, must not be below `base` (11m)"),
        ("retry.cap = \"25days\"", "retry.cap: is 25days, must be 1ms to 24days"),
        ("retry.cap = \"999ms\"", "retry.inline_below: is 1s, must not be above `cap` (999ms)"),
        ("retry.factor = 0.9", "retry.factor: is 0.9, must be 1 to 1000"),
        ("retry.factor = inf", "retry.factor: is inf, must be"),
        ("retry.factor = nan", "retry.factor: is NaN, must be"),
        ("retry.jitter = -0.1", "retry.jitter: is -0.1, must be 0 to 1"),
        ("retry.jitter = 1.1", "retry.jitter: is 1.1, must be"),
        ("retry.jitter = nan", "retry.jitter: is NaN, must be"),
        ("retry.rules = [{ action = \"retry\" }]", "retry.rules[0]: needs `class` or `status`"),
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
    let ladder = crate::backoff::Ladder::new("orders", super::consumer::RETRY_CAP_MAX);
    let longest = ladder.rungs().last().unwrap().length;
    assert!(longest.as_millis() < u128::from(u32::MAX), "{longest:?}");
}

#[test]
fn settings_of_one_kind_of_handler_are_refused_for_another() {
    orders_refused(&[
        ("handler.kind = \"http\"", "handler.url: is required by kind \"http\""),
        ("handler.url = \"http://a\"", "handler.url: belongs to kind \"http\", but the kind is \"none\""),
        (
            "handler = { kind = \"log\", headers = { a = \"b\" } }",
            "handler.headers: belongs to kind \"http\", but the kind is \"log\"",
        ),
        ("handler = { kind = \"log\", connect_timeout = \"1s\" }", "handler.connect_timeout: belongs"),
        ("handler = { kind = \"log\", ca_file = \"/x\" }", "handler.ca_file: belongs to kind"),
        ("types.a = {}", "types.a.kind: must be \"http\" or \"log\""),
        ("types.\"a.b\" = { kind = \"http\" }", "types.\"a.b\".url: is required"),
        ("types.\"\" = { kind = \"log\" }", "types.\"\": must not be empty"),
    ]);
}

#[test]
fn http_handlers_have_a_whole_url_and_headers_of_their_own() {
    let http = |rest: &str| orders(&format!("handler.kind = \"http\"\n{rest}"));
    let pem = file("-----BEGIN CERTIFICATE-----");
    let pem = pem.path().display();
    for url in ["orders", "/orders", "127.0.0.1:8000", "ftp://a/", "http://", "amqp://a"] {
        let text = http(&format!("handler.url = \"{url}\""));
        refused(&[(&text, "consumers.orders.handler.url: must be a whole URL")]);
    }
    let url = "handler.url = \"http://a/\"";
    for name in [
        "connection", "content-length", "Content-Type", "host", "te", "traceparent", "tracestate",
        "transfer-encoding", "upgrade",
    ] {
        let text = http(&format!("{url}\nhandler.headers = {{ {name} = \"x\" }}"));
        let beginning = format!("consumers.orders.handler.headers.{name}: is written by lapwing");
        refused(&[(&text, &beginning)]);
    }
    let headers = "consumers.orders.handler.headers";
    refused(&[
        (
            &http(&format!("{url}\nhandler.headers = {{ \"a b\" = \"x\" }}")),
            &format!("{headers}.\"a b\": is not a header name"),
        ),
        (
            &http(&format!("{url}\nhandler.headers = {{ Lapwing-Queue = \"x\" }}")),
            &format!("{headers}.Lapwing-Queue: lapwing's own headers begin so"),
        ),
        (
            &http(&format!("{url}\nhandler.headers = {{ a = \"x\\ny\" }}")),
            &format!("{headers}.a: has a value that no header can carry"),
        ),
        (
            &http(&format!("{url}\nhandler.headers = {{ a = \"x\", A = \"y\" }}")),
            &format!("{headers}.a: is there twice"),
        ),
        (
            &http(&format!("{url}\nhandler.connect_timeout = \"0s\"")),
            "consumers.orders.handler.connect_timeout: is 0s, must be 1ms",
        ),
        (
            &http(&format!("{url}\nhandler.ca_file = \"{pem}\"")),
            "consumers.orders.handler.ca_file: is of no use without TLS",
        ),
        (
            &http("handler.url = \"https://a/\"\nhandler.ca_file = \"/missing\""),
            "consumers.orders.handler.ca_file: cannot read /missing",
        ),
    ]);
    allowed(&[
        &http("handler.url = \"http://u:p@[::1]:8000/orders?x=y\""),
        &http(&format!("handler.url = \"https://a/\"\nhandler.ca_file = \"{pem}\"")),
        &http(&format!("{url}\nhandler.headers = {{ Authorization = \"Bearer x\" }}")),
    ]);
}

#[test]
fn queue_names_fit_the_broker() {
    let named = |queue: &str| format!("[consumers.orders]\nqueue = \"{queue}\"");
    let bytes = |count| named(&"q".repeat(count));
    refused(&[
        ("[consumers.orders]", "consumers.orders.queue: is required"),
        (&named("amq.orders"), "consumers.orders.queue: must not begin with `amq.`"),
        (&named("a\\nb"), "consumers.orders.queue: must not hold control characters"),
        (&bytes(256), "consumers.orders.queue: has 256 bytes, must have at most 255"),
        // `.retry.1024s` are 12 bytes.
        (&bytes(244), "consumers.orders.queue: is too long for its longest retry queue, which has `.retry.1024s`"),
        (
            &orders("dead_letter_queue = \"\""),
            "consumers.orders.dead_letter_queue: must not be empty",
        ),
        (
            &orders("dead_letter_queue = \"amq.dead\""),
            "consumers.orders.dead_letter_queue: must not begin with `amq.`",
        ),
        (
            &orders(&format!("dead_letter_queue = \"{}\"", "q".repeat(256))),
            "consumers.orders.dead_letter_queue: has 256 bytes",
        ),
    ]);
    // `.dead` are 5 bytes, `.retry.1s` 9.
    let both = format!("{}\nretry.cap = \"1s\"", bytes(251));
    let found = problems(&both);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("dead-letter queue, which has `.dead`"), "{found:?}");
    allowed(&[&bytes(243), &format!("{}\nretry.cap = \"1s\"", bytes(246))]);
}

#[test]
fn a_queue_has_one_purpose() {
    let two = |a: &str, b: &str| format!("[consumers.a]\n{a}\n[consumers.b]\n{b}");
    refused(&[
        (
            &orders("dead_letter_queue = \"orders\""),
            "consumers.orders.dead_letter_queue: must not be the queue itself",
        ),
        (
            &orders("dead_letter_queue = \"orders.retry.4s\""),
            "consumers.orders.dead_letter_queue: is a retry queue of consumers.orders",
        ),
        (
            &two("queue = \"x\"", "queue = \"x.dead\""),
            "consumers.a.dead_letter_queue: is the queue of consumers.b",
        ),
        (
            &two("queue = \"x\"", "queue = \"x.retry.1024s\""),
            "consumers.b.queue: is a retry queue of consumers.a",
        ),
        (
            &two("queue = \"x\"", "queue = \"y\"\ndead_letter_queue = \"x.retry.1s\""),
            "consumers.b.dead_letter_queue: is a retry queue of consumers.a",
        ),
    ]);
    allowed(&[
        &two("queue = \"x\"", "queue = \"x.retry.2048s\""),
        &two(
            "queue = \"x\"\ndead_letter_queue = \"dead\"",
            "queue = \"y\"\ndead_letter_queue = \"dead\"",
        ),
    ]);
}

#[test]
fn consumers_of_one_queue_agree_about_it() {
    let two = |b: &str| {
        format!("[consumers.a]\nqueue = \"x\"\n[consumers.b]\nqueue = \"x\"\n{b}")
    };
    for (key, line) in [
        ("topology", "topology = \"verify\""),
        ("queue_type", "queue_type = \"classic\""),
        ("bindings", "bindings = [{ exchange = \"a\" }]"),
        ("dead_letter_queue", "dead_letter_queue = \"y\""),
        ("delivery_limit", "delivery_limit = 5"),
        ("retry", "retry.max_attempts = 5"),
    ] {
        let beginning = format!("consumers.b.{key}: differs from that of consumers.a");
        refused(&[(&two(line), &beginning)]);
    }
    assert_eq!(
        problems("[consumers.a]\n[consumers.b]\nretry.max_attempts = 5"),
        [
            "consumers.a.queue: is required: the name of the queue to consume",
            "consumers.b.queue: is required: the name of the queue to consume",
        ]
    );
    allowed(&[
        &two("prefetch = 100\nhandler.kind = \"log\""),
        &two("dead_letter_queue = \"x.dead\""),
    ]);
}
