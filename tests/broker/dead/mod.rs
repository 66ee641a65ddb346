//! `lapwing dead` on a real broker.

mod canary;
mod looking;
mod replaying;

use std::process::Stdio;

use lapin::types::AMQPValue;
use serde_json::Value;
use tokio::process::Command;

use crate::support::{PublishSpec, QueueType, VHost, vhost, within};

const QUEUE: &str = "orders";
const DEAD: &str = "orders.dead";

/// A virtual host with the queues of a consumer, and this many letters: `orders.dead-00000` and so
/// on.
async fn letters(count: usize) -> VHost {
    let vhost = vhost().await;
    vhost.declare(QUEUE, QueueType::Quorum).await;
    let kept = [("x-delivery-limit", AMQPValue::LongLongInt(100_000))];
    vhost.declare_with(DEAD, QueueType::Quorum, &kept).await;
    vhost.publish_many(DEAD, count, letter).await;
    vhost
}

/// A letter as a worker writes it. Each tenth one has another cause.
fn letter(number: usize) -> PublishSpec {
    let (error, fingerprint) = match number % 10 {
        0 => ("the card was declined", "00000000000000aa"),
        _ => ("503 from the warehouse", "00000000000000bb"),
    };
    PublishSpec::of(format!("{{\"number\":{number}}}"))
        .header("lapwing-reason", "max-attempts")
        .header("lapwing-error", error)
        .header("lapwing-error-kind", "http")
        .header("lapwing-fingerprint", fingerprint)
        .header("lapwing-attempts", 8)
        .header("lapwing-first-seen", "2026-11-27T08:00:00.000Z")
        .header("lapwing-failed-at", "2026-11-27T09:00:00.000Z")
        .header("lapwing-source-queue", QUEUE)
        .header("lapwing-source-exchange", "")
        .header("lapwing-source-routing-key", QUEUE)
        .header("lapwing-worker", "w")
        .header("lapwing-replays", 0)
}

/// `lapwing dead` with these arguments, for the queue of dead letters.
fn dead(vhost: &VHost, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lapwing"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("LAPWING_") {
            command.env_remove(name);
        }
    }
    command
        .arg("dead")
        .args(arguments)
        .args(["--queue", DEAD])
        .env("LAPWING__BROKER__URL", vhost.amqp_url())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// What a command that succeeds prints.
async fn output(vhost: &VHost, arguments: &[&str]) -> String {
    let (code, out, err) = run(vhost, arguments).await;
    assert_eq!(code, Some(0), "{arguments:?}: {out}{err}");
    out
}

async fn run(vhost: &VHost, arguments: &[&str]) -> (Option<i32>, String, String) {
    let ended = within("the command", dead(vhost, arguments).output()).await;
    let ended = ended.expect("it starts");
    let text = |bytes| String::from_utf8(bytes).expect("it prints text");
    (ended.status.code(), text(ended.stdout), text(ended.stderr))
}

/// The same, as lines of JSON.
async fn json(vhost: &VHost, arguments: &[&str]) -> Vec<Value> {
    let arguments = [arguments, &["--json"]].concat();
    let out = output(vhost, &arguments).await;
    let line =
        |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    out.lines().map(line).collect()
}

/// The ids of the letters in a queue, oldest first. Takes them out.
async fn ids(vhost: &VHost, queue: &str) -> Vec<String> {
    let got = vhost.drain_all(queue).await;
    got.iter().map(|got| got.id().to_owned()).collect()
}

fn numbered(count: usize) -> Vec<String> {
    (0..count)
        .map(|number| format!("{DEAD}-{number:05}"))
        .collect()
}
