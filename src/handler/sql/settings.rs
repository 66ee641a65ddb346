//! `handler = { kind = "sql" }`.

use std::{collections::BTreeMap, fmt, path::PathBuf, sync::Arc, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

use super::{
    SqlHandler, reach, statement,
    states::{SqlMeaning, is_state_or_class},
};
use crate::{
    config::{Findings, HOUR, KIND, KeyPath, Span, redact},
    handler::{Handler, HandlerError, HandlerFuture, Reached, inbox, kind::Kind, source::Source},
    outcome::Outcome,
    postgres::Target,
};

/// The handler runs a statement in PostgreSQL for each message, in a transaction of its own. `:name` in
/// the statement is the parameter `name`, whose value `parameters` takes from the message. A value
/// never becomes a part of the statement: it travels beside it.
///
/// A parameter has the type that PostgreSQL finds for it in the statement. Text, numbers, `true` and
/// `false` become a value of this type as a quoted literal does, so no number loses a digit. JSON
/// `null` is NULL, a JSON array is an array, and for `json` and `jsonb` a value stays as it is. A value
/// that cannot be of the type is a permanent failure: dead-letter reason `rejected`, class
/// `sql-parameter`, or `sql-` with the SQLSTATE.
///
/// The SQLSTATE of an error decides what follows, and is the end of the failure's class:
/// `sql-40001`. Retried: class 40 (serialization failures and deadlocks), 57014 (cancelled), and all
/// that is not listed here. Unavailable: no connection (class `sql-connection`), 08, 25006 (read-only),
/// 28, 3D, 42 (no such table, no right), 53 (too many connections, full disk), 57 (shutdown), 58.
/// Permanent: 21, 22 (data), 23 (constraints), 44, P0 (`RAISE`). `sqlstates` changes this.
///
/// At the consumer's `timeout`, and when the grace of a drain ends, the handler cancels the statement
/// at the server and closes its session, so the transaction is rolled back. Only a COMMIT that is on
/// its way can still succeed: with `idempotency` the next attempt knows. If the database is away when
/// the worker starts, or does not answer within 10 seconds, the worker starts, and messages wait. If
/// PostgreSQL refuses the statement, the worker does not start.
///
/// TLS follows `sslmode` in the URL: `disable`, `prefer` (if the server offers it; the default) or
/// `require`. TLS always checks the server's certificate.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["url", "statement"]))]
pub struct SqlHandlerSettings {
    /// The database, as `postgres://USER@HOST:PORT/DATABASE`. Its password and query never print.
    /// Required.
    #[serde(skip_serializing_if = "String::is_empty", serialize_with = "redacted")]
    #[schemars(example = "postgres://worker@db:5432/shop")]
    pub url: String,
    /// A file with the password, which the handler reads for each session. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "/run/secrets/database-password")]
    pub password_file: Option<PathBuf>,
    /// One statement, with `:name` for parameters. Required.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(example = "INSERT INTO orders (id, sum) VALUES (:id, :sum)")]
    pub statement: String,
    /// Where the values of the parameters come from: `body:/POINTER` (a JSON pointer into the body),
    /// `body` (all of it), `header:NAME`, `headers` (as JSON), `content-type`, `message-id`, `attempt`,
    /// `queue`, `exchange`, `routing-key`, `type`, `redelivered`, `correlation-id`, `reply-to`,
    /// `app-id`, `user-id`, `timestamp` (seconds since 1970), `priority` or `expiration`. If the message
    /// has no such value, it is dead-lettered. Default: none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(example = example_parameters())]
    pub parameters: BTreeMap<String, String>,
    /// The parameters that are NULL if the message has no value for them. Default: `[]`.
    #[schemars(example = ["note"])]
    pub optional: Vec<String>,
    /// What SQLSTATEs mean, as a table from a state (`23505`) or a class (`23`) to `retry`,
    /// `permanent`, `unavailable` or `dropped`. A state that is not listed keeps its meaning. Default:
    /// none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(example = example_states())]
    pub sqlstates: BTreeMap<String, SqlMeaning>,
    /// The most sessions. Not set: as many as the consumer's `concurrency`. Fewer: messages wait for a
    /// session, and that counts against their `timeout`. A session whose statement is being cancelled
    /// is not among them: it ends within 10 seconds. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1000), example = 4)]
    pub sessions: Option<u16>,
    /// The longest wait for a new session, TLS included. Too low: a slow server is treated as dead. Too
    /// high: a dead server is noticed late. Default: `5s`.
    #[serde(with = "Span::<1, HOUR>")]
    pub connect_timeout: Duration,
    /// A PEM file with certificate authorities to trust, in addition to the system's. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "/run/secrets/database-ca.pem")]
    pub ca_file: Option<PathBuf>,
    /// Whether to trust the system's certificate authorities too. `false` needs `ca_file`. Default:
    /// `true`.
    pub system_authorities: bool,
    /// A PEM file with the client certificate, or its chain, for a server that asks for one. Needs
    /// `key_file`. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "/run/secrets/client.pem")]
    pub cert_file: Option<PathBuf>,
    /// A PEM file with the key of the client certificate, without a passphrase. Needs `cert_file`.
    /// Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "/run/secrets/client.key")]
    pub key_file: Option<PathBuf>,
}

fn begins_with_copy(statement: &str) -> bool {
    let word = statement.split_whitespace().next();
    word.is_some_and(|word| word.eq_ignore_ascii_case("copy"))
}

fn example_parameters() -> BTreeMap<&'static str, &'static str> {
    BTreeMap::from([
        ("id", "body:/id"),
        ("sum", "body:/sum"),
        ("source", "header:x-source"),
    ])
}

fn example_states() -> BTreeMap<&'static str, SqlMeaning> {
    BTreeMap::from([("23505", SqlMeaning::Dropped)])
}

