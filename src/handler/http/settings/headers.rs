//! The headers that the settings name, with values or with files that hold them.

use std::{collections::BTreeSet, path::PathBuf};

use reqwest::header::{HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

use super::HttpHandlerSettings;
use crate::{
    config::{Findings, KeyPath},
    handler::http::signature,
};

/// A header whose value is in a file.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HeaderFile {
    /// The file. Required.
    pub file: PathBuf,
    /// A text before the file's, such as `Bearer ` with its space. Default: none.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub prefix: String,
}

impl HeaderFile {
    /// The header's value, from the file's text.
    pub(in super::super) fn value(&self, text: &str) -> String {
        format!("{}{}", self.prefix, text.trim())
    }
}

/// Headers that the handler or the HTTP client writes itself.
const OWN_HEADERS: [&str; 9] = [
    "connection",
    "content-encoding",
    "content-length",
    "host",
    "te",
    "traceparent",
    "tracestate",
    "transfer-encoding",
    "upgrade",
];
const OWN_PREFIX: &str = "lapwing-";

/// Checks the headers of the settings, and the files of those that come from files.
pub(super) fn check(findings: &mut Findings, path: &KeyPath, settings: &HttpHandlerSettings) {
    let mut seen = BTreeSet::new();
    for (name, value) in &settings.headers {
        let path = path.key("headers").key(name);
        check_header(findings, &path, name, value.expose(), &mut seen);
    }
    for (name, header) in &settings.header_files {
        let path = path.key("header_files").key(name);
        if header.file.as_os_str().is_empty() {
            findings.add(path.key("file"), "is required");
            continue;
        }
        let text = findings.text_file(&path.key("file"), &header.file);
        let value = header.value(&text.unwrap_or_default());
        check_header(findings, &path, name, &value, &mut seen);
    }
    check_others(findings, path, settings);
}

/// Checks that no header of the settings is one that another setting writes.
fn check_others(findings: &mut Findings, path: &KeyPath, settings: &HttpHandlerSettings) {
    let written = settings.headers.keys().map(|name| ("headers", name));
    let read = settings.header_files.keys();
    for (table, name) in written.chain(read.map(|name| ("header_files", name))) {
        let lower = name.to_ascii_lowercase();
        let other = match lower.as_str() {
            "authorization" if settings.oauth.is_some() => "oauth",
            name if name.starts_with(signature::PREFIX) && settings.signing_file.is_some() => {
                "signing_file"
            }
            _ => continue,
        };
        let message = format!("is a header that `{other}` sets");
        findings.contradiction(path.key(table).key(name), [path.key(other)], message);
    }
}

fn check_header(
    findings: &mut Findings,
    path: &KeyPath,
    name: &str,
    value: &str,
    seen: &mut BTreeSet<String>,
) {
    if !seen.insert(name.to_ascii_lowercase()) {
        findings.add(path.clone(), "is set twice: header names ignore case");
    }
    match HeaderName::from_bytes(name.as_bytes()) {
        Err(_) => findings.add(path.clone(), "is not a header name"),
        Ok(name) if OWN_HEADERS.contains(&name.as_str()) => {
            findings.add(path.clone(), "lapwing sets this header itself");
        }
        Ok(name) if name.as_str().starts_with(OWN_PREFIX) => {
            findings.add(
                path.clone(),
                "names that begin with `lapwing-` are reserved for lapwing's own headers",
            );
        }
        Ok(_) => {}
    }
    if HeaderValue::from_str(value).is_err() {
        findings.add(
            path.clone(),
            "has a value that no header can carry, such as a line break",
        );
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        config::{
            KeyPath,
            samples::{Sample, file, sections},
        },
        handler::HandlerSettings,
    };

    sections!({ handler: HandlerSettings }, |it, findings| {
        it.handler.check(findings, &KeyPath::of("handler"));
    });

    #[test]
    fn a_header_comes_from_its_setting_or_from_its_file() {
        let token = file("s3cret\n");
        let lines = file("two\nlines");
        let [token, lines] = [&token, &lines].map(|file| file.path().display());
        let with =
            |rest: &str| format!("handler.kind = \"http\"\nhandler.url = \"http://a/\"\n{rest}");
        let of = |file: &str| format!("handler.header_files.a.file = \"{file}\"");
        let token = of(&token.to_string());
        Sections::allowed(&[
            &with(&token),
            &with(&format!(
                "{token}\nhandler.header_files.a.prefix = \"Bearer \""
            )),
        ]);
        Sections::refused(&[
            (
                &with("handler.header_files.a.prefix = \"x\""),
                "handler.header_files.a.file: is required",
            ),
            (
                &with(&of("/missing")),
                "handler.header_files.a.file: cannot read /missing",
            ),
            (
                &with(&of(&lines.to_string())),
                "handler.header_files.a: has a value that no header can carry",
            ),
            (
                &with(&format!("handler.headers.A = \"x\"\n{token}")),
                "handler.header_files.a: is set twice",
            ),
        ]);
    }
}
