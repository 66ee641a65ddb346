//! The failure that is explained: how each attempt ends.

use std::{borrow::Cow, time::Duration};

use crate::{
    config::nearest,
    consumer::{self, ConsumerSettings, Unrouted},
    handler::HandlerSettings,
    outcome::{Ending, Failure, Outcome},
};

/// How a message keeps failing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failing {
    /// The class of the failure: `timeout`, `panic`, `decode` and the other classes of bodies that cannot
    /// be read, `unroutable-type`, `expired`, a class of
    /// the consumer's kind of handler, or any class that a handler of its own gives.
    pub class: Option<String>,
    /// The HTTP status, or the exit code of a program.
    pub status: Option<u16>,
    /// What the handler says about the failure. `None`: as its kind judges the class and the status,
    /// or else a retryable failure.
    pub says: Option<Says>,
    /// The time after which the service wants to be asked again: `Retry-After`.
    pub retry_after: Option<Duration>,
    /// The route of the message, or the kind by which it gets its route. `None`: the consumer's own
    /// handler fails or, if there is none, that of any route.
    pub route: Option<String>,
}

/// What a handler says about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Says {
    /// A later attempt may succeed.
    Retry,
    /// Every attempt would fail.
    Permanent,
    /// The service behind the handler is unavailable.
    Unavailable,
}

/// The classes that the failures of each handler can have.
const OF_ALL: [&str; 9] = [
    "cloudevent",
    "decode",
    "decode-timeout",
    "expired",
    "panic",
    "schema",
    "timeout",
    "unpack",
    "unroutable-type",
];

impl Failing {
    /// The settings for the message; `None` if no route takes it.
    pub(super) fn of<'a>(
        &self,
        consumer: &'a ConsumerSettings,
    ) -> Option<Cow<'a, ConsumerSettings>> {
        let names = || consumer.routes.keys().map(String::as_str);
        let takes_rest = names().len() == 0 || consumer.handler != HandlerSettings::None;
        let route = match &self.route {
            Some(kind) => consumer::find(names(), kind),
            None if takes_rest => None,
            None => names().next(),
        };
        let found = route.is_some() || takes_rest;
        found.then(|| consumer.of_route(route))
    }

    /// How each attempt of the handler of these settings ends.
    pub(super) fn ending(&self, consumer: &ConsumerSettings) -> Ending {
        let handler = &consumer.handler;
        match self.class.as_deref() {
            Some("timeout") if self.says.is_none() => Ending::TimedOut {
                after: consumer.timeout,
            },
            Some("panic") if self.says.is_none() => Ending::Panicked {
                message: String::new(),
            },
            Some("decode" | "unpack" | "cloudevent" | "schema") if self.says.is_none() => {
                Ending::from(Outcome::Failed(Failure::undecodable("")))
            }
            Some("decode-timeout") if self.says.is_none() => Ending::Undecodable(Failure {
                retryable: true,
                ..Failure::undecodable("")
            }),
            Some("unroutable-type") => unroutable(consumer),
            Some("expired") => Ending::Expired { by: Duration::ZERO },
            class => Ending::from(self.outcome(handler, class)),
        }
    }

    /// Why no failure of the handler of these settings may have this class; `None` if one can.
    pub(super) fn doubt(&self, consumer: &ConsumerSettings) -> Option<String> {
        let class = self.class.as_deref()?;
        let handler = &consumer.handler;
        let classes = handler.classes();
        let rules = consumer.retry.rules.iter();
        let mut known: Vec<&str> = rules.filter_map(|rule| rule.class.as_deref()).collect();
        known.extend(classes.known);
        known.extend(OF_ALL);
        if known.contains(&class) {
            return None;
        }
        let meant = nearest(class, &known);
        let meant = meant.map(|it| format!(". Did you mean {it:?}?"));
        if !classes.has_others {
            let kind = handler.kind();
            let can = match classes.known {
                [] => "its handler never fails".to_owned(),
                known => format!("it has: {}", known.join(", ")),
            };
            let or = meant.unwrap_or_else(|| format!("; {can}"));
            return Some(format!(
                "no failure of a handler of kind {kind:?} has the class {class:?}{or}"
            ));
        }
        let meant = meant?;
        Some(format!(
            "{class:?} is taken for a class that the handler gives{meant}"
        ))
    }

    fn outcome(&self, handler: &HandlerSettings, class: Option<&str>) -> Outcome {
        let judged = match self.says {
            None => handler.judge(class, self.status, self.retry_after),
            Some(_) => None,
        };
        judged.unwrap_or_else(|| Outcome::Failed(self.failure(class.unwrap_or("error"))))
    }

    fn failure(&self, class: &str) -> Failure {
        let class = class.to_owned();
        let mut failure = match self.says {
            None | Some(Says::Retry) => Failure::retryable(class, ""),
            Some(Says::Permanent) => Failure::permanent(class, ""),
            Some(Says::Unavailable) => Failure::unavailable(class, ""),
        };
        failure.status = self.status;
        failure.retry_after = self.retry_after;
        failure
    }
}

/// How a message ends that no route takes.
pub(super) fn unroutable(consumer: &ConsumerSettings) -> Ending {
    let why = "no route takes the message";
    match consumer.unrouted {
        Unrouted::DeadLetter => Ending::Unroutable {
            why: why.to_owned(),
        },
        Unrouted::Ack => Ending::Handled(Outcome::dropped(why)),
    }
}
