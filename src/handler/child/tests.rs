//! Programs that are started and ended, on this machine.

use std::{fs, time::Duration};

use super::*;

const DEADLINE: Duration = Duration::from_secs(60);

fn program(script: &str) -> Program {
    let argv = ["sh", "-c", script].map(str::to_owned);
    Program::find(&argv).unwrap().environment(Environment {
        passed: vec!["PATH".to_owned()],
        ..Environment::default()
    })
}

fn start(program: &Program) -> Child {
    program.start([]).unwrap()
}

/// Waits until the program has written something: its traps are set.
async fn has_begun(child: &Child) {
    timeout(DEADLINE, child.stdout.readable())
        .await
        .unwrap()
        .unwrap();
}

/// Waits until a process that was killed is gone.
pub(in crate::handler) async fn gone(process: u32) {
    let gone = async {
        while runs(process) {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(DEADLINE, gone).await.expect("it was killed");
}

/// Whether a process runs. A zombie does not.
pub(in crate::handler) fn runs(process: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{process}/stat")) else {
        return false;
    };
    let state = stat.rsplit_once(") ").map(|(_, rest)| &rest[..1]);
    !matches!(state, Some("Z" | "X"))
}

#[tokio::test]
async fn the_end_of_a_program_is_seen_by_its_descriptor_and_by_looking() {
    for polled in [false, true] {
        let mut child = start(&program("exit 7"));
        if polled {
            child.ending.leader.as_mut().unwrap().exit = Exit::Polled;
        }
        timeout(DEADLINE, child.ending.ended()).await.unwrap();
        assert_eq!(how(child.ending.reap().unwrap()), "exit code 7");
    }
}

#[tokio::test]
async fn a_program_that_ignores_sigterm_is_killed() {
    let program = program("trap '' TERM; echo; while :; do sleep 1; done");
    let program = program.grace(Duration::from_millis(10));
    let mut child = start(&program);
    has_begun(&child).await;
    let status = timeout(DEADLINE, child.ending.shut_down()).await.unwrap();
    assert_eq!(how(status.unwrap()), "killed by SIGKILL");
}

#[tokio::test]
async fn a_program_may_clean_up_after_sigterm() {
    let program = program("trap 'exit 3' TERM; echo; while :; do sleep 0.01; done");
    let mut child = start(&program.grace(DEADLINE));
    has_begun(&child).await;
    let status = timeout(DEADLINE, child.ending.shut_down()).await.unwrap();
    assert_eq!(how(status.unwrap()), "exit code 3");
}

#[tokio::test]
async fn a_program_whose_owner_is_dropped_is_ended() {
    let program = program("trap '' TERM; echo; while :; do sleep 1; done");
    let program = program.grace(Duration::from_millis(10));
    let child = start(&program);
    has_begun(&child).await;
    let id = child.ending.id().unwrap();
    assert!(runs(id));
    drop(child);
    program.ends.close();
    timeout(DEADLINE, program.ends.wait()).await.unwrap();
    assert!(!runs(id));
}

/// The runtime may not have noticed yet that the pipe can be read.
#[tokio::test]
async fn what_a_program_wrote_before_its_end_is_read_at_once() {
    let mut child = start(&program("echo said; echo failed >&2"));
    let process = Pid::from_raw(child.ending.id().unwrap().cast_signed()).unwrap();
    // Blocks the thread, so that the runtime sees nothing.
    let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    waitid(WaitId::Pid(process), ended).unwrap();
    let (mut stdout, mut stderr) = (Tail::most(100), Tail::most(100));
    rest(&child.stdout, &mut stdout);
    rest(&child.stderr, &mut stderr);
    assert_eq!(
        (stdout.text().as_str(), stderr.text().as_str()),
        ("said", "failed")
    );
    assert!(child.ending.reap().unwrap().success());
}

#[tokio::test]
async fn a_program_whose_pipes_cannot_be_watched_is_ended_and_reaped() {
    use std::process::{ChildStdout, Command, Stdio};
    let mut command = Command::new("sleep");
    let piped = command
        .arg("1000")
        .stdin(Stdio::piped())
        .stderr(Stdio::piped());
    let mut process = std::os::unix::process::CommandExt::process_group(piped, 0)
        .spawn()
        .unwrap();
    let no_pipe = OwnedFd::from(fs::File::open("/dev/null").unwrap());
    process.stdout = Some(ChildStdout::from(no_pipe));
    let id = process.id();
    let program = program("").grace(DEADLINE);
    assert!(program.watch(process).is_err());
    program.ends.close();
    timeout(DEADLINE, program.ends.wait()).await.unwrap();
    assert!(!std::path::Path::new(&format!("/proc/{id}")).exists());
}

/// In a container the worker is process 1, which inherits orphans. A subreaper does too.
#[tokio::test]
async fn orphans_that_the_worker_inherits_are_reaped() {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
    let program = program("sleep 1000 & sleep 1000 & echo $! >&2; exit 0");
    let mut child = start(&program);
    timeout(DEADLINE, child.ending.ended()).await.unwrap();
    let mut said = Tail::most(100);
    rest(&child.stderr, &mut said);
    assert!(child.ending.reap().unwrap().success());
    program.ends.close();
    timeout(DEADLINE, program.ends.wait()).await.unwrap();
    let orphan: u32 = said.text().parse().unwrap();
    assert!(!std::path::Path::new(&format!("/proc/{orphan}")).exists());
}

#[test]
fn a_script_whose_interpreter_is_missing_cannot_start() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("handle");
    let reached = |first: &str| {
        fs::write(&script, format!("{first}\nexit 0\n")).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        let argv = [script.display().to_string()];
        Program::find(&argv).unwrap().reach()
    };
    let what = format!("{} is an executable file", script.display());
    assert_eq!(reached("#!/bin/sh -e").unwrap().what, what);
    assert_eq!(reached("exit 0").unwrap().what, what);
    let error = reached("#!/missing/python3").unwrap_err();
    assert!(
        error.contains("names /missing/python3 in its first line"),
        "{error}"
    );
}
