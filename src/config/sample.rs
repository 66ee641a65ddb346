//! Settings in which every key is set, for the tests that hold the documents against the code.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use super::*;

/// Every key set: the settings that default to nothing too. Written without `..`, so that a new
/// one cannot be forgotten.
pub(super) fn complete() -> Settings {
    let Settings {
        broker,
        publish,
        drain,
        timeouts,
        admin,
        state,
        log,
        telemetry,
        pod_deletion_cost,
        consumers: _,
    } = Settings::default();
    let some_file = || Some(PathBuf::from("/run/secrets/file"));
    Settings {
        broker: BrokerSettings {
            url_file: some_file(),
            password_file: some_file(),
            tls: TlsSettings {
                ca_file: some_file(),
                cert_file: some_file(),
                key_file: some_file(),
            },
            ..broker
        },
        publish,
        drain,
        timeouts,
        admin: AdminSettings {
            token: Some(Secret::from("0123456789abcdef")),
            token_file: some_file(),
            trace_url: Some("http://127.0.0.1:16686/trace/{trace_id}".to_owned()),
            ..admin
        },
        state,
        log,
        telemetry: TelemetrySettings {
            endpoint: Some("http://127.0.0.1:4317".to_owned()),
            ..telemetry
        },
        pod_deletion_cost,
        consumers: BTreeMap::from([("orders".to_owned(), consumer())]),
    }
}

fn consumer() -> ConsumerSettings {
    let ConsumerSettings {
        queue: _,
        topology,
        queue_type,
        bindings: _,
        dead_letter_queue: _,
        delivery_limit,
        prefetch,
        concurrency,
        timeout,
        cancel_grace,
        decode,
        ack,
        retry,
        handler: _,
        types: _,
    } = ConsumerSettings::default();
    ConsumerSettings {
        queue: "orders".to_owned(),
        topology,
        queue_type,
        bindings: vec![Binding {
            exchange: "shop".to_owned(),
            routing_key: "order.*".to_owned(),
        }],
        dead_letter_queue: Some("orders.dead".to_owned()),
        delivery_limit,
        prefetch,
        concurrency,
        timeout,
        cancel_grace,
        decode,
        ack,
        retry: RetrySettings {
            rules: vec![Rule {
                class: Some("http".to_owned()),
                status: Some(409.into()),
                action: RuleAction::DeadLetter,
            }],
            ..retry
        },
        handler: handler(),
        types: BTreeMap::from([("order.paid".to_owned(), handler())]),
    }
}

fn handler() -> HandlerSettings {
    HandlerSettings {
        kind: HandlerKind::Http,
        url: Some("http://127.0.0.1:8000/orders".to_owned()),
        headers: BTreeMap::from([("authorization".to_owned(), Secret::from("Bearer x"))]),
        connect_timeout: Some(Duration::from_secs(5)),
        ca_file: Some(PathBuf::from("/run/secrets/file")),
    }
}

/// The keys of these settings, with their values as TOML.
pub(super) fn keys(settings: &Settings) -> BTreeMap<String, toml::Value> {
    let mut keys = BTreeMap::new();
    let tree = toml::Value::try_from(settings).unwrap();
    flatten("", &tree, &mut keys);
    keys
}

/// The keys of a document: paths with dots, down to values and lists.
pub(super) fn flatten(path: &str, value: &toml::Value, keys: &mut BTreeMap<String, toml::Value>) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                let dot = if path.is_empty() { "" } else { "." };
                flatten(&format!("{path}{dot}{key}"), value, keys);
            }
        }
        value => {
            keys.insert(path.to_owned(), value.clone());
        }
    }
}
