//! `lapwing dead`: one file for each command.

mod desk;
mod drop;
mod edit;
mod export;
mod groups;
mod import;
mod list;
mod replay;
mod select;
mod show;
mod watch;

use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::signals::Caught;
pub(super) use desk::{stop_flag, user};

/// Look at dead letters, and put them right.
#[derive(Args)]
pub(super) struct Dead {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List letters
    List(list::List),
    /// Count letters by cause
    Groups(groups::Groups),
    /// Show one letter: properties, headers, attempts and body
    Show(show::Show),
    /// Write letters as lines of JSON, without loss
    Export(export::Export),
    /// Put exported letters into the queue
    Import(import::Import),
    /// Publish letters again to the queue they came from; each begins anew
    Replay(replay::Replay),
    /// Change the body of a letter
    Edit(edit::Edit),
    /// Drop letters for good
    Drop(drop::Drop),
    /// Follow how many letters there are
    Watch(watch::Watch),
}

impl Dead {
    pub(super) fn run(self, caught: Caught) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::List(list) => list.run(caught),
            Command::Groups(groups) => groups.run(caught),
            Command::Show(show) => show.run(caught),
            Command::Export(export) => export.run(caught),
            Command::Import(import) => import.run(caught),
            Command::Replay(replay) => replay.run(caught),
            Command::Edit(edit) => edit.run(caught),
            Command::Drop(drop) => drop.run(caught),
            Command::Watch(watch) => watch.run(caught),
        }
    }
}

/// What each look says about its cost.
const COST: &str = "\
The letters stay in their queue, in their order while no other program reads the queue. On
RabbitMQ before 4.3 a look costs each letter that is read one delivery of the queue's delivery
limit. With --renew, letters with fewer than five deliveries left are replaced by a copy at the
end of the queue. A letter without any left is always replaced: else the broker would drop it.";
