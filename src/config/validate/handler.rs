//! `handler` and `types.TYPE`.

use std::collections::BTreeSet;

use reqwest::header::{HeaderName, HeaderValue};
use url::Url;

use super::{Findings, HOUR, MILLISECOND};
use crate::config::{HandlerKind, HandlerSettings, Secret, problem::KeyPath};

/// Headers that the handler or the HTTP client writes itself.
const OWN_HEADERS: [&str; 10] = [
    "connection",
    "content-encoding",
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
        // The kind may have been forgotten, or be one that could not be read.
        HandlerKind::None => {
            only_http(findings, path, handler, "none");
            http(findings, path, handler);
        }
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
        None if handler.kind == HandlerKind::None => None,
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
        findings.certificates(&path.key("ca_file"), file);
        if scheme == Some("http") {
            let message = "is of no use without TLS: the URL begins with http://";
            findings.contradiction(path.key("ca_file"), [at_url], message);
        }
    }
    let mut seen = BTreeSet::new();
    for (name, value) in &handler.headers {
        let path = path.key("headers").key(name);
        if !seen.insert(name.to_ascii_lowercase()) {
            findings.add(
                path.clone(),
                "is there twice: header names do not tell case apart",
            );
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
            findings.add(
                path.clone(),
                "lapwing's own headers begin so: choose another name",
            );
        }
        Ok(_) => {}
    }
    if HeaderValue::from_str(value.expose()).is_err() {
        findings.add(
            path,
            "has a value that no header can carry, such as a line break",
        );
    }
}

#[cfg(test)]
mod tests {
    use crate::config::validate::tests::{
        CERTIFICATE, allowed, file, orders, orders_refused, refused,
    };

    #[test]
    fn settings_of_one_kind_of_handler_are_refused_for_another() {
        orders_refused(&[
            (
                "handler.kind = \"http\"",
                "handler.url: is required by kind \"http\"",
            ),
            (
                "handler.url = \"http://a\"",
                "handler.url: belongs to kind \"http\", but the kind is \"none\"",
            ),
            (
                "handler = { kind = \"log\", headers = { a = \"b\" } }",
                "handler.headers: belongs to kind \"http\", but the kind is \"log\"",
            ),
            (
                "handler = { kind = \"log\", connect_timeout = \"1s\" }",
                "handler.connect_timeout: belongs",
            ),
            (
                "handler = { kind = \"log\", ca_file = \"/x\" }",
                "handler.ca_file: belongs to kind",
            ),
            ("types.a = {}", "types.a.kind: must be \"http\" or \"log\""),
            (
                "types.\"a.b\" = { kind = \"http\" }",
                "types.\"a.b\".url: is required",
            ),
            (
                "types.\"\" = { kind = \"log\" }",
                "types.\"\": must not be empty",
            ),
        ]);
    }

    #[test]
    fn http_handlers_have_a_whole_url_and_headers_of_their_own() {
        let http = |rest: &str| orders(&format!("handler.kind = \"http\"\n{rest}"));
        let pem = file(CERTIFICATE);
        let pem = pem.path().display();
        for url in [
            "orders",
            "/orders",
            "127.0.0.1:8000",
            "ftp://a/",
            "http://",
            "amqp://a",
        ] {
            let text = http(&format!("handler.url = \"{url}\""));
            refused(&[(&text, "consumers.orders.handler.url: must be a whole URL")]);
        }
        let url = "handler.url = \"http://a/\"";
        for name in [
            "connection",
            "content-encoding",
            "content-length",
            "Content-Type",
            "host",
            "te",
            "traceparent",
            "tracestate",
            "transfer-encoding",
            "upgrade",
        ] {
            let text = http(&format!("{url}\nhandler.headers = {{ {name} = \"x\" }}"));
            let beginning =
                format!("consumers.orders.handler.headers.{name}: is written by lapwing");
            refused(&[(&text, &beginning)]);
        }
        let headers = "consumers.orders.handler.headers";
        refused(&[
            (
                &http(&format!("{url}\nhandler.headers = {{ \"a b\" = \"x\" }}")),
                &format!("{headers}.\"a b\": is not a header name"),
            ),
            (
                &http(&format!(
                    "{url}\nhandler.headers = {{ Lapwing-Queue = \"x\" }}"
                )),
                &format!("{headers}.Lapwing-Queue: lapwing's own headers begin so"),
            ),
            (
                &http(&format!("{url}\nhandler.headers = {{ a = \"x\\ny\" }}")),
                &format!("{headers}.a: has a value that no header can carry"),
            ),
            (
                &http(&format!(
                    "{url}\nhandler.headers = {{ a = \"x\", A = \"y\" }}"
                )),
                &format!("{headers}.a: is there twice"),
            ),
            (
                &http(&format!("{url}\nhandler.connect_timeout = \"0s\"")),
                "consumers.orders.handler.connect_timeout: is 0s, must be 1ms",
            ),
            (
                &http(&format!("{url}\nhandler.ca_file = \"{pem}\"")),
                "consumers.orders.handler.ca_file: is of no use without TLS",
            ),
            (
                &http("handler.url = \"https://a/\"\nhandler.ca_file = \"/missing\""),
                "consumers.orders.handler.ca_file: cannot read /missing",
            ),
        ]);
        allowed(&[
            &http("handler.url = \"http://u:p@[::1]:8000/orders?x=y\""),
            &http(&format!(
                "handler.url = \"https://a/\"\nhandler.ca_file = \"{pem}\""
            )),
            &http(&format!(
                "{url}\nhandler.headers = {{ Authorization = \"Bearer x\" }}"
            )),
        ]);
    }
}