fn redacted<S: Serializer>(url: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&redact(url))
}

impl Default for SqlHandlerSettings {
    fn default() -> Self {
        Self {
            url: String::new(),
            password_file: None,
            statement: String::new(),
            parameters: BTreeMap::new(),
            optional: Vec::new(),
            sqlstates: BTreeMap::new(),
            sessions: None,
            connect_timeout: Duration::from_secs(5),
            ca_file: None,
            system_authorities: true,
            cert_file: None,
            key_file: None,
        }
    }
}

impl fmt::Debug for SqlHandlerSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqlHandlerSettings")
            .field("url", &redact(&self.url))
            .field("statement", &self.statement)
            .field("parameters", &self.parameters)
            .finish_non_exhaustive()
    }
}

impl SqlHandlerSettings {
    /// The database.
    pub(in crate::handler) fn target(&self) -> Target {
        Target {
            url: self.url.clone(),
            password_file: self.password_file.clone(),
            ca_file: self.ca_file.clone(),
            system_authorities: self.system_authorities,
            cert_file: self.cert_file.clone(),
            key_file: self.key_file.clone(),
            connect_timeout: self.connect_timeout,
        }
    }

    /// The statement with numbers for names.
    pub(super) fn numbered(&self) -> Result<statement::Numbered, String> {
        statement::numbered(&self.statement, |name| self.parameters.contains_key(name))
    }

    /// The handler, with the inbox row that its transactions write.
    pub(in crate::handler) fn handler(
        &self,
        concurrency: u16,
        row: Option<inbox::Row>,
    ) -> Result<SqlHandler, HandlerError> {
        SqlHandler::with(self, concurrency, row)
    }

    fn check_parameters(&self, findings: &mut Findings, path: &KeyPath) {
        let at_statement = path.key("statement");
        let used = match self.statement.trim().is_empty() {
            true => {
                let message = "is required by kind \"sql\"";
                findings.contradiction(at_statement, [path.key(KIND)], message);
                None
            }
            false if begins_with_copy(&self.statement) => {
                let message = "is COPY, which sends or takes rows beside the statement: use INSERT";
                findings.add(at_statement, message);
                None
            }
            false => match self.numbered() {
                Ok(numbered) => Some(numbered.names),
                Err(error) => {
                    findings.contradiction(at_statement, [path.key("parameters")], error);
                    None
                }
            },
        };
        for (name, source) in &self.parameters {
            let at = path.key("parameters").key(name);
            if let Err(error) = Source::parse(source) {
                findings.add(at.clone(), error);
            }
            if used.as_ref().is_some_and(|used| !used.contains(name)) {
                let message = format!("is not used: the statement has no `:{name}`");
                findings.contradiction(at, [path.key("statement")], message);
            }
        }
        for (index, name) in self.optional.iter().enumerate() {
            if !self.parameters.contains_key(name) {
                let message = format!("{name:?} is no key of `parameters`");
                let at = path.key("optional").index(index);
                findings.contradiction(at, [path.key("parameters")], message);
            }
        }
    }
}

