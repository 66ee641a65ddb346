//! What the tests of all checks use, and the tests of what is no single check.

use std::io::Write;

use tempfile::NamedTempFile;

use super::*;

/// The problems of this text, without their sources.
pub(super) fn problems(text: &str) -> Vec<String> {
    let Err(error) = Settings::from_toml(text) else {
        return Vec::new();
    };
    let problems = error.problems.iter();
    problems
        .map(|Problem { path, message, .. }| format!("{path}: {message}"))
        .collect()
}

/// Each text has one problem, which begins so.
#[track_caller]
pub(super) fn refused(cases: &[(&str, &str)]) {
    for (text, beginning) in cases {
        match problems(text).as_slice() {
            [only] if only.starts_with(beginning) => {}
            found => panic!("{text}\nwanted: {beginning}\nfound: {found:#?}"),
        }
    }
}

#[track_caller]
pub(super) fn allowed(cases: &[&str]) {
    for text in cases {
        assert_eq!(problems(text), [""; 0], "{text}");
    }
}

/// A consumer with these further lines.
pub(super) fn orders(lines: &str) -> String {
    format!("[consumers.orders]\nqueue = \"orders\"\n{lines}")
}

#[track_caller]
pub(super) fn orders_refused(cases: &[(&str, &str)]) {
    for (lines, beginning) in cases {
        let beginning = format!("consumers.orders.{beginning}");
        refused(&[(&orders(lines), &beginning)]);
    }
}

pub(super) fn file(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

/// PEM, though nothing stands behind it.
pub(super) const CERTIFICATE: &str =
    "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
pub(super) const KEY: &str = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";

#[test]
fn the_defaults_are_allowed() {
    allowed(&["", &orders("")]);
    assert_eq!(Settings::default().validate(), Ok(()));
}

#[test]
fn settings_changed_in_code_are_checked_too() {
    let mut settings = Settings::default();
    settings.publish.channels = 0;
    assert_eq!(
        settings.validate().unwrap_err().to_string(),
        "publish.channels: is 0, must be 1 to 1000"
    );
}

#[test]
fn a_worker_needs_consumers_and_handlers() {
    let settings = Settings::from_toml("").unwrap();
    assert!(settings.require_consumers().is_err());
    assert_eq!(settings.require_handlers(), Ok(()));

    let settings = Settings::from_toml(&orders("")).unwrap();
    assert_eq!(settings.require_consumers(), Ok(()));
    let error = settings.require_handlers().unwrap_err();
    assert_eq!(error.problems[0].path, "consumers.orders.handler");

    for with in ["handler.kind = \"log\"", "types.a.kind = \"log\""] {
        let settings = Settings::from_toml(&orders(with)).unwrap();
        assert_eq!(settings.require_handlers(), Ok(()), "{with}");
    }
}

#[test]
fn a_timeout_near_the_brokers_own_is_warned_of() {
    let warnings = |lines: &str| Settings::from_toml(&orders(lines)).unwrap().warnings();
    assert_eq!(warnings("timeout = \"29m\""), []);
    let warned = warnings("timeout = \"30m\"");
    assert_eq!(warned.len(), 1);
    assert_eq!(warned[0].path, "consumers.orders.timeout");
}
