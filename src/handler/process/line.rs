//! The lines of the protocol. `docs/process-protocol.md` describes them.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::handler::{
    Context,
    json::{self, Answer, Bodies, Classes, Object, Said, shown},
};

/// The version of the protocol.
pub(super) const VERSION: u64 = 1;
/// The class of failures that name none.
const USUAL: &str = "process";
/// The class of messages whose co-process breaks the protocol.
pub(super) const WRONG: &str = "process-protocol";

/// The line about a message.
pub(super) fn message(id: u64, context: &Context) -> Vec<u8> {
    let bytes = Vec::with_capacity(json::room(context));
    ended(json::message(bytes, id, context, Bodies::Text))
}

/// The line about several messages, whose ids follow its own.
pub(super) fn batch(id: u64, contexts: &[Context]) -> Vec<u8> {
    let bytes = format!("{{\"id\":{id},\"messages\":[").into_bytes();
    let ids = id + 1..id + 1 + contexts.len() as u64;
    let mut line = json::all(bytes, ids, contexts, Bodies::Text);
    line.extend_from_slice(b"]}");
    ended(line)
}

/// The line of an object.
pub(super) fn of(object: Object) -> Vec<u8> {
    ended(object.end())
}

/// A line with these objects as the messages of a batch.
pub(super) fn of_batch(id: u64, objects: impl Iterator<Item = Object>) -> Vec<u8> {
    let objects: Vec<_> = objects.map(Object::end).collect();
    let mut line = format!("{{\"id\":{id},\"messages\":[").into_bytes();
    line.extend(objects.join(&b','));
    line.extend_from_slice(b"]}");
    ended(line)
}

fn ended(mut line: Vec<u8>) -> Vec<u8> {
    line.push(b'\n');
    line
}

/// The first line of a co-process.
#[derive(Debug, Deserialize)]
pub(super) struct Ready {
    ready: u64,
    /// Whether the co-process takes lines with several messages.
    #[serde(default)]
    pub(super) batch: bool,
}

/// Reads the first line of a co-process.
pub(super) fn read_ready(line: &[u8]) -> Result<Ready, String> {
    match serde_json::from_slice(line) {
        Ok(ready @ Ready { ready: VERSION, .. }) => Ok(ready),
        Ok(Ready { ready, .. }) => Err(format!(
            "the co-process speaks version {ready} of the protocol, the worker version {VERSION}"
        )),
        Err(_) => Err(format!(
            "the first line of the co-process must be {{\"ready\":{VERSION}}}, found {}",
            shown(line)
        )),
    }
}

/// Reads the answer to the message with this id. The error says what is wrong with the line.
pub(super) fn read(line: &[u8], id: u64) -> Result<Said, String> {
    let answer: Answer = serde_json::from_slice(line).map_err(|error| no_answer(line, &error))?;
    check_id(answer.id, id)?;
    answer.said(USUAL)
}

/// An answer to a line with several messages.
#[derive(Deserialize)]
struct Answers<'a> {
    id: u64,
    #[serde(borrow)]
    outcomes: Vec<&'a RawValue>,
}

/// Reads the answer to the line about so many messages with this id. The error says what is wrong with
/// the line as a whole.
pub(super) fn read_batch(
    line: &[u8],
    id: u64,
    count: usize,
    consumer: &str,
) -> Result<Vec<Said>, String> {
    let answers: Answers<'_> =
        serde_json::from_slice(line).map_err(|error| no_answer(line, &error))?;
    check_id(answers.id, id)?;
    let classes = Classes {
        usual: USUAL,
        wrong: WRONG,
    };
    let ids = id + 1..id + 1 + count as u64;
    Ok(json::each(&answers.outcomes, ids, classes, consumer))
}

fn check_id(other: u64, id: u64) -> Result<(), String> {
    match other == id {
        true => Ok(()),
        false => Err(format!(
            "the answer is for id {other}, but id {id} was asked"
        )),
    }
}

fn no_answer(line: &[u8], error: &serde_json::Error) -> String {
    format!("{} is no answer: {error}", shown(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_for_the_line_that_was_asked() {
        let line = |id: u64| format!("{{\"id\":{id},\"outcome\":\"succeeded\"}}");
        assert!(read(line(7).as_bytes(), 7).is_ok());
        let error = read(line(6).as_bytes(), 7).unwrap_err();
        assert_eq!(error, "the answer is for id 6, but id 7 was asked");
        let error = read(b"Traceback", 7).unwrap_err();
        assert!(error.starts_with("\"Traceback\" is no answer: "), "{error}");
    }

    #[test]
    fn an_answer_about_several_messages_is_one_line_with_their_outcomes() {
        let outcomes = "[{\"id\":8,\"outcome\":\"succeeded\"},{\"id\":9,\"outcome\":\"retry\"}]";
        let line = format!("{{\"id\":7,\"outcomes\":{outcomes},\"more\":1}}");
        assert_eq!(
            read_batch(line.as_bytes(), 7, 2, "orders").unwrap().len(),
            2
        );
        for (line, wrong) in [
            (line.replace("7", "6"), "the answer is for id 6"),
            ("{\"id\":7}".to_owned(), "missing field `outcomes`"),
            (
                "{\"id\":7,\"outcome\":\"succeeded\"}".to_owned(),
                "missing field `outcomes`",
            ),
            ("{\"id\":7,\"outcomes\":{}}".to_owned(), "is no answer"),
            (line[..line.len() - 1].to_owned(), "is no answer"),
        ] {
            let error = read_batch(line.as_bytes(), 7, 2, "orders").unwrap_err();
            assert!(error.contains(wrong), "{line}: {error}");
        }
    }

    #[test]
    fn the_first_line_names_the_version_and_whether_batches_are_taken() {
        assert!(!read_ready(b"{\"ready\":1}").unwrap().batch);
        assert!(read_ready(b"{\"ready\":1,\"batch\":true}").unwrap().batch);
        let error = |line: &[u8]| read_ready(line).unwrap_err();
        assert!(error(b"{\"ready\":2}").contains("version 2"));
        assert!(error(b"hello").contains("\"hello\""));
        assert!(error(b"{\"ready\":1,\"batch\":7}").contains("the first line"));
    }
}
