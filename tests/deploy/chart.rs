//! The chart as a whole.

use crate::support::{CHART, cases, helm, printed, python, rendered, root, values_file};

#[test]
fn every_values_file_passes_a_strict_lint() {
    for case in cases() {
        let file = values_file(&case);
        let output = helm(&["lint", "--strict", CHART, "--values", &file]);
        let text = printed(&case, output);
        assert!(text.contains("0 chart(s) failed"), "{text}");
        assert!(!text.contains("[WARNING]"), "{text}");
    }
}

/// The manifests of each values file. `make chart` updates the snapshots; review their diff.
#[test]
fn manifests_are_those_that_were_reviewed() {
    let update = std::env::var_os("LAPWING_UPDATE_SNAPSHOTS").is_some();
    for case in cases() {
        let now = rendered(&case, &[]);
        let file = root().join(format!("tests/deploy/snapshots/{case}.yaml"));
        if update {
            std::fs::write(&file, &now).expect("it can be written");
        }
        let reviewed = std::fs::read_to_string(&file).unwrap_or_default();
        let mut lines = now.lines().zip(reviewed.lines());
        let differs = lines.position(|(now, reviewed)| now != reviewed);
        assert!(
            now == reviewed,
            "{case} differs from {} from line {} on; see `make chart`",
            file.display(),
            differs.map_or_else(
                || "the shorter's last".to_owned(),
                |line| (line + 1).to_string()
            )
        );
    }
}

/// A chart cannot read files outside of its folder. `make chart` copies them.
#[test]
fn the_charts_rules_and_dashboard_are_those_of_the_repository() {
    for (copy, original) in [
        ("rules.yml", "deploy/prometheus/rules.yml"),
        ("dashboard.json", "deploy/grafana/lapwing.json"),
    ] {
        let copy = crate::support::read(&format!("helm/lapwing/files/{copy}"));
        assert!(
            copy == crate::support::read(original),
            "{original}: run `make chart`"
        );
    }
}

#[test]
fn readme_is_as_the_values_make_it() {
    printed(
        "scripts/chart.py",
        python("scripts/chart.py", &["--check"], ""),
    );
}

#[test]
fn every_value_is_explained() {
    let readme = crate::support::read("helm/lapwing/README.md");
    let values = crate::support::yaml(&crate::support::read("helm/lapwing/values.yaml"));
    let values = values[0].as_object().expect("a table");
    for (key, value) in values {
        let explained = |path: &str| readme.contains(&format!("| `{path}` |"));
        let parts = value.as_object().into_iter().flatten();
        let all_parts = parts.clone().count() > 0
            && parts.clone().all(|(part, _)| {
                let path = format!("{key}.{part}");
                explained(&path) || readme.contains(&format!("| `{path}."))
            });
        assert!(
            explained(key) || all_parts,
            "{key} has no `# --` in values.yaml"
        );
    }
}

#[test]
fn the_chart_is_of_the_binarys_version() {
    let chart = crate::support::yaml(&crate::support::read("helm/lapwing/Chart.yaml"));
    assert_eq!(chart[0]["appVersion"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn notes_tell_the_next_three_commands() {
    let file = values_file("minimal");
    let output = helm(&[
        "install",
        "orders",
        CHART,
        "--values",
        &file,
        "--dry-run=client",
    ]);
    let text = printed("helm install", output);
    for part in [
        "orders-lapwing consumes orders. A pod that ends has 48s to drain",
        "kubectl -n default rollout status deployment/orders-lapwing",
        "helm -n default test orders",
        "kubectl -n default port-forward deployment/orders-lapwing 8672:8672",
        "No admin token is set",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
}

#[test]
fn a_package_leaves_out_what_only_tests_need() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let to = folder.path().to_str().expect("a plain name");
    let text = printed(
        "helm package",
        helm(&["package", CHART, "--destination", to]),
    );
    let package = text.trim().rsplit(": ").next().expect("it names the file");
    let list = std::process::Command::new("tar")
        .args(["-tzf", package])
        .output();
    let list = printed("tar", list.expect("tar is there"));
    assert!(list.contains("lapwing/values.schema.json"), "{list}");
    assert!(
        !list.contains("ci/") && !list.contains("README.in.md"),
        "{list}"
    );
}
