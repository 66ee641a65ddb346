//! `lapwing status`

use std::process::ExitCode;

use clap::Args;
use serde_json::{Value, json};

use super::{Worker, number, short, text};
use crate::cli::print::{self, Out};

/// Say how a running worker and its consumers are. Exit code 1 if the worker is not ready.
#[derive(Args)]
pub(in crate::cli) struct Status {
    #[command(flatten)]
    worker: Worker,
}

impl Status {
    pub(in crate::cli) fn run(&self) -> anyhow::Result<ExitCode> {
        let worker = self.worker.get("worker")?;
        let consumers = self.worker.get("consumers")?;
        let consumers = consumers.get("consumers").cloned().unwrap_or_default();
        let out = Out::default();
        match self.worker.json {
            true => out.line(json!({ "worker": worker, "consumers": consumers })),
            false => tell(&out, &worker, &consumers),
        }
        Ok(match worker.get("ready") {
            Some(Value::Bool(true)) => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        })
    }
}

fn tell(out: &Out, worker: &Value, consumers: &Value) {
    let is = |name: &str| worker.get(name) == Some(&Value::Bool(true));
    let state = match (is("ready"), is("draining")) {
        (_, true) => "draining",
        (true, _) => "ready",
        (false, _) => "not ready",
    };
    let up = age(text(worker, "started_at"), text(worker, "now"));
    out.line(format_args!(
        "{}: {state}, lapwing {}, up {}, {} in flight",
        text(worker, "name"),
        text(worker, "version"),
        short(up),
        number(worker, "in_flight")
    ));
    let publishing = text(worker, "publishing");
    if !publishing.is_empty() {
        out.line(format_args!(
            "retries and dead letters cannot be published: {publishing}"
        ));
    }
    out.line(format_args!(
        "{:<13} {:<15} {:>7} {:>7} {:>8} {:>6} {:>5} {:>6} {:>5}",
        "CONSUMER", "STATE", "RUNNING", "READY", "GROWTH", "OLDEST", "DEAD", "FAIL/S", "P95"
    ));
    // Those that need a person come first.
    for consumer in consumers.as_array().into_iter().flatten() {
        line(out, consumer);
    }
}

/// The word for the state of a consumer.
fn state(consumer: &Value) -> &str {
    match (text(consumer, "state"), load(consumer)) {
        ("consuming", _) if consumer["failing"] == true => "failing",
        ("consuming", "at-limit") => "at its limit",
        ("consuming", "growing") => "falling behind",
        (state, _) => state,
    }
}

/// Whether a consumer keeps up with its queue.
fn load(consumer: &Value) -> &str {
    text(&consumer["backlog"], "load")
}

fn line(out: &Out, consumer: &Value) {
    let backlog = &consumer["backlog"];
    let running = format!(
        "{}/{}",
        number(consumer, "running"),
        number(consumer, "concurrency")
    );
    let count = |name: &str, width| match backlog[name].as_u64() {
        Some(count) => fitting(count, width),
        None => "-".to_owned(),
    };
    let growth = match backlog["growth"].as_f64() {
        Some(growth) if growth.abs() < 0.05 => "0.0/s".to_owned(),
        Some(growth) if growth.abs() < 1000.0 => format!("{growth:+.1}/s"),
        Some(growth) => format!("{:+.0}k/s", growth / 1000.0),
        None => "-".to_owned(),
    };
    let is_consuming = text(consumer, "state") == "consuming";
    out.line(format_args!(
        "{:<13} {:<15} {running:>7} {:>7} {growth:>8} {:>6} {:>5} {:>6.1} {:>5}",
        print::cut(text(consumer, "name"), 13),
        state(consumer),
        count("ready", 7),
        short(backlog["oldest_seconds"].as_f64().filter(|age| *age > 0.0)),
        count("dead_letters", 5),
        consumer["rates"]["failed"].as_f64().unwrap_or(0.0),
        short(consumer["latency"]["p95_seconds"].as_f64()),
    ));
    let reasons = [text(consumer, "reason"), text(backlog, "error")];
    let said = reasons.into_iter().filter(|reason| !reason.is_empty());
    // A consumer that takes no messages has no pace.
    let pace = is_consuming.then(|| pace(backlog)).flatten();
    let failing = failing(consumer);
    let routes = consumer["routes"].as_array().map_or(&[][..], Vec::as_slice);
    let reasons = said.map(str::to_owned).chain(failing).chain(pace);
    for reason in reasons.chain(routes.iter().map(route)) {
        for line in print::folded(&reason, 2, 2) {
            out.line(line);
        }
    }
}

