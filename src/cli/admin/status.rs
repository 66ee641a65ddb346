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
        "{:<16}  {:<12}  {:>9}  {:>8}  {:>7}  {:>7}  {:>6}",
        "CONSUMER", "STATE", "IN FLIGHT", "RUNNING", "IN/S", "FAIL/S", "P95"
    ));
    for consumer in consumers.as_array().into_iter().flatten() {
        let rate = |name| consumer["rates"][name].as_f64().unwrap_or(0.0);
        let running = format!(
            "{}/{}",
            number(consumer, "running"),
            number(consumer, "concurrency")
        );
        out.line(format_args!(
            "{:<16}  {:<12}  {:>9}  {running:>8}  {:>7.1}  {:>7.1}  {:>6}",
            print::cut(text(consumer, "name"), 16),
            text(consumer, "state"),
            number(consumer, "in_flight"),
            rate("received"),
            rate("failed"),
            short(consumer["latency"]["p95_seconds"].as_f64()),
        ));
        let reason = text(consumer, "reason");
        if !reason.is_empty() {
            out.line(format_args!("  {}", print::cut(reason, print::WIDTH - 2)));
        }
    }
}

/// The seconds between two times.
fn age(from: &str, to: &str) -> Option<f64> {
    let time = |text: &str| humantime::parse_rfc3339(text).ok();
    let age = time(to)?.duration_since(time(from)?).ok()?;
    Some(age.as_secs_f64())
}
