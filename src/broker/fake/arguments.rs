//! The arguments of a queue, policies, and the limits that follow from both.

use std::{collections::BTreeMap, time::Duration};

use super::Release;
use crate::broker::{Difference, QueueArgument, Values, topology::QueuePlan};

/// The queue types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    Quorum,
    Classic,
}

/// The arguments that the fake knows.
const KNOWN: [&str; 11] = [
    "x-queue-type",
    "x-message-ttl",
    "x-expires",
    "x-max-length",
    "x-overflow",
    "x-dead-letter-exchange",
    "x-dead-letter-routing-key",
    "x-dead-letter-strategy",
    "x-delivery-limit",
    "x-single-active-consumer",
    "x-max-priority",
];

/// The arguments of a queue declaration.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Arguments(BTreeMap<&'static str, QueueArgument>);

impl Arguments {
    /// The arguments of a durable queue of this type.
    pub(crate) fn of(kind: Type) -> Self {
        let name = match kind {
            Type::Quorum => "quorum",
            Type::Classic => "classic",
        };
        Self::default().text("x-queue-type", name)
    }

    #[must_use]
    pub(crate) fn text(mut self, key: &'static str, value: &str) -> Self {
        self.0.insert(key, QueueArgument::Text(value.to_owned()));
        self
    }

    #[must_use]
    pub(crate) fn int(mut self, key: &'static str, value: i64) -> Self {
        self.0.insert(key, QueueArgument::Int(value));
        self
    }

    #[must_use]
    pub(crate) fn flag(mut self, key: &'static str) -> Self {
        self.0.insert(key, QueueArgument::Bool(true));
        self
    }

    /// Dead-letters to this queue through the default exchange.
    #[must_use]
    pub(crate) fn dead_letters_to(self, queue: &str) -> Self {
        self.text("x-dead-letter-exchange", "")
            .text("x-dead-letter-routing-key", queue)
    }

    /// Dead-letters with confirms.
    #[must_use]
    pub(crate) fn at_least_once(self) -> Self {
        self.text("x-dead-letter-strategy", "at-least-once")
            .text("x-overflow", "reject-publish")
    }

    pub(super) fn planned(plan: &QueuePlan) -> Self {
        let known = KNOWN.into_iter();
        let set = known.filter_map(|key| Some((key, plan.argument(key)?.clone())));
        Self(set.collect())
    }

    /// All arguments, for a declaration at RabbitMQ.
    pub(super) fn all(&self) -> impl Iterator<Item = (&'static str, &QueueArgument)> {
        self.0.iter().map(|(key, value)| (*key, value))
    }

    /// What these arguments of an existing queue have other than wanted.
    pub(super) fn differences(&self, queue: &str, wanted: &Self) -> Vec<Difference> {
        let differing = KNOWN
            .into_iter()
            .filter(|key| self.0.get(key) != wanted.0.get(key));
        differing
            .map(|key| Difference::Argument {
                queue: queue.to_owned(),
                argument: key.to_owned(),
                values: Some(Values {
                    has: self.0.get(key).map(shown),
                    wanted: wanted.0.get(key).map(shown),
                }),
            })
            .collect()
    }

    pub(super) fn kind(&self) -> Type {
        match self.text_of("x-queue-type") {
            Some("classic") => Type::Classic,
            _ => Type::Quorum,
        }
    }

    /// Whether the queue serves one consumer at a time.
    pub(super) fn is_single_active(&self) -> bool {
        self.0.contains_key("x-single-active-consumer")
    }

    fn text_of(&self, key: &str) -> Option<&str> {
        match self.0.get(key) {
            Some(QueueArgument::Text(text)) => Some(text),
            _ => None,
        }
    }

    pub(super) fn int_of(&self, key: &str) -> Option<i64> {
        match self.0.get(key) {
            Some(QueueArgument::Int(n)) => Some(*n),
            _ => None,
        }
    }

    fn count_of(&self, key: &str) -> Option<u64> {
        self.int_of(key).and_then(|n| u64::try_from(n).ok())
    }
}

fn shown(value: &QueueArgument) -> String {
    match value {
        QueueArgument::Text(text) => text.clone(),
        QueueArgument::Int(n) => n.to_string(),
        QueueArgument::Bool(is) => is.to_string(),
    }
}

