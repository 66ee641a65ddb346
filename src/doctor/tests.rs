//! Misconfigurations that need no broker, and what is seen of a broker.

use std::collections::BTreeSet;

use super::*;

/// Settings and machine of a test.
pub(super) struct Start {
    pub(super) settings: Settings,
    pub(super) around: Surroundings,
}

impl Default for Start {
    fn default() -> Self {
        Self {
            settings: Settings::default(),
            around: Surroundings {
                variable: Box::new(|_| None),
                memory_limit: None,
                memory: None,
                open_files: None,
                pod_grace: None,
            },
        }
    }
}

/// A consumer of `orders` with these further lines.
pub(super) fn start(lines: &str) -> Start {
    let handler = match lines.contains("handler") {
        true => "",
        false => "handler = { kind = 'log' }",
    };
    let text = format!("[consumers.orders]\nqueue = 'orders'\n{handler}\n{lines}");
    let settings = Settings::from_toml(&text).unwrap_or_else(|error| panic!("{text}\n{error}"));
    Start {
        settings,
        ..Start::default()
    }
}

/// What is to be mended, as far as this check finds it.
pub(super) fn found(start: &Start, check: &str) -> Vec<String> {
    found_in(&Scene::at_start(&start.settings, &start.around), check)
}

pub(super) fn found_in(scene: &Scene<'_>, check: &str) -> Vec<String> {
    let check = checks().find(|it| it.name == check).unwrap();
    let findings = check.run(scene).into_iter();
    let bad = findings.filter(|finding| finding.grade > Grade::Ok);
    bad.map(|finding| format!("{:?} {finding}", finding.grade).replacen("Warn", "WARN", 1).replacen("Fail", "FAIL", 1))
        .collect()
}

#[test]
fn each_check_has_a_name_of_its_own_and_says_something_of_the_defaults() {
    let names: BTreeSet<_> = checks().map(|check| check.name).collect();
    assert_eq!(names.len(), checks().count());
    let start = start("");
    let scene = Scene::at_start(&start.settings, &start.around);
    for check in checks().filter(|check| check.needs == Needs::Settings) {
        let findings = check.run(&scene);
        assert!(!findings.is_empty(), "{}", check.name);
        assert!(findings.iter().all(|it| it.grade == Grade::Ok), "{findings:?}");
    }
    assert_eq!(at_start(&start.settings, &start.around), []);
}

#[test]
fn a_finding_is_one_line_with_its_mend() {
    let start = start("timeout = '26s'");
    let found = at_start(&start.settings, &start.around);
    assert_eq!(found.len(), 1);
    assert_eq!(
        found[0].to_string(),
        "consumers.orders.timeout: is 26s, above `drain.grace` (25s): a stop of the worker, such as a \
         deployment, cancels handlers that run longer, and their messages run again; lower the \
         timeout, or set drain.grace = \"26s\""
    );
}

#[test]
fn without_a_broker_the_report_names_the_checks_that_were_not_made() {
    let start = start("");
    let report = report(&Scene::at_start(&start.settings, &start.around));
    assert!(report.not_made.contains(&"permissions"), "{report:?}");
    assert!(!report.not_made.contains(&"drain"), "{report:?}");
}
