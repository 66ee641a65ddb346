//! Runs helm, Python and `lapwing` for the tests.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;

use serde_json::Value;

/// The chart's folder.
pub(crate) const CHART: &str = "helm/lapwing";

/// The name of the release that the tests render.
const RELEASE: &str = "orders";

/// The repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file of the repository.
pub(crate) fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The folder with helm and Python.
fn tools() -> &'static Path {
    static TOOLS: OnceLock<PathBuf> = OnceLock::new();
    TOOLS.get_or_init(|| {
        let status = Command::new(root().join("scripts/deploy-tools"))
            .stdin(Stdio::null())
            .status()
            .expect("the script is there");
        assert!(status.success(), "scripts/deploy-tools: {status}");
        let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
        root().join(target).join("deploy")
    })
}

/// The names of the values files, without `-values.yaml`.
pub(crate) fn cases() -> Vec<String> {
    let folder = std::fs::read_dir(root().join(CHART).join("ci")).expect("it is there");
    let names = folder.map(|entry| entry.expect("it can be read").file_name());
    let names = names.map(|name| name.into_string().expect("a plain name"));
    let mut cases: Vec<_> = names
        .filter_map(|name| name.strip_suffix("-values.yaml").map(str::to_owned))
        .collect();
    cases.sort();
    assert!(cases.len() >= 6, "{cases:?}");
    cases
}

/// The values file of a case.
pub(crate) fn values_file(case: &str) -> String {
    format!("{CHART}/ci/{case}-values.yaml")
}

/// Runs helm without the settings of the user who runs the tests.
pub(crate) fn helm(arguments: &[&str]) -> Output {
    let home = tools().join("home");
    Command::new(tools().join("helm"))
        .args(arguments)
        .current_dir(root())
        .env("HOME", &home)
        .env_remove("KUBECONFIG")
        .output()
        .expect("helm starts")
}

/// The output of a command, which must have succeeded.
pub(crate) fn printed(what: &str, output: Output) -> String {
    let text = String::from_utf8(output.stdout).expect("it prints text");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {text}{errors}");
    text
}

/// Renders the manifests of a case, with further values.
pub(crate) fn rendered(case: &str, set: &[&str]) -> String {
    rendered_as(RELEASE, case, set)
}

/// The same for a release of this name.
pub(crate) fn rendered_as(release: &str, case: &str, set: &[&str]) -> String {
    let file = values_file(case);
    let mut arguments = vec!["template", release, CHART, "--values", &file];
    for value in set {
        arguments.extend(["--set", value]);
    }
    printed(case, helm(&arguments))
}

/// The documents of a YAML text.
pub(crate) fn yaml(text: &str) -> Vec<Value> {
    let output = python("tests/deploy/objects.py", &["json"], text);
    serde_json::from_str(&printed("reading YAML", output)).expect("it prints JSON")
}

/// Runs a Python script of the repository with this text on its standard input.
pub(crate) fn python(script: &str, arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(tools().join("python/bin/python"))
        .arg(script)
        .args(arguments)
        .current_dir(root())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("python starts");
    let mut stdin = child.stdin.take().expect("it is piped");
    // A script that reads nothing may have ended already.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    child.wait_with_output().expect("it is our child")
}

/// The objects in the manifests of a case.
pub(crate) fn objects(case: &str, set: &[&str]) -> Vec<Value> {
    yaml(&rendered(case, set))
}

/// The only object of this kind, besides those that exist only while a hook of helm runs. The only Pod
/// is that of `helm test`.
pub(crate) fn the<'all>(objects: &'all [Value], kind: &str) -> &'all Value {
    let is_hook = |object: &Value| !object["metadata"]["annotations"]["helm.sh/hook"].is_null();
    let mut found = objects
        .iter()
        .filter(|object| object["kind"] == kind && (kind == "Pod" || !is_hook(object)));
    let first = found.next().unwrap_or_else(|| panic!("no {kind}"));
    assert!(found.next().is_none(), "more than one {kind}");
    first
}

/// Runs `lapwing` without settings in its environment.
pub(crate) fn lapwing(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lapwing"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("LAPWING_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).output().expect("it starts")
}