/// What a full queue does with the next message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Overflow {
    /// The queue drops its oldest message.
    #[default]
    DropHead,
    /// The queue refuses the new message.
    RejectPublish,
    /// The queue refuses the new message and dead-letters it; classic queues only.
    RejectPublishDlx,
}

/// A policy: what an operator sets for all queues whose names begin with a text.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Policy {
    pub(crate) message_ttl: Option<Duration>,
    pub(crate) expires: Option<Duration>,
    pub(crate) max_length: Option<u64>,
    pub(crate) overflow: Option<Overflow>,
    pub(crate) dead_letters_to: Option<String>,
    pub(crate) delivery_limit: Option<i64>,
}

/// What is true of a queue by its arguments and its policy.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Limits {
    pub(super) ttl: Option<Duration>,
    /// The queue is deleted after this time without consumers.
    pub(super) expires: Option<Duration>,
    pub(super) max_length: Option<u64>,
    pub(super) overflow: Overflow,
    /// The target of dead letters.
    pub(super) target: Option<Target>,
    pub(super) at_least_once: bool,
    /// `None` is no limit.
    pub(super) delivery_limit: Option<i64>,
    /// The priorities of a classic queue.
    pub(super) max_priority: u8,
    pub(super) single_active: bool,
}

/// Where dead letters go.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Target {
    /// To the queue of this name, through the default exchange.
    Queue(String),
    /// To the queue that the message's own routing key names.
    OwnKey,
    /// To an exchange that does not exist: the fake has only the default exchange.
    Nowhere,
}

impl Limits {
    /// The smaller value counts for lengths and times; the argument wins for the dead-letter
    /// target; the policy wins for the overflow of a quorum queue, and the argument for that of a
    /// classic queue.
    pub(super) fn new(arguments: &Arguments, policy: Option<&Policy>, release: Release) -> Self {
        let none = Policy::default();
        let policy = policy.unwrap_or(&none);
        let kind = arguments.kind();
        let smaller = |a: Option<u64>, b: Option<u64>| a.into_iter().chain(b).min();
        let time = |key, policy: Option<Duration>| {
            let own = arguments.count_of(key).map(Duration::from_millis);
            own.into_iter().chain(policy).min()
        };
        let own_overflow = arguments.text_of("x-overflow").map(|text| match text {
            "reject-publish" => Overflow::RejectPublish,
            "reject-publish-dlx" => Overflow::RejectPublishDlx,
            _ => Overflow::DropHead,
        });
        let overflow = match kind {
            Type::Quorum => policy.overflow.or(own_overflow),
            Type::Classic => own_overflow.or(policy.overflow),
        };
        let overflow = overflow.unwrap_or_default();
        let target = Self::target(arguments, policy);
        let strategy = arguments.text_of("x-dead-letter-strategy");
        Self {
            ttl: time("x-message-ttl", policy.message_ttl),
            expires: time("x-expires", policy.expires),
            max_length: smaller(arguments.count_of("x-max-length"), policy.max_length),
            at_least_once: kind == Type::Quorum
                && target.is_some()
                && strategy == Some("at-least-once")
                && overflow == Overflow::RejectPublish,
            overflow,
            target,
            delivery_limit: Self::delivery_limit(arguments, policy, release),
            max_priority: arguments
                .int_of("x-max-priority")
                .and_then(|n| u8::try_from(n).ok())
                .unwrap_or(0),
            single_active: arguments.is_single_active(),
        }
    }

    fn target(arguments: &Arguments, policy: &Policy) -> Option<Target> {
        match arguments.text_of("x-dead-letter-exchange") {
            Some("") => Some(match arguments.text_of("x-dead-letter-routing-key") {
                Some(queue) => Target::Queue(queue.to_owned()),
                None => Target::OwnKey,
            }),
            Some(_) => Some(Target::Nowhere),
            None => policy.dead_letters_to.clone().map(Target::Queue),
        }
    }

    fn delivery_limit(arguments: &Arguments, policy: &Policy, release: Release) -> Option<i64> {
        if arguments.kind() == Type::Classic {
            return None;
        }
        let own = arguments.int_of("x-delivery-limit");
        let limit = match (own, policy.delivery_limit) {
            (Some(a), Some(b)) if a < 0 || b < 0 => Some(a.max(b)),
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        match release {
            // A negative limit is no limit from 4.0 on. 3.10 takes it for a number.
            Release::V3 => limit,
            Release::V40 | Release::V43 => Some(limit.unwrap_or(20)).filter(|it| *it >= 0),
        }
    }
}
