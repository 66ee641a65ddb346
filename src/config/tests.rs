//! The documents that describe the settings say what the code says.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    sample::{complete, flatten, keys},
    *,
};

const DEFAULT_TOML: &str = include_str!("../../config/default.toml");
const REFERENCE: &str = include_str!("../../docs/configuration.md");

/// The defaults, with the sample consumer of `config/default.toml`.
fn defaults_with_sample() -> Settings {
    let orders = ConsumerSettings {
        queue: "orders".to_owned(),
        decode: Decode::Json,
        handler: HandlerSettings {
            kind: HandlerKind::Http,
            url: Some("http://127.0.0.1:8000/orders".to_owned()),
            ..HandlerSettings::default()
        },
        ..ConsumerSettings::default()
    };
    Settings {
        consumers: BTreeMap::from([("orders".to_owned(), orders)]),
        ..Settings::default()
    }
}

fn keys_of(document: &str) -> BTreeSet<String> {
    let mut keys = BTreeMap::new();
    let tree: toml::Table = document.parse().unwrap();
    flatten("", &tree.into(), &mut keys);
    keys.into_keys().collect()
}

#[test]
fn the_default_file_holds_the_defaults_and_one_sample_consumer() {
    assert_eq!(
        Settings::from_toml(DEFAULT_TOML),
        Ok(defaults_with_sample())
    );
}

#[test]
fn the_default_file_spells_out_every_default() {
    let wanted = keys(&defaults_with_sample()).into_keys().collect();
    assert_eq!(keys_of(DEFAULT_TOML), wanted);
}

/// Settings begin right after the `#` that takes them out, comments after a space: put back in,
/// they must be what can be set beyond the defaults, no more and no less, in the right types.
#[test]
fn the_default_file_shows_every_setting_that_has_no_default() {
    let put_back = |line: &str| match line.strip_prefix('#') {
        Some(setting) if !setting.is_empty() && !setting.starts_with(' ') => setting.to_owned(),
        _ => line.to_owned(),
    };
    let document: Vec<String> = DEFAULT_TOML.lines().map(put_back).collect();
    let document = document.join("\n");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &document).unwrap();
    if let Err(error) = Settings::load_unvalidated(Some(file.path()), []) {
        panic!("{error}");
    }
    assert_eq!(keys_of(&document), keys(&complete()).into_keys().collect());
}

#[test]
fn every_setting_in_the_default_file_has_a_comment() {
    let lines: Vec<&str> = DEFAULT_TOML.lines().collect();
    for pair in lines.windows(2) {
        let is_setting = |line: &str| {
            !line.is_empty() && !line.starts_with("# ") && !line.starts_with('[') && line != "#"
        };
        // `key_file` shares the comment of `cert_file`, and the types that of `handler`.
        let shares = pair[1].starts_with("#key_file") || pair[0].starts_with('#');
        if is_setting(pair[1]) && !shares {
            assert!(pair[0].starts_with("# "), "{}", pair[1]);
        }
    }
}

#[test]
fn both_documents_name_the_keys_inside_lists() {
    let consumer = &complete().consumers["orders"];
    let binding = toml::Table::try_from(&consumer.bindings[0]).unwrap();
    let rule = toml::Table::try_from(&consumer.retry.rules[0]).unwrap();
    for key in binding.keys().chain(rule.keys()) {
        assert!(DEFAULT_TOML.contains(&format!("{key} = ")), "{key}");
        assert!(REFERENCE.contains(&format!("`{key}`")), "{key}");
    }
}

/// A row of a table in the reference.
#[derive(Debug)]
struct Row {
    key: String,
    default: String,
    variable: String,
}

/// The rows below each heading that names a section: `## `[broker]`` and the like.
fn rows() -> Vec<Row> {
    let mut section = None;
    let mut rows = Vec::new();
    for line in REFERENCE.lines() {
        if let Some(heading) = line.strip_prefix('#') {
            let name = heading
                .split_once("`[")
                .and_then(|(_, rest)| rest.split_once("]`"));
            section = name.map(|(name, _)| name.to_owned());
            continue;
        }
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let (Some(section), ["", key, default, _, variable, ""]) = (&section, cells.as_slice())
        else {
            continue;
        };
        if key.starts_with('`') {
            let plain = |cell: &str| cell.trim_matches('`').to_owned();
            rows.push(Row {
                key: format!("{section}.{}", plain(key)),
                default: plain(default),
                variable: plain(variable),
            });
        }
    }
    rows
}

/// The key paths as the reference writes them.
fn in_reference(key: &str) -> String {
    key.replace("consumers.orders", "consumers.NAME")
}

/// Keys that the reference has one row for, whatever lies inside.
const WHOLE: [&str; 2] = ["consumers.NAME.handler.headers", "consumers.NAME.types"];

#[test]
fn the_reference_has_a_row_for_every_setting() {
    let wanted: BTreeSet<String> = keys(&complete())
        .into_keys()
        .map(|key| in_reference(&key))
        .map(
            |key| match WHOLE.iter().find(|whole| key.starts_with(**whole)) {
                Some(whole) => (*whole).to_owned(),
                None => key,
            },
        )
        .collect();
    let rows = rows();
    let found: BTreeSet<String> = rows.iter().map(|row| row.key.clone()).collect();
    assert_eq!(found, wanted);
    assert_eq!(found.len(), rows.len(), "a key has two rows");
}

#[test]
fn the_reference_has_the_defaults_of_the_code() {
    let settings = Settings {
        consumers: BTreeMap::from([("orders".to_owned(), ConsumerSettings::default())]),
        ..Settings::default()
    };
    let defaults: BTreeMap<String, toml::Value> = keys(&settings)
        .into_iter()
        .map(|(key, value)| (in_reference(&key), value))
        .collect();
    for Row { key, default, .. } in rows() {
        let expected = match defaults.get(&key) {
            // Serialised, its password would be hidden.
            _ if key == "broker.url" => format!("{:?}", settings.broker.url.expose()[0]),
            _ if key == "consumers.NAME.queue" => "required".to_owned(),
            None => "none".to_owned(),
            Some(value) => value.to_string(),
        };
        assert_eq!(default, expected, "{key}");
    }
}

#[test]
fn the_reference_names_the_environment_variables() {
    for Row { key, variable, .. } in rows() {
        let name = key.replace('.', "__").to_uppercase();
        assert_eq!(variable, format!("LAPWING__{name}"), "{key}");
    }
}
