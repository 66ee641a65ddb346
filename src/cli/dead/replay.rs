//! `lapwing dead replay`

use std::{collections::BTreeMap, process::ExitCode};

use clap::{ArgGroup, Args};
use lapwing::letters::{self, Letter, Look, Target};
use serde_json::json;

use super::{
    desk::{At, Desk},
    select::Select,
};
use crate::cli::{
    print::{self, Out},
    signals::Caught,
};

/// Publish letters again to the queue they came from. Each begins anew: attempts and age start at
/// zero, and `lapwing-replays` counts one more.
#[derive(Args)]
#[command(after_help = AFTER)]
#[command(group = ArgGroup::new("selection").required(true).multiple(true).args(
    ["id", "all", "group", "reason", "message_type", "since", "older_than", "matches"]))]
pub(super) struct Replay {
    #[command(flatten)]
    at: At,
    #[command(flatten)]
    select: Select,
    /// The ids of the letters
    id: Vec<String>,
    /// All letters of the queue
    #[arg(long)]
    all: bool,
    /// Replay to this queue instead of the one that each letter came from
    #[arg(long, value_name = "QUEUE")]
    to: Option<String>,
    /// The most letters per second [default: no limit]
    #[arg(long, value_name = "LETTERS", value_parser = rate)]
    rate: Option<f64>,
    /// The most letters to replay [default: all that are selected]
    #[arg(long, short = 'n', value_name = "LETTERS")]
    limit: Option<usize>,
    /// Say what would be replayed, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Replay letters that were replayed three times before
    #[arg(long)]
    force: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

const AFTER: &str = "\
A letter leaves the queue when the broker has confirmed its copy. A replay that is killed loses
none, and the letters of its last batch (at most 100) may be there twice: such copies have the same
value in the header lapwing-replay.";

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "expected a number")?;
    match rate.is_finite() && rate >= 0.001 {
        true => Ok(rate),
        false => Err("must be at least 0.001".to_owned()),
    }
}

impl Replay {
    pub(super) fn run(&self, caught: Caught) -> anyhow::Result<ExitCode> {
        self.at.run(caught, async |desk| self.replay(desk).await)
    }

    async fn replay(&self, desk: &Desk) -> anyhow::Result<ExitCode> {
        let mut out = Out::default();
        let replay = letters::Replay {
            filter: self.select.filter(&self.id),
            target: self.to.clone().map_or(Target::Source, Target::Queue),
            limit: self.limit,
            rate: self.rate,
            force: self.force,
            run: uuid::Uuid::now_v7().to_string(),
            by: desk.by.clone(),
        };
        if self.dry_run || !self.yes {
            let plan = Plan::make(desk, &out, &replay).await?;
            if self.dry_run {
                plan.tell(desk, &out);
                return Ok(ExitCode::SUCCESS);
            }
            if !desk.confirm(&plan.question(desk))? {
                return Ok(ExitCode::FAILURE);
            }
        }
        let replayed = desk.letters.replay(&replay, &mut desk.report(&out)).await?;
        Ok(desk.tell_change(
            &mut out,
            "replayed",
            &replayed,
            json!({ "run": replay.run }),
        ))
    }
}

/// What a replay would do.
#[derive(Default)]
struct Plan {
    targets: BTreeMap<String, u64>,
    kept: BTreeMap<String, u64>,
}

impl Plan {
    async fn make(desk: &Desk, out: &Out, replay: &letters::Replay) -> anyhow::Result<Self> {
        let mut plan = Self::default();
        let look = Look {
            filter: replay.filter.clone(),
            limit: replay.limit,
            renew: false,
        };
        let mut see = |letter: &Letter| match replay.target_of(letter) {
            Ok(queue) => *plan.targets.entry(queue.to_owned()).or_default() += 1,
            Err(why) => *plan.kept.entry(why).or_default() += 1,
        };
        let looked = desk
            .letters
            .look(&look, &mut see, &mut desk.report(out))
            .await?;
        desk.tell_look(&looked);
        Ok(plan)
    }

    fn tell(&self, desk: &Desk, out: &Out) {
        let queue = desk.letters.queue();
        if desk.is_json {
            return out.line(json!({
                "queue": queue,
                "would_replay": self.targets,
                "would_keep": self.kept,
            }));
        }
        if self.targets.is_empty() {
            out.line(format_args!("would replay nothing of {queue}"));
        }
        for (target, count) in &self.targets {
            out.line(format_args!(
                "would replay {} letters to {target}",
                print::count(*count)
            ));
        }
        for (why, count) in &self.kept {
            out.line(format_args!("would keep {}: {why}", print::count(*count)));
        }
    }

    fn question(&self, desk: &Desk) -> String {
        let count = print::count(self.targets.values().sum());
        let targets: Vec<_> = self.targets.keys().map(String::as_str).collect();
        let (queue, targets) = (desk.letters.queue(), targets.join(", "));
        match targets.is_empty() {
            true => format!("Replay no letter of {queue}?"),
            false => format!("Replay {count} letters of {queue} to {targets}?"),
        }
    }
}
