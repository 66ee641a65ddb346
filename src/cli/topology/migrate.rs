//! `lapwing topology migrate`

use std::{
    io::{self, IsTerminal},
    ops::ControlFlow,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use clap::Args;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lapwing::{
    letters::Progress,
    topology::{Migrated, Migration, Moving, Step, TopologyDesk},
};
use serde_json::json;

use super::{At, EXIT_CHANGES, Failed};
use crate::cli::{
    dead::{stop_flag, user},
    print::{self, Out},
    say,
    signals::Caught,
};

pub(super) const AFTER: &str = "\
Declares the new queue by the settings, binds it before it unbinds the old queue, and moves the
messages in their order, each with a confirm before its ack. New messages come to the new queue at
once, before those that are moved. A message that is published while both queues have the same
binding comes to both.

Deletes the old queue only if it is a classic queue, and if the management API
(broker.management_url) shows that nothing can come back to it: no binding, no queue that
dead-letters to it, no unsettled delivery. Then it looks for a minute whether the queue stays empty
and unused. In every other case the queue stays, and the output says what to check.

After a kill run it again: it goes on. Then about 100 messages are there twice, more if the old queue
is slow. If the broker refuses a message, up to 49 messages before it are there twice. Run it as the user of the workers, or as one of their broker.trusted_users: they believe the
record of a retry by its user. This user also needs the permission to configure
lapwing.migrate.QUEUE.

Exit codes:
  0   the old queue is gone, and the management API shows no queue that dead-letters to it; or
      --dry-run
  1   any other error, or the question was answered with no
  3   moved as far as possible; the output says what is left to do before the old queue can go
  4   refused before anything was changed
  69  the broker cannot be reached
  78  the settings are wrong, or the broker refuses the password or the virtual host

Example:
  lapwing topology migrate orders --to orders.v2 --config worker.toml";

/// Replace a queue by a quorum queue under a new name.
#[derive(Args)]
pub(super) struct Migrate {
    #[command(flatten)]
    at: At,
    /// The queue to replace
    #[arg(value_name = "QUEUE")]
    from: String,
    /// The name of the new queue
    #[arg(long, value_name = "NAME")]
    to: String,
    /// Say what would be done, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Move at most this many messages per second
    #[arg(long, value_name = "N", value_parser = crate::cli::rate)]
    rate: Option<f64>,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

impl Migrate {
    pub(super) fn run(&self, caught: Caught) -> anyhow::Result<ExitCode> {
        let settings = self.at.load()?;
        At::run(&settings, async |desk: &TopologyDesk| {
            let stop = stop_flag(caught)?;
            if !self.dry_run {
                desk.reserve(&self.from).await?;
            }
            let migration = desk
                .migration(&settings.consumers, &self.from, &self.to)
                .await?;
            let by = format!("{} ({})", user(), settings.broker.worker_name());
            self.migrate(desk, &migration, by, &stop).await
        })
    }

    async fn migrate(
        &self,
        desk: &TopologyDesk,
        migration: &Migration,
        by: String,
        stop: &Arc<AtomicBool>,
    ) -> Result<ExitCode, Failed> {
        let out = Out::default();
        if !self.at.json || (!self.yes && !self.dry_run) {
            for line in intention(migration) {
                // With --json standard output has one document.
                match self.at.json {
                    true => say(line),
                    false => out.line(line),
                }
            }
        }
        if self.dry_run {
            if self.at.json {
                out.line(intention_as_json(migration));
            }
            return Ok(ExitCode::SUCCESS);
        }
        if migration.counts.is_some() && !self.yes && !print::confirm("Go on?")? {
            return Ok(ExitCode::FAILURE);
        }
        let moving = Moving {
            rate: self.rate,
            by,
        };
        let mut report = report(stop);
        let mut tell = |step: Step<'_>| {
            if !self.at.json {
                out.line(told(migration, &step));
            }
        };
        let migrated = desk
            .migrate(migration, &moving, &mut report, &mut tell)
            .await
            // Something may have been changed before.
            .map_err(|error| Failed::Other(error.into()))?;
        Ok(self.tell_end(&out, migration, &migrated))
    }

    fn tell_end(&self, out: &Out, migration: &Migration, migrated: &Migrated) -> ExitCode {
        let (from, to) = (&migration.from, &migration.to);
        let left = migrated.left.as_ref();
        let obstacles: Vec<String> = left.map_or_else(Vec::new, |left| {
            let obstacles = left.obstacles();
            obstacles.into_iter().map(|it| left.tell(it)).collect()
        });
        let is_done = migrated.deleted && obstacles.is_empty();
        if self.at.json {
            out.line(json!({
                "from": from,
                "to": to,
                "done": is_done,
                "migrated": migrated,
                "bindings_assumed": migration.assumed,
                "notes": migration.notes,
                "obstacles": obstacles,
            }));
        } else if is_done {
            out.line(format_args!("{from} is gone: {to} has replaced it"));
            let reach = format!(
                "A program that publishes to the default exchange with the routing key {from} \
                 reaches no queue now."
            );
            out.line(print::wrapped(&reach, 0));
        } else {
            if migrated.stopped {
                out.line("stopped");
            }
            match migrated.deleted {
                true => out.line(format_args!("{from} is gone, and:")),
                false => out.line(format_args!("{from} is not deleted:")),
            }
            for obstacle in &obstacles {
                out.line(print::wrapped(&format!("  - {obstacle}"), 4));
            }
            out.line("Run the same command again to go on.");
        }
        match is_done {
            true => ExitCode::SUCCESS,
            false => ExitCode::from(EXIT_CHANGES),
        }
    }
}

/// Shows the progress on a terminal, and stops the work after a signal.
fn report(stop: &Arc<AtomicBool>) -> impl FnMut(Progress) -> ControlFlow<()> + Send + use<> {
    let (bar, stop) = (ProgressBar::hidden(), Arc::clone(stop));
    let mut is_shown = false;
    move |progress: Progress| {
        if !is_shown && progress.total > 0 && io::stderr().is_terminal() {
            is_shown = true;
            bar.set_draw_target(ProgressDrawTarget::stderr());
            let style = "{bar:30} {human_pos}/{human_len} messages {per_sec} {eta}";
            bar.set_style(ProgressStyle::with_template(style).expect("the template is valid"));
        }
        if progress.total > 0 {
            bar.set_length(progress.total.into());
            bar.set_position(progress.changed);
        } else {
            bar.finish_and_clear();
        }
        match stop.load(Ordering::Relaxed) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }
}

fn kind(migration: &Migration) -> &'static str {
    match migration.is_quorum {
        Some(true) => "quorum",
        Some(false) => "classic",
        None => "type not known",
    }
}

