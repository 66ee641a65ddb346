//! Programs that handle messages, on this machine.

use std::{collections::BTreeMap, fs, time::Duration};

use tempfile::TempDir;
use tokio::time::timeout;

use super::*;
use crate::{
    broker::Properties,
    decode::Decode,
    handler::{
        child::tests::{gone, runs},
        samples::Sample,
    },
};

/// The longest wait for something that must happen.
const DEADLINE: Duration = Duration::from_secs(60);

/// A script, and a file in which it can leave something: `$OUT`.
struct Script {
    folder: TempDir,
    settings: CommandHandlerSettings,
}

impl Script {
    fn of(text: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let out = folder.path().join("out").display().to_string();
        let settings = CommandHandlerSettings {
            argv: ["sh", "-c", text].map(str::to_owned).to_vec(),
            env: BTreeMap::from([("OUT".to_owned(), out.as_str().into())]),
            ..CommandHandlerSettings::default()
        };
        Self { folder, settings }
    }

    fn handler(&self) -> CommandHandler {
        CommandHandler::new(&self.settings).unwrap()
    }

    async fn run(&self, sample: &Sample) -> Outcome {
        let handler = self.handler();
        let outcome = timeout(DEADLINE, handler.handle(sample.context())).await;
        outcome.expect("the handler ends")
    }

    async fn failure(&self, sample: &Sample) -> Failure {
        match self.run(sample).await {
            Outcome::Failed(failure) => failure,
            other => panic!("{other:?}"),
        }
    }

    fn left(&self) -> Vec<u8> {
        fs::read(self.folder.path().join("out")).unwrap_or_default()
    }

    /// Waits until the script has left something.
    async fn until_left(&self) -> String {
        let look = async {
            loop {
                match String::from_utf8(self.left()).unwrap() {
                    text if text.ends_with('\n') => return text,
                    _ => tokio::time::sleep(Duration::from_millis(5)).await,
                }
            }
        };
        timeout(DEADLINE, look).await.expect("the script begins")
    }
}

fn plain() -> Sample {
    Sample::with_body(b"{}")
}

#[tokio::test]
async fn the_exit_code_is_the_outcome_and_the_end_of_standard_error_the_error() {
    let of = async |code: u8| Script::of(&format!("echo gone wrong >&2; exit {code}"));
    assert_eq!(of(0).await.run(&plain()).await, Outcome::Succeeded);
    for (code, retryable, unavailable) in [
        (1, true, false),
        (65, false, false),
        (69, true, true),
        (75, true, false),
        (255, true, false),
    ] {
        let failure = of(code).await.failure(&plain()).await;
        assert_eq!(failure.error, format!("exit code {code}: gone wrong"));
        assert_eq!(
            (&*failure.class, failure.status),
            ("command", Some(code.into()))
        );
        let found = (failure.retryable, failure.unavailable);
        assert_eq!(found, (retryable, unavailable), "{code}");
    }
}

#[tokio::test]
async fn the_meaning_of_an_exit_code_can_be_changed() {
    let mut script = Script::of("exit 3");
    let meanings = [("3".to_owned(), ExitMeaning::Dropped)];
    script.settings.exit_codes = meanings.into();
    assert_eq!(script.run(&plain()).await, Outcome::dropped("exit code 3"));
}

#[tokio::test]
async fn a_signal_is_a_failure_that_names_it() {
    let failure = Script::of("kill -SEGV $$").failure(&plain()).await;
    assert_eq!(failure.error, "killed by SIGSEGV");
    assert!(failure.retryable);
    assert_eq!(
        (&*failure.class, failure.status),
        ("command-signal", Some(11))
    );
}

#[tokio::test]
async fn whatever_the_body_holds_is_data() {
    let hostile = b"$(touch pwned) `id` ; rm -rf / | & > x \n\0\n'\"\\ \xff\xfe *";
    let script = Script::of("cat > \"$OUT\"");
    let outcome = script.run(&Sample::with_body(hostile)).await;
    assert_eq!(outcome, Outcome::Succeeded);
    assert_eq!(script.left(), hostile);
}

