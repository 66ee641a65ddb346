//! The command line: a file a subcommand.

// They panic where nobody can read.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod config;
mod health;
mod publish;
mod run;
mod signals;

use std::{
    fmt::Display,
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Parser, Subcommand};
use lapwing::settings::{ConfigError, Settings};

/// A RabbitMQ worker that does not lose messages.
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Consume the configured queues until SIGTERM or Ctrl-C
    #[command(after_help = run::EXIT_CODES)]
    Run(ConfigFile),
    /// Publish messages, and wait for the broker to confirm each
    Publish(Box<publish::Publish>),
    /// Ask the worker that runs here whether it is well: exit code 0, or 1
    Health(health::Health),
    /// Look at the configuration
    #[command(subcommand)]
    Config(config::Config),
}

/// Where the settings come from.
#[derive(Args)]
struct ConfigFile {
    /// Settings in TOML; environment variables LAPWING__SECTION__KEY come on top
    #[arg(long, value_name = "FILE", env = "LAPWING_CONFIG")]
    config: Option<PathBuf>,
}

impl ConfigFile {
    fn load(&self) -> Result<Settings, ConfigError> {
        Settings::load(self.config.as_deref(), lapwing::settings::environment()?)
    }
}

/// The configuration cannot work (sysexits.h: `EX_CONFIG`).
const EXIT_CONFIG: u8 = 78;
/// The broker cannot be used (sysexits.h: `EX_UNAVAILABLE`).
const EXIT_UNAVAILABLE: u8 = 69;
/// The drain left deliveries unsettled; the broker redelivers them.
const EXIT_LEFT: u8 = 3;

/// A line on standard error. A terminal that is gone, or a full disk, changes no result.
fn say(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

pub(crate) fn main(cli: Cli) -> ExitCode {
    let result = match cli.command {
        Command::Run(file) => run::run(&file),
        Command::Publish(publish) => publish.run(),
        Command::Health(health) => health.run(),
        Command::Config(config) => config.run(),
    };
    result.unwrap_or_else(|error| {
        say(format_args!("lapwing: {error:#}"));
        match error.downcast_ref::<ConfigError>() {
            Some(_) => ExitCode::from(EXIT_CONFIG),
            None => ExitCode::FAILURE,
        }
    })
}
