//! How the caller of a request wants its reply.

use std::borrow::Cow;

use serde_json::{Value, value::RawValue};

use super::{Dialect, table};

/// The form of replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    /// The result as it is, to the queue that `reply-to` names.
    Plain,
    /// The result as it is. `reply-to` may name an exchange and a routing key.
    Spring,
    /// A task's result, as the result backend `rpc://` has it.
    Celery,
    /// A response of a microservice, which is the last one to its request.
    NestJs,
}

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// Empty: the default exchange.
    pub(crate) exchange: String,
    pub(crate) routing_key: String,
    pub(crate) body: Vec<u8>,
    pub(crate) content_type: Option<String>,
}

impl Answer {
    /// The reply with this result to the message of this id.
    pub(crate) fn new(
        dialect: Option<Dialect>,
        reply_to: &str,
        id: Option<&str>,
        body: Vec<u8>,
        content_type: Option<String>,
    ) -> Self {
        let style = style(dialect);
        let (exchange, routing_key) = address(style, reply_to);
        let wrapped = match style {
            Style::Plain | Style::Spring => None,
            Style::Celery => Some(format!(
                r#"{{"task_id":{},"status":"SUCCESS","result":{},"traceback":null,"children":[]}}"#,
                Value::from(id),
                json(&body),
            )),
            Style::NestJs => Some(format!(
                r#"{{"response":{},"isDisposed":true}}"#,
                json(&body)
            )),
        };
        let (body, content_type) = match wrapped {
            Some(reply) => (reply.into_bytes(), Some("application/json".to_owned())),
            None => (body, content_type),
        };
        Self {
            exchange: exchange.to_owned(),
            routing_key: routing_key.to_owned(),
            body,
            content_type,
        }
    }

    /// The exchange that a `reply-to` names. Empty: the default exchange.
    pub(crate) fn exchange(dialect: Option<Dialect>, reply_to: &str) -> &str {
        address(style(dialect), reply_to).0
    }
}

fn style(dialect: Option<Dialect>) -> Style {
    dialect.map_or(Style::Plain, |dialect| table::of(dialect).reply)
}

/// The exchange and the routing key of a reply. Spring's address is `exchange/routing-key`, or the name of a
/// queue. The queues of direct reply-to have slashes in their names.
fn address(style: Style, reply_to: &str) -> (&str, &str) {
    let is_direct = reply_to.starts_with("amq.rabbitmq.reply-to");
    match reply_to.split_once('/') {
        Some(parts) if style == Style::Spring && !is_direct => parts,
        _ => ("", reply_to),
    }
}

/// A result as JSON, as it is written: numbers keep all their digits. What is no JSON becomes text, and
/// an empty result null.
fn json(body: &[u8]) -> Cow<'_, str> {
    if body.is_empty() {
        return Cow::Borrowed("null");
    }
    match serde_json::from_slice::<&RawValue>(body) {
        Ok(json) => Cow::Borrowed(json.get()),
        Err(_) => Cow::Owned(Value::from(String::from_utf8_lossy(body)).to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer(dialect: Option<Dialect>, reply_to: &str, body: &str) -> Answer {
        let text = Some("text/plain".to_owned());
        Answer::new(dialect, reply_to, Some("t1"), body.into(), text)
    }

    fn json_of(dialect: Dialect, body: &str) -> Value {
        let answer = answer(Some(dialect), "q", body);
        assert_eq!(answer.content_type.as_deref(), Some("application/json"));
        serde_json::from_slice(&answer.body).unwrap()
    }

    #[test]
    fn a_reply_has_the_form_that_its_caller_reads() {
        let celery = json_of(Dialect::Celery, "{\"sum\":7}");
        assert_eq!(celery["task_id"], "t1");
        assert_eq!(
            (&celery["status"], &celery["result"]),
            (&json!("SUCCESS"), &json!({"sum":7}))
        );
        assert_eq!(json_of(Dialect::Celery, "")["result"], Value::Null);
        let exact = "[12345678901234567890123,1.10]";
        for dialect in [Dialect::Celery, Dialect::NestJs] {
            let answer = answer(Some(dialect), "q", exact);
            let body = String::from_utf8(answer.body).unwrap();
            assert!(body.contains(exact), "{body}");
        }
        let nest = json!({ "response": "seven", "isDisposed": true });
        assert_eq!(json_of(Dialect::NestJs, "seven"), nest);
        let plain = answer(None, "a/b", "x");
        assert_eq!(
            (plain.exchange.as_str(), plain.routing_key.as_str()),
            ("", "a/b")
        );
        assert_eq!(
            (plain.body.as_slice(), plain.content_type),
            (&b"x"[..], Some("text/plain".to_owned()))
        );
    }

    #[test]
    fn a_reply_to_spring_goes_to_an_exchange_if_its_address_has_one() {
        let at = |reply_to| {
            let answer = answer(Some(Dialect::Spring), reply_to, "x");
            (answer.exchange, answer.routing_key)
        };
        let pair = |exchange: &str, key: &str| (exchange.to_owned(), key.to_owned());
        assert_eq!(at("answers"), pair("", "answers"));
        assert_eq!(at("ex/answers.eu"), pair("ex", "answers.eu"));
        assert_eq!(at("/answers"), pair("", "answers"));
        let direct = "amq.rabbitmq.reply-to.g1h2/x==.a";
        assert_eq!(at(direct), pair("", direct));
    }
}