#[tokio::test]
async fn the_environment_has_the_facts_and_nothing_else() {
    let headers = [
        ("tenant", "$(id)\n'\""),
        ("nul", "a\0b"),
        ("lapwing-attempts", "own headers are left out"),
        (
            "traceparent",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ),
    ];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let properties = Properties::new("m\0\n$(id)", Some("a/b"), Some("order"), &headers);
    let properties = properties.with_content_encoding("br").with_every_other();
    let script = Script::of("env -0 > \"$OUT\"");
    let sample = Sample::of(properties, b"", Decode::Bytes);
    assert_eq!(script.run(&sample).await, Outcome::Succeeded);

    let left = String::from_utf8(script.left()).unwrap();
    let mut found: BTreeMap<_, _> = left
        .split_terminator('\0')
        .map(|variable| variable.split_once('=').unwrap())
        .collect();
    // The shell sets these itself.
    for own in ["PWD", "OLDPWD", "SHLVL", "_"] {
        found.remove(own);
    }
    assert!(found.remove("OUT").is_some() && found.remove("PATH").is_some());
    let headers: serde_json::Value =
        serde_json::from_str(found.remove("LAPWING_HEADERS").unwrap()).unwrap();
    let millis = headers["timestamp_in_ms"].clone();
    let wanted = serde_json::json!({
        "tenant": "$(id)\n'\"", "nul": "a\0b", "timestamp_in_ms": millis,
    });
    assert_eq!(headers, wanted);
    let wanted = [
        ("LAPWING_APP_ID", "shop"),
        ("LAPWING_ATTEMPT", "1"),
        ("LAPWING_CONTENT_ENCODING", "br"),
        ("LAPWING_CONTENT_TYPE", "a/b"),
        ("LAPWING_CORRELATION_ID", "c1"),
        ("LAPWING_EXCHANGE", "events"),
        ("LAPWING_EXPIRATION", "60000"),
        ("LAPWING_MESSAGE_ID", "m?\n$(id)"),
        ("LAPWING_PRIORITY", "7"),
        ("LAPWING_QUEUE", "q"),
        ("LAPWING_REDELIVERED", "false"),
        ("LAPWING_REPLY_TO", "answers"),
        ("LAPWING_ROUTING_KEY", "q"),
        ("LAPWING_TIMESTAMP", "1700000000"),
        ("LAPWING_TYPE", "order"),
        ("LAPWING_USER_ID", "guest"),
        (
            "TRACEPARENT",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ),
    ];
    assert_eq!(found, BTreeMap::from(wanted));
}

#[tokio::test]
async fn headers_that_are_too_long_are_named() {
    let long = "x".repeat(HEADERS);
    let headers = [("long", long.as_str()), ("short", "1")];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let properties = Properties::new("m1", None, None, &headers);
    let script = Script::of("echo \"$LAPWING_CUT_HEADERS\" > \"$OUT\"");
    let sample = Sample::of(properties, b"", Decode::Bytes);
    assert_eq!(script.run(&sample).await, Outcome::Succeeded);
    assert_eq!(script.left(), b"long\n");
}

#[tokio::test]
async fn standard_output_is_the_result_if_somebody_takes_it() {
    for (text, wanted, result) in [
        ("printf priced", true, Some(&b"priced"[..])),
        ("printf priced", false, None),
        ("exit 0", true, Some(b"")),
    ] {
        let script = Script::of(text);
        let sample = plain();
        let context = sample.context();
        context.outbox().begin(wanted);
        assert_eq!(script.run(&sample).await, Outcome::Succeeded);
        let found = context.outbox().take().result;
        assert_eq!(
            found.as_ref().map(|it| it.body.as_slice()),
            result,
            "{text}"
        );
    }
    let long = Script::of("head -c 1048577 /dev/zero");
    let sample = plain();
    sample.context().outbox().begin(true);
    let failure = long.failure(&sample).await;
    assert_eq!((failure.retryable, &*failure.class), (false, "result"));
}

#[tokio::test]
async fn a_program_need_not_read_its_input() {
    let body = vec![b'x'; 4 << 20];
    let sample = Sample::with_body(&body);
    assert_eq!(Script::of("exit 0").run(&sample).await, Outcome::Succeeded);
    let closes = Script::of("exec <&-; sleep 0.1; exit 65");
    assert!(!closes.failure(&sample).await.retryable);
}

#[tokio::test]
async fn only_the_end_of_a_long_output_is_kept() {
    let script = Script::of("yes out | head -c 30000000; yes err | head -c 30000001 >&2; exit 1");
    let handler = script.handler();
    let sample = plain();
    let child = handler.program.start([]).unwrap();
    let run = timeout(DEADLINE, async {
        handler.run(&sample.context(), child).await
    });
    let (status, written) = run.await.unwrap();
    assert_eq!(status.unwrap().unwrap().code(), Some(1));
    assert_eq!(written.stdout.first.len(), SHOWN);
    assert_eq!(
        (written.stdout.total, written.stderr.total),
        (30_000_000, 30_000_001)
    );
    assert!(written.stderr.text().len() <= SHOWN + "…".len());
}

