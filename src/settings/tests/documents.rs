//! The documents about settings, generated from the types, their attributes and their doc comments.
//!
//! `make docs` writes them. These tests fail if `make docs` would change a document.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use schemars::generate::SchemaSettings;
use serde_json::{Map, Value};

use super::{complete, flatten, keys};
use crate::{
    config::{meaning, range, words},
    handler::HttpHandlerSettings,
    settings::{ConsumerSettings, HandlerSettings, Settings},
};

const DEFAULT_TOML: &str = "config/default.toml";
const REFERENCE: &str = "docs/configuration.md";
const CHART: &str = "helm/lapwing/values.schema.json";

fn path(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}

fn read(file: &str) -> String {
    fs::read_to_string(path(file)).unwrap()
}

/// The kind of handler that the default file shows.
const SAMPLE_KIND: &str = "http";

/// The source of the documents: the schema, in which types keep their own texts.
struct Documents {
    schema: Value,
}

/// A table of settings.
struct Table {
    /// The keys on the way to the table.
    path: Vec<String>,
    /// The kind, if several kinds are possible here.
    kind: Option<String>,
    /// Whether the table is an item of a list.
    is_item: bool,
    text: String,
    rows: Vec<Row>,
}

/// One setting.
struct Row {
    key: String,
    /// The doc comment's text and the range.
    meaning: String,
    default: Option<Value>,
    example: Option<Value>,
    is_required: bool,
}

impl Documents {
    fn new() -> Self {
        let generator = SchemaSettings::draft2020_12().into_generator();
        let schema = generator.into_root_schema_for::<Settings>().to_value();
        Self { schema }
    }

    /// The name of the setting's type, if it has one.
    fn of_type<'a>(&'a self, schema: &'a Value) -> &'a Value {
        let name = schema["$ref"]
            .as_str()
            .and_then(|name| name.rsplit('/').next());
        name.map_or(schema, |name| &self.schema["$defs"][name])
    }

    fn tables(&self) -> Vec<Table> {
        let mut tables = Vec::new();
        self.add_tables_inside(&mut tables, &[], &self.schema);
        tables
    }

    fn add_tables_inside(&self, tables: &mut Vec<Table>, path: &[String], table: &Value) {
        for (key, schema) in properties(table) {
            let path = [path, std::slice::from_ref(key)].concat();
            let inner = self.of_type(schema);
            let (any, items) = (&inner["additionalProperties"], &inner["items"]);
            if inner.get("properties").is_some() {
                self.add_table(tables, path, inner, false);
            } else if inner.get("oneOf").is_some_and(|_| words(inner).is_none()) {
                self.add_kinds(tables, &path, schema, inner);
            } else if let Some(item) = self.of_type(items).get("properties").map(|_| items) {
                self.add_table(tables, path, self.of_type(item), true);
            } else if self.of_type(any).get("properties").is_some() {
                let path = [path, vec!["NAME".to_owned()]].concat();
                self.add_table(tables, path, self.of_type(any), false);
            }
        }
    }

    fn add_table(&self, tables: &mut Vec<Table>, path: Vec<String>, schema: &Value, is_item: bool) {
        tables.push(Table {
            path: path.clone(),
            kind: None,
            is_item,
            text: text(schema),
            rows: self.rows(schema),
        });
        self.add_tables_inside(tables, &path, schema);
    }

    /// A table with several kinds: `kind`, then the keys of each kind.
    fn add_kinds(&self, tables: &mut Vec<Table>, path: &[String], schema: &Value, kinds: &Value) {
        let kinds = kinds["oneOf"].as_array().unwrap();
        let kind = |variant: &Value| variant["properties"]["kind"].clone();
        let all: Vec<Value> = kinds.iter().map(kind).collect();
        let (_, meanings) = words(&serde_json::json!({ "oneOf": all })).unwrap();
        tables.push(Table {
            path: path.to_owned(),
            kind: None,
            is_item: false,
            text: text(schema),
            rows: vec![Row {
                key: "kind".to_owned(),
                meaning: format!(
                    "Which kind; the other keys belong to it. {}",
                    meanings.join(" ")
                ),
                default: Some(all[0]["const"].clone()),
                example: Some(SAMPLE_KIND.into()),
                is_required: false,
            }],
        });
        for (variant, kind) in kinds.iter().zip(&all).skip(1) {
            tables.push(Table {
                path: path.to_owned(),
                kind: kind["const"].as_str().map(str::to_owned),
                is_item: false,
                text: text(variant),
                rows: self.rows(variant),
            });
        }
    }

