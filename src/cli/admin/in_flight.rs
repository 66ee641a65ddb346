//! `lapwing in-flight`

use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::{Worker, number, segment, short, text};
use crate::cli::{
    print::{self, Out},
    say,
};

/// List the messages that a running worker has, oldest first.
#[derive(Args)]
pub(in crate::cli) struct InFlight {
    #[command(flatten)]
    worker: Worker,
    /// Only those of this consumer
    #[arg(long, value_name = "NAME")]
    consumer: Option<String>,
    /// The most messages to list
    #[arg(long, short = 'n', default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
}

impl InFlight {
    pub(in crate::cli) fn run(&self) -> anyhow::Result<ExitCode> {
        let consumer = self.consumer.as_deref().map(segment);
        let consumer = consumer.map_or_else(String::new, |name| format!("&consumer={name}"));
        let page = self
            .worker
            .get(&format!("in-flight?limit={}{consumer}", self.limit))?;
        let out = Out::default();
        if self.worker.json {
            out.line(&page);
        } else {
            table(&out, &page);
        }
        for name in page["unanswered"].as_array().into_iter().flatten() {
            say(format_args!(
                "{name} gave no answer: its messages are missing"
            ));
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn table(out: &Out, page: &Value) {
    let messages = page["messages"].as_array().map_or(&[][..], Vec::as_slice);
    if messages.is_empty() {
        return out.line("no message is in flight");
    }
    out.line(format_args!(
        "{:<12}  {:<8}  {:>6}  {:>6}  {:>3}  {}",
        "CONSUMER", "PHASE", "AGE", "RUNS", "TRY", "ID"
    ));
    for message in messages {
        out.line(format_args!(
            "{:<12}  {:<8}  {:>6}  {:>6}  {:>3}  {}",
            print::cut(text(message, "consumer"), 12),
            text(message, "phase"),
            short(message["age_seconds"].as_f64()),
            short(message["handling_seconds"].as_f64()),
            number(message, "attempt"),
            print::cut(text(message, "id"), 36),
        ));
    }
    let more = number(page, "total").saturating_sub(messages.len() as u64);
    if more > 0 {
        out.line(format_args!("{more} more (--limit lists them)"));
    }
}
