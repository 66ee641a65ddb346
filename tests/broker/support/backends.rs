//! Runs `scripts/backends`, which fetches and starts the backends for the telemetry tests, and
//! queries the backends.

use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use reqwest::Client;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// The longest time for the script, including download and installation.
const SCRIPT_DEADLINE: Duration = Duration::from_secs(900);

/// The longest time for one call.
const CALL_DEADLINE: Duration = Duration::from_secs(20);

/// Runs the script and returns its output.
pub async fn backends(args: &[&str]) -> String {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(root.join("scripts/backends"));
    command.args(args).current_dir(root).stdin(Stdio::null());
    let output = tokio::time::timeout(SCRIPT_DEADLINE, command.output()).await;
    let output = output.expect("it ends").expect("it starts");
    let Output { status, stdout, .. } = &output;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(status.success(), "scripts/backends {args:?}: {stderr}");
    String::from_utf8_lossy(stdout).trim().to_owned()
}

/// Runs a program with this text on its standard input.
pub async fn run_with_input(command: &mut Command, input: &str) -> Output {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().expect("it starts");
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(input.as_bytes()).await.expect("it reads");
    drop(stdin);
    let ended = tokio::time::timeout(CALL_DEADLINE, child.wait_with_output()).await;
    ended.expect("it ends").expect("it ran")
}

/// A GET that must succeed, with these parameters.
pub async fn get(url: &str, parameters: &[(&str, &str)]) -> String {
    let client = Client::builder().timeout(CALL_DEADLINE).no_proxy().build();
    let client = client.expect("a plain http client needs nothing from the system");
    let url = url::Url::parse_with_params(url, parameters).expect("the test wrote a valid URL");
    let response = client.get(url.clone()).send().await;
    let response = response.unwrap_or_else(|error| panic!("{url}: {error:?}"));
    let status = response.status();
    let text = response.text().await.expect("the answer is complete");
    assert!(status.is_success(), "{url}: {status} {text}");
    text
}

/// The same, of JSON.
pub async fn get_json(url: &str, parameters: &[(&str, &str)]) -> Value {
    let text = get(url, parameters).await;
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{url}: {error}: {text}"))
}
