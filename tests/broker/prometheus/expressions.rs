//! The expressions of dashboard and alerts, in a real Prometheus that scrapes a worker.

use std::collections::BTreeSet;

use lapwing::telemetry::catalogue::INSTRUMENTS;
use serde_json::Value;

use super::server::Prometheus;
use super::{REQUESTS, Setup, in_repository};
use crate::support::{DEADLINE, PublishSpec, wait_until};

fn dashboard() -> Value {
    let file = in_repository("deploy/grafana/lapwing.json");
    let text = std::fs::read_to_string(file).expect("it is there");
    serde_json::from_str(&text).expect("it is JSON")
}

fn array(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().expect("an array").iter()
}

fn text(value: &Value) -> &str {
    value.as_str().expect("text")
}

/// Replaces Grafana's variables by the values that Grafana uses when all are selected.
fn with_values(expression: &str) -> String {
    ["job", "instance", "consumer"]
        .iter()
        .fold(expression.to_owned(), |expression, variable| {
            expression.replace(&format!("${variable}"), ".*")
        })
        .replace("$__rate_interval", "1m")
        .replace("$__range", "5m")
}

/// The expressions of the dashboard's panels, by the panel's title.
fn of_panels(dashboard: &Value) -> Vec<(String, String)> {
    let panels = array(&dashboard["panels"]).filter(|panel| panel["type"] != "row");
    let targets = panels.flat_map(|panel| {
        let title = text(&panel["title"]);
        array(&panel["targets"]).map(move |target| (title, text(&target["expr"])))
    });
    let pair = |(title, expression): (&str, &str)| (title.to_owned(), with_values(expression));
    targets.map(pair).collect()
}

/// The vector selectors of an expression: `name{labels}`, without range and offset. All our metrics
/// have our prefix, and no metric has the name of a label.
fn selectors(expression: &str) -> Vec<String> {
    let labels: BTreeSet<_> = INSTRUMENTS
        .iter()
        .flat_map(|instrument| instrument.attributes)
        .map(|name| name.replace('.', "_"))
        .collect();
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut rest = expression;
    while let Some(start) = rest.find(is_of_name) {
        rest = &rest[start..];
        let end = rest.find(|c| !is_of_name(c)).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        rest = after;
        let is_metric = ["lapwing_", "messaging_"]
            .iter()
            .any(|p| name.starts_with(p));
        if (!is_metric && name != "up") || labels.contains(name) {
            continue;
        }
        let mut selector = name.to_owned();
        if let Some(end) = rest.starts_with('{').then(|| rest.find('}')).flatten() {
            selector.push_str(&rest[..=end]);
            rest = &rest[end + 1..];
        }
        found.push(selector);
    }
    found
}

#[test]
fn selectors_are_told_from_labels_and_functions() {
    let expression = "up == 0 and on (job, consumer) sum by (consumer, le) \
        (rate(lapwing_message_latency_seconds_bucket[10m])) > 60 or lapwing_consumer_state{state=~\"a|b\"}";
    assert_eq!(
        selectors(expression),
        [
            "up",
            "lapwing_message_latency_seconds_bucket",
            "lapwing_consumer_state{state=~\"a|b\"}"
        ]
    );
}

#[test]
fn panels_are_described_and_do_not_overlap() {
    let dashboard = dashboard();
    let mut taken = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for panel in array(&dashboard["panels"]) {
        let title = text(&panel["title"]);
        assert!(ids.insert(panel["id"].as_u64()), "{title}");
        let at = |key: &str| panel["gridPos"][key].as_u64().expect("a number");
        assert!(at("x") + at("w") <= 24, "{title}");
        for (x, y) in (at("x")..at("x") + at("w"))
            .flat_map(|x| (at("y")..at("y") + at("h")).map(move |y| (x, y)))
        {
            assert!(taken.insert((x, y)), "{title} is over another panel");
        }
        if panel["type"] != "row" {
            assert!(text(&panel["description"]).ends_with('.'), "{title}");
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{title}");
        }
    }
}

/// Two rounds of messages, because a rate needs a series that exists before it grows, and some
/// series start with their first count.
async fn two_rounds(setup: &Setup, prometheus: &Prometheus) {
    for round in 1..=2 {
        setup.three_messages(round).await;
        #[expect(clippy::cast_precision_loss, reason = "a small count")]
        let settled = (round * REQUESTS) as f64;
        let all = "sum(lapwing_deliveries_settled_total)";
        prometheus.wait_for(all, |seen| seen == [settled]).await;
    }
}

