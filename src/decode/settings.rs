//! `decode` and `body` of a consumer.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::schema::Schema;
use crate::config::{Findings, KeyPath};

/// How the worker reads a body before a handler sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Decode {
    /// JSON if the content type says so (`application/json`, `…+json`) and neither a charset other than
    /// UTF-8 nor an encoding that the worker does not unpack hides it, bytes otherwise. A body that
    /// should be JSON and is not is dead-lettered as `decode`. An empty body, `NaN`, a line break within
    /// a string, and several documents one after the other are no JSON, although some services take
    /// them.
    Auto,
    /// Always JSON in UTF-8. A body that is not JSON is dead-lettered as `decode`. The HTTP handler
    /// sends it as `application/json`.
    Json,
    /// Always bytes.
    Bytes,
}

/// What happens to bodies before the handler. A message whose body cannot be unpacked, is no valid
/// CloudEvent or does not fit the schema is dead-lettered as `decode`, and its handler does not run.
/// A retry or a dead letter always has the bytes and properties of the publisher.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BodySettings {
    /// Whether the worker unpacks a body whose `content_encoding` is `gzip`, `deflate` or `zstd`, or up
    /// to three of them in a row, such as `gzip, zstd`. The handler gets the unpacked body, without the
    /// `content_encoding`. A body with another encoding, such as `br`, stays as it is. `false`: the
    /// handler gets every body as it was published. Default: `true`.
    pub unpack: bool,
    /// The most bytes that a body may have once it is unpacked. The worker stops unpacking there, and
    /// dead-letters the message with its packed body. The handlers of a consumer may need
    /// `concurrency × unpacked_bytes` of memory, and the check of a schema some hundred MiB more for each core.
    /// Too low: good messages are dead-lettered. Too high: a few bytes of a hostile publisher fill the memory.
    /// The default is 16 MiB. Default: `16777216`.
    #[schemars(range(min = 1))]
    pub unpacked_bytes: u64,
    /// A file with a JSON Schema (drafts 4, 6, 7, 2019-09 and 2020-12) that each body must fit, whatever
    /// its content type. The worker reads it at the start. `$ref` reaches places in this file and the
    /// drafts' own schemas only: the worker fetches nothing. `format` is checked in drafts up to 7. Patterns have
    /// neither look-around nor back-references. The error of the dead letter names the first five places that do
    /// not fit, and never their values; it names no places of a body with more than 20,000 values and names. A
    /// body with more than 1,000,000 of them does not fit any schema. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "/etc/lapwing/order.schema.json")]
    pub schema_file: Option<PathBuf>,
    /// What happens to CloudEvents (version 1.0). Default: `off`.
    pub cloud_events: CloudEvents,
}

/// What the worker does with CloudEvents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CloudEvents {
    /// They are messages like all others.
    #[default]
    Off,
    /// A message with the content type `application/cloudevents+json`, or with headers that begin with
    /// `cloudEvents:` or `cloudEvents_`, must be a valid event. The handler gets the event's data as the
    /// body and its attributes as headers `cloudEvents:NAME`; the HTTP handler sends them as `ce-NAME`,
    /// as CloudEvents over HTTP have it. `schema_file` is for the data. Other messages stay as they are.
    Auto,
    /// As `auto`, and each message must be an event.
    Required,
}

impl Default for BodySettings {
    fn default() -> Self {
        Self {
            unpack: true,
            unpacked_bytes: 16 * 1024 * 1024,
            schema_file: None,
            cloud_events: CloudEvents::Off,
        }
    }
}

impl BodySettings {
    /// Checks the settings at `path`. `decode`: the setting at `at_decode`.
    pub(crate) fn check(
        &self,
        findings: &mut Findings,
        path: &KeyPath,
        (decode, at_decode): (Decode, KeyPath),
    ) {
        let Some(file) = &self.schema_file else {
            return;
        };
        let path = path.key("schema_file");
        if decode == Decode::Bytes {
            let message = "needs JSON, but `decode` is \"bytes\"";
            findings.contradiction(path.clone(), [at_decode], message);
        }
        if let Some(text) = findings.text_file(&path, file)
            && let Err(error) = Schema::parse(&text)
        {
            findings.add(path, format!("{}: {error}", file.display()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::samples::{Sample, file, sections};

    sections!({ body: BodySettings }, |it, findings| {
        let decode = (Decode::Auto, KeyPath::of("decode"));
        it.body.check(findings, &KeyPath::of("body"), decode);
    });

    fn with_schema(schema: &str) -> (tempfile::NamedTempFile, String) {
        let file = file(schema);
        let text = format!("body.schema_file = \"{}\"", file.path().display());
        (file, text)
    }

    #[test]
    fn a_schema_that_cannot_be_used_is_refused_with_the_reason() {
        for (schema, reason) in [
            ("{", "is no JSON"),
            (r#"{"type": 1}"#, "is no JSON Schema: at /type"),
            (
                r#"{"$ref": "https://example.com/order.json"}"#,
                "needs https://example.com/order.json, and the worker fetches no schemas",
            ),
            (
                r#"{"properties": {"a": {"$ref": "file:///etc/passwd"}}}"#,
                "needs file:///etc/passwd, and the worker fetches no schemas",
            ),
            (r##"{"$ref": "#/$defs/missing"}"##, "is no JSON Schema"),
            (r#"{"pattern": "("}"#, "is no JSON Schema"),
            (
                r#"{"pattern": "(?<!a)b"}"#,
                "is no JSON Schema: at /pattern \"(?<!a)b\" is not a \"regex\", or has look-around",
            ),
            (
                r#"{"patternProperties": {"^(a)\\1$": true}}"#,
                "is no JSON Schema",
            ),
        ] {
            let (file, text) = with_schema(schema);
            let beginning = format!("body.schema_file: {}: {reason}", file.path().display());
            Sections::refused(&[(&text, &beginning)]);
        }
        Sections::refused(&[
            (
                "body.schema_file = \"/missing\"",
                "body.schema_file: cannot read /missing",
            ),
            (
                "body.unpacked_bytes = 0",
                "body.unpacked_bytes: must be at least 1",
            ),
        ]);
    }

    #[test]
    fn a_schema_may_refer_to_its_own_parts_and_to_its_draft() {
        for schema in [
            "true",
            r##"{"$ref": "#/$defs/a", "$defs": {"a": {"type": "object"}}}"##,
            r#"{"$schema": "http://json-schema.org/draft-07/schema#"}"#,
            r#"{"$ref": "https://json-schema.org/draft/2020-12/schema"}"#,
            r#"{"$id": "https://example.com/a", "$defs": {"b": {"$id": "b"}}, "$ref": "b"}"#,
        ] {
            let (_file, text) = with_schema(schema);
            Sections::allowed(&[&text]);
        }
    }
}
