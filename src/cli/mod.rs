//! The command line: one file for each subcommand.

// These macros panic if the output is closed; `say` does not.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod admin;
mod config;
mod dead;
mod descriptors;
mod doctor;
mod explain;
mod health;
mod migrate;
mod print;
mod process;
mod publish;
mod run;
mod signals;
mod topology;

use std::{
    fmt::Display,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context as _;
use clap::{Args, Parser, Subcommand};
use lapwing::settings::{ConfigError, Settings};

pub(crate) use signals::Caught;

/// A RabbitMQ worker that does not lose messages.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the worker until SIGTERM or Ctrl-C, or until one of the limits
    #[command(after_help = run::EXIT_CODES)]
    Run(run::Run),
    /// Publish messages, and wait until the broker confirms each one
    Publish(Box<publish::Publish>),
    /// Look at dead letters, and put them right: list, groups, show, export, import, replay, edit, drop
    Dead(Box<dead::Dead>),
    /// Check settings, broker, permissions, queues, times and handlers before a worker starts
    #[command(after_help = doctor::EXIT_CODES)]
    Doctor(doctor::Doctor),
    /// Say what will happen to a message that keeps failing, attempt by attempt
    #[command(after_help = explain::HELP)]
    Explain(explain::Explain),
    /// Compare queues and bindings with the settings, make what is missing, replace a queue
    Topology(topology::Topology),
    /// Make or update the inbox tables in PostgreSQL that the settings name
    #[command(after_help = migrate::EXIT_CODES)]
    Migrate(migrate::Migrate),
    /// Check the health of the worker on this machine: exit code 0 if healthy, else 1
    Health(health::Health),
    /// Say how a running worker and its consumers are
    Status(admin::Status),
    /// Pause consumers of a running worker
    Pause(admin::Pause),
    /// Resume paused consumers of a running worker
    Resume(admin::Resume),
    /// List the messages that a running worker has
    InFlight(admin::InFlight),
    /// Say which messages failed in a running worker, when and why
    Failures(admin::Failures),
    /// Say where a message is, and where it spent its time, as far as a running worker knows
    #[command(after_help = admin::MESSAGE_EXIT_CODES)]
    Message(admin::Message),
    /// Check a program for the handler of kind `process`
    #[command(subcommand)]
    Process(process::Process),
    /// Check or print the settings
    #[command(subcommand)]
    Config(config::Config),
}

impl Command {
    fn run(self, caught: Caught) -> anyhow::Result<ExitCode> {
        match self {
            Self::Run(run) => run.run(caught),
            Self::Publish(publish) => publish.run(caught),
            Self::Dead(dead) => dead.run(caught),
            Self::Doctor(doctor) => {
                caught.end_process()?;
                doctor.run()
            }
            Self::Explain(explain) => {
                caught.end_process()?;
                explain.run()
            }
            Self::Topology(topology) => topology.run(caught),
            Self::Migrate(migrate) => {
                caught.end_process()?;
                migrate.run()
            }
            Self::Health(health) => {
                caught.end_process()?;
                health.run()
            }
            Self::Status(status) => {
                caught.end_process()?;
                status.run()
            }
            Self::Pause(pause) => {
                caught.end_process()?;
                pause.run()
            }
            Self::Resume(resume) => {
                caught.end_process()?;
                resume.run()
            }
            Self::InFlight(in_flight) => {
                caught.end_process()?;
                in_flight.run()
            }
            Self::Failures(failures) => {
                caught.end_process()?;
                failures.run()
            }
            Self::Message(message) => {
                caught.end_process()?;
                message.run()
            }
            Self::Process(process) => {
                caught.end_process()?;
                process.run()
            }
            Self::Config(config) => {
                caught.end_process()?;
                config.run()
            }
        }
    }
}

/// Reads a rate: so many in a second.
fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "expected a number")?;
    match rate.is_finite() && rate >= 0.001 {
        true => Ok(rate),
        false => Err("must be at least 0.001".to_owned()),
    }
}

/// The source of the settings.
#[derive(Args)]
struct ConfigFile {
    /// File with the settings in TOML; environment variables LAPWING__SECTION__KEY override it
    #[arg(long, short, value_name = "FILE", env = "LAPWING_CONFIG")]
    config: Option<PathBuf>,
}

impl ConfigFile {
    fn load(&self) -> Result<Settings, ConfigError> {
        Settings::load(self.config.as_deref(), lapwing::settings::environment()?)
    }
}

/// Exit code for a configuration error (sysexits.h: `EX_CONFIG`).
const EXIT_CONFIG: u8 = 78;
/// Exit code if the broker cannot be reached (sysexits.h: `EX_UNAVAILABLE`).
const EXIT_UNAVAILABLE: u8 = 69;
/// Exit code if the drain left deliveries unsettled. The broker redelivers them.
const EXIT_LEFT: u8 = 3;

/// Exit code if the drain cancelled handlers and returned their messages.
const EXIT_CUT_OFF: u8 = 4;

/// Writes a line to standard error. A failed write (a closed terminal, a full disk) is ignored.
fn say(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

pub(crate) fn main(cli: Cli, caught: io::Result<Caught>) -> ExitCode {
    let caught = caught.context("failed to listen to signals");
    let result = caught.and_then(|caught| cli.command.run(caught));
    result.unwrap_or_else(|error| {
        say(format_args!("lapwing: {error:#}"));
        match error.downcast_ref::<ConfigError>() {
            Some(_) => ExitCode::from(EXIT_CONFIG),
            None => ExitCode::FAILURE,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn no_two_options_of_a_command_have_the_same_letter() {
        Cli::command().debug_assert();
    }
}