    fn rows(&self, table: &Value) -> Vec<Row> {
        let required = table["required"].as_array().cloned().unwrap_or_default();
        let is_row = |schema: &Value| {
            let inner = self.of_type(schema);
            let is_table = inner.get("properties").is_some();
            let has_kinds = inner.get("oneOf").is_some() && words(inner).is_none();
            let holds = self.of_type(&inner["additionalProperties"]);
            !is_table && !has_kinds && holds.get("properties").is_none()
        };
        let rows = properties(table).filter(|(key, schema)| *key != "kind" && is_row(schema));
        rows.map(|(key, schema)| {
            let is_required = required.iter().any(|required| required == key);
            let inner = self.of_type(schema);
            let mut sentences = vec![meaning(&text(schema))];
            sentences.extend(words(inner).into_iter().flat_map(|(_, about)| about));
            sentences.extend(range(schema).or_else(|| range(inner)));
            Row {
                key: key.clone(),
                meaning: sentences.join(" "),
                default: schema.get("default").filter(|_| !is_required).cloned(),
                example: schema["examples"].get(0).cloned(),
                is_required,
            }
        })
        .collect()
    }
}

fn properties(table: &Value) -> impl Iterator<Item = (&String, &Value)> {
    table["properties"]
        .as_object()
        .into_iter()
        .flat_map(Map::iter)
}

