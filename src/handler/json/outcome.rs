//! What is said about a message, as JSON.

use std::{borrow::Cow, collections::BTreeMap, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;

use crate::{
    broker::NewMessage,
    flight::HandlerResult,
    handler::Context,
    outcome::{Failure, Outcome},
    text::cut,
};

/// The most bytes of an error.
const ERROR: usize = 4 * 1024;
/// The most bytes of a class.
const CLASS: usize = 64;
/// The bytes of a part of an answer that a text shows.
const SHOWN: usize = 200;

/// What is said about a message.
#[derive(Clone, Debug)]
pub(in crate::handler) struct Said {
    pub(in crate::handler) outcome: Outcome,
    /// The result, if the handler gave one.
    pub(in crate::handler) result: Option<HandlerResult>,
    /// Messages to publish.
    pub(in crate::handler) messages: Vec<NewMessage>,
}

impl From<Outcome> for Said {
    fn from(outcome: Outcome) -> Self {
        Self {
            outcome,
            result: None,
            messages: Vec::new(),
        }
    }
}

impl Said {
    /// Leaves the result and the messages to publish with the message, and gives the outcome.
    pub(in crate::handler) fn leave(self, context: &Context) -> Outcome {
        for message in self.messages {
            context.outbox().add(message);
        }
        if let Some(result) = self.result {
            context.outbox().set_result(result);
        }
        self.outcome
    }

    /// The message has failed.
    pub(in crate::handler) fn failed(failure: Failure) -> Self {
        Outcome::Failed(failure).into()
    }
}

/// An answer about a message.
#[derive(Debug, Deserialize)]
pub(in crate::handler) struct Answer {
    pub(in crate::handler) id: u64,
    outcome: Word,
    error: Option<String>,
    class: Option<String>,
    status: Option<u16>,
    reason: Option<String>,
    after: Option<f64>,
    result: Option<String>,
    result_base64: Option<String>,
    content_type: Option<String>,
    #[serde(default)]
    publish: Vec<Publish>,
}

/// A message that the handler wants published.
#[derive(Debug, Deserialize)]
struct Publish {
    #[serde(default)]
    exchange: String,
    routing_key: String,
    body: Option<String>,
    body_base64: Option<String>,
    message_id: Option<String>,
    content_type: Option<String>,
    #[serde(rename = "type")]
    message_type: Option<String>,
    correlation_id: Option<String>,
    #[serde(default)]
    headers: BTreeMap<String, String>,
}

impl Publish {
    fn message(self) -> Result<NewMessage, String> {
        let body = bytes("body", self.body, self.body_base64)?;
        Ok(NewMessage {
            exchange: self.exchange,
            routing_key: self.routing_key,
            body: body.ok_or("a message in `publish` needs `body` or `body_base64`")?,
            message_id: self.message_id,
            content_type: self.content_type,
            message_type: self.message_type,
            correlation_id: self.correlation_id,
            headers: self.headers.into_iter().collect(),
        })
    }
}

/// The bytes of a text, or of base64.
fn bytes(
    name: &str,
    text: Option<String>,
    encoded: Option<String>,
) -> Result<Option<Vec<u8>>, String> {
    match (text, encoded) {
        (Some(text), _) => Ok(Some(text.into_bytes())),
        (None, Some(encoded)) => match STANDARD.decode(encoded) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) => Err(format!("`{name}_base64` is no base64: {error}")),
        },
        (None, None) => Ok(None),
    }
}

/// The outcomes that can be answered.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum Word {
    Succeeded,
    Retry,
    Permanent,
    Undecodable,
    Unavailable,
    Snoozed,
    Dropped,
}

impl Answer {
    /// What the answer says. `class`: of a failure that names none. The error says what is wrong with
    /// the answer.
    pub(in crate::handler) fn said(mut self, class: &'static str) -> Result<Said, String> {
        let result = self.result()?;
        let messages = std::mem::take(&mut self.publish).into_iter();
        let messages = messages.map(Publish::message).collect::<Result<_, _>>()?;
        let outcome = self.outcome(class)?;
        Ok(Said {
            outcome,
            result,
            messages,
        })
    }

    fn result(&mut self) -> Result<Option<HandlerResult>, String> {
        let body = bytes("result", self.result.take(), self.result_base64.take())?;
        let result = |body| HandlerResult {
            body,
            content_type: self.content_type.take(),
        };
        Ok(body.map(result))
    }

    fn outcome(self, usual: &'static str) -> Result<Outcome, String> {
        let after = match self.after {
            None => None,
            Some(seconds) => Some(
                Duration::try_from_secs_f64(seconds)
                    .map_err(|error| format!("`after` is {seconds}: {error}"))?,
            ),
        };
        let error = self.error.as_deref().unwrap_or("no error was given");
        let error = cut(error, ERROR);
        let class: Cow<'static, str> = match &self.class {
            Some(class) => cut(class, CLASS).to_owned().into(),
            None => usual.into(),
        };
        let mut failure = match self.outcome {
            Word::Succeeded => return Ok(Outcome::Succeeded),
            Word::Dropped => {
                let reason = self.reason.as_deref().unwrap_or("no reason was given");
                return Ok(Outcome::dropped(cut(reason, ERROR).to_owned()));
            }
            Word::Snoozed => {
                let after = after.ok_or("the outcome `snoozed` needs `after`, in seconds")?;
                return Ok(Outcome::snooze(after));
            }
            Word::Retry => Failure::retryable(class, error),
            Word::Unavailable => Failure::unavailable(class, error),
            Word::Permanent => Failure::permanent(class, error),
            Word::Undecodable => Failure::undecodable(error),
        };
        failure.retry_after = after;
        failure.status = self.status;
        Ok(Outcome::Failed(failure))
    }
}

