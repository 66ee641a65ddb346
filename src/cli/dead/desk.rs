//! What the commands share: the queue they work on, signals, progress, questions.

use std::{
    io::{self, IsTerminal},
    ops::ControlFlow,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context as _, bail};
use clap::{ArgGroup, Args};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lapwing::{
    Settings,
    letters::{Changed, DECLARED_LIMIT, DeadLetters, Looked, Progress},
    settings::Topology,
    telemetry,
};
use serde_json::{Value, json};

use crate::cli::{
    ConfigFile,
    print::{self, Out},
    say,
    signals::Caught,
};

/// The queue that a command works on.
#[derive(Args)]
#[command(group = ArgGroup::new("where").args(["consumer", "queue"]))]
pub(super) struct At {
    #[command(flatten)]
    config: ConfigFile,
    /// The dead letters of this consumer [default: the only consumer of the settings]
    #[arg(long, value_name = "NAME")]
    consumer: Option<String>,
    /// The letters of this queue
    #[arg(long, short, value_name = "NAME")]
    queue: Option<String>,
    /// Write JSON
    #[arg(long)]
    pub(super) json: bool,
}

impl At {
    /// The queue's name, and its delivery limit if the settings say it.
    fn queue(&self, settings: &Settings) -> anyhow::Result<(String, Option<u64>)> {
        if let Some(queue) = &self.queue {
            return Ok((queue.clone(), None));
        }
        let names = || settings.consumers.keys().cloned().collect::<Vec<_>>();
        let consumer = match (&self.consumer, settings.consumers.len()) {
            (Some(name), _) => settings.consumers.get(name).with_context(|| {
                format!(
                    "there is no consumer {name}; the settings have: {}",
                    names().join(", ")
                )
            })?,
            (None, 1) => &settings.consumers[&names()[0]],
            (None, 0) => bail!("the settings have no consumer: name a queue with --queue"),
            (None, _) => bail!("name one with --consumer: {}", names().join(", ")),
        };
        let is_ours = consumer.topology != Topology::None;
        Ok((
            consumer.dead_letter_queue(),
            is_ours.then_some(DECLARED_LIMIT),
        ))
    }

