//! `lapwing dead groups`

use std::process::ExitCode;

use clap::Args;
use lapwing::letters::{Group, Groups as Counted, Letter, Look};
use serde_json::json;

use super::{
    COST,
    desk::{At, Desk},
    select::Select,
};
use crate::cli::{
    print::{self, Out},
    say,
    signals::Caught,
};

/// Count letters by cause, largest group first. Reads the whole queue.
#[derive(Args)]
#[command(after_help = COST)]
pub(super) struct Groups {
    #[command(flatten)]
    at: At,
    #[command(flatten)]
    select: Select,
    /// The most groups to print; 0: all
    #[arg(long, short = 'n', default_value_t = 20)]
    limit: usize,
    /// Replace letters that are short of deliveries by a copy at the end of the queue
    #[arg(long)]
    renew: bool,
}

impl Groups {
    pub(super) fn run(&self, caught: Caught) -> anyhow::Result<ExitCode> {
        self.at.run(caught, async |desk| self.count(desk).await)
    }

    async fn count(&self, desk: &Desk) -> anyhow::Result<ExitCode> {
        let out = Out::default();
        let look = Look {
            filter: self.select.filter(&[]),
            limit: None,
            renew: self.renew,
        };
        let mut counted = Counted::default();
        let mut see = |letter: &Letter| counted.add(&letter.summary);
        let looked = desk
            .letters
            .look(&look, &mut see, &mut desk.report(&out))
            .await?;
        let groups = counted.sorted();
        let most = match self.limit {
            0 => usize::MAX,
            most => most,
        };
        if desk.is_json {
            out.line(json!({
                "queue": desk.letters.queue(),
                "letters": looked.selected,
                "complete": !looked.stopped,
                "groups": groups.iter().take(most).collect::<Vec<_>>(),
            }));
        } else {
            table(&out, &groups, most);
        }
        if looked.stopped {
            say("stopped before the end of the queue: the counts are not complete");
        }
        desk.tell_look(&looked);
        Ok(match looked.stopped {
            true => ExitCode::FAILURE,
            false => ExitCode::SUCCESS,
        })
    }
}

/// The lines of a cause. Errors often differ at their end, behind an URL.
const CAUSE: usize = 3;

fn table(out: &Out, groups: &[Group], most: usize) {
    if groups.is_empty() {
        return out.line("no letters");
    }
    let (first, last) = ("FIRST", "LAST");
    out.line(format_args!(
        "  COUNT  SHARE  {first:<20}  {last:<20}  GROUP"
    ));
    for group in groups.iter().take(most) {
        let count = print::count(group.count);
        let (first, last) = (print::time(group.first), print::time(group.last));
        out.line(format_args!(
            "{count:>7}  {:>4.0}%  {first:<20}  {last:<20}  {}",
            group.share * 100.0,
            group.group
        ));
        let from = group.source_queue.as_deref();
        let from = from.map_or_else(String::new, |queue| format!(" from {queue}"));
        let colon = if group.kind.is_empty() { "" } else { ": " };
        let cause = format!(
            "{}{from}: {}{colon}{}",
            group.reason, group.kind, group.error
        );
        for line in print::folded(&cause, 9, CAUSE) {
            out.line(line);
        }
        let sample = format!("for example {}", group.sample);
        out.line(format_args!(
            "         {}",
            print::cut(&sample, print::WIDTH - 9)
        ));
    }
    if groups.len() > most {
        out.line(format_args!(
            "{} more groups (--limit 0 prints all)",
            groups.len() - most
        ));
    }
}
