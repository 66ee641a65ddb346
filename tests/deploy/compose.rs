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

/// A published port, such as `127.0.0.1:8672-8681:8672`.
struct Published<'a> {
    address: &'a str,
    first: u16,
    last: u16,
    inner: &'a str,
}

fn published(service: &Value) -> Vec<Published<'_>> {
    let of_text = |text| {
        let [address, outer, inner] = str::split(text, ':').collect::<Vec<_>>()[..] else {
            panic!("{text}: must be address, host port and port");
        };
        let (first, last) = outer.split_once('-').unwrap_or((outer, outer));
        let number = |text: &str| text.parse().expect("a port");
        Published {
            address,
            first: number(first),
            last: number(last),
            inner,
        }
    };
    texts(&service["ports"]).into_iter().map(of_text).collect()
}

#[test]
fn ports_are_on_loopback_and_different() {
    let compose = compose();
    let mut taken = Vec::new();
    for (name, service) in services(&compose) {
        for port in published(service) {
            assert_eq!(port.address, "127.0.0.1", "{name}");
            for number in port.first..=port.last {
                assert!(!taken.contains(&number), "{name}: {number}");
                taken.push(number);
            }
        }
    }
    assert!(taken.len() >= 7, "{taken:?}");
}

/// The port of the service that is published on this host port.
fn inner_port(compose: &Value, service: &str, host: &str) -> String {
    let ports = published(&compose["services"][service]);
    let found = ports.iter().find(|port| port.first.to_string() == host);
    let found = found.unwrap_or_else(|| panic!("{service} is not on {host}"));
    found.inner.to_owned()
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
    assert_eq!(
        inner_port(&compose, "worker", &admin.to_string()),
        admin.to_string()
    );
    let values = yaml(&read("helm/lapwing/values.yaml"));
    assert_eq!(
        (&values[0]["ports"]["admin"], &values[0]["ports"]["probes"]),
        (&admin.into(), &probes.into())
    );
    assert!(read("Dockerfile").contains(&format!("\nEXPOSE {admin} {probes}\n")));
    let prometheus = yaml(&read("deploy/prometheus/prometheus.yml"));
    let scraped = &prometheus[0]["scrape_configs"][0];
    assert_eq!(scraped["job_name"], "lapwing");
    let found = &scraped["dns_sd_configs"][0];
    assert_eq!(
        (&found["names"][0], &found["type"], &found["port"]),
        (&"worker".into(), &"A".into(), &probes.into()),
        "one target for each address of the service"
    );
    let asked = texts(&compose["services"]["publisher"]["healthcheck"]["test"]);
    assert_eq!(asked.last(), Some(&&*format!("worker:{probes}")));
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
        let published = published(service).iter().any(|port| port.inner == inner);
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

/// The services that end, because others wait until they have.
fn one_shots(compose: &Value) -> Vec<&str> {
    let waited = services(compose).flat_map(|(_, service)| service["depends_on"].as_object());
    let ended = waited
        .flatten()
        .filter(|(_, how)| how["condition"] == "service_completed_successfully");
    ended.map(|(name, _)| name.as_str()).collect()
}

#[test]
fn up_can_wait_for_every_service() {
    let compose = compose();
    let one_shots = one_shots(&compose);
    assert!(one_shots.contains(&"files"));
    for (name, service) in services(&compose) {
        // `up --wait` waits for the end of a service only if another service does so too. It fails if
        // a service that others do not wait for ends, or has a health check that is switched off.
        let ends = one_shots.contains(&name);
        let check = &service["healthcheck"];
        assert!(check["disable"].is_null(), "{name}");
        assert!(!ends || check.is_null(), "{name} ends: it is never healthy");
    }
}

#[test]
fn every_service_comes_back_after_a_restart_of_docker() {
    let compose = compose();
    let one_shots = one_shots(&compose);
    for (name, service) in services(&compose) {
        match one_shots.contains(&name) {
            true => assert!(service["restart"].is_null(), "{name}: its work is done"),
            false => assert_eq!(service["restart"], "unless-stopped", "{name}"),
        }
    }
}

#[test]
fn three_workers_can_run_at_once() {
    let compose = compose();
    let worker = &compose["services"]["worker"];
    assert!(worker["container_name"].is_null() && worker["hostname"].is_null());
    let ports = published(worker);
    assert!(!ports.is_empty());
    for port in ports {
        assert!(port.last - port.first >= 2, "a port for each of three");
    }
}

#[test]
fn nothing_tries_to_pull_our_image() {
    let compose = compose();
    let [worker, publisher] = ["worker", "publisher"].map(|name| &compose["services"][name]);
    assert_eq!(worker["build"], ".");
    assert_eq!(publisher["image"], worker["image"]);
    assert_eq!(publisher["pull_policy"], "never");
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

/// The file of the repository that a service reads at this path of the volume `files`.
fn copied(compose: &Value, path: &str) -> String {
    let path = path.strip_prefix("/files/").expect("a copied file");
    let mounts = texts(&compose["services"]["files"]["volumes"]);
    let source = mounts.iter().find_map(|mount| {
        let (source, target) = mount.split_once(":/source/")?;
        let rest = path.strip_prefix(target.strip_suffix(":ro")?)?;
        Some(format!("{}{rest}", source.strip_prefix("./")?))
    });
    source.unwrap_or_else(|| panic!("{path} is not copied"))
}

#[test]
fn files_are_read_from_the_volume_with_copies_that_every_user_can_read() {
    let compose = compose();
    for (name, service) in services(&compose) {
        for mount in texts(&service["volumes"]) {
            let source = mount.split(':').next().expect("a source");
            match source.strip_prefix("./") {
                Some(path) => {
                    assert_eq!(name, "files", "a clone under umask 077 is not readable");
                    assert!(root().join(path).exists(), "{mount}");
                }
                None => assert!(compose["volumes"].get(source).is_some(), "{name}: {mount}"),
            }
        }
        let reads = texts(&service["volumes"]).contains(&"files:/files:ro");
        let text = service.to_string();
        let needs = text.contains("\"/files/") || text.contains("=/files/");
        assert_eq!(reads, needs, "{name}");
        let waits = &service["depends_on"]["files"]["condition"];
        let behind = service["depends_on"]["worker"].is_object();
        assert!(
            !needs || behind || waits == "service_completed_successfully",
            "{name} starts after the copies are there"
        );
    }
    for service in ["worker", "publisher"] {
        let config = compose["services"][service]["environment"]["LAPWING_CONFIG"].as_str();
        let config = copied(&compose, config.expect("a path"));
        assert_eq!(config, "deploy/compose/worker.toml", "{service}");
    }
    let orders = texts(&compose["services"]["publisher"]["command"]);
    let orders = copied(&compose, orders.last().expect("a file"));
    assert_eq!(orders, "deploy/compose/orders.jsonl");
    let handler = copied(
        &compose,
        texts(&compose["services"]["handler"]["command"])[1],
    );
    assert_eq!(handler, "scripts/demo-handler.py");
}

#[test]
fn what_we_run_is_confined() {
    let compose = compose();
    for service in ["worker", "publisher", "handler", "files"] {
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
    let command = texts(&compose["services"]["prometheus"]["command"]);
    let file = command[0].strip_prefix("--config.file=").expect("a file");
    assert_eq!(copied(&compose, file), "deploy/prometheus/prometheus.yml");
    for job in prometheus[0]["scrape_configs"].as_array().expect("jobs") {
        let mut targets = texts(&job["static_configs"][0]["targets"]);
        targets.extend(texts(&job["dns_sd_configs"][0]["names"]));
        assert!(!targets.is_empty(), "{job}");
        for target in targets {
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
    assert_eq!(copied(&compose, folder), "deploy/grafana");
    let environment = &compose["services"]["grafana"]["environment"];
    for (variable, file) in [
        (
            "GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH",
            "deploy/grafana/lapwing.json",
        ),
        ("GF_PATHS_PROVISIONING", "deploy/grafana/provisioning"),
    ] {
        let path = environment[variable].as_str().expect("a path");
        assert_eq!(copied(&compose, path), file);
        assert!(root().join(file).exists(), "{file}");
    }
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
        for port in published(service) {
            if port.first == 5672 {
                continue; // AMQP: not for a browser, so the lists leave it out.
            }
            let url = format!("http://127.0.0.1:{}", port.first);
            for text in [&page, &header] {
                assert!(text.contains(&url), "{name}: {url}");
            }
        }
    }
}