/// What the command would do, for a terminal.
fn intention(migration: &Migration) -> Vec<String> {
    let Migration { from, to, .. } = migration;
    let Some((ready, consumers)) = migration.counts else {
        return Vec::new();
    };
    let plural = if consumers == 1 { "" } else { "s" };
    let mut lines = vec![format!(
        "{from} ({}, {} messages, {consumers} consumer{plural}) is replaced by {to} (quorum)",
        kind(migration),
        print::count(ready.into())
    )];
    let mut step = |text: String| lines.push(print::wrapped(&format!("  {text}"), 4));
    if !migration.missing.is_empty() {
        step(format!("create {}", migration.missing.join(", ")));
    }
    for bound in &migration.bindings {
        step(format!("bind {to} to {bound}, and then unbind {from}"));
    }
    step(format!("move the messages of {from}, in their order"));
    step(match migration.is_quorum {
        Some(false) if migration.assumed.is_none() => {
            format!("delete {from} if nothing can come back to it; else say what to check")
        }
        _ => format!("say what to check before {from} is deleted"),
    });
    if let Some(why) = &migration.assumed {
        step(format!(
            "note: only the bindings of the settings are known ({why}). Other bindings of {from} stay"
        ));
    }
    for note in &migration.notes {
        step(format!("note: {note}"));
    }
    lines
}

fn intention_as_json(migration: &Migration) -> serde_json::Value {
    json!({
        "from": migration.from,
        "to": migration.to,
        "ready": migration.counts.map(|counts| counts.0),
        "consumers": migration.counts.map(|counts| counts.1),
        "is_quorum": migration.is_quorum,
        "create": migration.missing,
        "bindings": migration.bindings,
        "bindings_assumed": migration.assumed,
        "notes": migration.notes,
    })
}

fn told(migration: &Migration, step: &Step<'_>) -> String {
    let Migration { from, to, .. } = migration;
    match step {
        Step::Created(queues) => format!("created {} queues", queues.len()),
        Step::Rebound(bound) => {
            print::wrapped(&format!("bound {to} to {bound}, and unbound {from}"), 2)
        }
        Step::Moved(count) => format!("moved {} messages", print::count(*count)),
        Step::Watching(time) => format!(
            "{from} is empty and unused; looking for {} whether it stays so",
            humantime::format_duration(*time)
        ),
        Step::Deleted => format!("deleted {from}"),
        _ => String::new(),
    }
}
