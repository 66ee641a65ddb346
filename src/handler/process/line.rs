//! The lines of the protocol: a message for a co-process, and its answer.
//! `docs/process-protocol.md` describes both.

use std::{borrow::Cow, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

use crate::{
    flight::HandlerResult,
    handler::{
        Context,
        about::{self, Known},
    },
    outcome::{Failure, Outcome},
    text::cut,
};

/// The version of the protocol.
pub(super) const VERSION: u64 = 1;
/// The most bytes of an answer's error.
const ERROR: usize = 4 * 1024;
/// The most bytes of an answer's class.
const CLASS: usize = 64;

/// The line about a message.
pub(super) fn message(id: u64, context: &Context) -> Vec<u8> {
    let message = context.message();
    let properties = message.properties();
    let mut line = Line::new(id, message.body().len());
    for (name, value) in about::facts(context) {
        match value {
            Known::Text(text) => line.add(name.key, text),
            Known::Number(number) => line.add(name.key, &number),
            Known::Flag(flag) => line.add(name.key, &flag),
        }
    }
    for (key, value) in [
        ("content_type", properties.content_type()),
        ("content_encoding", properties.content_encoding()),
    ] {
        if let Some(value) = value {
            line.add(key, value);
        }
    }
    for (key, value) in about::trace(context) {
        line.add(key, &value);
    }
    let (headers, cut) = about::headers(properties, usize::MAX);
    line.add("headers", &headers);
    if let Some(list) = cut.text() {
        line.add("cut_headers", list);
    }
    line.body(message.body());
    line.end()
}

/// A line that is being written: a JSON object.
pub(super) struct Line(Vec<u8>);

impl Line {
    pub(super) fn new(id: u64, body: usize) -> Self {
        let mut line = Vec::with_capacity(512 + body + body / 8);
        line.extend_from_slice(format!("{{\"id\":{id}").as_bytes());
        Self(line)
    }

    /// Adds a key. Its name needs no escapes.
    pub(super) fn add(&mut self, key: &str, value: &(impl Serialize + ?Sized)) {
        self.0.extend_from_slice(b",\"");
        self.0.extend_from_slice(key.as_bytes());
        self.0.extend_from_slice(b"\":");
        let written = serde_json::to_writer(&mut self.0, value);
        debug_assert!(written.is_ok(), "texts, numbers and JSON can be written");
    }

    /// The body as text if it is UTF-8, or else in base64.
    pub(super) fn body(&mut self, body: &[u8]) {
        match std::str::from_utf8(body) {
            Ok(text) => self.add("body", text),
            Err(_) => self.add("body_base64", &STANDARD.encode(body)),
        }
    }

    pub(super) fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(b"}\n");
        self.0
    }
}

/// The first line of a co-process.
#[derive(Deserialize)]
struct Ready {
    ready: u64,
}

/// Checks the first line of a co-process.
pub(super) fn check_ready(line: &[u8]) -> Result<(), String> {
    match serde_json::from_slice(line) {
        Ok(Ready { ready: VERSION }) => Ok(()),
        Ok(Ready { ready }) => Err(format!(
            "the co-process speaks version {ready} of the protocol, the worker version {VERSION}"
        )),
        Err(_) => Err(format!(
            "the first line of the co-process must be {{\"ready\":{VERSION}}}, found {}",
            shown(line)
        )),
    }
}

/// The answer of a co-process.
#[derive(Debug, Deserialize)]
pub(super) struct Answer {
    id: u64,
    outcome: Word,
    error: Option<String>,
    class: Option<String>,
    status: Option<u16>,
    reason: Option<String>,
    after: Option<f64>,
    result: Option<String>,
    result_base64: Option<String>,
    content_type: Option<String>,
}

