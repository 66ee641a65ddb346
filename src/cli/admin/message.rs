//! `lapwing message`

use std::{collections::BTreeMap, process::ExitCode};

use clap::Args;
use serde_json::Value;

use super::{
    Worker,
    failures::{error, settlement},
    number, query, second, short, text,
};
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
    lines.extend(runs(story, trace_url));
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
        "acked" => format!("acked at {at}: it is done"),
        "waiting" => format!("it waits{queue} for its next attempt at {due}, in any worker"),
        "due" => format!(
            "failed at {at}. Its next attempt was due at {due}. This worker has not had it since"
        ),
        "dead-lettered" => format!(
            "dead-lettered{queue} at {at} ({}). To look there: lapwing dead show {} --consumer {consumer}",
            text(place, "reason"),
            text(story, "id"),
        ),
        "returned" => {
            format!("it went back to its queue at {at}. This worker has not had it since")
        }
        other => format!("{other} at {at}"),
    };
    match place["may_be_acked"] == true {
        true => format!(
            "{consumer}: {last}. It may have been acked since then: this worker has forgotten some acks."
        ),
        false => format!("{consumer}: {last}"),
    }
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

/// The seconds that a message spent: at the broker before a run, in the worker, in its handler.
#[derive(Clone, Copy, Default)]
struct Spent {
    broker: Option<f64>,
    worker: f64,
    handler: f64,
}

/// The runs in this worker, oldest first, with where the message spent its time.
fn runs(story: &Value, trace_url: &str) -> Vec<String> {
    let mut before: BTreeMap<&str, &Value> = BTreeMap::new();
    let mut all = Spent::default();
    let mut lines = Vec::new();
    for outcome in list(story, "outcomes").iter().rev() {
        let spent = spent(outcome, before.insert(text(outcome, "consumer"), outcome));
        if let Some(broker) = spent.broker {
            all.broker = Some(all.broker.unwrap_or(0.0) + broker);
        }
        all.worker += spent.worker;
        all.handler += spent.handler;
        let attempt = outcome["attempt"].to_string();
        let at = second(text(outcome, "at"));
        lines.push(row(&at, text(outcome, "consumer"), &attempt, &spent.told()));
        let what = format!("{}, then {}", text(outcome, "kind"), settlement(outcome));
        for part in [what, error(outcome)]
            .iter()
            .filter(|part| !part.is_empty())
        {
            lines.extend(print::folded(part, 2, LINES));
        }
        let trace = text(outcome, "trace_id");
        if !trace.is_empty() {
            lines.push(format!("  {}", link(trace, trace_url)));
        }
    }
    if lines.is_empty() {
        return lines;
    }
    let heads = ["AT BROKER", "IN WORKER", "IN HANDLER"].map(str::to_owned);
    lines.insert(0, row("ENDED", "CONSUMER", "TRY", &heads));
    lines.insert(0, String::new());
    lines.push(row("in all", "", "", &all.told()));
    lines
}

/// Where a message spent its time before the end of a run. `before` is the run before in this worker.
fn spent(outcome: &Value, before: Option<&Value>) -> Spent {
    let seconds = |of: &Value, name: &str| {
        let time = humantime::parse_rfc3339(text(of, name)).ok()?;
        let since = time.duration_since(std::time::UNIX_EPOCH).ok()?;
        Some(since.as_secs_f64())
    };
    let handler = outcome["handling_seconds"].as_f64().unwrap_or(0.0);
    // Several runs of one delivery: the worker itself waited between them.
    let same = before.filter(|before| before["received_at"] == outcome["received_at"]);
    let from = match same {
        Some(before) => seconds(before, "at"),
        None => seconds(outcome, "received_at"),
    };
    let worker = seconds(outcome, "at").zip(from);
    Spent {
        broker: match same {
            Some(_) => None,
            None => outcome["queued_seconds"].as_f64(),
        },
        worker: worker.map_or(0.0, |(ended, from)| (ended - from - handler).max(0.0)),
        handler,
    }
}

impl Spent {
    fn told(self) -> [String; 3] {
        [self.broker, Some(self.worker), Some(self.handler)].map(short)
    }
}

fn row(
    ended: &str,
    consumer: &str,
    attempt: &str,
    [broker, worker, handler]: &[String; 3],
) -> String {
    let consumer = print::cut(consumer, 12);
    format!("{ended:<20}  {consumer:<12}  {attempt:>3}  {broker:>9}  {worker:>9}  {handler:>10}")
}

/// The link to a trace, or its id.
fn link(trace: &str, url: &str) -> String {
    match url {
        "" => format!("trace {trace}"),
        url => url.replace("{trace_id}", trace),
    }
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
                "acked",
                json!({}),
                "orders: acked at 2026-11-27T02:24:01Z: it is done",
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
                 This worker has not had it since. It may have been acked since then: this worker has forgotten",
            ),
            (
                "dead-lettered",
                json!({ "queue": "orders.dead", "reason": "max-attempts" }),
                "orders: dead-lettered in orders.dead at 2026-11-27T02:24:01Z (max-attempts). To look there: \
                 lapwing dead show order-554 --consumer orders",
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

    #[test]
    fn the_time_is_split_between_broker_worker_and_handler() {
        let run = |attempt, at: &str, received: &str, queued: Value| {
            json!({
                "consumer": "orders", "attempt": attempt, "at": at, "received_at": received, "kind": "failed",
                "settlement": "retry", "retry_seconds": 1.0, "queued_seconds": queued, "handling_seconds": 2.0,
                "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736", "class": "http", "error": "503",
            })
        };
        let received = "2026-11-27T02:24:00.000Z";
        let outcomes = [
            run(
                3,
                "2026-11-27T02:25:02.000Z",
                "2026-11-27T02:25:00.000Z",
                json!(50.0),
            ),
            run(2, "2026-11-27T02:24:06.500Z", received, json!(4.0)),
            run(1, "2026-11-27T02:24:03.000Z", received, json!(4.0)),
        ];
        let lines = runs(
            &story(json!({ "outcomes": outcomes })),
            "https://t.example/{trace_id}",
        );
        assert_eq!(
            lines[1..6],
            [
                "ENDED                 CONSUMER      TRY  AT BROKER  IN WORKER  IN HANDLER",
                "2026-11-27T02:24:03Z  orders          1       4.0s       1.0s        2.0s",
                "  failed, then retry in 1.0s",
                "  http: 503",
                "  https://t.example/4bf92f3577b34da6a3ce929d0e0e4736",
            ]
        );
        let second = "2026-11-27T02:24:06Z  orders          2          -       1.5s        2.0s";
        assert_eq!(lines[6], second);
        let all = "in all                                         54s       2.5s        6.0s";
        assert_eq!(lines.last().map(String::as_str), Some(all));
    }
}
