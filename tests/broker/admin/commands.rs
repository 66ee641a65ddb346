//! `lapwing status`, `pause`, `resume`, `in-flight`, `failures` and `message`.

use lapwing::{Context, Failure, Worker};
use serde_json::Value;
use tokio::process::Command;

use super::{gated, settings, start_both};
use crate::support::{Admin, DEADLINE, Gate, Notes, PublishSpec, TOKEN, vhost, wait_until, within};

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

#[tokio::test]
async fn failures_are_listed_and_a_forgotten_success_is_told_from_an_unknown_id() {
    /// More than the worker lists of the outcomes that are no failures.
    const FINE: usize = 300;
    let vhost = vhost().await;
    let settings = settings(&vhost, "");
    let handler = async |context: Context| match context.message().message_type() {
        Some("order.refused") => Err(Failure::permanent("no-stock", "only 3 left of 5")),
        _ => Ok(()),
    };
    let worker = Worker::new(settings.clone()).handler("q", handler);
    let (worker, admin) = start_both(settings, worker).await;
    let refused = PublishSpec::to("q")
        .id("order-1")
        .with(|properties| properties.with_type("order.refused".into()));
    vhost.publish_with(refused).await;
    vhost
        .publish_many("q", FINE, |number| {
            PublishSpec::of("x").id(&format!("fine-{number}"))
        })
        .await;
    let acked = |report: &lapwing::ConsumerReport| {
        report.ledger.acked == FINE as u64 && report.ledger.dead_lettered == 1
    };
    worker.wait_for_report("all are settled", "q", acked).await;

    let (code, out, err) = run(&admin, &["failures", "--since", "10m"], TOKEN).await;
    assert_eq!(code, Some(0), "{out}{err}");
    let wanted = [
        "order-1",
        "order.refused",
        "no-stock: only 3 left",
        "dead letter: rejected",
        "1 failure.",
    ];
    assert!(wanted.iter().all(|part| out.contains(part)), "{out}");
    assert!(out.lines().all(|line| line.chars().count() <= 80), "{out}");
    let (_, out, _) = run(&admin, &["failures", "--class", "http"], TOKEN).await;
    assert!(
        out.starts_with("no such failure. This worker has all its failures since"),
        "{out}"
    );
    let (_, out, _) = run(&admin, &["failures", "--json", "-n", "1"], TOKEN).await;
    let page: Value = serde_json::from_str(&out).expect("it is JSON");
    assert_eq!(page["outcomes"][0]["id"], "order-1");
    let (code, _, err) = run(&admin, &["failures", "--kind", "lost"], TOKEN).await;
    assert!(code == Some(1) && err.contains("400"), "{err}");

    let known = admin
        .read("/api/v1/outcomes?kind=succeeded&limit=1000")
        .await
        .to_string();
    let forgotten = (0..FINE).map(|number| format!("fine-{number}"));
    let forgotten = forgotten
        .into_iter()
        .find(|id| !known.contains(&format!("{id:?}")));
    let forgotten = forgotten.expect("few successes are listed");
    let (code, out, err) = run(&admin, &["message", &forgotten], TOKEN).await;
    assert_eq!(code, Some(0), "{out}{err}");
    assert!(
        out.contains("q: handled at ") && out.contains("the ack follows"),
        "{out}"
    );
    let (code, out, _) = run(&admin, &["message", "never-published"], TOKEN).await;
    assert!(
        code == Some(1) && out.contains("knows no ack and no failure of it"),
        "{out}"
    );
    let (_, out, _) = run(&admin, &["message", "order-1"], TOKEN).await;
    assert!(out.contains("q: dead-lettered in q.dead at"), "{out}");
    assert!(
        out.contains("lapwing dead show --consumer q order-1"),
        "{out}"
    );
    assert!(out.lines().all(|line| line.chars().count() <= 80), "{out}");

    let replayed = PublishSpec::to("q").id("order-1");
    vhost.publish_with(replayed).await;
    let story = async || admin.read("/api/v1/message?id=order-1").await;
    // An ack within two seconds of the failure could also have come before it.
    let is_done = |story: &Value| {
        let place = &story["places"][0];
        place["state"] == "handled" || place["may_be_acked"] == true
    };
    wait_until(
        "the old failure is not where it is",
        DEADLINE,
        story,
        is_done,
    )
    .await;
    worker.drain().await;
}

#[tokio::test]
async fn a_consumer_whose_runs_mostly_fail_comes_first_and_is_called_failing() {
    let vhost = vhost().await;
    let settings = settings(
        &vhost,
        "[consumers.a]\nqueue = 'a'\n[consumers.a.retry]\nmax_attempts = 1",
    );
    let worker = Worker::new(settings.clone())
        .handler("a", async || {})
        .handler("q", async || {
            Err::<(), _>(Failure::permanent("no-stock", "none left"))
        });
    let (worker, admin) = start_both(settings, worker).await;
    // The first look is the start of counting.
    let history = async || admin.read("/api/v1/consumers/q/history").await;
    let counts = |history: &Value| history["received"] != serde_json::json!([]);
    wait_until("it counts", DEADLINE, history, counts).await;
    vhost.publish_many("q", 5, |_| PublishSpec::of("x")).await;
    let look = async || admin.read("/api/v1/consumers").await;
    let fails = |found: &Value| {
        let first = &found["consumers"][0];
        first["name"] == "q" && first["failing"] == true && first["recent"]["failed"] == 5
    };
    wait_until("it fails, and comes first", DEADLINE, look, fails).await;
    let (_, out, _) = run(&admin, &["status"], TOKEN).await;
    assert!(
        out.contains("failing") && out.contains("5 of 5 runs of the last minute"),
        "{out}"
    );
    let at = |name: &str| out.lines().position(|line| line.starts_with(name));
    assert!(at("q ") < at("a "), "{out}");
    worker.drain().await;
}
