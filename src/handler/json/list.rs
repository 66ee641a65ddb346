//! What is said about several messages: a list of answers.

use std::ops::Range;

use serde::Deserialize;
use serde_json::value::RawValue;
use tracing::warn;

use super::outcome::{Answer, Said, shown};
use crate::outcome::Failure;

/// The classes of failures of one kind of handler.
#[derive(Clone, Copy, Debug)]
pub(in crate::handler) struct Classes {
    /// Of a failure that names no class.
    pub(in crate::handler) usual: &'static str,
    /// Of a message about which the answer says nothing, or nothing that can be read.
    pub(in crate::handler) wrong: &'static str,
}

/// What a list of answers says about each of the messages with these ids, in their order. A message
/// without an answer, with two of them, or with one that cannot be read, is retried.
pub(in crate::handler) fn each(
    answers: &[&RawValue],
    ids: Range<u64>,
    classes: Classes,
    consumer: &str,
) -> Vec<Said> {
    #[derive(Deserialize)]
    struct Id {
        id: u64,
    }

    let count = usize::try_from(ids.end - ids.start).unwrap_or_default();
    let mut found: Vec<Option<Result<Said, String>>> = (0..count).map(|_| None).collect();
    let mut strays = Strays::default();
    for answer in answers {
        let text = answer.get();
        let (id, said) = match serde_json::from_str::<Answer>(text) {
            Ok(answer) => (answer.id, answer.said(classes.usual)),
            Err(error) => match serde_json::from_str::<Id>(text) {
                Ok(Id { id }) => (
                    id,
                    Err(format!(
                        "{} cannot be read: {error}",
                        shown(text.as_bytes())
                    )),
                ),
                Err(_) => {
                    strays.add(|| format!("{} names no message", shown(text.as_bytes())));
                    continue;
                }
            },
        };
        let place = ids.contains(&id).then(|| id - ids.start);
        let place = place.and_then(|place| found.get_mut(usize::try_from(place).ok()?));
        match place {
            Some(place @ None) => *place = Some(said),
            Some(place) => {
                strays.add(|| format!("id {id} has two outcomes, so its message is retried"));
                *place = Some(Err(
                    "the answer has two outcomes for this message".to_owned()
                ));
            }
            None => {
                strays.add(|| format!("id {id} is not one of {} to {}", ids.start, ids.end - 1))
            }
        }
    }
    strays.say(consumer);
    let missing = || Err("the answer has no outcome for this message".to_owned());
    let said = found.into_iter().map(|said| said.unwrap_or_else(missing));
    said.map(|said| {
        said.unwrap_or_else(|error| Said::failed(Failure::retryable(classes.wrong, error)))
    })
    .collect()
}

/// Parts of an answer that say nothing about a message.
#[derive(Debug, Default)]
struct Strays {
    first: Option<String>,
    count: usize,
}

impl Strays {
    fn add(&mut self, text: impl FnOnce() -> String) {
        self.count += 1;
        self.first.get_or_insert_with(text);
    }

    fn say(self, consumer: &str) {
        if let Some(first) = self.first {
            warn!(
                consumer,
                first,
                count = self.count,
                "the answer to a batch has parts that are not counted"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outcome::Outcome;

    /// What a list says about the messages 5, 6 and 7.
    fn of_three(list: &str) -> Vec<String> {
        let answers: Vec<&RawValue> = serde_json::from_str(list).unwrap();
        let classes = Classes {
            usual: "usual",
            wrong: "wrong",
        };
        let said = each(&answers, 5..8, classes, "orders").into_iter();
        said.map(|said| match said.outcome {
            Outcome::Failed(failure) => format!("{failure:?}"),
            other => format!("{other:?}"),
        })
        .collect()
    }

    #[test]
    fn each_message_gets_its_own_outcome_in_any_order() {
        let list = r#"[{"id":7,"outcome":"permanent","error":"no"},
            {"id":5,"outcome":"succeeded"},{"id":6,"outcome":"unavailable"}]"#;
        let last = "permanent usual: no";
        let middle = "unavailable usual: no error was given";
        assert_eq!(of_three(list), ["Succeeded", middle, last]);
    }

    #[test]
    fn a_message_without_one_outcome_of_its_own_is_retried_and_the_others_are_not() {
        let good = r#"{"id":5,"outcome":"succeeded"},{"id":7,"outcome":"dropped","reason":"x"}"#;
        let missing = "retryable wrong: the answer has no outcome for this message";
        let doubled = "retryable wrong: the answer has two outcomes for this message";
        for (more, middle) in [
            ("", missing),
            (r#",{"id":8,"outcome":"succeeded"}"#, missing),
            (r#",{"id":4,"outcome":"succeeded"}"#, missing),
            (r#",{"id":-1,"outcome":"succeeded"}"#, missing),
            (
                r#",{"id":18446744073709551615,"outcome":"succeeded"}"#,
                missing,
            ),
            (r#",{"outcome":"succeeded"}"#, missing),
            (
                r#",{"id":"6","outcome":"succeeded"},null,7,[],"x""#,
                missing,
            ),
            (
                r#",{"id":6,"outcome":"succeeded"},{"id":6,"outcome":"succeeded"}"#,
                doubled,
            ),
            (
                r#",{"id":6,"outcome":"succeeded"},{"id":6,"outcome":"retry"}"#,
                doubled,
            ),
            (r#",{"id":6,"outcome":"succeeded"},{"id":6}"#, doubled),
            (
                r#",{"id":6,"outcome":"done"}"#,
                "retryable wrong: \"{\\\"id\\\":6,\\\"outcome\\\":\\\"done\\\"}\" cannot be read: unknown \
                 variant `done`, expected one of `succeeded`, `retry`, `permanent`, `undecodable`, \
                 `unavailable`, `snoozed`, `dropped` at line 1 column 24",
            ),
            (
                r#",{"id":6,"outcome":"snoozed"}"#,
                "retryable wrong: the outcome `snoozed` needs `after`, in seconds",
            ),
        ] {
            let said = of_three(&format!("[{good}{more}]"));
            assert_eq!(said[0], "Succeeded", "{more}");
            assert_eq!(said[1], middle, "{more}");
            assert!(said[2].starts_with("Dropped"), "{more}: {said:?}");
        }
    }
}