#[tokio::test]
async fn nothing_of_a_program_is_left_when_it_has_ended() {
    // The process in the background holds the pipes open.
    let script = Script::of("sleep 1000 & echo $! > \"$OUT\"; echo broken >&2; exit 1");
    let failure = script.failure(&plain()).await;
    assert_eq!(failure.error, "exit code 1: broken");
    gone(script.until_left().await.trim().parse().unwrap()).await;
}

#[tokio::test]
async fn a_run_that_times_out_is_ended_with_its_group_and_its_exit_code_does_not_count() {
    let script = Script::of(
        "trap 'exit 0' TERM; sleep 1000 & echo $! > \"$OUT\"; while :; do sleep 0.01; done",
    );
    let sample = plain();
    let handler = script.handler();
    let run = timeout(DEADLINE, handler.handle(sample.context()));
    let stop = async {
        let id = script.until_left().await.trim().parse::<u32>().unwrap();
        assert!(runs(id));
        sample.time_out();
        id
    };
    let (outcome, id) = tokio::join!(run, stop);
    let Ok(Outcome::Failed(failure)) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(failure.class, "cancelled");
    gone(id).await;
}

#[tokio::test]
async fn a_program_that_writes_without_end_can_be_ended() {
    let script = Script::of("trap '' TERM; echo > \"$OUT\"; yes | cat; yes");
    let sample = plain();
    let handler = script.handler();
    let run = timeout(DEADLINE, handler.handle(sample.context()));
    let stop = async {
        script.until_left().await;
        sample.time_out();
    };
    let (outcome, ()) = tokio::join!(run, stop);
    assert!(matches!(outcome, Ok(Outcome::Failed(_))), "{outcome:?}");
}

#[tokio::test]
async fn a_program_that_cannot_start_says_nothing_about_the_message() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("handle");
    fs::copy("/bin/true", &path).unwrap();
    let settings = CommandHandlerSettings {
        argv: vec![path.display().to_string()],
        ..CommandHandlerSettings::default()
    };
    let handler = CommandHandler::new(&settings).unwrap();
    fs::remove_file(&path).unwrap();
    let outcome = handler.handle(plain().context()).await;
    let Outcome::Failed(failure) = outcome else {
        panic!("{outcome:?}");
    };
    assert!(failure.unavailable, "{failure:?}");
    assert_eq!(failure.class, "command-start");
}

#[tokio::test]
async fn a_program_has_no_more_memory_and_time_than_the_settings_say() {
    let mut script = Script::of("while :; do :; done");
    script.settings.cpu_seconds = Some(1);
    let failure = script.failure(&plain()).await;
    assert_eq!(failure.error, "killed by SIGXCPU");

    // `tail` keeps the whole of a line in memory.
    let mut script = Script::of("head -c 100000000 /dev/zero | tail -n 1 > /dev/null");
    assert_eq!(script.run(&plain()).await, Outcome::Succeeded);
    script.settings.memory_mib = Some(32);
    let failure = script.failure(&plain()).await;
    assert!(failure.error.contains("memory exhausted"), "{failure:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_leave_neither_processes_nor_descriptors() {
    const RUNS: usize = 400;
    let descriptors = || fs::read_dir("/proc/self/fd").unwrap().count();
    let settings = CommandHandlerSettings {
        argv: vec!["true".to_owned()],
        ..CommandHandlerSettings::default()
    };
    let handler = CommandHandler::new(&settings).unwrap();
    let sample = plain();
    assert_eq!(handler.handle(sample.context()).await, Outcome::Succeeded);
    let before = descriptors();
    for _ in 0..RUNS {
        assert_eq!(handler.handle(sample.context()).await, Outcome::Succeeded);
    }
    // Other tests of this process have descriptors too.
    let left = descriptors().saturating_sub(before);
    assert!(left < RUNS / 2, "{left}");
    let zombies = fs::read_dir("/proc").unwrap().flatten().filter(|entry| {
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let Some((_, rest)) = stat.rsplit_once(") ") else {
            return false;
        };
        rest.starts_with(&format!("Z {} ", std::process::id()))
    });
    assert!(zombies.count() < RUNS / 2);
}
