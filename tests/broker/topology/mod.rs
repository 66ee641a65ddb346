//! The queues of a consumer: created, compared, or left alone.

mod declare;
mod existing;
mod migrate;
mod migrate_faults;
mod plan;
mod refused;
mod verify;

use std::{collections::BTreeSet, process::Stdio, time::Duration};

use serde_json::Value;
use tokio::{process::Command, time::timeout};

use crate::support::{
    Consumers, DEADLINE, HttpHandler, Reply, VHost, WorkerProcess, consumer, field, log_message,
    management::encode,
};

/// Three rungs.
const SHORT_LADDER: &str = "[consumers.orders.retry]\ncap = '4s'\n";

/// The names of all queues.
async fn queues(vhost: &VHost) -> BTreeSet<String> {
    let path = format!("queues/{}?disable_stats=true", encode(vhost.name()));
    let listed = vhost.broker().management().get(&path).await;
    let names = listed.as_array().into_iter().flatten();
    names
        .filter_map(|queue| queue["name"].as_str().map(str::to_owned))
        .collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// The broker's description of a queue.
async fn queue(vhost: &VHost, name: &str) -> Value {
    let path = format!("queues/{}/{}", encode(vhost.name()), encode(name));
    vhost.broker().management().get(&path).await
}

/// A worker on `orders` with these settings, whose handler always succeeds.
async fn start(vhost: &VHost, changes: &str) -> (HttpHandler, WorkerProcess) {
    let handler = HttpHandler::answering(|_| Reply::ok()).await;
    let config = consumer(&vhost, "orders")
        .http(&handler)
        .with(changes)
        .toml();
    (handler, WorkerProcess::start(&config))
}

/// The same, after it has begun to consume.
async fn consuming(vhost: &VHost, changes: &str) -> (HttpHandler, WorkerProcess) {
    let (handler, worker) = start(vhost, changes).await;
    worker.wait_for_consumers(vhost, "orders", 1).await;
    (handler, worker)
}

/// The reasons why a worker with these settings does not start, one for each line of its log that
/// is an error or a warning. Its exit code is 78.
async fn refusals(vhost: &VHost, changes: &str) -> Vec<String> {
    let (_handler, mut worker) = start(vhost, changes).await;
    let exit = worker.exited(DEADLINE).await;
    assert_eq!(exit.status.code(), Some(78));
    let log = worker.log();
    assert!(!log.iter().any(|line| log_message(line) == "consuming"));
    let is_loud = |line: &&Value| line["level"] == "ERROR" || line["level"] == "WARN";
    let loud: Vec<_> = log.iter().filter(is_loud).collect();
    let of_refusal = |line: &&Value| {
        assert_eq!(log_message(line), "cannot run", "said once: {loud:#?}");
        field(line, "error").as_str().unwrap_or_default().to_owned()
    };
    loud.iter().map(of_refusal).collect()
}

/// The same as one text.
async fn refusal(vhost: &VHost, changes: &str) -> String {
    refusals(vhost, changes).await.join("\n")
}

/// Asserts that the text contains each of `parts`.
#[track_caller]
fn assert_says(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

/// The setting for the management API of the broker.
fn with_management(vhost: &VHost) -> String {
    let node = vhost.broker().node();
    let url = node
        .management_url
        .expect("the suite has the management API");
    let mut url: url::Url = url.parse().expect("it is a URL");
    url.set_username("").expect("an http url can lose its user");
    url.set_password(None).expect("and its password");
    format!("broker.management_url = '{url}'")
}

/// `lapwing topology` with these arguments and settings. Reads the settings before it returns.
struct Tool {
    command: Command,
    _folder: tempfile::TempDir,
}

/// How a command ended.
#[derive(Debug)]
struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Tool {
    fn new(settings: &Consumers, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("lapwing.toml");
        std::fs::write(&file, settings.toml()).expect("a temporary file");
        let mut command = Command::new(env!("CARGO_BIN_EXE_lapwing"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("LAPWING_") {
                command.env_remove(name);
            }
        }
        command
            .arg("topology")
            .args(arguments)
            .arg("--config")
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        Self {
            command,
            _folder: folder,
        }
    }

    async fn ended(mut self) -> Ended {
        // A migration watches the old queue for a minute before it deletes it.
        const LONGEST: Duration = Duration::from_secs(150);
        let ended = timeout(LONGEST, self.command.output()).await;
        let ended = ended.expect("the command ends").expect("it starts");
        let text = |bytes| String::from_utf8(bytes).expect("it prints text");
        Ended {
            code: ended.status.code(),
            out: text(ended.stdout),
            err: text(ended.stderr),
        }
    }
}

/// Runs `lapwing topology`.
async fn run(settings: &Consumers, arguments: &[&str]) -> Ended {
    Tool::new(settings, arguments).ended().await
}

impl Ended {
    /// The document that the command printed. It ended with this code.
    #[track_caller]
    fn json(&self, code: i32) -> Value {
        assert_eq!(self.code, Some(code), "{self:?}");
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}
