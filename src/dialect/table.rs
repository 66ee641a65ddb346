//! The tables of the dialects.

use serde_json::Value;

use super::{Dialect, reply::Style};

/// A place in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum At<'a> {
    /// A header.
    Header(&'a str),
    /// A place of the JSON body (a JSON pointer).
    Body(&'a str),
}

/// A time in a message.
#[derive(Clone, Copy, Debug)]
pub(super) enum When {
    /// Written as ISO 8601 has it. Without an offset: UTC.
    Iso(At<'static>),
    /// In milliseconds since 1970.
    Millis(At<'static>),
    /// In milliseconds after another time, which is in milliseconds since 1970.
    MillisAfter {
        start: At<'static>,
        length: At<'static>,
    },
}

/// What the broker's own record of dead-lettering (`x-death`) counts.
#[derive(Clone, Copy, Debug)]
pub(super) enum Deaths {
    /// The system retries by rejecting a message, which comes back through another queue.
    AreAttempts,
    AreNoAttempts,
}

/// How one system writes its messages.
#[derive(Debug)]
pub(super) struct Table {
    /// The kind of the message: the task, the class, the pattern.
    pub(super) kind: &'static [At<'static>],
    /// The part of the kind that names a route.
    pub(super) short_kind: fn(String) -> String,
    pub(super) id: &'static [At<'static>],
    /// The content type of all messages, where the system does not say it.
    pub(super) content_type: Option<&'static str>,
    /// Where the content type is, if not in its property.
    pub(super) content_type_at: &'static [At<'static>],
    /// The message must not run before.
    pub(super) eta: &'static [When],
    /// The message must not run after.
    pub(super) expires: &'static [When],
    /// Attempts that have failed.
    pub(super) attempts: &'static [At<'static>],
    pub(super) deaths: Deaths,
    /// The error of the last attempt.
    pub(super) error: &'static [At<'static>],
    pub(super) is_traceback: bool,
    pub(super) error_class: &'static [At<'static>],
    /// Other work that the system starts after the message.
    pub(super) sequel: &'static [At<'static>],
    /// Headers that are true if the caller wants no reply, although the message has a `reply-to`.
    pub(super) ignores_result: &'static [&'static str],
    pub(super) reply: Style,
}

use At::{Body, Header};

const NONE: Table = Table {
    kind: &[],
    short_kind: |kind| kind,
    id: &[],
    content_type: None,
    content_type_at: &[],
    eta: &[],
    expires: &[],
    attempts: &[],
    deaths: Deaths::AreNoAttempts,
    error: &[],
    is_traceback: false,
    error_class: &[],
    sequel: &[],
    ignores_result: &[],
    reply: Style::Plain,
};

/// <https://docs.celeryq.dev/en/stable/internals/protocol.html>
const CELERY: Table = Table {
    kind: &[Header("task")],
    id: &[Header("id")],
    eta: &[When::Iso(Header("eta"))],
    expires: &[When::Iso(Header("expires"))],
    attempts: &[Header("retries")],
    sequel: &[
        Body("/2/callbacks"),
        Body("/2/errbacks"),
        Body("/2/chain"),
        Body("/2/chord"),
    ],
    ignores_result: &["ignore_result"],
    reply: Style::Celery,
    ..NONE
};

/// <https://dramatiq.io/reference.html#dramatiq.Message>
const DRAMATIQ: Table = Table {
    kind: &[Body("/actor_name")],
    id: &[Body("/message_id")],
    content_type: Some("application/json"),
    eta: &[When::Millis(Body("/options/eta"))],
    expires: &[When::MillisAfter {
        start: Body("/message_timestamp"),
        length: Body("/options/max_age"),
    }],
    attempts: &[Body("/options/retries")],
    error: &[Body("/options/traceback")],
    is_traceback: true,
    sequel: &[
        Body("/options/pipe_target"),
        Body("/options/on_success"),
        Body("/options/group_completion_uuid"),
    ],
    ..NONE
};

/// <https://docs.nestjs.com/microservices/rabbitmq>
const NESTJS: Table = Table {
    kind: &[Body("/pattern")],
    short_kind: sorted,
    id: &[Body("/id")],
    content_type: Some("application/json"),
    reply: Style::NestJs,
    ..NONE
};

