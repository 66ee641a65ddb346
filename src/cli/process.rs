//! `lapwing process`

use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use lapwing::handler::check_process;

use super::say;

#[derive(Subcommand)]
pub(super) enum Process {
    /// Check that a program speaks the protocol of co-processes: exit code 0 if it does, else 1
    Check(Check),
}

#[derive(Args)]
pub(super) struct Check {
    /// The program and its arguments, after `--`. It gets messages that are made up
    #[arg(required = true, last = true, value_name = "PROGRAM")]
    argv: Vec<String>,
}

impl Process {
    pub(super) fn run(&self) -> anyhow::Result<ExitCode> {
        let Self::Check(check) = self;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("failed to start the runtime")?;
        let checks = runtime.block_on(check_process(&check.argv));
        let mut code = ExitCode::SUCCESS;
        for check in checks {
            match check.result {
                Ok(found) if found.is_empty() => say(format_args!("ok      {}", check.point)),
                Ok(found) => say(format_args!("ok      {} ({found})", check.point)),
                Err(error) => {
                    say(format_args!("FAILED  {}: {error}", check.point));
                    code = ExitCode::FAILURE;
                }
            }
        }
        Ok(code)
    }
}
