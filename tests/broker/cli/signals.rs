//! Signals that come before the worker has started, or that it inherited blocked.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;

use super::lapwing;
use crate::support::{DEADLINE, wait_until, within};

/// A worker whose broker does not exist.
const SETTINGS: &str = "
    [broker]
    url = 'amqp://127.0.0.1:1'
    [log]
    format = 'json'
    [admin]
    listen = 'off'
    [consumers.q]
    queue = 'q'
    handler.kind = 'log'
";

/// Whether the process catches SIGTERM and does not block it.
fn catches_sigterm(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let has_sigterm = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let mask = line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
        mask.is_some_and(|mask| mask & (1 << 14) != 0)
    };
    has_sigterm("SigCgt:") && !has_sigterm("SigBlk:")
}

/// Starts a command that reads its settings from a pipe, sends it SIGTERM as soon as it catches the
/// signal, and gives it the settings only then.
async fn terminated_before_it_reads_its_settings(command: impl FnOnce(&str) -> Command) -> Output {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let fifo: &Path = &folder.path().join("settings");
    let made = std::process::Command::new("mkfifo").arg(fifo).status();
    assert!(made.expect("mkfifo runs").success());
    let mut command = command(fifo.to_str().expect("a plain name"));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.kill_on_drop(true).spawn().expect("it starts");
    let pid = child.id().expect("it was not waited for");
    let caught = async || catches_sigterm(pid);
    wait_until("SIGTERM is caught", DEADLINE, caught, |caught| *caught).await;
    let target = Pid::from_raw(pid.cast_signed()).expect("a process id");
    kill_process(target, Signal::TERM).expect("it runs");
    let fifo = fifo.to_owned();
    // Opening a pipe waits for the reader.
    let written = tokio::task::spawn_blocking(move || {
        let mut file = fs::OpenOptions::new().write(true).open(fifo)?;
        file.write_all(SETTINGS.as_bytes())
    });
    within("the settings", written)
        .await
        .expect("no panic")
        .expect("it reads");
    within("its end", child.wait_with_output())
        .await
        .expect("it ends")
}

fn assert_drained(ended: &Output) {
    let log = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(0), "{log}");
    let last = log.lines().last().unwrap_or_default();
    assert!(last.contains("\"drained\""), "{log}");
}

#[tokio::test]
async fn a_signal_that_comes_before_the_settings_are_read_drains_the_worker() {
    let run = |settings: &str| lapwing(&["run", "--config", settings]);
    let ended = terminated_before_it_reads_its_settings(run).await;
    assert_drained(&ended);
}

#[tokio::test]
async fn a_signal_that_was_inherited_blocked_is_unblocked() {
    let run = |settings: &str| {
        let mut command = Command::new("env");
        command.args(["--block-signal=TERM", env!("CARGO_BIN_EXE_lapwing")]);
        command.args(["run", "--config", settings]);
        command
    };
    let ended = terminated_before_it_reads_its_settings(run).await;
    assert_drained(&ended);
}
