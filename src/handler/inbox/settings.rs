//! `[consumers.NAME.idempotency]`.

use std::{path::PathBuf, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Terms;
use crate::{
    config::{DAY, Findings, HOUR, KeyPath, SECOND, Span, serialize_redacted},
    handler::{HandlerSettings, source::Source},
    postgres::Target,
};

/// The inbox: what is done already is not done again, even if a message is delivered or published
/// twice. The worker remembers the key of each message whose handler succeeded, for `ttl`. A message
/// with such a key is acked without a run, and counts as `duplicate`. While a message with the same key
/// runs elsewhere, the worker tries the message again a few seconds later (`snoozed`). If the worker
/// cannot ask its store, the service counts as down: no handler runs, no attempt is charged, and the
/// consumer waits until the store is back.
///
/// With a handler of kind `sql` in the same database, the worker writes the key in the transaction of
/// the statement, so the effect happens once. With any other handler a crash between the handler's
/// effect and the note of its success lets the message run again: [handlers.md](handlers.md#effects-that-happen-once).
/// A message without a key is dead-lettered (`rejected`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct InboxSettings {
    /// Where the worker keeps the keys. Default: `none`.
    pub store: InboxStore,
    /// The key of a message: `message-id`, `correlation-id` or another property, `header:NAME`, or
    /// `body:/POINTER` for a value in a body of JSON. A key has at most 512 bytes. Default:
    /// `message-id`.
    #[schemars(example = "body:/order/id")]
    pub key: String,
    /// How long a key is remembered after its message was done. Too low: a message that comes again
    /// later is done again. Too high: the store is large. Default: `7days`.
    #[serde(with = "Span::<SECOND, { 365 * DAY }>")]
    pub ttl: Duration,
    /// Keys are different messages if their scopes differ. Consumers with the same scope share their
    /// keys. Without it: the name of the queue. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"orders")]
    pub scope: Option<String>,
    /// With `memory`: the most keys. When there are more, the worker forgets the oldest that are done.
    /// Default: `100000`.
    #[schemars(range(min = 1, max = 100_000_000))]
    pub max_keys: u32,
    /// With `postgres`: the database, as `postgres://USER@HOST:PORT/DATABASE`. Its password never
    /// prints. Without it: the database of the handler, which then is of kind `sql`. Default: none.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "serialize_redacted"
    )]
    #[schemars(example = "postgres://worker@db:5432/shop")]
    pub url: Option<String>,
    /// A file with the password, which the worker reads for each session. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "/run/secrets/inbox-password")]
    pub password_file: Option<PathBuf>,
    /// A PEM file with certificate authorities to trust, in addition to the system's. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "/run/secrets/inbox-ca.pem")]
    pub ca_file: Option<PathBuf>,
    /// Whether to trust the system's certificate authorities too. `false` needs `ca_file`. Default:
    /// `true`.
    pub system_authorities: bool,
    /// A PEM file with the client certificate, or its chain. Needs `key_file`. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "/run/secrets/inbox.pem")]
    pub cert_file: Option<PathBuf>,
    /// A PEM file with the key of the client certificate, without a passphrase. Needs `cert_file`.
    /// Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "/run/secrets/inbox.key")]
    pub key_file: Option<PathBuf>,
    /// The longest wait for a session, and for each answer of the store. Too low: a slow store is
    /// treated as dead. Too high: a dead store is noticed late. Default: `5s`.
    #[serde(with = "Span::<1, HOUR>")]
    pub connect_timeout: Duration,
    /// The table, with its schema if it needs one. `lapwing migrate` makes it. Default:
    /// `lapwing_inbox`.
    #[schemars(regex(pattern = TABLE))]
    pub table: String,
    /// Whether the worker makes or updates the table at its start, as `lapwing migrate` does. The user
    /// then needs the right to create tables. Default: `false`.
    pub migrate: bool,
}

/// The names of tables, for the schema.
const TABLE: &str = r"^[a-z_][a-z0-9_]{0,40}(\.[a-z_][a-z0-9_]{0,40})?$";

/// Whether this is such a name. It becomes a part of statements.
fn is_table(name: &str) -> bool {
    let is_part = |part: &str| {
        let mut letters = part.bytes();
        let is_first = |first: u8| first.is_ascii_lowercase() || first == b'_';
        letters.next().is_some_and(is_first)
            && letters.all(|it| is_first(it) || it.is_ascii_digit())
            && part.len() <= 41
    };
    match name.split_once('.') {
        Some((schema, table)) => is_part(schema) && is_part(table),
        None => is_part(name),
    }
}

/// Where the worker keeps the keys of messages that are done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum InboxStore {
    /// Nowhere: a message that comes twice runs twice.
    #[default]
    None,
    /// In the memory of the worker. Other workers do not know the keys, nor does this one after a
    /// restart.
    Memory,
    /// In a table in PostgreSQL, which all workers share.
    Postgres,
}

impl Default for InboxSettings {
    fn default() -> Self {
        Self {
            store: InboxStore::None,
            key: "message-id".to_owned(),
            ttl: Duration::from_hours(7 * 24),
            scope: None,
            max_keys: 100_000,
            url: None,
            password_file: None,
            ca_file: None,
            system_authorities: true,
            cert_file: None,
            key_file: None,
            connect_timeout: Duration::from_secs(5),
            table: "lapwing_inbox".to_owned(),
            migrate: false,
        }
    }
}

