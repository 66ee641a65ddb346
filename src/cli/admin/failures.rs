//! `lapwing failures`

use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::{Worker, query, second, short, text};
use crate::cli::print::{self, Out};

/// Say which messages failed in a running worker, when and why, newest first.
///
/// A worker keeps the last 500 failures of each consumer. The output says how far back it has all of them.
#[derive(Args)]
pub(in crate::cli) struct Failures {
    #[command(flatten)]
    worker: Worker,
    /// Only failures since this time: `10m` ago, or `2026-11-27T09:00:00Z`
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only failures until this time, or until so long ago
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Only those of this consumer
    #[arg(long, value_name = "NAME")]
    consumer: Option<String>,
    /// Only those of the message with this id
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// Only those of messages with this type
    #[arg(long = "type", value_name = "TYPE")]
    message_type: Option<String>,
    /// Only failures of this kind, such as `timed-out`
    #[arg(long, value_name = "KIND")]
    kind: Option<String>,
    /// Only failures of this class, such as `http`
    #[arg(long, value_name = "CLASS")]
    class: Option<String>,
    /// Only failures with this cause, as `lapwing dead groups` names it
    #[arg(long, value_name = "CAUSE")]
    cause: Option<String>,
    /// The most failures to list
    #[arg(long, short = 'n', default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
}

impl Failures {
    pub(in crate::cli) fn run(&self) -> anyhow::Result<ExitCode> {
        let limit = self.limit.to_string();
        let wanted = query(&[
            ("failures", Some("true")),
            ("since", self.since.as_deref()),
            ("until", self.until.as_deref()),
            ("consumer", self.consumer.as_deref()),
            ("id", self.id.as_deref()),
            ("type", self.message_type.as_deref()),
            ("kind", self.kind.as_deref()),
            ("class", self.class.as_deref()),
            ("cause", self.cause.as_deref()),
            ("limit", Some(&limit)),
        ]);
        let page = self.worker.get(&format!("outcomes?{wanted}"))?;
        let out = Out::default();
        match self.worker.json {
            true => out.line(&page),
            false => table(&page).iter().for_each(|line| out.line(line)),
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The lines of an error.
const ERROR: usize = 3;

fn table(page: &Value) -> Vec<String> {
    let failures = page["outcomes"].as_array().map_or(&[][..], Vec::as_slice);
    let mut lines = Vec::new();
    if !failures.is_empty() {
        lines.push(row("TIME", "CONSUMER", "TRY", "WHAT", "THEN"));
    }
    for failure in failures {
        lines.extend(entry(failure));
    }
    let count = match (failures.len(), page["has_more"] == true) {
        (0, _) => "no such failure".to_owned(),
        (1, false) => "1 failure".to_owned(),
        (count, false) => format!("{count} failures"),
        (count, true) => format!("the newest {count} failures; --limit lists more, at most 1000"),
    };
    let since = second(text(page, "failures_since"));
    let reach = format!(
        "{count}. This worker has all its failures since {since}, and the log has those before."
    );
    lines.extend(print::folded(&reach, 0, ERROR));
    let error = text(page, "file_error");
    if !error.is_empty() {
        lines.extend(print::folded(error, 0, ERROR));
    }
    lines
}

fn entry(failure: &Value) -> Vec<String> {
    let attempt = failure["attempt"].to_string();
    let mut lines = vec![row(
        &second(text(failure, "at")),
        text(failure, "consumer"),
        &attempt,
        text(failure, "kind"),
        &settlement(failure),
    )];
    let mut about = match text(failure, "id") {
        "" => "no id".to_owned(),
        id => id.to_owned(),
    };
    let kind = text(failure, "type");
    if !kind.is_empty() {
        about.push_str(&format!("  {kind}"));
    }
    if let Some(ran) = failure["handling_seconds"].as_f64() {
        about.push_str(&format!("  ran {}", short(Some(ran))));
    }
    lines.extend(print::folded(&about, 2, ERROR));
    lines.extend(print::folded(&error(failure), 2, ERROR));
    lines
}

/// Class and text of a failure.
pub(super) fn error(failure: &Value) -> String {
    match (text(failure, "class"), text(failure, "error")) {
        (class, "") => class.to_owned(),
        ("", error) => error.to_owned(),
        (class, error) => format!("{class}: {error}"),
    }
}

/// What became of the message.
pub(super) fn settlement(outcome: &Value) -> String {
    match text(outcome, "settlement") {
        "ack" => "acked".to_owned(),
        "retry" => format!("retry in {}", short(outcome["retry_seconds"].as_f64())),
        "dead-letter" => match text(outcome, "reason") {
            "" => "dead letter".to_owned(),
            reason => format!("dead letter: {reason}"),
        },
        "return" => "returned".to_owned(),
        other => other.to_owned(),
    }
}

fn row(time: &str, consumer: &str, attempt: &str, what: &str, then: &str) -> String {
    let consumer = print::cut(consumer, 12);
    let then = print::cut(then, 26);
    let row = format!("{time:<20}  {consumer:<12}  {attempt:>3}  {what:<11}  {then}");
    row.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn failure() -> Value {
        json!({
            "at": "2026-11-27T02:24:01.120Z", "consumer": "orders", "attempt": 8, "kind": "timed-out",
            "settlement": "dead-letter", "reason": "max-attempts", "id": "order-554", "type": "order.paid",
            "class": "timeout", "error": "the handler took longer than 20s", "handling_seconds": 20.01,
        })
    }

    #[test]
    fn each_failure_has_its_time_its_message_and_its_cause() {
        let page = json!({
            "outcomes": [failure()], "has_more": false, "failures_since": "2026-11-27T01:00:00.500Z",
        });
        let wanted = [
            "TIME                  CONSUMER      TRY  WHAT         THEN",
            "2026-11-27T02:24:01Z  orders          8  timed-out    dead letter: max-attempts",
            "  order-554 order.paid ran 20s",
            "  timeout: the handler took longer than 20s",
            "1 failure. This worker has all its failures since 2026-11-27T01:00:00Z, and the",
            "log has those before.",
        ];
        assert_eq!(table(&page), wanted);
    }

    #[test]
    fn all_fits_a_terminal_and_what_is_cut_is_said() {
        let mut long = failure();
        long["error"] = json!("x ".repeat(300));
        long["consumer"] = json!("c".repeat(80));
        long["type"] = json!("t".repeat(80));
        let page = json!({ "outcomes": vec![long; 3], "has_more": true });
        let lines = table(&page);
        assert!(
            lines
                .iter()
                .all(|line| line.chars().count() <= print::WIDTH),
            "{lines:#?}"
        );
        assert!(lines.join(" ").contains("the newest 3 failures; --limit"));
        let none = table(&json!({ "outcomes": [], "failures_since": "2026-11-27T01:00:00Z" }));
        assert!(
            none[0].starts_with("no such failure. This worker has all"),
            "{none:#?}"
        );
    }
}