/// <https://docs.spring.io/spring-amqp/reference/amqp/message-converters.html>
const SPRING: Table = Table {
    kind: &[Header("__TypeId__")],
    attempts: &[Header("retry-count")],
    deaths: Deaths::AreAttempts,
    error: &[Header("x-exception-message")],
    reply: Style::Spring,
    ..NONE
};

/// <https://docs.particular.net/nservicebus/messaging/headers>
const NSERVICEBUS: Table = Table {
    kind: &[Header("NServiceBus.EnclosedMessageTypes")],
    short_kind: first_class,
    id: &[Header("NServiceBus.MessageId")],
    content_type_at: &[Header("NServiceBus.ContentType")],
    attempts: &[Header("NServiceBus.Retries")],
    error: &[Header("NServiceBus.ExceptionInfo.Message")],
    error_class: &[Header("NServiceBus.ExceptionInfo.ExceptionType")],
    ..NONE
};

/// <https://masstransit.io/documentation/concepts/messages>
const MASSTRANSIT: Table = Table {
    kind: &[Body("/messageType/0")],
    id: &[Body("/messageId")],
    expires: &[When::Iso(Body("/expirationTime"))],
    attempts: &[
        Header("MT-Redelivery-Count"),
        Body("/headers/MT-Redelivery-Count"),
    ],
    error: &[Header("MT-Fault-Message")],
    error_class: &[Header("MT-Fault-ExceptionType")],
    ..NONE
};

/// All dialects, with their tables.
pub(super) const ALL: [(Dialect, &Table); 6] = [
    (Dialect::Celery, &CELERY),
    (Dialect::Dramatiq, &DRAMATIQ),
    (Dialect::NestJs, &NESTJS),
    (Dialect::Spring, &SPRING),
    (Dialect::NServiceBus, &NSERVICEBUS),
    (Dialect::MassTransit, &MASSTRANSIT),
];

pub(super) fn of(dialect: Dialect) -> &'static Table {
    match dialect {
        Dialect::Celery => &CELERY,
        Dialect::Dramatiq => &DRAMATIQ,
        Dialect::NestJs => &NESTJS,
        Dialect::Spring => &SPRING,
        Dialect::NServiceBus => &NSERVICEBUS,
        Dialect::MassTransit => &MASSTRANSIT,
    }
}

impl Table {
    /// The places of the body that this table names, without those of sequels.
    pub(super) fn places(&self) -> impl Iterator<Item = &'static str> {
        let times = self
            .eta
            .iter()
            .chain(self.expires)
            .flat_map(|when| match *when {
                When::Iso(at) | When::Millis(at) => [Some(at), None],
                When::MillisAfter { start, length } => [Some(start), Some(length)],
            });
        let lists = [
            self.kind,
            self.id,
            self.content_type_at,
            self.attempts,
            self.error,
            self.error_class,
        ];
        let others = lists.into_iter().flatten().copied();
        others.chain(times.flatten()).filter_map(in_body)
    }

    /// The places of the body where sequels stand.
    pub(super) fn sequels(&self) -> impl Iterator<Item = &'static str> {
        self.sequel.iter().copied().filter_map(in_body)
    }
}

fn in_body(at: At<'static>) -> Option<&'static str> {
    match at {
        Body(place) => Some(place),
        Header(_) => None,
    }
}

/// A pattern of NestJS with the keys of objects sorted, so that two ways to write a pattern name the same
/// handler.
fn sorted(pattern: String) -> String {
    match serde_json::from_str(&pattern) {
        Ok(object @ Value::Object(_)) => sort(object).to_string(),
        _ => pattern,
    }
}

fn sort(value: Value) -> Value {
    match value {
        Value::Object(keys) => {
            let mut keys: Vec<_> = keys.into_iter().collect();
            // As JavaScript's `localeCompare` orders letters of ASCII: `a`, `A`, `b`.
            keys.sort_by(|(one, _), (other, _)| {
                let [lower, others] = [one, other].map(|key| key.to_lowercase());
                lower.cmp(&others).then_with(|| other.cmp(one))
            });
            keys.into_iter()
                .map(|(key, value)| (key, sort(value)))
                .collect()
        }
        value => value,
    }
}

/// `Shop.OrderPaid` of `Shop.OrderPaid, Shop, Version=1.0.0.0, …;Shop.IOrderEvent, …`.
fn first_class(types: String) -> String {
    let end = types.find([',', ';']).unwrap_or(types.len());
    types[..end].trim().to_owned()
}
