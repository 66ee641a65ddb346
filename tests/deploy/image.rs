//! The Dockerfile, compared with Cargo.toml and the chart.

use crate::support::{printed, read, root, yaml};

#[test]
fn the_image_builds_what_cargo_builds_and_runs_it_as_the_chart_does() {
    let dockerfile = read("Dockerfile");
    let line = |start: &str| {
        let found = dockerfile.lines().find_map(|line| line.strip_prefix(start));
        found.unwrap_or_else(|| panic!("{start}")).to_owned()
    };
    let rust = env!("CARGO_PKG_RUST_VERSION");
    assert!(line("ARG BUILD_IMAGE=rust:").starts_with(&format!("{rust}-")));
    let values = yaml(&read("helm/lapwing/values.yaml"));
    let user = &values[0]["podSecurityContext"];
    assert_eq!(
        line("USER "),
        format!("{}:{}", user["runAsUser"], user["runAsGroup"])
    );
    assert_eq!(line("ENTRYPOINT "), r#"["/usr/local/bin/lapwing"]"#);
    assert_eq!(line("STOPSIGNAL "), "SIGTERM");
    let ignore = read(".dockerignore");
    let sources = dockerfile
        .lines()
        .filter_map(|line| line.strip_prefix("COPY "));
    for copied in sources.filter(|line| !line.starts_with("--from")) {
        let mut words: Vec<_> = copied.split(' ').collect();
        words.pop();
        for source in words {
            assert!(root().join(source).exists(), "{source}");
            assert!(
                ignore.lines().any(|line| line == format!("!{source}")),
                "{source}"
            );
        }
    }
}

/// The Dockerfile's first build creates a stub for every target that needs one.
#[test]
fn the_dependency_layer_has_a_stub_for_every_target() {
    let manifest: toml::Table = read("Cargo.toml").parse().expect("TOML");
    let targets = |kind| manifest.get(kind).and_then(toml::Value::as_array);
    for kind in ["bin", "example", "test"] {
        assert!(targets(kind).is_none(), "{kind} has no stub");
    }
    let benches = targets("bench").into_iter().flatten();
    let names = benches.map(|bench| bench["name"].as_str().expect("a name"));
    let dockerfile = read("Dockerfile");
    let script = dockerfile.split("$(sed -n '").nth(1);
    let script = script
        .and_then(|rest| rest.split('\'').next())
        .expect("a script");
    let found = std::process::Command::new("sed")
        .args(["-n", script, "Cargo.toml"])
        .current_dir(root())
        .output();
    let found = printed("sed", found.expect("sed is there"));
    assert_eq!(found.lines().collect::<Vec<_>>(), names.collect::<Vec<_>>());
    assert!(!found.is_empty());
}
