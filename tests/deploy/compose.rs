//! docker-compose.yml and the files it uses, compared with the defaults in the code.

use serde_json::Value;

use crate::config::longest_end;
use crate::support::{lapwing, printed, read, root, yaml};

fn compose() -> Value {
    let mut documents = yaml(&read("docker-compose.yml"));
    assert_eq!(documents.len(), 1);
    documents.remove(0)
}

fn services(compose: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let services = compose["services"].as_object().expect("services");
    services
        .iter()
        .map(|(name, service)| (name.as_str(), service))
}

fn texts(value: &Value) -> Vec<&str> {
    let items = value.as_array().map_or(&[][..], Vec::as_slice);
    items
        .iter()
        .map(|item| item.as_str().expect("a text"))
        .collect()
}

/// The settings in force in a worker with this file, or without a file.
fn settings(file: Option<&str>) -> Value {
    let mut arguments = vec!["config", "show", "--format", "json"];
    let path = file.map(|file| root().join(file));
    if let Some(path) = &path {
        arguments.extend(["--config", path.to_str().expect("a plain name")]);
    }
    serde_json::from_str(&printed("config show", lapwing(&arguments))).expect("it prints JSON")
}

fn port(address: &Value) -> u64 {
    let address = address.as_str().expect("an address");
    address
        .rsplit(':')
        .next()
        .and_then(|port| port.parse().ok())
        .expect("a port")
}

/// The files of the repository with these endings, without `target` and hidden folders.
fn files(endings: &[&str]) -> Vec<String> {
    let output = std::process::Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output();
    let all = printed("git", output.expect("git is there"));
    let fits = |file: &&str| endings.iter().any(|ending| file.ends_with(ending));
    all.lines().filter(fits).map(str::to_owned).collect()
}

