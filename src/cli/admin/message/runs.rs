//! The runs of a message, and where it spent its time.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    super::{
        failures::{error, settlement},
        second, short, text,
    },
    LINES, list,
};
use crate::cli::print;

/// The seconds that a message spent: at the broker before a run, in the worker, in its handler.
#[derive(Clone, Copy, Default)]
struct Spent {
    broker: Option<f64>,
    worker: f64,
    handler: f64,
}

/// The runs in this worker, oldest first, with where the message spent its time.
pub(super) fn told(story: &Value, trace_url: &str) -> Vec<String> {
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

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
        let lines = told(
            &json!({ "outcomes": outcomes }),
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