impl InboxSettings {
    /// The database that the settings name.
    pub(super) fn target(&self) -> Option<Target> {
        Some(Target {
            url: self.url.clone()?,
            password_file: self.password_file.clone(),
            ca_file: self.ca_file.clone(),
            system_authorities: self.system_authorities,
            cert_file: self.cert_file.clone(),
            key_file: self.key_file.clone(),
            connect_timeout: self.connect_timeout,
        })
    }

    /// Adds findings for the settings at `path`.
    pub(crate) fn check<'a>(
        &self,
        findings: &mut Findings,
        path: &KeyPath,
        mut handlers: impl Iterator<Item = &'a HandlerSettings>,
        forwards: bool,
    ) {
        if self.store == InboxStore::None {
            if *self != Self::default() {
                let message = "is \"none\", so the other keys have no effect: choose a store";
                findings.add(path.key("store"), message);
            }
            return;
        }
        match Source::parse(&self.key) {
            Err(error) => findings.add(path.key("key"), error),
            Ok(source) if !source.is_lasting() || source == Source::Body => {
                let message = "is no key: it must be short, and the same in each delivery";
                findings.add(path.key("key"), message);
            }
            Ok(_) => {}
        }
        if !is_table(&self.table) {
            let message = "must be the name of a table: small letters, digits and underscores, with \
                           a schema and a dot before it if it needs one";
            findings.add(path.key("table"), message);
        }
        if forwards {
            let message = "cannot be used together with `forward`: a duplicate has no result, so the \
                           result of a message that came twice could be lost";
            findings.add(path.key("store"), message);
        }
        let at_url = path.key("url");
        match (self.store, self.target()) {
            (InboxStore::Postgres, Some(target)) => {
                target.check(findings, path, "store \"postgres\"");
            }
            (InboxStore::Postgres, None) => {
                let is_sql = |it: &HandlerSettings| matches!(it, HandlerSettings::Sql(_));
                let mut needs = handlers.by_ref().filter(|it| **it != HandlerSettings::None);
                if !needs.all(is_sql) {
                    let message =
                        "is needed: only a handler of kind \"sql\" has a database of its own";
                    findings.contradiction(at_url, [path.key("store")], message);
                }
            }
            (_, Some(_)) => {
                let message = "belongs to store \"postgres\"";
                findings.contradiction(at_url, [path.key("store")], message);
            }
            (_, None) => {}
        }
    }

    /// What the inbox of a consumer needs to know. `None`: the consumer has none.
    pub(super) fn terms(&self, queue: &str, longest: Duration) -> Option<Terms> {
        if self.store == InboxStore::None {
            return None;
        }
        Some(Terms {
            key: Source::parse(&self.key).ok()?,
            scope: self.scope.clone().unwrap_or_else(|| queue.to_owned()),
            ttl: self.ttl,
            lease: longest + super::MARGIN,
            limit: self.connect_timeout,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::samples::{Sample, sections};

    sections!({ handler: HandlerSettings, inbox: InboxSettings, forwards: bool }, |it, findings| {
        let handlers = std::iter::once(&it.handler);
        it.inbox.check(findings, &KeyPath::of("inbox"), handlers, it.forwards);
    });

    const SQL: &str = "handler.kind = \"sql\"\nhandler.url = \"postgres://u@db/x\"\n\
                       handler.statement = \"SELECT 1\"\n";

    #[test]
    fn an_inbox_in_postgres_has_a_database() {
        let log = "handler.kind = \"log\"\n";
        let url = "inbox.url = \"postgres://u@db/x\"\n";
        let postgres = "inbox.store = \"postgres\"\n";
        Sections::allowed(&[
            "",
            "inbox.store = \"memory\"",
            &format!("{SQL}{postgres}"),
            &format!("{log}{postgres}{url}"),
            &format!("{postgres}inbox.table = \"shop.inbox_2\""),
        ]);
        Sections::refused(&[
            (&format!("{log}{postgres}"), "inbox.url: is needed"),
            (
                &format!("{log}{postgres}inbox.url = \"x\""),
                "inbox.url: must be a complete URL",
            ),
            (
                &format!("inbox.store = \"memory\"\n{url}"),
                "inbox.url: belongs to store \"postgres\"",
            ),
            ("inbox.key = \"type\"", "inbox.store: is \"none\""),
            (
                &format!("{SQL}{postgres}inbox.table = \"a; DROP TABLE b\""),
                "inbox.table: ",
            ),
        ]);
    }

    #[test]
    fn a_key_is_the_same_in_each_delivery() {
        let key = |key: &str| format!("inbox.store = \"memory\"\ninbox.key = \"{key}\"");
        for good in [
            "message-id",
            "correlation-id",
            "header:id",
            "body:/order/id",
        ] {
            Sections::allowed(&[&key(good)]);
        }
        for bad in ["attempt", "redelivered", "body", "id", "body:id"] {
            let text = key(bad);
            let problems = Sections::problems(&text);
            assert_eq!(problems.len(), 1, "{bad}: {problems:?}");
        }
        let text = format!("{}\nforwards = true", key("message-id"));
        Sections::refused(&[(&text, "inbox.store: cannot be used together with `forward`")]);
    }
}
