//! Settings that cannot work: the process lists every problem, and exits with 78.

use serde_json::Value;

use crate::support::{DEADLINE, WorkerProcess};

/// The output of a worker with these settings, which exits with 78.
async fn refused(config: &str) -> String {
    let mut worker = WorkerProcess::start(config);
    let exit = worker.exited(DEADLINE).await;
    let log = worker.log();
    let lines = log.iter().map(|line| match line {
        Value::String(line) => line.clone(),
        line => line.to_string(),
    });
    let printed = lines.collect::<Vec<_>>().join("\n");
    assert_eq!(exit.status.code(), Some(78), "{printed}");
    printed
}

/// Asserts that the text contains each of `problems`.
#[track_caller]
fn assert_names_all(printed: &str, problems: &[&str]) {
    for problem in problems {
        assert!(
            printed.contains(problem),
            "{problem:?} is not in:\n{printed}"
        );
    }
}

#[tokio::test]
async fn unknown_and_contradictory_settings_are_refused_all_at_once() {
    let printed = refused(
        "[broker]\nurl = 'http://nowhere'\nretries = 3\n\
         [drain]\ngrace = 25\n\
         [consumers.orders]\nqueue = 'orders'\nprefetch = 4\nconcurrency = 8\n\
         handler = { kind = 'http' }\n\
         [consumers.orders.retry]\nmax_attempt = 3\nbase = '20s'\ncap = '10s'\n",
    )
    .await;

    let keys = [
        "broker.url",
        "broker.retries",
        "drain.grace",
        "consumers.orders.concurrency",
        "consumers.orders.handler.url",
        "consumers.orders.retry.max_attempt",
        "consumers.orders.retry.cap",
    ];
    assert_names_all(&printed, &keys);
}

#[tokio::test]
async fn an_empty_queue_name_is_refused() {
    let handler = "handler = { kind = 'log' }";
    let printed = refused(&format!("[consumers.orders]\nqueue = ''\n{handler}\n")).await;
    assert_names_all(&printed, &["consumers.orders.queue", "is required"]);
    let printed = refused(&format!("[consumers.orders]\n{handler}\n")).await;
    assert_names_all(&printed, &["consumers.orders.queue", "is required"]);
}

#[tokio::test]
async fn a_queue_name_that_is_too_long_for_the_broker_or_for_our_suffixes_is_refused() {
    let named = |bytes: usize| {
        let queue = "q".repeat(bytes);
        format!("[consumers.orders]\nqueue = '{queue}'\nhandler = {{ kind = 'log' }}\n")
    };
    let printed = refused(&named(256)).await;
    assert_names_all(
        &printed,
        &["consumers.orders.queue", "256 bytes", "at most 255"],
    );
    // `.retry.16384s` makes the queue's name too long.
    let printed = refused(&named(250)).await;
    assert_names_all(
        &printed,
        &["consumers.orders.queue", ".retry.16384s", "255"],
    );
}

#[tokio::test]
async fn settings_without_a_consumer_are_refused() {
    let printed = refused("[drain]\ngrace = '1s'\n").await;
    assert_names_all(&printed, &["consumers"]);
}
