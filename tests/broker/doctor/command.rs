//! `lapwing doctor` and `lapwing explain` as processes, and what a start tells.

use std::process::Stdio;

use serde_json::Value;
use tokio::process::Command;

use super::{allow, forget, only, orders, orders_with_management, user};
use crate::support::{HttpHandler, Reply, WorkerProcess, consumer, log_message, vhost, within};

/// Exit code and standard output of a command with these settings.
async fn ran(arguments: &[&str], settings: &str) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("worker.toml");
    std::fs::write(&file, settings).expect("a temporary file");
    let mut command = Command::new(env!("CARGO_BIN_EXE_lapwing"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("LAPWING_") {
            command.env_remove(name);
        }
    }
    let output = command
        .args(arguments)
        .arg("--config")
        .arg(&file)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = within("the command", output).await.expect("it starts");
    let text = String::from_utf8(output.stdout).expect("it prints text");
    (output.status.code(), text)
}

#[tokio::test]
async fn the_exit_code_tells_the_worst_finding_and_the_lines_fit_a_terminal() {
    let vhost = vhost().await;
    let good = orders(&vhost).toml();
    let slow = orders(&vhost)
        .with("consumers.orders.timeout = '1m'")
        .toml();
    let broken = orders(&vhost)
        .with("consumers.orders.topology = 'verify'")
        .toml();
    for (settings, code, grade) in [(good, 0, "ok"), (slow, 3, "warn"), (broken, 1, "fail")] {
        let (exit, out) = ran(&["doctor"], &settings).await;
        assert_eq!(exit, Some(code), "{out}");
        // A name that does not fit has a line of its own.
        let fits = |line: &str| line.chars().count() <= 80 || line.contains(vhost.name());
        assert!(out.lines().all(fits), "{out}");
        assert!(
            out.lines().any(|line| line.starts_with("OK   broker ")),
            "{out}"
        );
        let (exit, json) = ran(&["doctor", "--json"], &settings).await;
        assert_eq!(exit, Some(code), "{json}");
        let report: Value = serde_json::from_str(&json).expect("it is JSON");
        assert_eq!(report["worst"], grade);
        let findings = report["findings"].as_array().expect("a list");
        for key in ["check", "grade", "about", "found", "why", "mend"] {
            assert!(findings.iter().all(|it| it[key].is_string()), "{json}");
        }
    }
    let (exit, _) = ran(&["doctor"], "consumers = 3").await;
    assert_eq!(exit, Some(78));
}

#[tokio::test]
async fn a_service_that_is_away_is_found() {
    let vhost = vhost().await;
    let handler = HttpHandler::answering(|_| Reply::ok()).await;
    let settings = consumer(&vhost, "orders").http(&handler);
    super::assert_well(&super::examined(&settings).await);
    assert_eq!(
        handler.seen().exchanges.len(),
        0,
        "the doctor sends no request"
    );
    let (_closed, port) = super::closed_port();
    let settings = consumer(&vhost, "orders").http_at(&format!("http://127.0.0.1:{port}/"));
    let report = super::examined(&settings).await;
    let found = only(&report, "handlers", lapwing::doctor::Grade::Warn);
    assert!(found.mend.contains("start the service"), "{found:?}");
}

#[tokio::test]
async fn a_user_whom_the_management_api_refuses_is_found() {
    let vhost = vhost().await;
    let (user, url) = user(&vhost, ".*", ".*", ".*").await;
    let settings = orders_with_management(&vhost).with(&format!("broker.url = '{url}'"));
    let report = super::examined(&settings).await;
    let found = only(&report, "management", lapwing::doctor::Grade::Warn);
    assert!(
        found
            .mend
            .contains(&format!("set_user_tags {user} management")),
        "{found:?}"
    );
    let tagged = serde_json::json!({ "password": "secret", "tags": "management" });
    let management = vhost.broker().management();
    management.put(&format!("users/{user}"), &tagged).await;
    allow(&vhost, &user, [".*", ".*", ".*"]).await;
    super::assert_well(&super::examined(&settings).await);
    forget(&vhost, &user).await;
}

#[tokio::test]
async fn a_start_tells_what_is_known_at_once_and_only_once() {
    let vhost = vhost().await;
    let settings = orders(&vhost).with("consumers.orders.timeout = '1m'");
    let worker = WorkerProcess::start(&settings.toml());
    worker.wait_for_consumers(&vhost, "orders", 1).await;
    let is_it = |line: &Value| {
        line["level"] == "WARN" && log_message(line).starts_with("consumers.orders.timeout: is 1m")
    };
    let told = worker.log().iter().filter(|line| is_it(line)).count();
    assert_eq!(told, 1, "{:#?}", worker.log());
}

#[tokio::test]
async fn explain_tells_the_life_of_a_message_in_lines_and_in_json() {
    let settings = "[consumers.orders]\nqueue = 'orders'\nretry.max_attempts = 4\n\
                    handler = { kind = 'http', url = 'http://127.0.0.1/' }";
    let (code, out) = ran(
        &["explain", "--consumer", "orders", "--status", "503"],
        settings,
    )
    .await;
    assert_eq!(code, Some(0), "{out}");
    assert!(out.lines().all(|line| line.chars().count() <= 80), "{out}");
    for part in [
        "orders: each attempt ends unavailable (class http, status 503)",
        "while the service is down for every message:",
        "while other messages of its type succeed:",
        "dead letter `max-age` in orders.dead",
        "dead letter `max-attempts` in orders.dead",
        "If 5 different messages in a row end so",
    ] {
        assert!(out.replace('\n', " ").contains(part), "{part}: {out}");
    }
    let arguments = ["explain", "--error", "timeout", "--json"];
    let (code, json) = ran(&arguments, settings).await;
    assert_eq!(code, Some(0), "{json}");
    let explained: Value = serde_json::from_str(&json).expect("it is JSON");
    assert_eq!(explained["runs_s"], 20.0);
    assert_eq!(
        explained["lives"][0]["attempts"][0]["delay_s"],
        serde_json::json!([0.25, 0.5])
    );
    assert_eq!(
        explained["lives"][0]["attempts"][0]["waits_in"][0],
        "worker"
    );
    let (code, _) = ran(&["explain", "--consumer", "others"], settings).await;
    assert_eq!(code, Some(1));
}
