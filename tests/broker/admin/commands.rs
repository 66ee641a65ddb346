//! `lapwing status`, `pause`, `resume` and `in-flight`.

use lapwing::Worker;
use serde_json::Value;
use tokio::process::Command;

use super::{gated, settings, start_both};
use crate::support::{Admin, Gate, Notes, TOKEN, vhost, within};

/// Runs a command against this server, and returns its exit code and its output.
pub(super) async fn run(
    admin: &Admin,
    arguments: &[&str],
    token: &str,
) -> (Option<i32>, String, String) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("token");
    std::fs::write(&file, token).expect("a temporary file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_lapwing"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("LAPWING_") {
            command.env_remove(name);
        }
    }
    let address = admin.address().to_string();
    command.args(arguments).args(["--at", &address]);
    command.arg("--token-file").arg(&file).kill_on_drop(true);
    let ended = within("the command", command.output()).await;
    let ended = ended.expect("it starts");
    let text = |bytes| String::from_utf8(bytes).expect("it prints text");
    (ended.status.code(), text(ended.stdout), text(ended.stderr))
}

#[tokio::test]
async fn a_running_worker_is_asked_and_changed_from_the_command_line() {
    let vhost = vhost().await;
    let (notes, gate) = (Notes::default(), Gate::default());
    let settings = settings(&vhost, "");
    let worker = Worker::new(settings.clone()).handler("q", gated(&notes, &gate));
    let (worker, admin) = start_both(settings, worker).await;
    let id = vhost.publish("q", "{}").await;
    notes.wait_for(1).await;

    let (code, out, err) = run(&admin, &["status"], TOKEN).await;
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(out.contains("ready") && out.contains("consuming"), "{out}");
    assert!(out.lines().all(|line| line.chars().count() <= 80), "{out}");
    let (_, out, _) = run(&admin, &["in-flight"], TOKEN).await;
    assert!(out.contains(&id) && out.contains("handling"), "{out}");
    let (_, out, _) = run(&admin, &["in-flight", "--json", "--consumer", "q"], TOKEN).await;
    let page: Value = serde_json::from_str(&out).expect("it is JSON");
    assert_eq!(page["messages"][0]["id"], id.as_str());

    let (code, _, err) = run(&admin, &["pause", "q"], "another-token-0000").await;
    assert!(code == Some(1) && err.contains("401"), "{err}");
    let (code, out, err) = run(&admin, &["pause", "--all"], TOKEN).await;
    assert_eq!((code, out.as_str()), (Some(0), "q: paused\n"), "{err}");
    let (_, out, _) = run(&admin, &["status"], TOKEN).await;
    assert!(out.contains("paused by an operator"), "{out}");
    gate.open();
    let (code, _, err) = run(&admin, &["resume", "q"], TOKEN).await;
    assert_eq!(code, Some(0), "{err}");
    let (code, _, err) = run(&admin, &["pause", "nobody"], TOKEN).await;
    assert!(code == Some(1) && err.contains("no such consumer"), "{err}");
    worker.drain().await;
}
