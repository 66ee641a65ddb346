//! The configuration that the chart writes, read by the worker.

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{cases, lapwing, objects, printed, the};

/// Valid PEM without a real certificate.
const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
const KEY: &str = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";

/// The configuration of a case as a file, together with the secret files that it names.
struct Mounted {
    folder: TempDir,
    text: String,
}

impl Mounted {
    fn of(all: &[Value]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let secrets = folder.path().join("secrets");
        let text = config_map(all)["data"]["lapwing.toml"]
            .as_str()
            .expect("a text");
        let amqps = text.contains("[broker.tls]");
        let url = if amqps {
            "amqps://u:p@rabbit/%2f"
        } else {
            "amqp://u:p@rabbit/%2f"
        };
        let pod = &the(all, "Deployment")["spec"]["template"]["spec"];
        for mount in pod["containers"][0]["volumeMounts"]
            .as_array()
            .expect("mounts")
        {
            let path = mount["mountPath"].as_str().expect("a path");
            let Some(name) = path.strip_prefix("/run/secrets/") else {
                continue;
            };
            let here = secrets.join(name);
            std::fs::create_dir_all(&here).expect("a temporary folder");
            for (file, text) in [
                ("url", url),
                ("password", "s3cret"),
                ("token", "correct-horse-battery-staple"),
                ("ca.crt", CERTIFICATE),
                ("tls.crt", CERTIFICATE),
                ("tls.key", KEY),
            ] {
                std::fs::write(here.join(file), text).expect("a temporary file");
            }
        }
        let here = secrets.to_str().expect("a plain name");
        let text = text.replace("/run/secrets", here);
        std::fs::write(folder.path().join("lapwing.toml"), &text).expect("a temporary file");
        Self { folder, text }
    }

    fn path(&self) -> String {
        let path = self.folder.path().join("lapwing.toml");
        path.to_str().expect("a plain name").to_owned()
    }

    /// The settings in force with this configuration.
    fn settings(&self) -> Value {
        let output = lapwing(&[
            "config",
            "show",
            "--format",
            "json",
            "--config",
            &self.path(),
        ]);
        serde_json::from_str(&printed("config show", output)).expect("it prints JSON")
    }
}

fn config_map(all: &[Value]) -> &Value {
    let is_it = |object: &&Value| {
        object["kind"] == "ConfigMap" && !object["data"]["lapwing.toml"].is_null()
    };
    all.iter().find(is_it).expect("a ConfigMap")
}

#[test]
fn the_worker_takes_the_configuration_of_every_values_file() {
    for case in cases() {
        let mounted = Mounted::of(&objects(&case, &[]));
        let output = lapwing(&["config", "check", "--config", &mounted.path()]);
        let text = printed(&format!("{case}:\n{}", mounted.text), output);
        assert!(text.starts_with("ok: "), "{case}: {text}");
    }
}

/// The configuration names files in the folders that the pod mounts.
#[test]
fn files_that_the_configuration_names_are_mounted() {
    for case in cases() {
        let all = objects(&case, &[]);
        let pod = &the(&all, "Deployment")["spec"]["template"]["spec"]["containers"][0];
        let mounts = pod["volumeMounts"].as_array().expect("mounts");
        let mounted = |file: &str| {
            let folder = Path::new(file).parent().and_then(Path::to_str);
            mounts
                .iter()
                .any(|mount| mount["mountPath"].as_str() == folder)
        };
        let text = config_map(&all)["data"]["lapwing.toml"]
            .as_str()
            .expect("a text");
        for line in text.lines().filter(|line| line.contains("_file = ")) {
            let file = line.split('"').nth(1).expect("a text");
            assert!(mounted(file), "{case}: {line}");
        }
        assert_eq!(pod["env"][0]["name"], "LAPWING_CONFIG");
        assert!(
            mounted(pod["env"][0]["value"].as_str().expect("a path")),
            "{case}"
        );
    }
}

#[test]
fn values_arrive_as_they_were_written() {
    let settings = Mounted::of(&objects("everything", &[])).settings();
    let orders = &settings["consumers"]["orders"];
    assert_eq!(orders["bindings"][1]["exchange"], "shop \"old\" \\ ünï 🐦");
    assert_eq!(
        (&orders["prefetch"], &orders["retry"]["factor"]),
        (&8.into(), &2.0.into())
    );
    assert_eq!(orders["routes"]["order.paid"]["handler"]["kind"], "log");
    assert_eq!(orders["retry"]["rules"][0]["status"], "409");
    assert_eq!(settings["admin"]["probes"], "0.0.0.0:9091");
    assert_eq!(settings["admin"]["listen"], "0.0.0.0:8672");
    let minimal = Mounted::of(&objects("minimal", &[])).settings();
    assert_eq!(
        minimal["admin"]["listen"], "127.0.0.1:8672",
        "only the pod itself reaches it"
    );
}

/// A duration of the settings in seconds.
fn seconds(value: &Value) -> f64 {
    let text = value.as_str().expect("a duration");
    let duration: Duration = humantime::parse_duration(text).expect("a duration");
    duration.as_secs_f64()
}

/// The grace period by the formula in the chart's README, from the settings in force in the worker.
pub(crate) fn longest_end(settings: &Value) -> u64 {
    let timeouts = &settings["timeouts"];
    let consumers = settings["consumers"].as_object().expect("consumers");
    let cancel = consumers
        .values()
        .map(|consumer| seconds(&consumer["cancel_grace"]));
    let stop = 2.0 * seconds(&timeouts["declare"]) + seconds(&timeouts["ack"]);
    let bound = seconds(&settings["drain"]["grace"]).max(stop)
        + cancel.fold(0.0, f64::max)
        + seconds(&timeouts["ack"])
        + seconds(&settings["drain"]["settle"])
        + 3.0 * seconds(&timeouts["close"])
        + seconds(&timeouts["telemetry_flush"])
        + 4.0;
    bound.ceil() as u64
}

#[test]
fn kubernetes_waits_longer_than_the_worker_can_take() {
    let sets: [&[&str]; 5] = [
        &[],
        &["config.drain.grace=0s"],
        &["config.drain.grace=1h 30m", "config.timeouts.close=1500ms"],
        &[
            "config.drain.grace=2min",
            "config.drain.settle=250ms",
            "config.timeouts.ack=30s",
        ],
        &[
            "config.drain.grace=90 seconds",
            "config.timeouts.telemetry_flush=10s",
            "config.timeouts.declare=4m",
        ],
    ];
    for case in cases() {
        for set in sets {
            let all = objects(&case, set);
            let pod = &the(&all, "Deployment")["spec"]["template"]["spec"];
            let settings = Mounted::of(&all).settings();
            let extra = if case == "everything" { 20 } else { 0 };
            assert_eq!(
                pod["terminationGracePeriodSeconds"],
                longest_end(&settings) + extra,
                "{case} {set:?}"
            );
            // `env` overrides `envFrom`, so nothing outside the chart can change this variable.
            let grace = pod["containers"][0]["env"]
                .as_array()
                .expect("variables")
                .iter()
                .find(|variable| variable["name"] == "LAPWING__DRAIN__GRACE")
                .expect("a variable");
            assert_eq!(
                seconds(&grace["value"]),
                seconds(&settings["drain"]["grace"]),
                "{case} {set:?}"
            );
        }
    }
}
