//! `lapwing topology`: one file for each command.

mod migrate;
mod plan;

use std::{collections::BTreeMap, process::ExitCode};

use anyhow::Context as _;
use clap::{Args, Subcommand};
use lapwing::{
    Settings,
    broker::BrokerError,
    settings::ConsumerSettings,
    telemetry,
    topology::{TopologyDesk, TopologyError},
};

use super::{ConfigFile, EXIT_CONFIG, EXIT_UNAVAILABLE, say, signals::Caught};

/// Compare queues and bindings with the settings, make what is missing, replace a queue.
#[derive(Args)]
pub(super) struct Topology {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Compare what exists with what the settings want. Creates nothing
    #[command(after_help = plan::AFTER_PLAN)]
    Plan(plan::Plan),
    /// Make what is missing, as a worker does at its start
    #[command(after_help = plan::AFTER_APPLY)]
    Apply(plan::Apply),
    /// Replace a queue by a quorum queue under a new name
    #[command(after_help = migrate::AFTER)]
    Migrate(migrate::Migrate),
}

impl Topology {
    pub(super) fn run(self, caught: Caught) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Plan(plan) => {
                caught.end_process()?;
                plan.run()
            }
            Command::Apply(apply) => {
                caught.end_process()?;
                apply.run()
            }
            Command::Migrate(migrate) => migrate.run(caught),
        }
    }
}

/// Exit code if there is something to do.
const EXIT_CHANGES: u8 = 3;
/// Exit code if something is in the way that the command does not change.
const EXIT_BLOCKED: u8 = 4;

/// The broker and the consumers that a command is about.
#[derive(Args)]
struct At {
    #[command(flatten)]
    config: ConfigFile,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

impl At {
    fn load(&self) -> anyhow::Result<Settings> {
        let settings = self.config.load()?;
        settings.require_consumers()?;
        Ok(settings)
    }

    /// Connects and runs a command.
    fn run(
        settings: &Settings,
        command: impl AsyncFnOnce(&TopologyDesk) -> Result<ExitCode, Failed>,
    ) -> anyhow::Result<ExitCode> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .context("failed to start the runtime")?;
        let telemetry = telemetry::start_quietly(settings)?;
        let ended = runtime.block_on(async {
            let desk = TopologyDesk::connect(&settings.broker, &settings.timeouts).await;
            let desk = desk.map_err(Failed::Connecting)?;
            let ended = command(&desk).await;
            desk.close().await;
            ended
        });
        // A read from a terminal cannot be interrupted.
        runtime.shutdown_background();
        telemetry.close(std::time::Instant::now() + settings.timeouts.telemetry_flush);
        ended.or_else(Failed::code)
    }
}

/// Why a command fails.
enum Failed {
    Connecting(BrokerError),
    Command(TopologyError),
    Other(anyhow::Error),
}

impl From<TopologyError> for Failed {
    fn from(error: TopologyError) -> Self {
        Self::Command(error)
    }
}

impl From<BrokerError> for Failed {
    fn from(error: BrokerError) -> Self {
        Self::Command(error.into())
    }
}

impl From<anyhow::Error> for Failed {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

impl Failed {
    /// Says why, and returns the exit code.
    fn code(self) -> anyhow::Result<ExitCode> {
        let code = match &self {
            Self::Connecting(error) if error.needs_people() => EXIT_CONFIG,
            Self::Connecting(_) => EXIT_UNAVAILABLE,
            Self::Command(TopologyError::Refused(_)) => EXIT_BLOCKED,
            Self::Command(TopologyError::Broker(error)) if error.needs_people() => EXIT_BLOCKED,
            Self::Command(TopologyError::Broker(_)) => EXIT_UNAVAILABLE,
            Self::Command(_) | Self::Other(_) => 1,
        };
        match self {
            Self::Connecting(error) => {
                say(format_args!(
                    "lapwing: failed to connect to the broker: {error}"
                ));
            }
            Self::Command(error) => say(format_args!("lapwing: {error}")),
            Self::Other(error) => return Err(error),
        }
        Ok(ExitCode::from(code))
    }
}

/// The consumers of the settings, or one of them.
fn chosen(
    settings: &Settings,
    name: Option<&str>,
) -> anyhow::Result<BTreeMap<String, ConsumerSettings>> {
    let Some(name) = name else {
        return Ok(settings.consumers.clone());
    };
    let consumer = settings.consumers.get(name).with_context(|| {
        let names: Vec<_> = settings.consumers.keys().map(String::as_str).collect();
        format!(
            "there is no consumer {name}; the settings have: {}",
            names.join(", ")
        )
    })?;
    Ok(BTreeMap::from([(name.to_owned(), consumer.clone())]))
}
