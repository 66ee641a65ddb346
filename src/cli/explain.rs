//! `lapwing explain`

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use humantime::format_duration;
use lapwing::{
    SettlementKind,
    explain::{self, Attempts, Explained, Failing, Outage, Story},
};
use serde_json::json;

use super::{
    ConfigFile,
    print::{self, Out},
    say,
};

pub(super) const HELP: &str = "\
Examples:
  lapwing explain --consumer orders --error timeout
  lapwing explain --consumer orders --status 503 --retry-after 2m
  lapwing explain --consumer orders --error no-stock --says permanent

The command reads only the settings. It asks neither broker nor worker. Without --error and --status the message fails with a failure
that is retried.";

#[derive(Args)]
pub(super) struct Explain {
    #[command(flatten)]
    file: ConfigFile,
    /// The consumer [default: the only consumer of the settings]
    #[arg(long, value_name = "NAME")]
    consumer: Option<String>,
    /// The class of the failure: `timeout`, `panic`, `decode`, `unroutable-type`, `expired`, a class of
    /// the consumer's kind of handler such as `http-connect`, or one that your handler gives
    #[arg(long, value_name = "CLASS")]
    error: Option<String>,
    /// The HTTP status, or the exit code of a program
    #[arg(long, value_name = "NUMBER")]
    status: Option<u16>,
    /// What the handler says about the failure [default: what the kind of handler says
    /// about this class or status, else `retry`]
    #[arg(long, value_enum, value_name = "WORD")]
    says: Option<Says>,
    /// The wait that the service asks for (`Retry-After`)
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    retry_after: Option<Duration>,
    /// The route of the message, or the kind by which it gets its route: the handler of this route fails
    #[arg(long, value_name = "NAME")]
    route: Option<String>,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Says {
    /// A later attempt may succeed
    Retry,
    /// Every attempt would fail
    Permanent,
    /// The service behind the handler is unavailable
    Unavailable,
}

impl Explain {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        let settings = self.file.load()?;
        settings.require_consumers()?;
        let names = || settings.consumers.keys().cloned().collect::<Vec<_>>();
        let name = match (self.consumer, settings.consumers.len()) {
            (Some(name), _) => name,
            (None, 1) => names().remove(0),
            (None, _) => bail!("name one with --consumer: {}", names().join(", ")),
        };
        let consumer = settings.consumers.get(&name).with_context(|| {
            format!(
                "there is no consumer {name}; the settings have: {}",
                names().join(", ")
            )
        })?;
        let failing = Failing {
            class: self.error,
            status: self.status,
            says: self.says.map(|says| match says {
                Says::Retry => explain::Says::Retry,
                Says::Permanent => explain::Says::Permanent,
                Says::Unavailable => explain::Says::Unavailable,
            }),
            retry_after: self.retry_after,
            route: self.route,
        };
        let explained = explain::explain(&name, consumer, &failing);
        let out = Out::default();
        match self.json {
            true => out.line(json!(explained)),
            false => text(&explained).iter().for_each(|line| out.line(line)),
        }
        if let Some(doubt) = &explained.doubt {
            say(print::wrapped(&format!("WARN {doubt}"), 5));
        }
        Ok(ExitCode::SUCCESS)
    }
}

const LATE: &str =
    "In a retry queue a message that is behind others may wait as long as the queue's name says.";

/// The whole text.
fn text(explained: &Explained) -> Vec<String> {
    let mut lines = print::in_column("", &heading(explained), 0);
    for story in &explained.lives {
        lines.push(String::new());
        if let Some(when) = story.when {
            lines.push(format!("{when}:"));
        }
        lines.extend(life(explained, story));
    }
    let mut places = explained.lives.iter().flat_map(|story| &story.attempts);
    if places.any(|it| it.waits_in.iter().any(|place| place != "worker")) {
        lines.push(String::new());
        lines.extend(print::in_column("", LATE, 0));
    }
    if let Some(outage) = &explained.stops {
        lines.push(String::new());
        lines.extend(print::in_column("", &stops(explained, outage), 0));
    }
    lines
}