/// The beginning of an answer, for people.
pub(in crate::handler) fn shown(answer: &[u8]) -> String {
    let text = String::from_utf8_lossy(&answer[..answer.len().min(SHOWN)]);
    format!("{text:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Said, String> {
        let answer = serde_json::from_str::<Answer>(text).map_err(|error| error.to_string());
        answer?.said("process")
    }

    #[test]
    fn each_outcome_can_be_answered() {
        let outcome = |rest: &str| {
            let answer = read(&format!("{{\"id\":7,{rest}}}"));
            answer.map(|said| said.outcome)
        };
        let failed = |failure| Ok(Outcome::Failed(failure));
        assert_eq!(
            outcome("\"outcome\":\"succeeded\",\"more\":[]"),
            Ok(Outcome::Succeeded)
        );
        assert_eq!(
            outcome("\"outcome\":\"dropped\",\"reason\":\"old\""),
            Ok(Outcome::dropped("old"))
        );
        let second = Duration::from_millis(1500);
        assert_eq!(
            outcome("\"outcome\":\"snoozed\",\"after\":1.5"),
            Ok(Outcome::snooze(second))
        );
        assert_eq!(
            outcome("\"outcome\":\"retry\",\"error\":\"busy\",\"class\":\"db\",\"status\":3"),
            failed(Failure::retryable("db", "busy").status(3))
        );
        assert_eq!(
            outcome("\"outcome\":\"unavailable\",\"error\":\"down\",\"after\":1.5"),
            failed(Failure::unavailable("process", "down").retry_after(second))
        );
        assert_eq!(
            outcome("\"outcome\":\"permanent\""),
            failed(Failure::permanent("process", "no error was given"))
        );
        assert_eq!(
            outcome("\"outcome\":\"undecodable\",\"error\":\"no\""),
            failed(Failure::undecodable("no"))
        );
    }

    #[test]
    fn an_answer_can_have_a_result() {
        let given = |rest: &str| {
            let answer = read(&format!("{{\"id\":7,\"outcome\":\"succeeded\"{rest}}}"));
            answer.map(|said| said.result)
        };
        let result = |body: &[u8], content_type: Option<&str>| {
            Ok(Some(HandlerResult {
                body: body.to_vec(),
                content_type: content_type.map(str::to_owned),
            }))
        };
        assert_eq!(given(""), Ok(None));
        assert_eq!(
            given(",\"result\":\"{}\",\"content_type\":\"a/b\""),
            result(b"{}", Some("a/b"))
        );
        assert_eq!(given(",\"result_base64\":\"/w==\""), result(b"\xff", None));
        assert!(
            given(",\"result_base64\":\"!\"")
                .unwrap_err()
                .contains("no base64")
        );
    }

    #[test]
    fn an_answer_can_ask_for_messages_to_be_published() {
        let asked = |publish: &str| {
            read(&format!(
                "{{\"id\":7,\"outcome\":\"succeeded\",\"publish\":{publish}}}"
            ))
            .map(|said| said.messages)
        };
        let messages = asked(
            r#"[{"routing_key":"q","body":"{}"},{"exchange":"e","routing_key":"k","body_base64":"/w==",
            "message_id":"m","content_type":"a/b","type":"t","correlation_id":"c","headers":{"a":"b"}}]"#,
        );
        let messages = messages.unwrap();
        assert_eq!(messages.len(), 2);
        let (first, second) = (&messages[0], &messages[1]);
        assert_eq!((&*first.exchange, &*first.routing_key), ("", "q"));
        assert_eq!((&*first.body, &*second.body), (&b"{}"[..], &b"\xff"[..]));
        assert_eq!((&*second.exchange, &*second.routing_key), ("e", "k"));
        let texts = [
            &second.message_id,
            &second.content_type,
            &second.message_type,
            &second.correlation_id,
        ];
        assert_eq!(
            texts.map(|text| text.as_deref()),
            ["m", "a/b", "t", "c"].map(Some)
        );
        assert_eq!(second.headers, [("a".to_owned(), "b".to_owned())]);
        for (publish, wrong) in [
            (r#"[{"routing_key":"q"}]"#, "needs `body`"),
            (r#"[{"body":"x"}]"#, "missing field `routing_key`"),
            (
                r#"[{"routing_key":"q","body_base64":"!"}]"#,
                "`body_base64` is no base64",
            ),
            (
                r#"[{"routing_key":"q","body":"x","headers":{"a":1}}]"#,
                "invalid type",
            ),
            ("{}", "invalid type"),
        ] {
            let error = asked(publish).unwrap_err();
            assert!(error.contains(wrong), "{publish}: {error}");
        }
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for (line, wrong) in [
            ("", "EOF"),
            ("Traceback", "expected value"),
            ("{\"id\":7}", "missing field `outcome`"),
            ("{\"outcome\":\"succeeded\"}", "missing field `id`"),
            ("{\"id\":7,\"outcome\":\"done\"}", "unknown variant `done`"),
            ("{\"id\":7,\"outcome\":\"succeeded\"}{", "trailing"),
            ("{\"id\":7,\"outcome\":\"snoozed\"}", "needs `after`"),
            (
                "{\"id\":7,\"outcome\":\"retry\",\"after\":-1}",
                "`after` is -1",
            ),
            (
                "{\"id\":7,\"outcome\":\"retry\",\"after\":1e99}",
                "cannot convert float",
            ),
        ] {
            let error = read(line).unwrap_err();
            assert!(error.contains(wrong), "{line}: {error}");
        }
    }
}