fn text(schema: &Value) -> String {
    schema["description"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

fn in_toml(value: &Value) -> String {
    toml::Value::try_from(value).unwrap().to_string()
}

// --- docs/configuration.md -------------------------------------------------------------------------

/// The text above this line is written by hand.
const GENERATED: &str = "<!-- `make docs` makes the rest from the doc comments in src. -->\n";

fn reference() -> String {
    let document = read(REFERENCE);
    let by_hand = document.split(GENERATED).next().unwrap();
    let tables = Documents::new().tables();
    let tables: Vec<String> = tables.iter().map(section).collect();
    format!("{by_hand}{GENERATED}\n{}", tables.join("\n"))
}

fn section(table: &Table) -> String {
    let path = table.path.join(".");
    let depth = table.path.iter().filter(|key| *key != "NAME").count();
    let level = "#".repeat(if depth == 1 { 2 } else { 3 });
    let mut lines = match (&table.kind, table.is_item) {
        (Some(kind), _) => format!("{level} `[{path}]` with kind `{kind}`\n"),
        (None, true) => format!("{level} `[[{path}]]`\n"),
        (None, false) => format!("{level} `[{path}]`\n"),
    };
    let (first, rest) = table.text.split_once("\n\n").unwrap_or((&table.text, ""));
    lines.push_str(&format!("\n{first}\n"));
    if !table.rows.is_empty() {
        // A list as a whole has one variable.
        lines.push_str(match table.is_item {
            true => "\n| Key | Default | Meaning |\n| --- | --- | --- |\n",
            false => {
                "\n| Key | Default | Meaning | Environment variable |\n| --- | --- | --- | --- |\n"
            }
        });
        lines.extend(table.rows.iter().map(|row| in_reference(table, row)));
    }
    if !rest.is_empty() {
        lines.push_str(&format!("\n{rest}\n"));
    }
    lines
}

fn in_reference(table: &Table, row: &Row) -> String {
    let path = table.path.join("__");
    let default = match &row.default {
        _ if row.is_required => "required".to_owned(),
        None => "none".to_owned(),
        Some(Value::Object(_)) => "none".to_owned(),
        Some(value) => format!("`{}`", in_toml(value)),
    };
    let variable = match table.is_item {
        true => String::new(),
        false => format!(
            " `LAPWING__{}__{}` |",
            path.to_uppercase(),
            row.key.to_uppercase()
        ),
    };
    let meaning = row.meaning.replace('|', "\\|");
    format!("| `{}` | {default} | {meaning} |{variable}\n", row.key)
}

// --- config/default.toml ---------------------------------------------------------------------------

fn default_toml() -> String {
    let document = read(DEFAULT_TOML);
    let by_hand = document.split("\n\n").next().unwrap();
    let mut text = by_hand.to_owned();
    let tables = Documents::new().tables();
    for table in tables.iter().filter(|table| !table.is_item) {
        match &table.kind {
            Some(kind) if kind != SAMPLE_KIND => continue,
            Some(_) => {}
            None => {
                let path = table.path.join(".").replace("NAME", "orders");
                let about = table.text.split("\n\n").next().unwrap();
                text.push_str(&format!("\n\n{}[{path}]", comment(about)));
            }
        }
        for row in table.rows.iter().filter(|row| row.key != "types") {
            text.push_str(&in_default_toml(row));
        }
        if table.kind.is_some() {
            text.push_str(&by_type(&tables));
        }
    }
    text + "\n"
}

/// A setting with a default, or a required one. Other settings follow a `#`, with an example.
fn in_default_toml(row: &Row) -> String {
    let Row {
        key,
        default,
        example,
        is_required,
        ..
    } = row;
    let is_sample = *is_required || key == "kind";
    let shown = match (default, example) {
        (_, Some(example)) if is_sample => format!("{key} = {}", in_toml(example)),
        (Some(Value::Object(_)) | None, Some(example)) => format!("#{key} = {}", in_toml(example)),
        (Some(default), _) => format!("{key} = {}", in_toml(default)),
        (None, None) => panic!("{key} has neither a default nor an example"),
    };
    let more = match (default, example) {
        (Some(Value::Array(_)), Some(example)) => {
            comment(&format!("Such as {}.", in_toml(example)))
        }
        _ if *is_required => comment("Required."),
        _ => String::new(),
    };
    format!("\n{}{more}{shown}", comment(&row.meaning))
}

/// A handler for one type. It has the same keys as `handler`.
fn by_type(tables: &[Table]) -> String {
    let rows = || tables.iter().flat_map(|table| &table.rows);
    let types = rows().find(|row| row.key == "types").unwrap();
    let kind = tables
        .iter()
        .filter(|table| table.kind.as_deref() == Some(SAMPLE_KIND));
    let keys = kind.flat_map(|table| &table.rows).map(|row| {
        let value = row.example.as_ref().or(row.default.as_ref()).unwrap();
        format!("\n#{} = {}", row.key, in_toml(value))
    });
    let about = comment(&types.meaning);
    let keys: String = keys.collect();
    format!("\n\n{about}#[consumers.orders.types.\"order.paid\"]\n#kind = \"{SAMPLE_KIND}\"{keys}")
}

/// The text as a comment, wrapped.
fn comment(text: &str) -> String {
    let text = text.replace("[admin.md](admin.md)", "docs/admin.md");
    let text = text.replace("[telemetry.md](telemetry.md)", "docs/telemetry.md");
    let text = text.replace(
        "[kubernetes.md](kubernetes.md#which-pod-ends-first)",
        "docs/kubernetes.md",
    );
    let mut lines = String::new();
    let mut line = "#".to_owned();
    for word in text.split_whitespace() {
        if line.len() + 1 + word.len() > 100 {
            lines.push_str(&format!("{line}\n"));
            line = "#".to_owned();
        }
        line.push(' ');
        line.push_str(word);
    }
    format!("{lines}{line}\n")
}

/// The default file with all its commented settings enabled. A setting follows the `#` at once, a
/// comment follows a space.
pub(super) fn with_every_key() -> String {
    let put_back = |line: &str| match line.strip_prefix('#') {
        Some(setting) if !setting.is_empty() && !setting.starts_with(' ') => setting.to_owned(),
        _ => line.to_owned(),
    };
    let document = read(DEFAULT_TOML);
    let lines: Vec<String> = document.lines().map(put_back).collect();
    lines.join("\n")
}

// --- helm/lapwing/values.schema.json ---------------------------------------------------------------

fn chart() -> String {
    let mut chart: Value = serde_json::from_str(&read(CHART)).unwrap();
    let mut schema = Settings::json_schema();
    let object = schema.as_object_mut().unwrap();
    object.retain(|key, _| key != "$schema" && key != "title");
    chart["properties"]["config"] = schema;
    serde_json::to_string_pretty(&chart).unwrap() + "\n"
}

// --- Tests -----------------------------------------------------------------------------------------

/// Compares the file, or writes it if `LAPWING_UPDATE_DOCS` is set.
#[track_caller]
fn assert_is_made(file: &str, made: &str) {
    if std::env::var_os("LAPWING_UPDATE_DOCS").is_some() {
        fs::write(path(file), made).unwrap();
    }
    let found = read(file);
    let mut lines = found.lines().zip(made.lines());
    let differs = lines.find(|(found, made)| found != made);
    assert!(
        found == made,
        "{file} is not as `make docs` makes it: {differs:?}"
    );
}

#[test]
fn the_documents_are_as_the_types_make_them() {
    assert_is_made(REFERENCE, &reference());
    assert_is_made(DEFAULT_TOML, &default_toml());
    assert_is_made(CHART, &chart());
}

/// The last sentence of a doc comment, for people who read the types.
#[test]
fn doc_comments_say_the_defaults() {
    let documents = Documents::new();
    let mut wrong = Vec::new();
    let definitions = documents.schema["$defs"].as_object().unwrap().values();
    let handlers = &documents.schema["$defs"]["HandlerSettings"]["oneOf"];
    for table in definitions.chain(handlers.as_array().unwrap()) {
        for row in documents.rows(table) {
            let written = text(&table["properties"][&row.key]).replace('\n', " ");
            let default = match &row.default {
                _ if row.is_required => "Required.".to_owned(),
                None | Some(Value::Object(_)) => "Default: none.".to_owned(),
                Some(Value::String(text)) if text.is_empty() => "Default: empty.".to_owned(),
                Some(Value::String(text)) => format!("Default: `{text}`."),
                Some(value) => format!("Default: `{value}`."),
            };
            if !written.ends_with(&default) {
                wrong.push(format!(
                    "{}: {written:?} has to end with {default:?}",
                    row.key
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The defaults, with the sample consumer of `config/default.toml`.
fn defaults_with_sample() -> Settings {
    let orders = ConsumerSettings {
        queue: "orders".to_owned(),
        handler: HandlerSettings::Http(HttpHandlerSettings {
            url: "http://127.0.0.1:8000/orders".to_owned(),
            ..HttpHandlerSettings::default()
        }),
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
        Settings::from_toml(&read(DEFAULT_TOML)),
        Ok(defaults_with_sample())
    );
}

#[test]
fn the_default_file_spells_out_every_default() {
    let wanted = keys(&defaults_with_sample()).into_keys().collect();
    assert_eq!(keys_of(&read(DEFAULT_TOML)), wanted);
}

#[test]
fn the_default_file_shows_every_setting_that_has_no_default() {
    let wanted = keys(&complete()).into_keys().collect();
    assert_eq!(keys_of(&with_every_key()), wanted);
}

/// A row of a table in the reference.
#[derive(Debug)]
struct Written {
    key: String,
    default: String,
    variable: String,
}

/// The rows below each heading that names a section, such as `## `[broker]``.
fn rows() -> Vec<Written> {
    let mut section = None;
    let mut rows = Vec::new();
    for line in read(REFERENCE).lines() {
        if let Some(heading) = line.strip_prefix('#') {
            let name = heading
                .split_once("`[")
                .and_then(|(_, rest)| rest.split_once("]`"));
            section = name.map(|(name, _)| name.to_owned());
            // The default file, to which this is compared, shows one kind of handler only.
            let sample = format!("with kind `{SAMPLE_KIND}`");
            if heading.contains("with kind") && !heading.contains(&sample) {
                section = None;
            }
            continue;
        }
        let cells: Vec<&str> = line
            .split(" | ")
            .map(|cell| cell.trim_matches(['|', ' ']))
            .collect();
        let (Some(section), [key, default, .., variable]) = (&section, cells.as_slice()) else {
            continue;
        };
        if key.starts_with('`') && !section.starts_with('[') {
            let plain = |cell: &str| cell.trim_matches('`').to_owned();
            rows.push(Written {
                key: format!("{section}.{}", plain(key)),
                default: plain(default),
                variable: plain(variable),
            });
        }
    }
    rows
}

/// The key paths, as the reference writes them.
fn as_written(key: &str) -> String {
    key.replace("consumers.orders", "consumers.NAME")
}

/// Keys for which the reference has one row, whatever they contain.
const WHOLE: [&str; 5] = [
    "consumers.NAME.arguments",
    "consumers.NAME.handler.header_files",
    "consumers.NAME.handler.headers",
    "consumers.NAME.handler.oauth",
    "consumers.NAME.types",
];

#[test]
fn the_reference_has_a_row_for_every_setting() {
    let wanted: BTreeSet<String> = keys(&complete())
        .into_keys()
        .map(|key| as_written(&key))
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
    let mut with_http = defaults_with_sample();
    let settings = Settings {
        consumers: BTreeMap::from([("orders".to_owned(), ConsumerSettings::default())]),
        ..Settings::default()
    };
    with_http.consumers.retain(|name, _| name == "orders");
    let mut defaults = keys(&with_http);
    defaults.extend(keys(&settings));
    let defaults: BTreeMap<String, toml::Value> = defaults
        .into_iter()
        .map(|(key, value)| (as_written(&key), value))
        .collect();
    for Written { key, default, .. } in rows() {
        let expected = match defaults.get(&key) {
            // Serialising would hide its password.
            _ if key == "broker.url" => format!("{:?}", settings.broker.url.expose()[0]),
            _ if key == "consumers.NAME.queue" || key.ends_with("handler.url") => {
                "required".to_owned()
            }
            None => "none".to_owned(),
            Some(value) => value.to_string(),
        };
        assert_eq!(default, expected, "{key}");
    }
}

#[test]
fn the_reference_names_the_environment_variables() {
    for Written { key, variable, .. } in rows() {
        let name = key.replace('.', "__").to_uppercase();
        assert_eq!(variable, format!("LAPWING__{name}"), "{key}");
    }
}

#[test]
fn the_reference_names_the_keys_inside_lists() {
    let (reference, file) = (read(REFERENCE), read(DEFAULT_TOML));
    for key in ["exchange", "routing_key", "class", "status", "action"] {
        assert!(reference.contains(&format!("| `{key}` |")), "{key}");
        assert!(file.contains(&format!("{key} = ")), "{key}");
    }
}