#[test]
fn every_yaml_json_and_toml_file_can_be_read() {
    let plain = |file: &String| !file.contains("helm/lapwing/templates/");
    let all: Vec<_> = files(&[".yml", ".yaml"])
        .into_iter()
        .filter(plain)
        .collect();
    assert!(all.len() > 10, "{all:?}");
    for file in all {
        assert!(!yaml(&read(&file)).is_empty(), "{file}");
    }
    for file in files(&[".json"]) {
        serde_json::from_str::<Value>(&read(&file))
            .unwrap_or_else(|error| panic!("{file}: {error}"));
    }
    for file in files(&[".toml"]) {
        read(&file)
            .parse::<toml::Table>()
            .unwrap_or_else(|error| panic!("{file}: {error}"));
    }
    for line in read("deploy/compose/orders.jsonl").lines() {
        serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
}

/// Whether the tag names a full version, which does not move.
fn is_pinned(image: &str) -> bool {
    let Some((_, tag)) = image.rsplit_once(':') else {
        return false;
    };
    let version = tag
        .trim_start_matches('v')
        .split('-')
        .next()
        .unwrap_or_default();
    let numbers: Vec<_> = version.split('.').collect();
    numbers.len() == 3 && numbers.iter().all(|number| number.parse::<u32>().is_ok())
}

#[test]
fn images_are_pinned_and_ours_is_of_this_version() {
    assert!(!is_pinned("rabbitmq") && !is_pinned("rabbitmq:latest") && !is_pinned("rabbitmq:4.3"));
    let compose = compose();
    let ours = format!("lapwing:{}", env!("CARGO_PKG_VERSION"));
    for (name, service) in services(&compose) {
        let image = service["image"].as_str().expect("an image");
        assert!(is_pinned(image), "{name}: {image}");
        assert_eq!(
            image == ours,
            ["worker", "publisher"].contains(&name),
            "{name}: {image}"
        );
    }
    assert!(read("Dockerfile").contains(&format!("ARG VERSION={}\n", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn ports_are_on_loopback_and_different() {
    let compose = compose();
    let mut taken = Vec::new();
    for (name, service) in services(&compose) {
        for port in texts(&service["ports"]) {
            let parts: Vec<_> = port.split(':').collect();
            assert_eq!((parts.len(), parts[0]), (3, "127.0.0.1"), "{name}: {port}");
            assert!(!taken.contains(&parts[1].to_owned()), "{name}: {port}");
            taken.push(parts[1].to_owned());
        }
    }
    assert!(taken.len() >= 7, "{taken:?}");
}

/// The port of the service that is published on this host port.
fn inner_port(compose: &Value, service: &str, host: &str) -> String {
    let ports = texts(&compose["services"][service]["ports"]);
    let found = ports
        .iter()
        .find_map(|port| port.strip_prefix(&format!("127.0.0.1:{host}:")));
    found
        .unwrap_or_else(|| panic!("{service} is not on {host}"))
        .to_owned()
}

#[test]
fn the_workers_ports_are_its_defaults_everywhere() {
    let (defaults, sample) = (settings(None), settings(Some("deploy/compose/worker.toml")));
    let (admin, probes) = (
        port(&sample["admin"]["listen"]),
        port(&sample["admin"]["probes"]),
    );
    assert_eq!(admin, port(&defaults["admin"]["listen"]));
    let compose = compose();
    for port in [admin, probes] {
        assert_eq!(
            inner_port(&compose, "worker", &port.to_string()),
            port.to_string()
        );
    }
    let values = yaml(&read("helm/lapwing/values.yaml"));
    assert_eq!(
        (&values[0]["ports"]["admin"], &values[0]["ports"]["probes"]),
        (&admin.into(), &probes.into())
    );
    assert!(read("Dockerfile").contains(&format!("\nEXPOSE {admin} {probes}\n")));
    let prometheus = yaml(&read("deploy/prometheus/prometheus.yml"));
    let scraped = &prometheus[0]["scrape_configs"][0];
    assert_eq!(scraped["job_name"], "lapwing");
    assert_eq!(
        scraped["static_configs"][0]["targets"][0],
        format!("worker:{probes}")
    );
}

#[test]
fn the_sample_configuration_works() {
    let file = root().join("deploy/compose/worker.toml");
    let path = file.to_str().expect("a plain name");
    let checked = printed(
        "config check",
        lapwing(&["config", "check", "--config", path]),
    );
    let (first, schedule) = checked.split_once('\n').expect("it has lines");
    assert_eq!(first, "ok: 1 consumer");
    // Its retry schedule, and no warning.
    let is_schedule = |line: &str| line.starts_with("orders: ");
    assert!(schedule.lines().all(is_schedule), "{schedule}");
    let text = read("deploy/compose/worker.toml");
    let compose = compose();
    for (url, service, inner) in [
        ("@rabbitmq:5672/", "rabbitmq", "5672"),
        ("http://handler:8000/", "handler", "8000"),
    ] {
        assert!(text.contains(url), "{url}");
        let service = &compose["services"][service];
        let published = texts(&service["ports"])
            .iter()
            .any(|port| port.ends_with(&format!(":{inner}")));
        let listens = texts(&service["command"])
            .iter()
            .any(|word| word.ends_with(&format!(":{inner}")));
        assert!(published || listens, "{url}");
    }
    let publish = texts(&compose["services"]["publisher"]["command"]);
    let queue = publish
        .iter()
        .position(|word| *word == "--queue")
        .map(|at| publish[at + 1]);
    assert_eq!(
        settings(Some("deploy/compose/worker.toml"))["consumers"]["orders"]["queue"],
        queue.expect("a queue")
    );
    assert!(
        texts(&compose["services"]["jaeger"]["ports"])
            .iter()
            .any(|port| text.contains(&port[..port.len() - 6]))
    );
}

#[test]
fn compose_waits_longer_than_the_worker_can_take() {
    let compose = compose();
    let text = compose["services"]["worker"]["stop_grace_period"]
        .as_str()
        .expect("a duration");
    let seconds = humantime::parse_duration(text)
        .expect("a duration")
        .as_secs();
    assert!(
        seconds >= longest_end(&settings(Some("deploy/compose/worker.toml"))),
        "{text}"
    );
}

#[test]
fn services_start_behind_what_they_need_and_health_that_is_waited_for_is_checked() {
    let compose = compose();
    for (name, service) in services(&compose) {
        for (needed, how) in service["depends_on"].as_object().into_iter().flatten() {
            let other = &compose["services"][needed];
            assert!(other.is_object(), "{name} needs {needed}");
            if how["condition"] == "service_healthy" {
                assert!(
                    other["healthcheck"]["test"].is_array(),
                    "{name} waits for {needed}"
                );
            }
        }
    }
}

#[test]
fn files_and_volumes_that_are_mounted_exist() {
    let compose = compose();
    for (name, service) in services(&compose) {
        for mount in texts(&service["volumes"]) {
            let source = mount.split(':').next().expect("a source");
            match source.strip_prefix("./") {
                Some(path) => assert!(root().join(path).exists(), "{name}: {mount}"),
                None => assert!(compose["volumes"].get(source).is_some(), "{name}: {mount}"),
            }
        }
    }
    let config = compose["services"]["worker"]["environment"]["LAPWING_CONFIG"].as_str();
    for service in ["worker", "publisher"] {
        let service = &compose["services"][service];
        assert_eq!(service["environment"]["LAPWING_CONFIG"].as_str(), config);
        let mounted = format!(":{}:ro", config.expect("a path"));
        assert!(
            texts(&service["volumes"])
                .iter()
                .any(|mount| mount.ends_with(&mounted))
        );
    }
}

#[test]
fn what_we_run_is_confined() {
    let compose = compose();
    for service in ["worker", "publisher", "handler"] {
        let service = &compose["services"][service];
        assert_eq!(service["read_only"], true);
        assert_eq!(texts(&service["cap_drop"]), ["ALL"]);
        assert_eq!(texts(&service["security_opt"]), ["no-new-privileges:true"]);
    }
}

#[test]
fn prometheus_and_grafana_find_one_another_their_rules_and_their_dashboard() {
    let compose = compose();
    let prometheus = yaml(&read("deploy/prometheus/prometheus.yml"));
    for file in texts(&prometheus[0]["rule_files"]) {
        let rules = root().join("deploy/prometheus").join(file);
        assert!(rules.is_file(), "{file}");
    }
    for job in prometheus[0]["scrape_configs"].as_array().expect("jobs") {
        for target in texts(&job["static_configs"][0]["targets"]) {
            let host = target.split(':').next().expect("a host");
            assert!(compose["services"][host].is_object(), "{target}");
        }
    }
    let source = yaml(&read(
        "deploy/grafana/provisioning/datasources/prometheus.yml",
    ));
    let inner = inner_port(&compose, "prometheus", "9092");
    assert_eq!(
        source[0]["datasources"][0]["url"],
        format!("http://prometheus:{inner}")
    );
    let provider = yaml(&read("deploy/grafana/provisioning/dashboards/lapwing.yml"));
    let folder = provider[0]["providers"][0]["options"]["path"]
        .as_str()
        .expect("a path");
    let mounts = texts(&compose["services"]["grafana"]["volumes"]);
    assert!(
        mounts.contains(&format!("./deploy/grafana:{folder}:ro").as_str()),
        "{mounts:?}"
    );
    let home =
        &compose["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"];
    let home = home
        .as_str()
        .and_then(|path| path.strip_prefix(folder))
        .expect("a dashboard of ours");
    assert!(
        root().join(format!("deploy/grafana{home}")).exists(),
        "{home}"
    );
    let dashboard: Value =
        serde_json::from_str(&read("deploy/grafana/lapwing.json")).expect("JSON");
    let uid = &source[0]["datasources"][0]["uid"];
    for panel in dashboard["panels"].as_array().expect("panels") {
        let of_panel = &panel["datasource"]["uid"];
        assert!(
            of_panel.is_null() || of_panel == uid || of_panel.to_string().contains('$'),
            "{panel}"
        );
    }
}

#[test]
fn the_page_on_compose_names_every_url() {
    let (compose, page, header) = (
        compose(),
        read("docs/compose.md"),
        read("docker-compose.yml"),
    );
    for (name, service) in services(&compose) {
        for port in texts(&service["ports"]) {
            let host = port.split(':').nth(1).expect("a port");
            if host == "5672" {
                continue; // AMQP: not for a browser, so the lists leave it out.
            }
            let url = format!("http://127.0.0.1:{host}");
            for text in [&page, &header] {
                assert!(text.contains(&url), "{name}: {url}");
            }
        }
    }
}