/// The outcomes that a co-process can answer.
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
    /// Reads the answer to the message with this id: the outcome, and the result if there is one. The
    /// error says what is wrong with the line.
    pub(super) fn read(line: &[u8], id: u64) -> Result<(Outcome, Option<HandlerResult>), String> {
        let mut answer: Self = serde_json::from_slice(line)
            .map_err(|error| format!("{} is no answer: {error}", shown(line)))?;
        if answer.id != id {
            let other = answer.id;
            return Err(format!(
                "the answer is for id {other}, but id {id} was asked"
            ));
        }
        let result = answer.result()?;
        Ok((answer.outcome()?, result))
    }

    fn result(&mut self) -> Result<Option<HandlerResult>, String> {
        let body = match (self.result.take(), self.result_base64.take()) {
            (Some(text), _) => text.into_bytes(),
            (None, Some(encoded)) => STANDARD
                .decode(encoded)
                .map_err(|error| format!("`result_base64` is no base64: {error}"))?,
            (None, None) => return Ok(None),
        };
        Ok(Some(HandlerResult {
            body,
            content_type: self.content_type.take(),
        }))
    }

    fn outcome(self) -> Result<Outcome, String> {
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
            None => "process".into(),
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

/// The beginning of a line, for people.
fn shown(line: &[u8]) -> String {
    const SHOWN: usize = 200;
    let text = String::from_utf8_lossy(&line[..line.len().min(SHOWN)]);
    format!("{text:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_outcome_can_be_answered() {
        let read = |rest: &str| {
            let answer = Answer::read(format!("{{\"id\":7,{rest}}}").as_bytes(), 7);
            answer.map(|(outcome, _)| outcome)
        };
        let failed = |failure| Ok(Outcome::Failed(failure));
        assert_eq!(
            read("\"outcome\":\"succeeded\",\"more\":[]"),
            Ok(Outcome::Succeeded)
        );
        assert_eq!(
            read("\"outcome\":\"dropped\",\"reason\":\"old\""),
            Ok(Outcome::dropped("old"))
        );
        let second = Duration::from_millis(1500);
        assert_eq!(
            read("\"outcome\":\"snoozed\",\"after\":1.5"),
            Ok(Outcome::snooze(second))
        );
        assert_eq!(
            read("\"outcome\":\"retry\",\"error\":\"busy\",\"class\":\"db\",\"status\":3"),
            failed(Failure::retryable("db", "busy").status(3))
        );
        assert_eq!(
            read("\"outcome\":\"unavailable\",\"error\":\"down\",\"after\":1.5"),
            failed(Failure::unavailable("process", "down").retry_after(second))
        );
        assert_eq!(
            read("\"outcome\":\"permanent\""),
            failed(Failure::permanent("process", "no error was given"))
        );
        assert_eq!(
            read("\"outcome\":\"undecodable\",\"error\":\"no\""),
            failed(Failure::undecodable("no"))
        );
    }

    #[test]
    fn an_answer_can_have_a_result() {
        let read = |rest: &str| {
            let line = format!("{{\"id\":7,\"outcome\":\"succeeded\"{rest}}}");
            Answer::read(line.as_bytes(), 7).map(|(_, result)| result)
        };
        let result = |body: &[u8], content_type: Option<&str>| {
            Ok(Some(HandlerResult {
                body: body.to_vec(),
                content_type: content_type.map(str::to_owned),
            }))
        };
        assert_eq!(read(""), Ok(None));
        assert_eq!(
            read(",\"result\":\"{}\",\"content_type\":\"a/b\""),
            result(b"{}", Some("a/b"))
        );
        assert_eq!(read(",\"result_base64\":\"/w==\""), result(b"\xff", None));
        assert!(
            read(",\"result_base64\":\"!\"")
                .unwrap_err()
                .contains("no base64")
        );
    }

    #[test]
    fn what_is_no_answer_is_refused() {
        for (line, wrong) in [
            ("", "is no answer"),
            ("Traceback", "is no answer"),
            ("{\"id\":7}", "missing field `outcome`"),
            ("{\"outcome\":\"succeeded\"}", "missing field `id`"),
            ("{\"id\":7,\"outcome\":\"done\"}", "unknown variant `done`"),
            ("{\"id\":7,\"outcome\":\"succeeded\"}{", "is no answer"),
            (
                "{\"id\":6,\"outcome\":\"succeeded\"}",
                "the answer is for id 6",
            ),
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
            let error = Answer::read(line.as_bytes(), 7).unwrap_err();
            assert!(error.contains(wrong), "{line}: {error}");
        }
    }

    #[test]
    fn the_first_line_names_the_version() {
        assert_eq!(check_ready(b"{\"ready\":1}"), Ok(()));
        assert!(
            check_ready(b"{\"ready\":2}")
                .unwrap_err()
                .contains("version 2")
        );
        assert!(check_ready(b"hello").unwrap_err().contains("\"hello\""));
    }

    #[test]
    fn a_body_that_is_no_text_is_sent_in_base64() {
        let line = |body: &[u8]| {
            let mut line = Line::new(1, body.len());
            line.body(body);
            String::from_utf8(line.end()).unwrap()
        };
        assert_eq!(
            line(b"a\n\0\""),
            "{\"id\":1,\"body\":\"a\\n\\u0000\\\"\"}\n"
        );
        assert_eq!(line(b"\xff"), "{\"id\":1,\"body_base64\":\"/w==\"}\n");
    }
}
