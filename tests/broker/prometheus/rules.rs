//! The alert rules: valid, and each fires when it should and not otherwise.

use std::process::Stdio;

use super::{RULES, in_repository, program};

async fn promtool(arguments: &[&str], file: &str) {
    let mut command = program("promtool").await;
    command
        .args(arguments)
        .arg(in_repository(file))
        .stdin(Stdio::null());
    let output = command.output().await.expect("it runs");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
}

#[tokio::test]
async fn rules_are_valid_and_fire_when_they_should() {
    promtool(&["check", "rules"], RULES).await;
    // The configuration of docker-compose.yml's Prometheus, which loads the rules.
    promtool(&["check", "config"], "deploy/prometheus/prometheus.yml").await;
    promtool(&["test", "rules"], "tests/broker/prometheus/rules_test.yml").await;
}

/// Without a test in that file nobody would notice a broken alert.
#[test]
fn every_alert_is_tested_and_has_a_runbook() {
    let read = |path| std::fs::read_to_string(in_repository(path)).expect("it is there");
    let tests = read("tests/broker/prometheus/rules_test.yml");
    let rules = read(RULES);
    let alerts = rules
        .lines()
        .filter_map(|line| line.split_once("- alert: "));
    let alerts: Vec<_> = alerts.map(|(_, name)| name.trim()).collect();
    assert!(!alerts.is_empty());
    let runbook = read("docs/failures.md");
    for alert in alerts {
        let fires = format!("alertname=\"{alert}\"");
        assert!(tests.contains(&fires), "{alert}");
        let link = format!("runbook_url: docs/failures.md#{}\n", alert.to_lowercase());
        assert!(rules.contains(&link), "{link}");
        assert!(runbook.contains(&format!("\n### {alert}\n")), "{alert}");
    }
}
