//! Configuration files for the worker under test.

use toml::{Table, Value};

/// A worker with one lane: `queue` at the broker `amqp_url`, handled by HTTP at `handler_url`.
///
/// `changes` is TOML laid over that, table by table, as an own file would be:
/// `"[drain]\ngrace = '2s'\n[consumers.orders]\nprefetch = 4"`. The lane is named as the queue.
pub fn lane_config(amqp_url: &str, queue: &str, handler_url: &str, changes: &str) -> String {
    let text = |text: &str| Value::String(text.to_owned());
    let handler = Table::from_iter([
        ("kind".to_owned(), text("http")),
        ("url".to_owned(), text(handler_url)),
    ]);
    let lane = Table::from_iter([
        ("queue".to_owned(), text(queue)),
        ("handler".to_owned(), handler.into()),
    ]);
    let broker = Table::from_iter([("url".to_owned(), text(amqp_url))]);
    let consumers = Table::from_iter([(queue.to_owned(), lane.into())]);
    let config = Table::from_iter([
        ("broker".to_owned(), broker.into()),
        ("consumers".to_owned(), consumers.into()),
    ]);
    changed(&config.to_string(), changes)
}

/// `config` with `changes` laid over it in the same way.
pub fn changed(config: &str, changes: &str) -> String {
    let mut config: Table = config.parse().expect("the configuration is TOML");
    let changes: Table = changes.parse().expect("the changes are TOML");
    lay_over(&mut config, changes);
    config.to_string()
}

/// Puts `changes` into `config`; tables are merged, anything else is replaced.
pub(super) fn lay_over(config: &mut Table, changes: Table) {
    for (key, change) in changes {
        match (config.get_mut(&key), change) {
            (Some(Value::Table(table)), Value::Table(change)) => lay_over(table, change),
            (_, change) => {
                config.insert(key, change);
            }
        }
    }
}
