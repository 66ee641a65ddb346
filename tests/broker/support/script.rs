//! Runs `scripts/rabbitmq`, which starts and stops the nodes of the suites.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

/// How long a node may take to come up, the first download of its release included.
const UP_DEADLINE: Duration = Duration::from_secs(240);

/// How long any other verb may take.
const VERB_DEADLINE: Duration = Duration::from_secs(60);

/// The release a node runs unless `LAPWING_TEST_RELEASE` names another.
const DEFAULT_RELEASE: &str = "3.10";

/// A running node, as `up` describes it.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its AMQP URL with credentials, without a virtual host.
    pub amqp_url: String,
    /// The same over TLS; `None` without a TLS listener.
    pub amqps_url: Option<String>,
    /// Its management API; `None` where the plugin is off.
    pub management_url: Option<String>,
    /// Its process, new with every start; `None` for a node that is not ours.
    pub pid: Option<u32>,
    /// Such as `3.10.8`.
    pub version: String,
    /// The folder of its certificates; `None` if unknown.
    pub tls_dir: Option<PathBuf>,
}

/// The release line the suite asks for.
pub fn release() -> String {
    std::env::var("LAPWING_TEST_RELEASE").unwrap_or_else(|_| DEFAULT_RELEASE.to_owned())
}

/// The script with `args`, from the root of the repository.
fn command(args: &[&str]) -> Command {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(root.join("scripts/rabbitmq"));
    command.args(args).current_dir(root);
    command
}

/// Runs the script. The error contains everything that the script printed.
async fn run(args: &[&str], deadline: Duration) -> Result<String, String> {
    let called = format!("scripts/rabbitmq {}", args.join(" "));
    let mut command = tokio::process::Command::from(command(args));
    command
        .kill_on_drop(true)
        .stdin(std::process::Stdio::null());
    match tokio::time::timeout(deadline, command.output()).await {
        Err(_) => Err(format!("{called} took longer than {deadline:?}")),
        Ok(Err(error)) => Err(format!("{called} did not start: {error}")),
        Ok(Ok(output)) => read(&called, &output),
    }
}

/// The standard output of a run that succeeded.
fn read(called: &str, output: &Output) -> Result<String, String> {
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(stdout);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(format!("{called}: {}\n{stdout}{stderr}", output.status))
}

/// Makes sure node `name` runs and says where it is.
///
/// A node that exists keeps its data. Callers in several processes may ask at the same time.
pub async fn up(name: &str) -> Result<Node, String> {
    let release = release();
    let printed = run(&["up", name, "--release", &release], UP_DEADLINE).await?;
    parse(&printed).ok_or_else(|| format!("scripts/rabbitmq up {name} printed no node:\n{printed}"))
}

/// The node that the `KEY=value` lines of `up` describe.
fn parse(printed: &str) -> Option<Node> {
    let values: HashMap<&str, &str> = printed
        .lines()
        .filter_map(|line| line.trim().split_once('='))
        .filter(|(_, value)| !value.is_empty())
        .collect();
    // The lines are written for a shell, with a backslash before special characters.
    let owned = |key: &str| values.get(key).map(|value| value.replace('\\', ""));
    Some(Node {
        amqp_url: owned("AMQP_URL")?,
        amqps_url: owned("AMQPS_URL"),
        management_url: owned("MANAGEMENT_URL"),
        pid: owned("RABBITMQ_PID").and_then(|pid| pid.parse().ok()),
        version: owned("RABBITMQ_VERSION")?,
        tls_dir: owned("RABBITMQ_TLS_DIR").map(PathBuf::from),
    })
}

/// Stops node `name` cleanly and keeps its data.
pub async fn stop(name: &str) -> Result<String, String> {
    run(&["stop", name], VERB_DEADLINE).await
}

/// Stops node `name` and removes its data; nothing happens when there is none.
pub async fn down(name: &str) -> Result<String, String> {
    run(&["down", name], VERB_DEADLINE).await
}

/// Ends node `name` with SIGKILL and keeps its data as it is.
pub async fn kill(name: &str) -> Result<String, String> {
    run(&["kill", name], VERB_DEADLINE).await
}

/// [`down`] for destructors: blocks, and prints an error instead of failing.
pub fn down_blocking(name: &str) {
    match command(&["down", name]).output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => eprintln!(
            "{:?}",
            read(&format!("scripts/rabbitmq down {name}"), &output)
        ),
        Err(error) => eprintln!("scripts/rabbitmq down {name} did not start: {error}"),
    }
}

/// `rabbitmqctl` against node `name`; answers what it printed.
pub async fn ctl(name: &str, args: &[&str]) -> Result<String, String> {
    run(&[&["ctl", name], args].concat(), VERB_DEADLINE).await
}
