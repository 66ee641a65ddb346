//! `lapwing dead show`

use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use lapwing::letters::{Filter, Letter, Look, Origin, to_line};
use serde_json::{Value, json};

use super::{
    COST,
    desk::{At, Desk},
};
use crate::cli::{
    print::{self, Out},
    signals::Caught,
};

/// Show one letter: properties, headers, attempts and body.
#[derive(Args)]
#[command(after_help = COST)]
pub(super) struct Show {
    /// The id of the letter, as `dead list` prints it
    id: String,
    #[command(flatten)]
    at: At,
    /// Write the bytes of the body, and nothing else
    #[arg(long, conflicts_with = "json")]
    body: bool,
}

impl Show {
    pub(super) fn run(&self, caught: Caught) -> anyhow::Result<ExitCode> {
        self.at.run(caught, async |desk| self.show(desk).await)
    }

    async fn show(&self, desk: &Desk) -> anyhow::Result<ExitCode> {
        let out = Out::default();
        let look = Look {
            filter: Filter {
                ids: vec![self.id.clone()],
                ..Filter::default()
            },
            limit: Some(1),
            renew: false,
        };
        let mut see = |letter: &Letter| match (self.body, desk.is_json) {
            (true, _) => out.bytes(letter.body()),
            (false, true) => out.line(as_json(letter)),
            (false, false) => tell(&out, letter),
        };
        let looked = desk
            .letters
            .look(&look, &mut see, &mut desk.report(&out))
            .await?;
        desk.tell_look(&looked);
        if looked.selected == 0 {
            let queue = desk.letters.queue();
            bail!(
                "no letter of {queue} has the id {:?} ({} read)",
                self.id,
                looked.seen
            );
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn as_json(letter: &Letter) -> Value {
    let exported: Value = serde_json::from_str(&to_line(letter)).unwrap_or_default();
    json!({
        "summary": letter.summary,
        "history": letter.history,
        "letter": exported,
    })
}

fn tell(out: &Out, letter: &Letter) {
    let summary = &letter.summary;
    let by = match summary.origin {
        Origin::Lapwing => "a Lapwing worker",
        Origin::Broker => "the broker",
        Origin::Unknown => "nobody that left a trace",
    };
    let row = |name: &str, text: &str| {
        if !text.is_empty() {
            out.line(format_args!("{name:<14}  {}", print::cut(text, usize::MAX)));
        }
    };
    row("id", &summary.id);
    row("type", summary.message_type.as_deref().unwrap_or(""));
    let at = print::time(summary.failed_at);
    row(
        "dead-lettered",
        &format!("{at} by {by}: {}", summary.reason),
    );
    let colon = if summary.kind.is_empty() { "" } else { ": " };
    row(
        "error",
        &format!("{}{colon}{}", summary.kind, summary.error),
    );
    row("group", &summary.group);
    row(
        "source queue",
        summary.source_queue.as_deref().unwrap_or("not known"),
    );
    row("exchange", summary.source_exchange.as_deref().unwrap_or(""));
    row(
        "routing key",
        summary.source_routing_key.as_deref().unwrap_or(""),
    );
    if summary.attempts > 0 {
        let first = print::time(summary.first_seen);
        row(
            "attempts",
            &format!("{}, first seen {first}", summary.attempts),
        );
    }
    row("replays", &summary.replays.to_string());
    row("deliveries", &summary.deliveries.to_string());
    row("trace", summary.trace_id.as_deref().unwrap_or(""));
    if !letter.history.is_empty() {
        out.line("\nAttempts");
    }
    for past in &letter.history {
        let trace = past.trace.as_deref();
        let trace = trace.map_or_else(String::new, |trace| format!("  trace {trace}"));
        out.line(format_args!(
            "  #{}  {}  {}{trace}",
            past.attempt, past.at, past.worker
        ));
        let error = format!("{}: {}", past.kind, past.error);
        out.line(format_args!("      {}", print::cut(&error, usize::MAX)));
    }
    properties(out, letter);
    body(out, letter);
}

fn properties(out: &Out, letter: &Letter) {
    let properties = letter.properties();
    let number = |number: Option<u64>| number.map(|number| number.to_string());
    let rows = [
        ("content-type", properties.content_type().map(str::to_owned)),
        (
            "content-encoding",
            properties.content_encoding().map(str::to_owned),
        ),
        (
            "correlation-id",
            properties.correlation_id().map(str::to_owned),
        ),
        ("reply-to", properties.reply_to().map(str::to_owned)),
        ("app-id", properties.app_id().map(str::to_owned)),
        ("priority", number(properties.priority().map(u64::from))),
        ("timestamp", number(properties.timestamp())),
    ];
    let set: Vec<_> = rows
        .into_iter()
        .filter_map(|(name, text)| Some((name, text?)))
        .collect();
    if !set.is_empty() {
        out.line("\nProperties");
    }
    for (name, text) in set {
        out.line(format_args!("  {name}: {}", print::cut(&text, usize::MAX)));
    }
    let mut headers = properties.headers().peekable();
    if headers.peek().is_some() {
        out.line("\nHeaders");
    }
    for (name, value) in headers {
        // The attempts are above.
        if name != "lapwing-history" {
            let text = print::cut(&value.to_text(), usize::MAX);
            out.line(format_args!("  {}: {text}", print::cut(name, usize::MAX)));
        }
    }
}

fn body(out: &Out, letter: &Letter) {
    let body = letter.body();
    let bytes = print::count(body.len() as u64);
    if let Ok(json) = serde_json::from_slice::<Value>(body) {
        out.line(format_args!("\nBody: {bytes} bytes, JSON"));
        return out.line(serde_json::to_string_pretty(&json).unwrap_or_default());
    }
    let is_plain = |letter: char| !letter.is_control() || matches!(letter, '\n' | '\r' | '\t');
    match std::str::from_utf8(body) {
        Ok(text) if text.chars().all(is_plain) => {
            out.line(format_args!("\nBody: {bytes} bytes, text"));
            out.line(text);
        }
        _ => {
            out.line(format_args!("\nBody: {bytes} bytes"));
            out.bytes(print::hex(body).as_bytes());
        }
    }
}
