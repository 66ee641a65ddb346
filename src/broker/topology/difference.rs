//! The ways in which the broker's queues differ from the settings, read from the broker's refusals.

use std::fmt;

use lapin::types::FieldTable;

use crate::{
    broker::{QueueArgument, headers::short},
    text::visible,
};

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
    /// The queue is of a kind that loses messages, or cannot take one back.
    Unfit {
        /// The queue.
        queue: String,
        /// The reason.
        why: Unfit,
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

/// A kind of queue that no consumer can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unfit {
    /// A stream.
    Stream,
    /// An auto-delete queue.
    AutoDelete,
    /// A queue that is not durable.
    Transient,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Stream => {
                "is a stream, which takes no message back: use a quorum or classic queue"
            }
            Self::AutoDelete => {
                "is an auto-delete queue, which the broker deletes with its messages when the last \
                 consumer stops: use a queue that stays"
            }
            Self::Transient => {
                "is not durable, so a restart of the broker deletes it with its messages: use a \
                 durable queue"
            }
        })
    }
}

impl Difference {
    /// The kind of the object, and its name.
    fn object(&self) -> (&'static str, &str) {
        match self {
            Self::NoExchange { exchange } => ("exchange", exchange),
            Self::NoQueue { queue }
            | Self::Argument { queue, .. }
            | Self::Unfit { queue, .. }
            | Self::Refused { queue, .. } => ("queue", queue),
        }
    }

    /// What is wrong with the object.
    pub(crate) fn problem(&self) -> String {
        let shown = |value: &Option<String>| match value {
            Some(value) => format!("'{}'", visible(value)),
            None => "not set".to_owned(),
        };
        match self {
            Self::NoQueue { .. } | Self::NoExchange { .. } => "missing".to_owned(),
            Self::Argument {
                argument,
                values: Some(Values { has, wanted }),
                ..
            } => {
                let (has, wanted) = (shown(has), shown(wanted));
                format!("{argument} is {has}, wanted {wanted}")
            }
            Self::Argument { argument, .. } => format!(
                "{argument} differs from the settings (the names are so long that the broker's \
                 answer does not hold the value)"
            ),
            Self::Unfit { why, .. } => why.to_string(),
            // Without the name the text is the same for all queues that one limit concerns.
            Self::Refused { queue, text } => {
                visible(&text.replace(&format!("'{queue}'"), "'…'")).into_owned()
            }
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, name) = self.object();
        write!(f, "{kind} {name:?}: {}", self.problem())
    }
}

/// One line for each thing to mend. Objects with the same problems share a line.
pub(crate) fn lines(differences: &[Difference]) -> Vec<String> {
    let mut objects: Vec<((&str, &str), Vec<String>)> = Vec::new();
    for difference in differences {
        let object = difference.object();
        match objects.iter_mut().find(|(known, _)| *known == object) {
            Some((_, problems)) => problems.push(difference.problem()),
            None => objects.push((object, vec![difference.problem()])),
        }
    }
    let mut lines: Vec<(&str, Vec<&str>, String)> = Vec::new();
    for ((kind, name), mut problems) in objects {
        // Another type is the first thing to know: it explains most other differences.
        problems.sort_by_key(|problem| !problem.starts_with("x-queue-type"));
        let problems = problems.join(" and ");
        let same = |line: &&mut (&str, Vec<&str>, String)| line.0 == kind && line.2 == problems;
        match lines.iter_mut().find(same) {
            Some((_, names, _)) => names.push(name),
            None => lines.push((kind, vec![name], problems)),
        }
    }
    let line = |(kind, names, problems): (&str, Vec<&str>, String)| {
        let plural = if names.len() > 1 { "s" } else { "" };
        let names: Vec<_> = names.iter().map(|name| format!("{name:?}")).collect();
        format!("{kind}{plural} {}: {problems}", names.join(", "))
    };
    lines.into_iter().map(line).collect()
}

/// Differences as one text.
pub(crate) fn joined(differences: &[Difference]) -> String {
    lines(differences).join("; ")
}

/// An argument with which the broker compares a queue that exists, and creates none that is missing.
///
/// RabbitMQ knows this argument for streams only. When it creates a queue it refuses an argument
/// that the type of queue does not have, and for a stream a value that is not a text. When it
/// compares a queue that exists, it looks only at the arguments that the type of that queue has
/// (measured on 3.10 and 4.3).
pub(super) const NEVER_CREATES: &str = "x-max-age";

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
    pub(super) value: Option<QueueArgument>,
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

    /// The kind of queue, if the broker refused because of that.
    pub(super) fn unfit(&self) -> Option<Unfit> {
        let is_stream = |values: &Values| values.has.as_deref() == Some("stream");
        match self.argument.as_str() {
            "durable" => Some(Unfit::Transient),
            "auto_delete" => Some(Unfit::AutoDelete),
            // The broker compares this argument for streams only.
            NEVER_CREATES => Some(Unfit::Stream),
            "x-queue-type" if self.values.as_ref().is_some_and(is_stream) => Some(Unfit::Stream),
            _ => None,
        }
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

fn parse_value(text: &str) -> Option<QueueArgument> {
    let (value, kind) = quoted(text)?;
    match kind {
        "longstr" => Some(QueueArgument::Text(value.to_owned())),
        "bool" => value.parse().ok().map(QueueArgument::Bool),
        _ => value.parse().ok().map(QueueArgument::Int),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mended_together_is_said_in_one_line() {
        let argument =
            |queue: &str, argument: &str, has: &str, wanted: &str| Difference::Argument {
                queue: queue.to_owned(),
                argument: argument.to_owned(),
                values: Some(Values {
                    has: Some(has.to_owned()),
                    wanted: Some(wanted.to_owned()),
                }),
            };
        let limit = |queue: &str| Difference::Refused {
            queue: queue.to_owned(),
            text: format!(
                "cannot declare queue '{queue}': queue limit in vhost 'v' (5) is reached"
            ),
        };
        let differences = [
            argument("q.retry.1s", "x-queue-type", "classic", "quorum"),
            argument("q.retry.2s", "x-queue-type", "classic", "quorum"),
            argument("q", "x-max-length", "5", "6"),
            argument("q", "x-delivery-limit", "20", "100"),
            Difference::NoExchange {
                exchange: "q".to_owned(),
            },
            limit("q.retry.4s"),
            limit("q.retry.8s"),
            Difference::Unfit {
                queue: "q.dead".to_owned(),
                why: Unfit::Stream,
            },
        ];
        assert_eq!(
            lines(&differences),
            [
                "queues \"q.retry.1s\", \"q.retry.2s\": x-queue-type is 'classic', wanted 'quorum'",
                "queue \"q\": x-max-length is '5', wanted '6' and x-delivery-limit is '20', wanted '100'",
                "exchange \"q\": missing",
                "queues \"q.retry.4s\", \"q.retry.8s\": cannot declare queue '…': queue limit in vhost 'v' (5) is reached",
                "queue \"q.dead\": is a stream, which takes no message back: use a quorum or classic queue",
            ]
        );
    }

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
        assert_eq!(more.value, Some(QueueArgument::Int(5)));
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
        assert_eq!(single.value, Some(QueueArgument::Bool(true)));
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