async fn alerts_say_what_happened(prometheus: &Prometheus) {
    let firing = async || {
        let data = prometheus.ask("alerts", &[]).await;
        let alerts = array(&data["alerts"]).filter(|alert| alert["state"] == "firing");
        alerts.cloned().collect::<Vec<_>>()
    };
    let any = |seen: &Vec<Value>| !seen.is_empty();
    let firing = wait_until("an alert fires", DEADLINE, firing, any).await;
    let [alert] = &firing[..] else {
        panic!("one alert: {firing:#?}");
    };
    assert_eq!(alert["labels"]["alertname"], "LapwingDeadLetters");
    assert_eq!(
        alert["annotations"]["summary"],
        "Consumer q dead-letters messages (rejected)"
    );
    let description = text(&alert["annotations"]["description"]);
    assert!(description.starts_with("About "), "{description}");
}

#[tokio::test]
async fn every_expression_finds_data() {
    let mut setup = Setup::new().await;
    let mut prometheus = Prometheus::scraping(&setup.address).await;
    two_rounds(&setup, &prometheus).await;

    let some = |seen: &[f64]| !seen.is_empty();
    let dashboard = dashboard();
    let of_panels = of_panels(&dashboard);
    assert!(of_panels.len() > 30, "{}", of_panels.len());
    for (title, expression) in &of_panels {
        println!("{title}: {expression}");
        prometheus.wait_for(expression, some).await;
    }
    for variable in array(&dashboard["templating"]["list"]) {
        let Some(query) = variable["query"]["query"].as_str() else {
            continue;
        };
        let inner = query
            .trim_start_matches("label_values(")
            .trim_end_matches(')');
        let (selector, label) = inner.rsplit_once(", ").expect("a selector and a label");
        let selector = with_values(selector);
        let path = format!("label/{label}/values");
        let values = prometheus.ask(&path, &[("match[]", &selector)]).await;
        assert_eq!(array(&values).count(), 1, "{query}: {values}");
    }

    // Prometheus calls a rule healthy even if its selectors find nothing, so check each selector.
    let groups = async || prometheus.ask("rules", &[]).await["groups"].take();
    let evaluated = |groups: &Value| {
        let mut rules = array(groups).flat_map(|group| array(&group["rules"]));
        rules.all(|rule| rule["health"] == "ok")
    };
    let groups = wait_until("all rules were evaluated", DEADLINE, groups, evaluated).await;
    let rules: Vec<_> = array(&groups)
        .flat_map(|group| array(&group["rules"]))
        .collect();
    assert!(rules.len() > 10, "{}", rules.len());
    for rule in rules {
        let of_rule = selectors(text(&rule["query"]));
        let is_about_queues = text(&rule["query"]).contains("rabbitmq_queue_messages_ready");
        assert!(!of_rule.is_empty() || is_about_queues, "{rule}");
        for selector in of_rule {
            println!("{}: {selector}", rule["name"]);
            prometheus.wait_for(&selector, some).await;
        }
    }
    alerts_say_what_happened(&prometheus).await;
    assert!(prometheus.is_running());
    setup.worker.drain(DEADLINE).await;
}

#[tokio::test]
async fn a_drain_can_be_watched() {
    let mut setup = Setup::new().await;
    let prometheus = Prometheus::scraping(&setup.address).await;
    setup
        .vhost
        .publish_with(PublishSpec::to("q").id("held"))
        .await;
    setup.server.wait_for_requests(1, DEADLINE).await;
    setup.worker.terminate();
    let dashboard = dashboard();
    let of_panels = of_panels(&dashboard);
    let mut of_drain = of_panels.iter().filter(|(title, _)| title == "Drain");
    for _ in ["consumers", "in flight"] {
        let (_, expression) = of_drain.next().expect("two expressions");
        prometheus.wait_for(expression, |seen| seen == [1.0]).await;
    }
    setup.gate.open();
    let exit = setup.worker.exited(DEADLINE).await;
    assert!(exit.status.success(), "{:?}", exit.status);
    assert_eq!(setup.worker.ledger().acked, 1);
}
