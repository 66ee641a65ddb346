//! The inbox: what is done already is not done again.

mod migrate;
mod once;
mod stores;

use std::process::ExitStatus;

use crate::support::{Consumers, within};

/// Runs `lapwing migrate` with these settings: how it ended, and what it said.
async fn migrate(consumers: &Consumers) -> (ExitStatus, String) {
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let file = folder.path().join("lapwing.toml");
    std::fs::write(&file, consumers.toml()).expect("a temporary file");
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_lapwing"));
    command.arg("migrate").arg("--config").arg(&file);
    command.kill_on_drop(true);
    let output = within("lapwing migrate", command.output()).await;
    let output = output.expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status, said)
}
