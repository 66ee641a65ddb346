//! `[drain]`, `[timeouts]`, `[state]`, `[log]`, `[telemetry]` and `[pod_deletion_cost]`.

use std::time::Duration;

use tracing_subscriber::{EnvFilter, filter::LevelFilter};
use url::Url;

use super::{DAY, Findings, HOUR, MILLISECOND, MINUTE, SECOND};
use crate::config::{
    DrainSettings, LogSettings, PodDeletionCostSettings, Settings, StateSettings,
    TelemetrySettings, TimeoutSettings, problem::KeyPath,
};

pub(super) fn check(findings: &mut Findings, settings: &Settings) {
    let DrainSettings { grace, settle } = settings.drain;
    findings.duration(KeyPath::of("drain.grace"), grace, Duration::ZERO..=DAY);
    findings.duration(KeyPath::of("drain.settle"), settle, MILLISECOND..=MINUTE);

    timeouts(findings, &settings.timeouts);

    let StateSettings { mailbox } = settings.state;
    findings.number(KeyPath::of("state.mailbox"), &mailbox, 1..=1_000_000);

    let LogSettings { format: _, filter } = &settings.log;
    filter_directives(findings, filter);

    telemetry(findings, &settings.telemetry);
    pod_deletion_cost(findings, &settings.pod_deletion_cost);
}

fn pod_deletion_cost(findings: &mut Findings, settings: &PodDeletionCostSettings) {
    let section = KeyPath::of("pod_deletion_cost");
    let PodDeletionCostSettings { pod, interval } = settings;
    // It becomes part of a URL.
    let is_name = |pod: &str| {
        pod.chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.'))
    };
    if !is_name(pod) {
        findings.add(section.key("pod"), "must be the name of a pod");
    }
    findings.duration(section.key("interval"), *interval, SECOND..=HOUR);
}

fn telemetry(findings: &mut Findings, telemetry: &TelemetrySettings) {
    let section = KeyPath::of("telemetry");
    let TelemetrySettings {
        endpoint,
        protocol: _,
        traces: _,
        metrics: _,
        logs: _,
        sample,
        parent: _,
        service_name,
    } = telemetry;
    let is_url = |url: &String| {
        Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
    };
    if !endpoint.as_ref().is_none_or(is_url) {
        let message = "must be a whole URL, such as http://127.0.0.1:4317";
        findings.add(section.key("endpoint"), message);
    }
    findings.number(section.key("sample"), sample, 0.0..=1.0);
    if service_name.is_empty() {
        findings.add(section.key("service_name"), "must not be empty");
    }
}

fn timeouts(findings: &mut Findings, timeouts: &TimeoutSettings) {
    let section = KeyPath::of("timeouts");
    // Taken apart, so that a new timeout cannot be forgotten here.
    let TimeoutSettings {
        connect,
        handshake,
        declare,
        checkout,
        publish,
        confirm,
        ack,
        call,
        close,
        telemetry_flush,
    } = *timeouts;
    let all = [
        ("connect", connect),
        ("handshake", handshake),
        ("declare", declare),
        ("checkout", checkout),
        ("publish", publish),
        ("confirm", confirm),
        ("ack", ack),
        ("call", call),
        ("close", close),
        ("telemetry_flush", telemetry_flush),
    ];
    for (key, value) in all {
        findings.duration(section.key(key), value, MILLISECOND..=HOUR);
    }
}

fn filter_directives(findings: &mut Findings, filter: &str) {
    let path = KeyPath::of("log.filter");
    let right = "expected a level (error, warn, info, debug, trace) or directives such as \
                 \"info,lapwing::broker=debug\"";
    // `EnvFilter` takes any other word for a target, shows all of that and nothing else, so that
    // a misspelt level would silence the worker.
    let is_word = |text: &&str| !text.contains(['=', ':', '[']);
    let mut words = filter.split(',').filter(is_word);
    if words.any(|word| word.is_empty() || word.parse::<LevelFilter>().is_err())
        || EnvFilter::builder().parse(filter).is_err()
    {
        findings.add(path, right);
    }
}

#[cfg(test)]
mod tests {
    use crate::config::validate::tests::{allowed, refused};

    #[test]
    fn process_settings_keep_their_ranges() {
        refused(&[
            (
                "drain.grace = \"25h\"",
                "drain.grace: is 1day 1h, must be 0s to 1day",
            ),
            (
                "drain.settle = \"0s\"",
                "drain.settle: is 0s, must be 1ms to 1m",
            ),
            ("state.mailbox = 0", "state.mailbox: is 0, must be 1 to"),
            ("state.mailbox = 1000001", "state.mailbox: is 1000001"),
            (
                "telemetry.endpoint = \"localhost:4317\"",
                "telemetry.endpoint: must be a whole URL",
            ),
            (
                "telemetry.endpoint = \"\"",
                "telemetry.endpoint: must be a whole URL",
            ),
            (
                "telemetry.sample = 1.5",
                "telemetry.sample: is 1.5, must be 0 to 1",
            ),
            (
                "telemetry.service_name = \"\"",
                "telemetry.service_name: must not be empty",
            ),
            (
                "pod_deletion_cost.pod = \"../secrets/a\"",
                "pod_deletion_cost.pod: must be the name of a pod",
            ),
            (
                "pod_deletion_cost.interval = \"100ms\"",
                "pod_deletion_cost.interval: is 100ms, must be 1s to 1h",
            ),
            ("log.filter = \"\"", "log.filter: expected a level"),
            ("log.filter = \"info,\"", "log.filter: expected a level"),
            (
                "log.filter = \"info, lapwing=debug\"",
                "log.filter: expected a level",
            ),
            ("log.filter = \"inof\"", "log.filter: expected a level"),
            (
                "log.filter = \"info,lapwing=lot\"",
                "log.filter: expected a level",
            ),
        ]);
        for key in [
            "connect",
            "handshake",
            "declare",
            "checkout",
            "publish",
            "confirm",
            "ack",
            "call",
            "close",
            "telemetry_flush",
        ] {
            let beginning = format!("timeouts.{key}: is 0s, must be 1ms to 1h");
            refused(&[(&format!("timeouts.{key} = \"0s\""), &beginning)]);
        }
        allowed(&[
            "drain.grace = \"0s\"",
            "log.filter = \"off\"",
            "log.filter = \"WARN,lapwing::broker=debug\"",
            "log.filter = \"info,[delivery{lane}]=trace\"",
        ]);
    }
}