/// How many runs of a consumer fail, if most do.
fn failing(consumer: &Value) -> Option<String> {
    if state(consumer) != "failing" {
        return None;
    }
    let recent = &consumer["recent"];
    let (failed, succeeded) = (number(recent, "failed"), number(recent, "succeeded"));
    let (failed, all) = (print::count(failed), print::count(failed + succeeded));
    Some(format!(
        "{failed} of {all} runs of the last minute failed: lapwing failures --consumer {}",
        text(consumer, "name")
    ))
}

/// A route: its attempts, those that failed, and why its messages wait.
fn route(route: &Value) -> String {
    let mut line = format!(
        "route {}: {} attempts, {} failed",
        text(route, "route"),
        number(route, "attempts"),
        number(route, "failed")
    );
    match (text(route, "service_down"), number(route, "dropped")) {
        ("", 0) => {}
        ("", dropped) => line.push_str(&format!(", {dropped} dropped")),
        (down, _) => line.push_str(&format!("; its service is down: {down}")),
    }
    line
}

/// A number in so many characters, in thousands or millions if it has more digits.
fn fitting(number: u64, width: usize) -> String {
    let texts = [
        number.to_string(),
        format!("{}k", number / 1000),
        format!("{}M", number / 1_000_000),
    ];
    let fits = texts.iter().find(|text| text.len() <= width);
    fits.unwrap_or(&texts[2]).clone()
}

/// What keeps a consumer at its limit, or when it has worked off its queue.
fn pace(backlog: &Value) -> Option<String> {
    match (text(backlog, "limit"), backlog["drain_seconds"].as_f64()) {
        ("concurrency", _) => Some("all handler slots are busy, and the queue grows".to_owned()),
        ("rate", _) => Some("the rate limit is reached, and the queue grows".to_owned()),
        ("prefetch", _) => Some("the prefetch is full, and the queue grows".to_owned()),
        (_, Some(seconds)) if seconds > 0.0 => {
            let time = short(Some(seconds));
            Some(format!("the queue is empty in {time} at this rate"))
        }
        _ => None,
    }
}

/// The seconds between two times.
fn age(from: &str, to: &str) -> Option<f64> {
    let time = |text: &str| humantime::parse_rfc3339(text).ok();
    let age = time(to)?.duration_since(time(from)?).ok()?;
    Some(age.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consumer_whose_runs_mostly_fail_is_failing_unless_it_takes_no_messages() {
        let consumer = |state: &str, failing: bool| {
            let recent = json!({ "failed": 40, "succeeded": 12 });
            json!({
                "name": "orders", "state": state, "failing": failing, "recent": recent,
                "backlog": { "load": "at-limit" },
            })
        };
        let told = |state, is_failing| {
            let consumer = consumer(state, is_failing);
            (super::state(&consumer).to_owned(), failing(&consumer))
        };
        let line = "40 of 52 runs of the last minute failed: lapwing failures --consumer orders";
        assert_eq!(
            told("consuming", true),
            ("failing".to_owned(), Some(line.to_owned()))
        );
        assert_eq!(told("consuming", false), ("at its limit".to_owned(), None));
        assert_eq!(told("paused", true), ("paused".to_owned(), None));
        assert!(line.len() <= print::WIDTH - 2);
    }

    #[test]
    fn a_route_is_told_with_its_failures_and_why_its_messages_wait() {
        let told = |down: Value, dropped: u64| {
            route(&json!({
                "route": "order.*", "attempts": 7, "failed": 2, "dropped": dropped,
                "service_down": down,
            }))
        };
        let plain = "route order.*: 7 attempts, 2 failed";
        assert_eq!(told(Value::Null, 0), plain);
        assert_eq!(told(Value::Null, 3), format!("{plain}, 3 dropped"));
        let down = told("connection refused".into(), 3);
        assert_eq!(
            down,
            format!("{plain}; its service is down: connection refused")
        );
    }

    #[test]
    fn a_number_fits_its_column() {
        let cases = [
            (99_999, 5, "99999"),
            (100_000, 5, "100k"),
            (12_345_678, 5, "12M"),
            (12_345_678, 7, "12345k"),
            (u32::MAX.into(), 7, "4294M"),
        ];
        for (number, width, text) in cases {
            assert_eq!(fitting(number, width), text);
        }
    }

    #[test]
    fn what_keeps_a_consumer_at_its_limit_is_said() {
        let at_limit = json!({ "limit": "concurrency", "drain_seconds": null });
        assert!(pace(&at_limit).is_some_and(|text| text.contains("slots are busy")));
        let shrinks = json!({ "limit": null, "drain_seconds": 240.0 });
        let text = "the queue is empty in 4m at this rate";
        assert_eq!(pace(&shrinks).as_deref(), Some(text));
        assert_eq!(pace(&json!({ "drain_seconds": 0.0 })), None);
    }
}
