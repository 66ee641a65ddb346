//! Co-processes on this machine: shell scripts that keep to the protocol, or break it.

mod batches;

use std::{collections::BTreeMap, fs, sync::Arc, time::Duration};

use tempfile::TempDir;
use tokio::time::timeout;

use super::*;
use crate::handler::{
    child::tests::{gone, runs},
    samples::Sample,
};

/// The longest wait for something that must happen.
const DEADLINE: Duration = Duration::from_secs(60);

/// The beginning of a script: a function that answers the message of the line `$line`.
const BEGIN: &str = r#"
answer() { id=${line#*:}; id=${id%%,*}; echo "{\"id\":$id,\"outcome\":$1}"; }
"#;

/// Answers each message.
const RIGHT: &str = "echo '{\"ready\":1}'; while read -r line; do answer '\"succeeded\"'; done";

struct Script {
    folder: TempDir,
    settings: ProcessHandlerSettings,
}

impl Script {
    fn of(text: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let out = folder.path().join("out").display().to_string();
        let script = format!("{BEGIN}\n{text}");
        let settings = ProcessHandlerSettings {
            argv: ["sh", "-c", &script].map(str::to_owned).to_vec(),
            env: BTreeMap::from([("OUT".to_owned(), out.as_str().into())]),
            processes: Some(1),
            kill_after: Duration::from_millis(20),
            ..ProcessHandlerSettings::default()
        };
        Self { folder, settings }
    }

    async fn start(&self) -> Arc<ProcessHandler> {
        let handler = ProcessHandler::new(&self.settings, 1).unwrap();
        started(&handler).await.unwrap();
        Arc::new(handler)
    }

    fn left(&self) -> String {
        fs::read_to_string(self.folder.path().join("out")).unwrap_or_default()
    }

    async fn until_left(&self, accept: impl Fn(&str) -> bool) -> String {
        let look = async {
            loop {
                match self.left() {
                    text if accept(&text) => return text,
                    _ => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        timeout(DEADLINE, look).await.expect("the script leaves it")
    }
}

async fn started(handler: &ProcessHandler) -> Result<(), HandlerError> {
    timeout(DEADLINE, handler.start()).await.expect("it ends")
}

async fn run(handler: &ProcessHandler) -> Outcome {
    let sample = Sample::with_body(b"{}");
    let outcome = timeout(DEADLINE, handler.handle(sample.context())).await;
    outcome.expect("the handler ends")
}

async fn failure(handler: &ProcessHandler) -> Failure {
    match run(handler).await {
        Outcome::Failed(failure) => failure,
        other => panic!("{other:?}"),
    }
}

async fn stop(handler: &ProcessHandler) {
    timeout(DEADLINE, handler.stop()).await.expect("it ends");
}

#[tokio::test]
async fn a_co_process_takes_many_messages_and_ends_with_its_input() {
    let script = Script::of(&format!(
        "echo $$ >> \"$OUT\"; {RIGHT}; echo end >> \"$OUT\""
    ));
    let mut script = script;
    script.settings.kill_after = DEADLINE;
    let handler = script.start().await;
    for _ in 0..50 {
        assert_eq!(run(&handler).await, Outcome::Succeeded);
    }
    stop(&handler).await;
    let left = script.left();
    let lines: Vec<_> = left.lines().collect();
    assert_eq!((lines.len(), lines[1]), (2, "end"), "{left}");
    assert!(!runs(lines[0].parse().unwrap()));
}

#[tokio::test]
async fn a_co_process_that_breaks_the_protocol_is_replaced_and_its_message_retried() {
    let flood = "head -c 3000000 /dev/zero";
    let cases = [
        ("echo garbage", "is no answer"),
        (
            "echo '{\"id\":999,\"outcome\":\"succeeded\"}'",
            "the answer is for id 999",
        ),
        ("answer '\"finished\"'", "unknown variant `finished`"),
        (flood, "a line is longer than 1048576 bytes"),
    ];
    for (bad, error) in cases {
        let script = Script::of(&format!(
            "if [ -e \"$OUT\" ]; then {RIGHT}; else echo >> \"$OUT\"; echo '{{\"ready\":1}}'; \
             read -r line; {bad}; sleep 1000; fi"
        ));
        let handler = script.start().await;
        let failure = failure(&handler).await;
        assert!(failure.error.contains(error), "{bad}: {failure:?}");
        assert_eq!(failure.class, "process-protocol");
        assert!(failure.retryable && !failure.unavailable);
        assert_eq!(run(&handler).await, Outcome::Succeeded, "{bad}");
        stop(&handler).await;
    }
}

#[tokio::test]
async fn a_crash_names_its_message_and_says_why() {
    // On a busy machine an end takes its time, by itself or by SIGTERM.
    let (out_of_luck, a_while) = ("exit code 3: out of luck", Duration::from_secs(3));
    for (end, kill_after, said) in [
        ("echo out of luck >&2; exit 3", DEADLINE, out_of_luck),
        // Half a line is no answer.
        ("printf '{\"id\":1,\"out'; exit 4", DEADLINE, "exit code 4"),
        ("kill -KILL $$", DEADLINE, "killed by SIGKILL"),
        // It goes on without its output.
        (
            "exec >&-; sleep 1000",
            a_while,
            "closed its pipes, killed by SIGTERM",
        ),
    ] {
        let mut script = Script::of(&format!(
            "if [ -e \"$OUT\" ]; then {RIGHT}; else echo >> \"$OUT\"; echo '{{\"ready\":1}}'; \
             read -r line; {end}; fi"
        ));
        script.settings.kill_after = kill_after;
        let handler = script.start().await;
        let failure = failure(&handler).await;
        assert_eq!(failure.error, format!("the co-process ended: {said}"));
        assert_eq!(failure.class, "process-exit");
        assert!(failure.retryable && !failure.unavailable);
        assert_eq!(run(&handler).await, Outcome::Succeeded, "{end}");
        stop(&handler).await;
    }
}

#[tokio::test]
async fn a_cancelled_message_ends_its_co_process_even_one_that_ignores_sigterm() {
    let script = Script::of(
        "trap '' TERM; echo '{\"ready\":1}'; read -r line; sleep 1000 & \
         echo $$ $! >> \"$OUT\"; while :; do sleep 1; done",
    );
    let handler = script.start().await;
    let sample = Sample::with_body(b"{}");
    let work = timeout(DEADLINE, handler.handle(sample.context()));
    let cancel = async {
        let left = script.until_left(|left| left.ends_with('\n')).await;
        sample.time_out();
        left
    };
    let (outcome, left) = tokio::join!(work, cancel);
    assert!(matches!(outcome, Ok(Outcome::Failed(_))), "{outcome:?}");
    for process in left.split_whitespace() {
        gone(process.parse().unwrap()).await;
    }
    stop(&handler).await;
}

#[tokio::test]
async fn a_handler_that_is_dropped_ends_its_co_process() {
    let script = Script::of(
        "echo '{\"ready\":1}'; read -r line; echo $$ >> \"$OUT\"; while :; do sleep 1; done",
    );
    let handler = script.start().await;
    let working = Arc::clone(&handler);
    let work = tokio::spawn(async move { run(&working).await });
    let left = script.until_left(|left| left.ends_with('\n')).await;
    work.abort();
    // Another one takes its place.
    script
        .until_left(|left| !left.is_empty() && !runs_first(left))
        .await;
    assert!(!runs(left.trim().parse().unwrap()));
    stop(&handler).await;
}

fn runs_first(left: &str) -> bool {
    left.lines()
        .next()
        .is_some_and(|process| runs(process.parse().unwrap()))
}

#[tokio::test]
async fn a_program_that_is_not_ready_keeps_the_worker_from_starting() {
    for (text, said) in [
        (
            "echo hello; sleep 1000",
            "must be {\"ready\":1}, found \"hello\"",
        ),
        ("echo '{\"ready\":2}'", "speaks version 2"),
        (
            "echo no module >&2; exit 1",
            "it ended before it was ready (exit code 1): no module",
        ),
        ("sleep 1000", "not ready within 200ms"),
    ] {
        let mut script = Script::of(text);
        if text.starts_with("sleep") {
            script.settings.start_timeout = Duration::from_millis(200);
        }
        let handler = ProcessHandler::new(&script.settings, 1).unwrap();
        let error = started(&handler).await.unwrap_err().to_string();
        assert!(error.contains(said), "{text}: {error}");
        stop(&handler).await;
    }
}

#[tokio::test]
async fn while_no_co_process_starts_messages_are_unavailable() {
    let script = Script::of(&format!(
        "echo begun >> \"$OUT\"; [ -e \"$OUT.bad\" ] && {{ echo no database >&2; exit 1; }}; \
         echo '{{\"ready\":1}}'; read -r line; touch \"$OUT.bad\"; answer '\"succeeded\"'; exit 1; \
         {RIGHT}"
    ));
    let handler = script.start().await;
    assert_eq!(run(&handler).await, Outcome::Succeeded);
    // A message may find the co-process that ends.
    let failure = async {
        loop {
            match failure(&handler).await {
                failure if failure.class == "process-exit" => {}
                failure => return failure,
            }
        }
    };
    let failure = timeout(DEADLINE, failure).await.unwrap();
    assert!(failure.unavailable, "{failure:?}");
    assert_eq!(failure.class, "process-start");
    assert!(failure.error.contains("no database"), "{failure:?}");

    fs::remove_file(script.folder.path().join("out.bad")).unwrap();
    let again = async {
        while run(&handler).await != Outcome::Succeeded {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(DEADLINE, again).await.expect("it recovers");
    stop(&handler).await;
}

#[tokio::test]
async fn a_co_process_is_replaced_after_its_last_message_and_at_its_age() {
    let mut script = Script::of(&format!("echo $$ >> \"$OUT\"; {RIGHT}"));
    script.settings.max_messages = Some(2);
    let handler = script.start().await;
    for _ in 0..5 {
        assert_eq!(run(&handler).await, Outcome::Succeeded);
    }
    stop(&handler).await;
    assert_eq!(script.left().lines().count(), 3);

    let mut script = Script::of(&format!("echo $$ >> \"$OUT\"; {RIGHT}"));
    script.settings.max_lifetime = Duration::from_hours(1);
    let handler = script.start().await;
    assert_eq!(run(&handler).await, Outcome::Succeeded);
    assert_eq!(run(&handler).await, Outcome::Succeeded);
    assert_eq!(script.left().lines().count(), 1);
    // Pipes are real, so time passes for timers only.
    tokio::time::pause();
    tokio::time::advance(Duration::from_hours(1)).await;
    tokio::time::resume();
    assert_eq!(run(&handler).await, Outcome::Succeeded);
    assert_eq!(script.left().lines().count(), 2);
    stop(&handler).await;
}

#[tokio::test]
async fn messages_wait_for_a_free_co_process() {
    let script = Script::of(RIGHT);
    let handler = script.start().await;
    let runs = (0..20).map(|_| run(&handler));
    let outcomes = futures_util::future::join_all(runs).await;
    assert!(outcomes.iter().all(|it| *it == Outcome::Succeeded));
    stop(&handler).await;
}

#[tokio::test]
async fn standard_error_without_end_stops_nothing() {
    let script = Script::of(&format!(
        "(while :; do echo noise; done >&2) & head -c 5000000 /dev/zero >&2; {RIGHT}"
    ));
    let handler = script.start().await;
    for _ in 0..20 {
        assert_eq!(run(&handler).await, Outcome::Succeeded);
    }
    stop(&handler).await;
}

#[tokio::test]
async fn the_conformance_test_finds_what_is_wrong() {
    let check = async |text: &str| {
        let script = format!("{BEGIN}\n{text}");
        let argv = ["sh", "-c", &script].map(str::to_owned);
        timeout(DEADLINE, check_process(&argv))
            .await
            .expect("it ends")
    };
    // The shell's `read` drops NULs, but the protocol escapes them.
    let right = check(RIGHT).await;
    assert!(right.iter().all(|check| check.result.is_ok()), "{right:#?}");
    assert_eq!(right.len(), 9);
    for (text, said) in [
        ("exit 1", "closed its pipes (exit code 1)"),
        ("echo hello; cat", "must be {\"ready\":1}"),
        ("echo '{\"ready\":1}'; cat", "is no answer"),
        (
            "echo '{\"ready\":1}'; read -r line; answer '\"succeeded\"'; cat >/dev/null & exit 0",
            "closed its pipes",
        ),
    ] {
        let checks = check(text).await;
        let last = checks.last().unwrap();
        let error = last.result.clone().unwrap_err();
        assert!(error.contains(said), "{text}: {checks:#?}");
    }
}