impl Kind for SqlHandlerSettings {
    fn make(&self, concurrency: u16) -> Result<Arc<dyn Handler>, HandlerError> {
        Ok(Arc::new(SqlHandler::new(self, concurrency)?))
    }

    fn reach(&self) -> HandlerFuture<'_, Result<Reached, HandlerError>> {
        Box::pin(reach::reach(self))
    }

    fn judge(&self, class: Option<&str>, _: Option<u16>, _: Option<Duration>) -> Option<Outcome> {
        super::states::States::new(&self.sqlstates).judge(class?)
    }

    fn check(&self, findings: &mut Findings, path: &KeyPath) {
        self.target().check(findings, path, "kind \"sql\"");
        self.check_parameters(findings, path);
        for code in self.sqlstates.keys() {
            if !is_state_or_class(code) {
                let message =
                    "is no SQLSTATE: five digits and capital letters, or the first two of them";
                findings.add(path.key("sqlstates").key(code), message);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::samples::{Sample, sections},
        handler::HandlerSettings,
    };

    sections!({ handler: HandlerSettings }, |it, findings| {
        it.handler.check(findings, &KeyPath::of("handler"));
    });

    fn sql(rest: &str) -> String {
        format!(
            "handler.kind = \"sql\"\nhandler.url = \"postgres://u:s3cret@db/shop\"\n\
             handler.statement = \"SELECT :id\"\n{rest}"
        )
    }

    #[test]
    fn passwords_never_print() {
        let handler = SqlHandlerSettings {
            url: "postgres://u:s3cret@db/shop?options=s3cret".to_owned(),
            ..SqlHandlerSettings::default()
        };
        let shown = format!("{handler:?} {}", serde_json::to_string(&handler).unwrap());
        assert!(!shown.contains("s3cret"), "{shown}");
        assert!(shown.contains("postgres://u:***@db/shop"), "{shown}");
    }

    #[test]
    fn parameters_and_statement_must_fit_each_other() {
        let id = "handler.parameters.id = \"body:/id\"\n";
        Sections::allowed(&[
            &sql(id),
            &sql(&format!("{id}handler.optional = [\"id\"]")),
            &sql(&format!(
                "{id}handler.sqlstates = {{ 23505 = \"dropped\", 40 = \"retry\" }}"
            )),
        ]);
        let bare = "handler.kind = \"sql\"\nhandler.statement = \"SELECT 1\"";
        Sections::refused(&[
            (bare, "handler.url: is required by kind \"sql\""),
            (
                &sql("").replace("SELECT :id", "copy x FROM STDIN"),
                "handler.statement: is COPY",
            ),
            (
                &sql(""),
                "handler.statement: has `:id`, which is no key of `parameters`",
            ),
            (
                &sql(&format!("{id}handler.parameters.other = \"body\"")),
                "handler.parameters.other: is not used",
            ),
            (
                &sql("handler.parameters.id = \"id\""),
                "handler.parameters.id: must be `body`, `body:/POINTER`",
            ),
            (
                &sql(&format!("{id}handler.optional = [\"other\"]")),
                "handler.optional[0]: \"other\" is no key of `parameters`",
            ),
            (
                &sql(&format!("{id}handler.sqlstates = {{ 235 = \"retry\" }}")),
                "handler.sqlstates.235: is no SQLSTATE",
            ),
            (
                &sql(&format!("{id}handler.password_file = \"/missing\"")),
                "handler.password_file: cannot read /missing",
            ),
        ]);
        let url = "handler.kind = \"sql\"\nhandler.statement = \"SELECT 1\"\nhandler.url = ";
        Sections::refused(&[
            (
                &format!("{url}\"http://db/x\""),
                "handler.url: must be a complete URL",
            ),
            (
                &format!("{url}\"postgres://db/x\""),
                "handler.url: names no user",
            ),
        ]);
    }
}
