//! `lapwing dead replay`

use std::{process::ExitCode, time::Duration};

use clap::{ArgGroup, Args};
use lapwing::letters::{self, Canaries, Canary, Changed, Plan, Target};
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
    ["id", "all", "group", "reason", "message_type", "since", "older_than", "text",
     "matches"]))]
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
    #[arg(long, value_name = "LETTERS", value_parser = crate::cli::rate)]
    rate: Option<f64>,
    /// The most letters to replay [default: all that are selected]
    #[arg(long, short = 'n', value_name = "LETTERS")]
    limit: Option<usize>,
    /// Replay this many letters first (at most 100), and the others only if each of these succeeds in its
    /// first attempt
    #[arg(long, value_name = "LETTERS", value_parser = canary)]
    canary: Option<usize>,
    /// The longest wait for the outcomes of the first letters
    #[arg(long, value_name = "TIME", default_value = "60s", requires = "canary",
        value_parser = humantime::parse_duration)]
    canary_wait: Duration,
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
value in the header lapwing-replay.

With --canary the workers report the first outcome of the first letters to a queue that exists while
the command waits (its name begins with `lapwing-canary.`). A worker believes only copies of its own
user or of broker.trusted_users, and this command believes only reports of such users. Exit code 3:
not all of the first letters succeeded, and the others stay.";

/// The exit code if a canary did not succeed.
const CANARY_FAILED: u8 = 3;

fn canary(text: &str) -> Result<usize, String> {
    let letters: usize = text.parse().map_err(|_| "expected a number")?;
    match (1..=Canary::MOST).contains(&letters) {
        true => Ok(letters),
        false => Err(format!("must be 1 to {}", Canary::MOST)),
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
            canary: self.canary.map(|letters| Canary {
                letters,
                wait: self.canary_wait,
            }),
            run: uuid::Uuid::now_v7().to_string(),
            by: desk.by.clone(),
        };
        if self.dry_run || !self.yes {
            let plan = desk.letters.plan(&replay, &mut desk.report(&out)).await?;
            desk.tell_look(&plan.looked);
            if self.dry_run {
                tell_plan(&plan, desk, &out);
                return Ok(ExitCode::SUCCESS);
            }
            if !desk.confirm(&question(&plan, desk, self.canary))? {
                return Ok(ExitCode::FAILURE);
            }
        }
        let replayed = desk.letters.replay(&replay, &mut desk.report(&out)).await?;
        let more = json!({ "run": replay.run, "canaries": replayed.canaries });
        let code = desk.tell_change(&mut out, "replayed", &replayed, more);
        let failed = replayed.canaries.as_ref().filter(|it| it.ended);
        let Some(failed) = failed else {
            return Ok(code);
        };
        if !desk.is_json {
            self.tell_canaries(&out, &replayed, failed);
        }
        Ok(ExitCode::from(CANARY_FAILED))
    }

    /// Names each canary that did not succeed, and why.
    fn tell_canaries(&self, out: &Out, replayed: &Changed, canaries: &Canaries) {
        let Canaries {
            sent,
            succeeded,
            failed,
            silent,
            lost,
            ..
        } = canaries;
        let unconfirmed = match canaries.all_succeeded() && !replayed.stopped {
            true => ", and the copy of one was not confirmed",
            false => "",
        };
        out.line(format_args!(
            "  {succeeded} of {sent} canaries succeeded{unconfirmed}; the other letters stay"
        ));
        for it in failed {
            let after = match it.settlement.as_str() {
                "retry" => ", will be retried",
                "dead-letter" => ", is a dead letter again",
                _ => "",
            };
            out.line(format_args!(
                "  {}: {}{after}",
                print::cut(&it.id, 36),
                it.outcome
            ));
            if !it.error.is_empty() {
                for line in print::folded(&it.error, 4, 3) {
                    out.line(line);
                }
            }
        }
        if silent.is_empty() {
            return;
        }
        let wait = humantime::format_duration(self.canary_wait);
        match lost {
            Some(why) => out.line(format_args!("  the wait was cut short: {why}")),
            None if replayed.stopped => out.line("  the wait was stopped"),
            None => out.line(format_args!(
                "  no worker reported an outcome within {wait}:"
            )),
        }
        for id in silent {
            out.line(format_args!("    {}", print::cut(id, print::WIDTH - 4)));
        }
        if lost.is_none() && !replayed.stopped {
            out.line(NO_REPORT);
        }
    }
}

/// Why reports may be missing.
const NO_REPORT: &str = "\
  These letters are in their queue, or a handler still runs. Is a worker running
  that consumes it? A worker of an older version does not report, nor does one
  whose user is not the user of this command (broker.trusted_users).";

/// The longest name of a queue.
const NAME: usize = 255;

/// The most queues that the question names.
const ASKED: usize = 5;

/// Says what a replay would do.
fn tell_plan(plan: &Plan, desk: &Desk, out: &Out) {
    let queue = desk.letters.queue();
    if desk.is_json {
        return out.line(json!({
            "queue": queue,
            "would_replay": plan.targets,
            "would_replay_elsewhere": plan.elsewhere,
            "would_keep": plan.kept,
        }));
    }
    if plan.replayed() == 0 {
        out.line(format_args!("would replay nothing of {queue}"));
    }
    for (target, count) in &plan.targets {
        out.line(format_args!(
            "would replay {} to {}",
            print::letters(*count),
            print::cut(target, NAME)
        ));
    }
    if plan.elsewhere > 0 {
        out.line(format_args!(
            "would replay {} to other queues",
            print::letters(plan.elsewhere)
        ));
    }
    for (why, count) in &plan.kept {
        out.line(format_args!("would keep {}: {why}", print::count(*count)));
    }
}

fn question(plan: &Plan, desk: &Desk, canary: Option<usize>) -> String {
    ask(plan, desk.letters.queue(), canary)
}

fn ask(plan: &Plan, queue: &str, canary: Option<usize>) -> String {
    let count = print::letters(plan.replayed());
    // The letters name their queues themselves.
    let names = plan.targets.keys().map(|name| print::cut(name, NAME));
    let mut targets: Vec<_> = names.take(ASKED).collect();
    if plan.targets.len() > ASKED || plan.elsewhere > 0 {
        targets.push("other queues".to_owned());
    }
    let targets = targets.join(", ");
    match (plan.replayed() == 0, canary) {
        (true, _) => format!("Replay no letter of {queue}?"),
        (false, None) => format!("Replay {count} of {queue} to {targets}?"),
        (false, Some(first)) => {
            format!("Replay {count} of {queue} to {targets}, {first} of them first?")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_letter_can_change_the_question() {
        let mut plan = Plan::default();
        let targets = [
            "a\u{1b}[2J\nReplay nothing?",
            "b\u{202e}",
            "c",
            "d",
            "e",
            "f",
        ];
        plan.targets = targets.map(|name| (name.to_owned(), 1)).into();
        let asked = ask(&plan, "orders.dead", None);
        assert_eq!(
            asked,
            "Replay 6 letters of orders.dead to a [2J Replay nothing?, b , c, d, e, other queues?"
        );
        assert_eq!(
            ask(&Plan::default(), "q", Some(1)),
            "Replay no letter of q?"
        );
    }
}
