//! The command line as a process: its output, its effects at the broker, its exit codes.

mod config;
mod interrupted;
mod publish;
mod run;
mod signals;

use std::path::Path;
use std::process::{Output, Stdio};

use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, Command};

use crate::support::within;

/// `lapwing` with these arguments, and no settings in its environment.
fn lapwing(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lapwing"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("LAPWING_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).kill_on_drop(true);
    command
}

/// Runs a command with an empty standard input, and returns how it ended.
async fn output(command: &mut Command) -> Ended {
    command.stdin(Stdio::null());
    ended(within("the command", command.output()).await)
}

/// The same, with this text on its standard input.
async fn output_of(command: &mut Command, input: &str) -> Ended {
    let (child, mut stdin) = piped(command);
    stdin.write_all(input.as_bytes()).await.expect("it reads");
    drop(stdin);
    ended(within("the command", child.wait_with_output()).await)
}

/// A running command and its standard input.
fn piped(command: &mut Command) -> (Child, ChildStdin) {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    let stdin = child.stdin.take().expect("it is piped");
    (child, stdin)
}

fn ended(output: std::io::Result<Output>) -> Ended {
    let output = output.expect("it starts");
    let text = |bytes| String::from_utf8(bytes).expect("it prints text");
    Ended {
        code: output.status.code(),
        out: text(output.stdout),
        err: text(output.stderr),
    }
}

/// How a command ended.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

/// A file with this text, in a folder that is deleted with the guard.
fn file(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path: &Path = &folder.path().join("file");
    std::fs::write(path, text).expect("a temporary file");
    let path = path
        .to_str()
        .expect("a temporary folder has a plain name")
        .to_owned();
    (folder, path)
}