fn heading(explained: &Explained) -> String {
    let mut text = format!(
        "{}: each attempt ends {}",
        explained.consumer,
        explained.outcome.name()
    );
    if let Some(class) = &explained.class {
        text.push_str(&format!(" (class {class}"));
        if let Some(status) = explained.status {
            text.push_str(&format!(", status {status}"));
        }
        text.push(')');
    }
    if !explained.runs.is_zero() {
        text.push_str(&format!(" after {}", format_duration(explained.runs)));
    }
    text
}

/// The columns before the places.
const PLACES: usize = 39;

fn life(explained: &Explained, story: &Story) -> Vec<String> {
    let mut lines = Vec::new();
    if !story.attempts.is_empty() {
        lines.push(row("ATTEMPT", "CHARGED", "THEN WAITS", "IN").remove(0));
    }
    for attempts in &story.attempts {
        let charged = if attempts.charged { "yes" } else { "no" };
        let places = attempts.waits_in.join(", ");
        lines.extend(row(&numbers(attempts), charged, &attempts.waits(), &places));
    }
    lines.extend(print::in_column("", &end(explained, story), 0));
    lines
}

fn row(attempt: &str, charged: &str, waits: &str, places: &str) -> Vec<String> {
    let head = format!("{attempt:<10}{charged:<9}{waits:<19}");
    print::in_column(&head, places, PLACES)
}

fn numbers(attempts: &Attempts) -> String {
    match attempts.first == attempts.last {
        true => attempts.first.to_string(),
        false => format!("{}-{}", attempts.first, attempts.last),
    }
}

/// What ends the life.
fn end(explained: &Explained, story: &Story) -> String {
    let dead = &explained.dead_letter_queue;
    let age = format_duration(explained.max_age);
    if story.goes_on {
        return format!(
            "… and so on. A failure after {age} (retry.max_age) dead-letters it to {dead}."
        );
    }
    let last = match story.last_attempt {
        [few, many] if few == many => few.to_string(),
        [few, many] => format!("{} to {}", few.min(many), few.max(many)),
    };
    match story.end {
        SettlementKind::DeadLetter => {
            let reasons = story.reasons.join("` or `");
            let at = match (
                story.age.iter().all(Duration::is_zero),
                story.reasons.as_slice(),
            ) {
                (true, _) => String::new(),
                (false, ["max-age"]) => {
                    format!(
                        " The message is then {} old ({age}: retry.max_age).",
                        story.lasts()
                    )
                }
                _ => format!(
                    " The message is then {} old. After {age} (retry.max_age) a failure would be the \
                     last one.",
                    story.lasts()
                ),
            };
            format!("Attempt {last} is the last: dead letter `{reasons}` in {dead}.{at}")
        }
        SettlementKind::Ack => format!("Attempt {last} is the last: the message is acked."),
        _ => format!("Attempt {last} is the last: the message goes back to its queue."),
    }
}

fn stops(explained: &Explained, outage: &Outage) -> String {
    let probes: Vec<_> = outage
        .probes
        .iter()
        .map(|wait| format_duration(*wait).to_string())
        .collect();
    let probes = match probes.split_last() {
        Some((every, [])) => format!("every {every}"),
        Some((every, first)) => format!("after {}, then every {every}", first.join(", ")),
        None => "now and then".to_owned(),
    };
    let charges = match (outage.charges, explained.lives.iter().any(charges)) {
        (false, true) => " Attempts that end so are then not charged.",
        _ => "",
    };
    format!(
        "If {} different messages in a row end so, the consumer becomes service-down. It then tries \
         one message at a time, {probes}, until the service answers one.{charges}",
        outage.messages,
    )
}

/// Whether an attempt of this life is charged, the last one included.
fn charges(story: &Story) -> bool {
    let is_last = story.attempts.is_empty() && story.end == SettlementKind::DeadLetter;
    is_last || story.attempts.iter().any(|it| it.charged)
}
