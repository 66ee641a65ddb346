//! `[consumers.NAME.forward]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    config::{Findings, KeyPath},
    message::Message,
};

/// Where the results of the handler are published: the body of an HTTP answer, the standard output of a
/// command, the `result` of a co-process, or what a function gives to `Results`. The worker acks a
/// message only after the broker has confirmed its result. While the result cannot be published, the
/// message waits, and its handler does not run again. A result of more than 1 MiB is a permanent failure
/// (class `result`), and so is a result that the broker refuses because of its size (class `forward`).
/// An empty result is sent as a reply only.
///
/// The result has the `message-id` of the handled message. Its `correlation-id` is that of the handled
/// message or, if that has none, its `message-id`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ForwardSettings {
    /// The exchange to which results go. Empty: the default exchange, which routes to the queue that
    /// `routing_key` names. Default: empty.
    pub exchange: String,
    /// The routing key of results. `{routing_key}`, `{type}`, `{queue}` and `{exchange}` stand for
    /// those of the message. Without it, results are not forwarded. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "invoices.{type}")]
    pub routing_key: Option<String>,
    /// Whether the result answers a message that has `reply-to`, as callers of request-reply expect
    /// (such as Spring's `convertSendAndReceive`). A caller that is gone does not hold up the message.
    /// If the caller's queue refuses the reply three times, because it is full, the message becomes a
    /// dead letter (class `forward`). Default: `false`.
    pub reply: bool,
    /// The exchanges to which a reply may go. With `dialect = "spring"` a `reply-to` can name an exchange
    /// and a routing key, so whoever publishes a message chooses what the worker publishes there. A
    /// message that names another exchange gets no reply, and the log says so once. Default: `[]`.
    #[schemars(example = ["answers"])]
    pub reply_exchanges: Vec<String>,
}

/// The names that a routing key can have in braces.
const NAMES: [&str; 4] = ["routing_key", "type", "queue", "exchange"];
/// The longest routing key, in bytes. A template may become longer: then the message fails.
const LONGEST: usize = 255;

impl ForwardSettings {
    /// Whether somebody takes results.
    pub(crate) fn wants_results(&self) -> bool {
        self.reply || self.routing_key.is_some()
    }

    /// The routing key for the result of a message.
    pub(crate) fn key(&self, message: &Message) -> Option<String> {
        let template = self.routing_key.as_ref()?;
        let mut key = String::new();
        for part in parts(template) {
            key.push_str(match part {
                Part::Text(text) => text,
                Part::Name("routing_key") => message.routing_key(),
                Part::Name("type") => message.message_type().unwrap_or_default(),
                Part::Name("queue") => message.queue(),
                Part::Name(_) => message.exchange(),
            });
        }
        Some(key)
    }

    /// Whether a reply may go to this exchange.
    pub(crate) fn may_reply_to(&self, exchange: &str) -> bool {
        exchange.is_empty() || self.reply_exchanges.iter().any(|known| known == exchange)
    }

    pub(super) fn check(&self, findings: &mut Findings, path: &KeyPath, queue: &str) {
        let at = path.key("routing_key");
        match &self.routing_key {
            None if !self.exchange.is_empty() => {
                let message = "is required with `exchange`";
                findings.contradiction(at, [path.key("exchange")], message);
            }
            Some(key) if key.is_empty() && self.exchange.is_empty() => {
                findings.add(at, "must name a queue, because `exchange` is empty");
            }
            Some(key) if key == queue && self.exchange.is_empty() => {
                findings.add(
                    at,
                    "is the consumer's own queue: results would be handled again",
                );
            }
            Some(key) if key.len() > LONGEST => {
                findings.add(at, format!("must have at most {LONGEST} bytes"));
            }
            Some(key) => {
                let is_unknown =
                    |part: Part<'_>| matches!(part, Part::Name(name) if !NAMES.contains(&name));
                if parts(key).any(is_unknown) {
                    let names = NAMES.map(|name| format!("`{{{name}}}`")).join(", ");
                    findings.add(at, format!("has an unknown name in braces; known: {names}"));
                }
            }
            None => {}
        }
    }
}

/// A part of a template.
enum Part<'a> {
    Text(&'a str),
    Name(&'a str),
}

/// The parts of a template. A brace without its other half is text.
fn parts(template: &str) -> impl Iterator<Item = Part<'_>> {
    let mut rest = template;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        if let Some(after) = rest.strip_prefix('{')
            && let Some((name, left)) = after.split_once('}')
        {
            rest = left;
            return Some(Part::Name(name));
        }
        let mut later = rest.char_indices().skip(1);
        let end = later.find(|(_, letter)| *letter == '{');
        let end = end.map_or(rest.len(), |(at, _)| at);
        let (text, left) = rest.split_at(end);
        rest = left;
        Some(Part::Text(text))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::samples::{Sample, sections};

    sections!({ forward: ForwardSettings }, |it, findings| {
        it.forward.check(findings, &KeyPath::of("forward"), "orders");
    });

    #[test]
    fn results_have_a_place_to_go_to() {
        Sections::allowed(&[
            "",
            "forward.reply = true",
            "forward = { reply = true, reply_exchanges = ['answers'] }",
            "forward.routing_key = 'done'",
            "forward = { exchange = 'shop', routing_key = '' }",
            "forward = { exchange = 'shop', routing_key = 'orders' }",
            "forward.routing_key = '\u{20ac}{type}.{routing_key}{queue}-{exchange}.{'",
        ]);
        let long = format!("forward.routing_key = '{}'", "x".repeat(256));
        Sections::refused(&[
            (
                "forward.exchange = 'shop'",
                "forward.routing_key: is required with `exchange`",
            ),
            (
                "forward.routing_key = ''",
                "forward.routing_key: must name a queue",
            ),
            (
                "forward.routing_key = 'orders'",
                "forward.routing_key: is the consumer's own queue",
            ),
            (
                "forward.routing_key = 'done.{id}'",
                "forward.routing_key: has an unknown name in braces; known: `{routing_key}`, `{type}`",
            ),
            (&long, "forward.routing_key: must have at most 255 bytes"),
        ]);
    }
}
