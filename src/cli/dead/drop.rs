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
        if !self.yes && !ask(desk, &out, &filter).await? {
            return Ok(ExitCode::FAILURE);
        }
        let dropped = desk
            .letters
            .drop(&filter, None, &desk.by, &mut desk.report(&out))
            .await?;
        Ok(desk.tell_change(&mut out, "dropped", &dropped, json!({})))
    }
}

async fn ask(desk: &Desk, out: &Out, filter: &Filter) -> anyhow::Result<bool> {
    let look = Look {
        filter: filter.clone(),
        ..Look::default()
    };
    let mut see = |_: &Letter| {};
    let looked = desk
        .letters
        .look(&look, &mut see, &mut desk.report(out))
        .await?;
    let count = print::letters(looked.selected);
    desk.confirm(&format!(
        "Drop {count} of {} for good?",
        desk.letters.queue()
    ))
}
