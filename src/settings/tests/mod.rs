//! The settings as a whole, read and checked.

mod documents;
mod loading;
mod reading;
mod suggestions;

use std::{collections::BTreeMap, sync::LazyLock};

use super::*;
use crate::config::samples::{Sample, file};

const ORDERS: &str = "[consumers.orders]\nqueue = \"orders\"\n";

fn variables(variables: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = variables.iter();
    owned
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn load(text: &str, environment: &[(&str, &str)]) -> Result<Settings, ConfigError> {
    Settings::load(Some(file(text).path()), variables(environment))
}

/// What is shown, with `FILE` for the file's name.
fn shown(text: &str, environment: &[(&str, &str)]) -> String {
    let file = file(text);
    let error = Settings::load(Some(file.path()), variables(environment)).unwrap_err();
    error
        .to_string()
        .replace(&file.path().display().to_string(), "FILE")
}

/// Settings in which every key is set, also those without a default.
fn complete() -> Settings {
    static COMPLETE: LazyLock<Settings> = LazyLock::new(|| {
        let file = file(&documents::with_every_key());
        let read = Settings::load_unvalidated(Some(file.path()), []);
        read.unwrap_or_else(|error| panic!("{error}"))
    });
    COMPLETE.clone()
}

/// The keys of these settings, with their values as TOML.
fn keys(settings: &Settings) -> BTreeMap<String, toml::Value> {
    let mut keys = BTreeMap::new();
    let tree = toml::Value::try_from(settings).unwrap();
    flatten("", &tree, &mut keys);
    keys
}

/// The keys of a document: paths with dots, down to values and lists.
fn flatten(path: &str, value: &toml::Value, keys: &mut BTreeMap<String, toml::Value>) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                let dot = if path.is_empty() { "" } else { "." };
                flatten(&format!("{path}{dot}{key}"), value, keys);
            }
        }
        value => {
            keys.insert(path.to_owned(), value.clone());
        }
    }
}

#[test]
fn the_defaults_are_allowed() {
    Settings::allowed(&["", ORDERS]);
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

    let settings = Settings::from_toml(ORDERS).unwrap();
    assert_eq!(settings.require_consumers(), Ok(()));
    let error = settings.require_handlers().unwrap_err();
    assert_eq!(error.problems[0].path, "consumers.orders.handler");

    for with in ["handler.kind = \"log\"", "routes.a.handler.kind = \"log\""] {
        let settings = Settings::from_toml(&format!("{ORDERS}{with}")).unwrap();
        assert_eq!(settings.require_handlers(), Ok(()), "{with}");
    }
    for without in [
        "routes.a.timeout = '1s'",
        "routes = { a = {}, b.handler.kind = 'log' }",
    ] {
        let settings = Settings::from_toml(&format!("{ORDERS}{without}")).unwrap();
        assert!(settings.require_handlers().is_err(), "{without}");
    }
}