    /// Connects and runs a command.
    pub(super) fn run(
        &self,
        caught: Caught,
        command: impl AsyncFnOnce(&Desk) -> anyhow::Result<ExitCode>,
    ) -> anyhow::Result<ExitCode> {
        let settings = self.config.load()?;
        let (queue, limit) = self.queue(&settings)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .context("failed to start the runtime")?;
        let telemetry = telemetry::start_quietly(&settings)?;
        let ended = runtime.block_on(async {
            let stop = stop_flag(caught)?;
            let (broker, timeouts) = (&settings.broker, &settings.timeouts);
            let letters = DeadLetters::connect(broker, timeouts, &queue, limit);
            let letters = letters.await.context("failed to connect to the broker")?;
            let desk = Desk {
                letters,
                stop,
                is_json: self.json,
                by: format!("{} ({})", user(), settings.broker.worker_name()),
            };
            let ended = command(&desk).await;
            desk.letters.close().await;
            ended
        });
        // A read from a terminal cannot be interrupted.
        runtime.shutdown_background();
        telemetry.close(std::time::Instant::now() + settings.timeouts.telemetry_flush);
        ended
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is valid")
}

/// True after the first signal. The second one ends the process.
pub(in crate::cli) fn stop_flag(caught: Caught) -> anyhow::Result<Arc<AtomicBool>> {
    let mut signals = caught.listen().context("failed to listen to signals")?;
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    tokio::spawn(async move {
        let signal = signals.next().await;
        flag.store(true, Ordering::Relaxed);
        say(format_args!("stopped by {signal}; returning the letters"));
        signals.next().await;
        // The broker takes back what the process held.
        std::process::exit(1);
    });
    Ok(stop)
}

/// Who runs the command, as far as the environment says.
pub(in crate::cli) fn user() -> String {
    let names = ["SUDO_USER", "USER", "LOGNAME"];
    let mut known = names.iter().filter_map(|name| std::env::var(name).ok());
    known
        .find(|name| !name.is_empty())
        .unwrap_or_else(|| "unknown user".to_owned())
}

/// A connected command.
pub(super) struct Desk {
    pub(super) letters: DeadLetters,
    pub(super) is_json: bool,
    pub(super) by: String,
    stop: Arc<AtomicBool>,
}

impl Desk {
    /// Whether a signal asked the command to stop.
    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Shows the progress on a terminal, and stops the work after a signal or when the output is
    /// closed.
    pub(super) fn report<'a>(
        &'a self,
        out: &'a Out,
    ) -> impl FnMut(Progress) -> ControlFlow<()> + Send + 'a {
        let bar = ProgressBar::hidden();
        let mut is_shown = false;
        move |progress| {
            if !is_shown && io::stderr().is_terminal() {
                is_shown = true;
                bar.set_draw_target(ProgressDrawTarget::stderr());
            }
            bar.set_length(progress.total.into());
            bar.set_position(progress.seen);
            if let Some(canaries) = progress.canaries {
                bar.set_style(style(
                    "{spinner} waiting for the canaries: {human_pos} of {human_len} have an outcome",
                ));
                bar.set_length(canaries.sent);
                bar.set_position(canaries.known);
            } else {
                bar.set_style(style(
                    "{bar:30} {human_pos}/{human_len} letters {per_sec} {eta}",
                ));
            }
            if progress.canaries.is_none() && progress.seen >= u64::from(progress.total) {
                bar.finish_and_clear();
            }
            match self.is_stopped() || out.is_closed() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        }
    }

    /// Says what a look cost, on standard error.
    pub(super) fn tell_look(&self, looked: &Looked) {
        self.tell_cost(looked, "one delivery");
    }

    fn tell_cost(&self, looked: &Looked, cost: &str) {
        let Looked {
            total,
            seen,
            renewed,
            short,
            ..
        } = *looked;
        let queue = self.letters.queue();
        if self.letters.looks_count() && seen > 0 {
            say(format_args!(
                "{} of {} of {queue} were read and returned: {cost} each",
                print::count(seen),
                print::letters(total.into()),
            ));
        }
        if renewed > 0 {
            say(format_args!(
                "{} were replaced by a copy at the end of the queue: they had too few deliveries left",
                print::count(renewed)
            ));
        }
        if short > 0 {
            say(format_args!(
                "{} have fewer than five deliveries left: --renew replaces them by a copy at the \
                 end of the queue",
                print::count(short)
            ));
        }
    }

    /// Prints the result of a change, and returns the exit code: 1 if letters that were selected
    /// stayed.
    pub(super) fn tell_change(
        &self,
        out: &mut Out,
        verb: &str,
        changed: &Changed,
        more: Value,
    ) -> ExitCode {
        let queue = self.letters.queue();
        if self.is_json {
            let mut told = json!({
                "queue": queue,
                "seen": changed.looked.seen,
                verb: changed.changed,
                "kept": changed.kept,
                "stopped": changed.stopped,
                "by": self.by,
            });
            if let (Some(told), Value::Object(more)) = (told.as_object_mut(), more) {
                told.extend(more);
            }
            out.line(told);
        } else {
            match changed.looked.selected {
                0 => out.line(format_args!("no letter of {queue} fits")),
                _ => out.line(format_args!(
                    "{verb} {} of {queue}",
                    print::letters(changed.changed)
                )),
            }
            for (why, count) in &changed.kept {
                out.line(format_args!("  {} stayed: {why}", print::count(*count)));
            }
            if changed.stopped {
                out.line("  stopped before the end of the queue");
            }
        }
        self.tell_look_of_change(changed);
        match changed.kept.is_empty() && !changed.stopped {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        }
    }

    fn tell_look_of_change(&self, changed: &Changed) {
        let mut looked = changed.looked;
        looked.seen = looked.seen.saturating_sub(changed.changed);
        // The letters behind the canaries are read once more.
        let cost = match changed.canaries {
            Some(_) => "one or two deliveries",
            None => "one delivery",
        };
        self.tell_cost(&looked, cost);
    }

    /// Asks whether to go on. Without a terminal nobody answers, so that is an error.
    pub(super) fn confirm(&self, question: &str) -> anyhow::Result<bool> {
        print::confirm(question)
    }
}
