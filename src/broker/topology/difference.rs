//! The ways in which the broker's queues differ from the settings, read from the broker's refusals.

use std::fmt;

use lapin::types::FieldTable;

use super::plan::Argument;
use crate::broker::headers::short;

/// One way in which a queue or exchange at the broker differs from the settings.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Difference {
    /// The queue does not exist.
    NoQueue {
        /// The queue.
        queue: String,
    },
    /// The exchange does not exist.
    NoExchange {
        /// The exchange.
        exchange: String,
    },
    /// The queue has another value for an argument or property.
    Argument {
        /// The queue.
        queue: String,
        /// The argument or property.
        argument: String,
        /// Both values; `None` if the names are so long that the broker's answer does not hold
        /// them.
        values: Option<Values>,
    },
    /// The queue cannot be declared, and the broker does not say which argument is the reason.
    Refused {
        /// The queue.
        queue: String,
        /// The broker's text.
        text: String,
    },
}

/// The values of an argument that differs; `None` where it is not set.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Values {
    /// What the queue has.
    pub has: Option<String>,
    /// What the settings want.
    pub wanted: Option<String>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |value: &Option<String>| match value {
            Some(value) => format!("'{value}'"),
            None => "not set".to_owned(),
        };
        match self {
            Self::NoQueue { queue } => write!(f, "queue {queue:?} does not exist"),
            Self::NoExchange { exchange } => write!(f, "exchange {exchange:?} does not exist"),
            Self::Argument {
                queue,
                argument,
                values: Some(Values { has, wanted }),
            } => {
                let (has, wanted) = (shown(has), shown(wanted));
                write!(f, "queue {queue:?}: {argument} is {has}, wanted {wanted}")
            }
            Self::Argument {
                queue, argument, ..
            } => write!(
                f,
                "queue {queue:?}: {argument} differs from the settings (the names are so long \
                 that the broker's answer does not hold the value)"
            ),
            Self::Refused { queue, text } => write!(f, "queue {queue:?}: {text}"),
        }
    }
}

/// Differences as one text.
pub(crate) fn joined(differences: &[Difference]) -> String {
    let texts: Vec<_> = differences.iter().map(Difference::to_string).collect();
    texts.join("; ")
}

/// The content of a refused declaration: `inequivalent arg 'x-max-length' for queue 'q' in vhost
/// '/': received none but current is the value '5' of type 'long'` (RabbitMQ, `rabbit_misc`).
///
/// The broker cuts such a text at 255 bytes. With long names the values are missing.
#[derive(Debug, PartialEq)]
pub(super) struct Refusal {
    pub(super) argument: String,
    /// `None` if the text is cut.
    pub(super) values: Option<Values>,
    /// The queue's current value, to change the plan to; `None` if the argument is not set or the
    /// value is not known.
    pub(super) value: Option<Argument>,
}

impl Refusal {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (_, text) = text.split_once("inequivalent arg '")?;
        let (argument, text) = text.split_once('\'')?;
        let argument = argument.to_owned();
        let cut = text.ends_with("...");
        let values = text
            .split_once("received ")
            .and_then(|(_, text)| text.split_once(" but current is "));
        let Some((wanted, has)) = values.filter(|_| !cut) else {
            return cut.then_some(Self {
                argument,
                values: None,
                value: None,
            });
        };
        let has = has.split(" (").next().unwrap_or(has);
        Some(Self {
            argument,
            values: Some(Values {
                has: plain(has),
                wanted: plain(wanted),
            }),
            value: parse_value(has),
        })
    }

    /// The arguments with the current value of this one; `None` if an argument cannot express it.
    pub(super) fn bend(&self, table: &FieldTable) -> Option<FieldTable> {
        if !self.argument.starts_with("x-") {
            return None;
        }
        let mut inner = table.inner().clone();
        match &self.value {
            Some(value) => {
                inner.insert(short(&self.argument), value.into());
            }
            None if inner.contains_key(self.argument.as_str()) => {
                inner.remove(self.argument.as_str());
            }
            None => return None,
        }
        Some(FieldTable::from(inner))
    }
}

/// Reads `the value '5' of type 'long'` and `'5'` as `5`, and `none` as nothing.
fn plain(text: &str) -> Option<String> {
    let bare = || text.strip_prefix('\'')?.strip_suffix('\'');
    let value = quoted(text).map(|(value, _)| value).or_else(bare);
    (text != "none").then(|| value.unwrap_or(text).to_owned())
}

fn quoted(text: &str) -> Option<(&str, &str)> {
    let text = text.strip_prefix("the value '")?;
    let (value, kind) = text.rsplit_once("' of type '")?;
    Some((value, kind.split('\'').next()?))
}

fn parse_value(text: &str) -> Option<Argument> {
    let (value, kind) = quoted(text)?;
    match kind {
        "longstr" => Some(Argument::Text(value.to_owned())),
        "bool" => value.parse().ok().map(Argument::Bool),
        _ => value.parse().ok().map(Argument::Int),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_read_from_the_brokers_refusals() {
        let parse = |text: &str| Refusal::parse(text).unwrap();
        let told = |refusal: &Refusal| {
            let difference = Difference::Argument {
                queue: "q".to_owned(),
                argument: refusal.argument.clone(),
                values: refusal.values.clone(),
            };
            difference.to_string()
        };
        let more = parse(
            "PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'q' in vhost '/': \
             received none but current is the value '5' of type 'long'",
        );
        assert_eq!(
            told(&more),
            "queue \"q\": x-max-length is '5', wanted not set"
        );
        assert_eq!(more.value, Some(Argument::Int(5)));
        let less = parse(
            "inequivalent arg 'x-dead-letter-routing-key' for queue 'q' in vhost '/': received the \
             value 'q.dead' of type 'longstr' but current is none",
        );
        assert_eq!(
            told(&less),
            "queue \"q\": x-dead-letter-routing-key is not set, wanted 'q.dead'"
        );
        let single = parse(
            "inequivalent arg 'x-single-active-consumer' for queue 'q' in vhost '/': received none \
             but current is the value 'true' of type 'bool'",
        );
        assert_eq!(single.value, Some(Argument::Bool(true)));
        let cut = parse(
            "PRECONDITION_FAILED - inequivalent arg 'x-overflow' for queue 'q' in vhost 'long': \
             received the value 'reject-publish' of type 'longstr' but curren...",
        );
        assert!(
            told(&cut).starts_with("queue \"q\": x-overflow differs from the settings"),
            "{cut:?}"
        );
        assert_eq!(cut.value, None);
        let durable = parse(
            "inequivalent arg 'durable' for queue 'q' in vhost '/': received 'true' but current is \
             'false'",
        );
        assert_eq!(
            told(&durable),
            "queue \"q\": durable is 'false', wanted 'true'"
        );
        assert_eq!(durable.bend(&FieldTable::default()), None);
    }
}
