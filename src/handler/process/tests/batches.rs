//! Batches of co-processes.

use super::*;

/// A function that answers the batch of the line `$line`.
const BATCH: &str = r#"
ids() { printf '%s' "$line" | grep -o '"id":[0-9]*' | cut -d: -f2; }
answer_all() {
    outcome=$1; set -- $(ids); first=$1; shift; list=
    for id; do list="$list,{\"id\":$id,\"outcome\":$outcome}"; done
    echo "{\"id\":$first,\"outcomes\":[${list#,}]}"
}
"#;

/// A co-process that takes batches of up to eight messages, and does this with a line that has a bad message.
fn batching(bad: &str) -> Script {
    let mut script = Script::of(&format!(
        "{BATCH} echo $$ >> \"$OUT\"; echo '{{\"ready\":1,\"batch\":true}}'
         while read -r line; do case \"$line\" in *bad*) {bad};; *) answer_all '\"succeeded\"';; esac; done"
    ));
    script.settings.batch.size = 8;
    script.settings.batch.max_wait = Duration::from_secs(10);
    script
}

/// Runs these bodies at once.
async fn run_all(handler: &ProcessHandler, bodies: &[&str]) -> Vec<Outcome> {
    let samples: Vec<_> = bodies
        .iter()
        .map(|body| Sample::with_body(body.as_bytes()))
        .collect();
    let runs = samples.iter().map(|it| handler.handle(it.context()));
    let runs = futures_util::future::join_all(runs);
    timeout(DEADLINE, runs).await.expect("the handler ends")
}

#[tokio::test]
async fn a_full_batch_is_one_line_to_one_co_process() {
    let script = batching("exit 1");
    let handler = script.start().await;
    for _ in 0..3 {
        let outcomes = run_all(&handler, &["{}"; 8]).await;
        assert_eq!(outcomes, vec![Outcome::Succeeded; 8]);
    }
    stop(&handler).await;
    assert_eq!(script.left().lines().count(), 1);
}

#[tokio::test]
async fn a_message_that_breaks_its_co_process_is_found_in_a_batch() {
    let cases = [
        ("exit 3", "process-exit", "exit code 3"),
        ("kill -KILL $$", "process-exit", "killed by SIGKILL"),
        (
            "echo garbage; sleep 1000",
            "process-protocol",
            "is no answer",
        ),
        (
            "head -c 3000000 /dev/zero; sleep 1000",
            "process-protocol",
            "longer than 1048576 bytes",
        ),
        (
            "echo '{\"id\":1,\"outcome\":\"succeeded\"}'; sleep 1000",
            "process-protocol",
            "missing field `outcomes`",
        ),
    ];
    for (bad, class, said) in cases {
        let mut script = batching(bad);
        script.settings.kill_after = Duration::from_secs(3);
        let handler = script.start().await;
        let bodies = ["{}", "{}", "{}", "{}", "{}", "bad", "{}", "{}"];
        let mut outcomes = run_all(&handler, &bodies).await;
        let Outcome::Failed(failure) = outcomes.remove(5) else {
            panic!("{bad}: {outcomes:?}");
        };
        assert_eq!(failure.class, class, "{bad}");
        assert!(failure.error.contains(said), "{bad}: {failure:?}");
        assert!(failure.retryable && !failure.unavailable, "{bad}");
        assert_eq!(outcomes, vec![Outcome::Succeeded; 7], "{bad}");
        stop(&handler).await;
        // Each line with the bad message, of eight, four, two and one, has ended a co-process. The last
        // of them may not have been replaced yet.
        let begun = script.left().lines().count();
        assert!((4..=5).contains(&begun), "{bad}: {begun}");
    }
}

/// Lines with several messages count for nothing, but those with a single one do.
#[tokio::test]
async fn a_program_that_always_ends_is_soon_started_with_waits() {
    let mut script = batching("exit 1");
    script.settings.batch.size = 2;
    let handler = script.start().await;
    let is_start =
        |outcome: &Outcome| matches!(outcome, Outcome::Failed(it) if it.class == "process-start");
    let mut is_unavailable = false;
    for _ in 0..5 {
        let outcomes = run_all(&handler, &["bad"; 2]).await;
        is_unavailable |= outcomes.iter().any(is_start);
    }
    assert!(is_unavailable);
    stop(&handler).await;
}

#[tokio::test]
async fn a_co_process_that_takes_single_messages_cannot_be_given_batches() {
    let mut script = Script::of(RIGHT);
    script.settings.batch.size = 2;
    let handler = ProcessHandler::new(&script.settings, 4).unwrap();
    let error = started(&handler).await.unwrap_err().to_string();
    assert!(error.contains("takes single messages"), "{error}");
    stop(&handler).await;
}

#[tokio::test]
async fn a_batch_that_nobody_waits_for_ends_its_co_process_and_an_unused_one_stays() {
    let mut script = batching("echo got $$ >> \"$OUT\"; sleep 1000");
    script.settings.batch.max_wait = Duration::from_millis(1);
    let handler = script.start().await;
    let first = script.until_left(|left| left.ends_with('\n')).await;
    let working = Arc::clone(&handler);
    let work = tokio::spawn(async move { run_all(&working, &["bad"; 3]).await });
    script.until_left(|left| left.contains("got")).await;
    work.abort();
    gone(first.trim().parse().unwrap()).await;
    // A message that leaves before its call costs no co-process.
    let _ = timeout(Duration::ZERO, run_all(&handler, &["{}"])).await;
    assert_eq!(run(&handler).await, Outcome::Succeeded);
    stop(&handler).await;
    assert_eq!(script.left().lines().count(), 3);
}

#[tokio::test]
async fn a_message_that_times_out_alone_in_its_batch_ends_its_co_process() {
    let mut script = batching("echo got >> \"$OUT\"; while :; do sleep 1; done");
    script.settings.batch.max_wait = Duration::from_millis(1);
    let handler = script.start().await;
    let left = script.until_left(|left| left.ends_with('\n')).await;
    tokio::select! {
        biased;
        ended = run_all(&handler, &["bad"]) => panic!("{ended:?}"),
        _ = script.until_left(|left| left.contains("got")) => {}
    }
    gone(left.trim().parse().unwrap()).await;
    assert_eq!(run(&handler).await, Outcome::Succeeded);
    stop(&handler).await;
}

#[tokio::test]
async fn the_conformance_test_asks_for_batches_if_they_are_announced() {
    let check = async |work: &str| {
        let script = format!(
            "{BEGIN}{BATCH} echo '{{\"ready\":1,\"batch\":true}}'
             while read -r line; do
                 case \"$line\" in *messages*) {work};; *) answer '\"succeeded\"';; esac
             done"
        );
        let argv = ["sh", "-c", &script].map(str::to_owned);
        let checks = timeout(DEADLINE, check_process(&argv)).await;
        checks.expect("it ends")
    };
    let right = check("answer_all '\"succeeded\"'").await;
    assert!(right.iter().all(|check| check.result.is_ok()), "{right:#?}");
    assert_eq!(right.len(), 12);
    for (work, said) in [
        ("answer '\"succeeded\"'", "missing field `outcomes`"),
        ("answer_all '\"done\"'", "unknown variant `done`"),
        (
            "set -- $(ids); echo \"{\\\"id\\\":$1,\\\"outcomes\\\":[]}\"",
            "message 1 of 4: the answer has no outcome",
        ),
    ] {
        let checks = check(work).await;
        let last = checks.last().unwrap();
        let error = last.result.clone().unwrap_err();
        assert!(error.contains(said), "{work}: {checks:#?}");
    }
}
