//! `lapwing dead drop`

use std::process::ExitCode;

use clap::{ArgGroup, Args};
use lapwing::letters::{Filter, Letter, Look};
use serde_json::json;

use super::{
    desk::{At, Desk},
    select::Select,
};
use crate::cli::{
    print::{self, Out},
    signals::Caught,
};

/// Drop letters for good. Export them first: nothing brings them back.
#[derive(Args)]
#[command(group = ArgGroup::new("selection").required(true).multiple(true).args(
    ["id", "all", "group", "reason", "message_type", "since", "older_than", "text",
     "matches"]))]
pub(super) struct Drop {
    #[command(flatten)]
    at: At,
    #[command(flatten)]
    select: Select,
    /// The ids of the letters
    id: Vec<String>,
    /// All letters of the queue
    #[arg(long)]
    all: bool,
    /// Say how many letters would be dropped, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

impl Drop {
    pub(super) fn run(&self, caught: Caught) -> anyhow::Result<ExitCode> {
        self.at.run(caught, async |desk| self.drop(desk).await)
    }

    async fn drop(&self, desk: &Desk) -> anyhow::Result<ExitCode> {
        let mut out = Out::default();
        let filter = self.select.filter(&self.id);
        let queue = desk.letters.queue();
        if self.dry_run || !self.yes {
            let count = count(desk, &out, &filter).await?;
            let letters = print::letters(count);
            if self.dry_run {
                match desk.is_json {
                    true => out.line(json!({ "queue": queue, "would_drop": count })),
                    false => out.line(format_args!("would drop {letters} of {queue}")),
                }
                return Ok(ExitCode::SUCCESS);
            }
            if !desk.confirm(&format!("Drop {letters} of {queue} for good?"))? {
                return Ok(ExitCode::FAILURE);
            }
        }
        let dropped = desk
            .letters
            .drop(&filter, None, &desk.by, &mut desk.report(&out))
            .await?;
        Ok(desk.tell_change(&mut out, "dropped", &dropped, json!({})))
    }
}

/// The letters that fit now.
async fn count(desk: &Desk, out: &Out, filter: &Filter) -> anyhow::Result<u64> {
    let look = Look {
        filter: filter.clone(),
        ..Look::default()
    };
    let mut see = |_: &Letter| {};
    let looked = desk
        .letters
        .look(&look, &mut see, &mut desk.report(out))
        .await?;
    desk.tell_look(&looked);
    Ok(looked.selected)
}
