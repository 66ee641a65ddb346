//! The failure that is explained: how each attempt ends.

use std::time::Duration;

use crate::{
    consumer::ConsumerSettings,
    handler::HandlerSettings,
    outcome::{Ending, Failure, Outcome},
};

/// How a message keeps failing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failing {
    /// The class of the failure: `timeout`, `panic`, `decode`, `unroutable-type`, `expired`, a class of
    /// the consumer's kind of handler, or any class that a handler of its own gives.
    pub class: Option<String>,
    /// The HTTP status, or the exit code of a program.
    pub status: Option<u16>,
    /// What the handler says about the failure. `None`: as its kind judges the class and the status,
    /// or else a retryable failure.
    pub says: Option<Says>,
    /// The time after which the service wants to be asked again: `Retry-After`.
    pub retry_after: Option<Duration>,
    /// The type of the message: the handler of this type fails.
    pub message_type: Option<String>,
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

impl Failing {
    /// How each attempt of the consumer's handler ends.
    pub(super) fn ending(&self, consumer: &ConsumerSettings) -> Ending {
        let Some(handler) = self.handler(consumer) else {
            let message_type = self.message_type.clone().unwrap_or_default();
            return Ending::Unroutable { message_type };
        };
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
            Some("unroutable-type") => Ending::Unroutable {
                message_type: self.message_type.clone().unwrap_or_default(),
            },
            Some("expired") => Ending::Expired { by: Duration::ZERO },
            class => Ending::from(self.outcome(handler, class)),
        }
    }

    /// The handler of the message; `None` if no handler takes its type.
    fn handler<'a>(&self, consumer: &'a ConsumerSettings) -> Option<&'a HandlerSettings> {
        let typed = self.message_type.as_ref();
        let typed = typed.and_then(|message_type| consumer.types.get(message_type));
        let takes_all = consumer.types.is_empty() || consumer.handler != HandlerSettings::None;
        // Without a type it is the only handler, or any of them.
        let any = || match self.message_type {
            None => consumer.types.values().next(),
            Some(_) => None,
        };
        typed
            .or(takes_all.then_some(&consumer.handler))
            .or_else(any)
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
