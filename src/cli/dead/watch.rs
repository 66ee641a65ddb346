//! `lapwing dead watch`

use std::{process::ExitCode, time::Duration};

use clap::Args;
use serde_json::json;
use tokio::time::sleep;

use super::desk::{At, Desk};
use crate::cli::{
    print::{self, Out},
    signals::Caught,
};

/// Follow how many letters there are: a line at the start, and one whenever the number changes.
#[derive(Args)]
#[command(after_help = AFTER)]
pub(super) struct Watch {
    #[command(flatten)]
    at: At,
    /// How often to ask the broker
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = humantime::parse_duration)]
    every: Duration,
}

const AFTER: &str = "\
The broker is asked for the number of letters that are ready. No letter is read, so this costs the
letters nothing. Letters that another program holds do not count.";

/// The longest pause between two looks at the stop flag.
const STEP: Duration = Duration::from_millis(100);

impl Watch {
    pub(super) fn run(&self, caught: Caught) -> anyhow::Result<ExitCode> {
        self.at.run(caught, async |desk| self.watch(desk).await)
    }

    async fn watch(&self, desk: &Desk) -> anyhow::Result<ExitCode> {
        let out = Out::default();
        let mut last = None;
        while !desk.is_stopped() && !out.is_closed() {
            let depth = desk.letters.depth().await?;
            if last != Some(depth) {
                tell(desk, &out, last, depth);
                last = Some(depth);
            }
            let mut left = self.every;
            while !left.is_zero() && !desk.is_stopped() {
                let step = left.min(STEP);
                sleep(step).await;
                left -= step;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn tell(desk: &Desk, out: &Out, last: Option<u32>, depth: u32) {
    let now = print::time(Some(std::time::SystemTime::now()));
    let change = last.map(|last| i64::from(depth) - i64::from(last));
    let queue = desk.letters.queue();
    if desk.is_json {
        return out.line(json!({ "at": now, "queue": queue, "letters": depth, "change": change }));
    }
    let change = change.map_or_else(String::new, |change| format!("  {change:+}"));
    let count = print::count(depth.into());
    out.line(format_args!("{now}  {queue}  {count:>9} letters{change}"));
}
