//! `handler` and `types.TYPE`.

use std::collections::BTreeSet;

use reqwest::header::{HeaderName, HeaderValue};
use url::Url;

use super::{Findings, HOUR, MILLISECOND};
use crate::config::{HandlerKind, HandlerSettings, Secret, problem::KeyPath};

/// Headers that the handler or the HTTP client writes itself.
const OWN_HEADERS: [&str; 9] = [
    "connection",
    "content-length",
    "content-type",
    "host",
    "te",
    "traceparent",
    "tracestate",
    "transfer-encoding",
    "upgrade",
];
const OWN_PREFIX: &str = "lapwing-";

pub(super) fn check(findings: &mut Findings, path: &KeyPath, handler: &HandlerSettings) {
    match handler.kind {
        HandlerKind::Http => http(findings, path, handler),
        HandlerKind::None => only_http(findings, path, handler, "none"),
        HandlerKind::Log => only_http(findings, path, handler, "log"),
    }
}

/// The settings of an `http` handler, in one that is not.
fn only_http(findings: &mut Findings, path: &KeyPath, handler: &HandlerSettings, kind: &str) {
    let HandlerSettings {
        kind: _,
        url,
        headers,
        connect_timeout,
        ca_file,
    } = handler;
    let set = [
        ("url", url.is_some()),
        ("headers", !headers.is_empty()),
        ("connect_timeout", connect_timeout.is_some()),
        ("ca_file", ca_file.is_some()),
    ];
    for (key, _) in set.into_iter().filter(|(_, is_set)| *is_set) {
        let message = format!("belongs to kind \"http\", but the kind is \"{kind}\"");
        findings.contradiction(path.key(key), [path.key("kind")], message);
    }
}

fn http(findings: &mut Findings, path: &KeyPath, handler: &HandlerSettings) {
    let at_url = path.key("url");
    let url = handler.url.as_deref().map(Url::parse);
    let scheme = match &url {
        None => {
            let message = "is required by kind \"http\"";
            findings.contradiction(at_url.clone(), [path.key("kind")], message);
            None
        }
        // An http or https URL that parses has a host.
        Some(Ok(url)) if matches!(url.scheme(), "http" | "https") => Some(url.scheme()),
        Some(_) => {
            let message = "must be a whole URL, such as http://127.0.0.1:8000/orders";
            findings.add(at_url.clone(), message);
            None
        }
    };
    if let Some(timeout) = handler.connect_timeout {
        findings.duration(path.key("connect_timeout"), timeout, MILLISECOND..=HOUR);
    }
    if let Some(file) = &handler.ca_file {
        findings.text_file(&path.key("ca_file"), file);
        if scheme == Some("http") {
            let message = "is of no use without TLS: the URL begins with http://";
            findings.contradiction(path.key("ca_file"), [at_url], message);
        }
    }
    let mut seen = BTreeSet::new();
    for (name, value) in &handler.headers {
        let path = path.key("headers").key(name);
        if !seen.insert(name.to_ascii_lowercase()) {
            findings.add(path.clone(), "is there twice: header names do not tell case apart");
        }
        header(findings, path, name, value);
    }
}

fn header(findings: &mut Findings, path: KeyPath, name: &str, value: &Secret) {
    match HeaderName::from_bytes(name.as_bytes()) {
        Err(_) => findings.add(path.clone(), "is not a header name"),
        Ok(name) if OWN_HEADERS.contains(&name.as_str()) => {
            findings.add(path.clone(), "is written by lapwing itself");
        }
        Ok(name) if name.as_str().starts_with(OWN_PREFIX) => {
            findings.add(path.clone(), "lapwing's own headers begin so: choose another name");
        }
        Ok(_) => {}
    }
    if HeaderValue::from_str(value.expose()).is_err() {
        findings.add(path, "has a value that no header can carry, such as a line break");
    }
}
