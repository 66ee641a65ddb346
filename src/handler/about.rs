//! What a handler outside of the worker is told about a message: the same facts for each kind of
//! handler, under the same names.
//!
//! HTTP sends `lapwing-message-id`, a command gets `LAPWING_MESSAGE_ID`, and a co-process gets the
//! key `message_id`.

use std::borrow::Cow;

use opentelemetry::{propagation::Injector, trace::TraceContextExt};
use serde_json::{Map, Value};

use super::Context;
use crate::{
    broker::{
        HeaderValue, Properties,
        headers::names::{CUT_HEADERS, TRACEPARENT, TRACESTATE},
    },
    flight,
    text::cut,
};

/// The most bytes of the list of cut headers, and of a part of a trace context.
pub(super) const CUT_LIST: usize = 512;

/// The names of a fact.
pub(super) struct Name {
    /// The HTTP header.
    pub(super) header: &'static str,
    /// The variable of a program's environment.
    pub(super) variable: &'static str,
    /// The key in the line of a co-process.
    pub(super) key: &'static str,
}

impl Name {
    /// The name as settings write it: one of [`FACTS`].
    pub(super) fn word(&self) -> &'static str {
        self.header.trim_start_matches("lapwing-")
    }
}

macro_rules! name {
    ($header:literal, $variable:literal, $key:literal) => {
        Name {
            header: concat!("lapwing-", $header),
            variable: concat!("LAPWING_", $variable),
            key: $key,
        }
    };
}

/// The value of a fact.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Known<'a> {
    Text(&'a str),
    Number(u64),
    Flag(bool),
}

impl<'a> Known<'a> {
    /// The value as text.
    pub(super) fn text(&self) -> Cow<'a, str> {
        match *self {
            Self::Text(text) => text.into(),
            Self::Number(number) => number.to_string().into(),
            Self::Flag(true) => "true".into(),
            Self::Flag(false) => "false".into(),
        }
    }
}

/// One fact: its names, and its value.
pub(super) type Fact<'a> = (Name, Known<'a>);

/// The facts about the message and its attempt. A property that the message does not have is left
/// out. Each value is short: AMQP limits a property to 255 bytes.
pub(super) fn facts(context: &Context) -> impl Iterator<Item = Fact<'_>> {
    let message = context.message();
    let its = message.properties();
    let redelivered = Some(Known::Flag(message.redelivered()));
    let text = |text: Option<_>| text.map(Known::Text);
    let number = |number: Option<_>| number.map(Known::Number);
    let id = name!("message-id", "MESSAGE_ID", "message_id");
    let attempt = name!("attempt", "ATTEMPT", "attempt");
    let queue = name!("queue", "QUEUE", "queue");
    let exchange = name!("exchange", "EXCHANGE", "exchange");
    let key = name!("routing-key", "ROUTING_KEY", "routing_key");
    let kind = name!("type", "TYPE", "type");
    let again = name!("redelivered", "REDELIVERED", "redelivered");
    let correlation = name!("correlation-id", "CORRELATION_ID", "correlation_id");
    let reply_to = name!("reply-to", "REPLY_TO", "reply_to");
    let app = name!("app-id", "APP_ID", "app_id");
    let user = name!("user-id", "USER_ID", "user_id");
    let timestamp = name!("timestamp", "TIMESTAMP", "timestamp");
    let priority = name!("priority", "PRIORITY", "priority");
    let expiration = name!("expiration", "EXPIRATION", "expiration");
    // The default exchange has an empty name.
    let named = Some(message.exchange()).filter(|name| !name.is_empty());
    let all = [
        (id, text(message.id())),
        (attempt, number(Some(context.attempt().into()))),
        (queue, text(Some(message.queue()))),
        (exchange, text(named)),
        (key, text(Some(message.routing_key()))),
        (kind, text(message.message_type())),
        (again, redelivered),
        (correlation, text(its.correlation_id())),
        (reply_to, text(its.reply_to())),
        (app, text(its.app_id())),
        (user, text(its.user_id())),
        (timestamp, number(its.timestamp())),
        (priority, number(its.priority().map(u64::from))),
        (expiration, text(its.expiration())),
    ];
    all.into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
}

/// The names of all facts, as settings write them.
pub(super) const FACTS: [&str; 14] = [
    "message-id",
    "attempt",
    "queue",
    "exchange",
    "routing-key",
    "type",
    "redelivered",
    "correlation-id",
    "reply-to",
    "app-id",
    "user-id",
    "timestamp",
    "priority",
    "expiration",
];

/// The trace context that the handler continues: that of the attempt, or else the message's.
pub(super) fn trace(context: &Context) -> Vec<(&'static str, String)> {
    struct Found(Vec<(&'static str, String)>);

    impl Injector for Found {
        fn set(&mut self, key: &str, value: String) {
            let known = [TRACEPARENT, TRACESTATE]
                .into_iter()
                .find(|name| *name == key);
            self.0.extend(
                known
                    .map(|name| (name, value))
                    .filter(|it| !it.1.is_empty()),
            );
        }
    }

    let current = opentelemetry::Context::current();
    let mut found = Found(Vec::new());
    if current.span().span_context().is_valid() {
        flight::inject(&current, &mut found);
    }
    if found.0.is_empty() {
        let properties = context.message().properties();
        for name in [TRACEPARENT, TRACESTATE] {
            // A part of a trace context is worth nothing.
            let value = properties.header(name).map(HeaderValue::to_text);
            let value = value.filter(|value| value.len() <= CUT_LIST);
            found.0.extend(value.map(|it| (name, it.into_owned())));
        }
    }
    found.0
}

/// Whether a header of the message is not passed on as such: our own, and the trace headers.
pub(super) fn is_ours(name: &str) -> bool {
    name.starts_with("lapwing-") || [TRACEPARENT, TRACESTATE].contains(&name)
}

/// The message's own headers as JSON. A header that does not fit into `room` bytes, together with
/// those before it, is left out and listed. `None`: all fit.
pub(super) fn headers(
    properties: &Properties,
    mut room: Option<usize>,
) -> (Map<String, Value>, CutList) {
    let mut cut = CutList::of(properties);
    let mut map = Map::new();
    for (name, value) in properties.headers().filter(|(name, _)| !is_ours(name)) {
        let value = value.to_json();
        if let Some(room) = &mut room {
            // The text of the value, the name, and four marks: `"":,`.
            let length = value.to_string().len() + name.len() + 4;
            if length > *room {
                cut.add(name);
                continue;
            }
            *room -= length;
        }
        map.insert(name.to_owned(), value);
    }
    (map, cut)
}

/// The names of headers that are missing, cut or changed, with spaces between them.
pub(super) struct CutList(String);

impl CutList {
    /// The headers that the message already lacks: a retry's copy may have lost some.
    pub(super) fn of(properties: &Properties) -> Self {
        let before = properties.header(CUT_HEADERS);
        let before = before.and_then(HeaderValue::as_str);
        Self(cut(before.unwrap_or_default(), CUT_LIST).to_owned())
    }

    /// Adds a name; `...` stands for all names for which there is no room.
    pub(super) fn add(&mut self, name: &str) {
        const MORE: &str = " ...";
        if self.0.ends_with(MORE) {
            return;
        }
        if self.0.len() + 1 + name.len() + MORE.len() > CUT_LIST {
            self.0.push_str(MORE);
            return;
        }
        if !self.0.is_empty() {
            self.0.push(' ');
        }
        self.0.push_str(name);
    }

    /// The list, unless it is empty.
    pub(super) fn text(&self) -> Option<&str> {
        Some(self.0.as_str()).filter(|list| !list.is_empty())
    }
}
