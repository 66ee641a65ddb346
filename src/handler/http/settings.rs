//! `handler = { kind = "http" }`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use reqwest::header::{HeaderName, HeaderValue};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};
use url::Url;

use super::HttpHandler;
use crate::{
    config::{Findings, HOUR, KIND, KeyPath, Secret, Span, redact},
    handler::{Handler, HandlerError, kind::Kind},
    pem,
};

/// The handler POSTs each message to a URL. A status 2xx is a success. The statuses 408, 425, 429 and
/// 5xx, connection errors and timeouts are retried. Any other status dead-letters the message,
/// redirects included.
///
/// A request has the message's body, `content-type` and `content-encoding`, and these headers about
/// the message: `lapwing-message-id`, `lapwing-attempt` (from 1), `lapwing-queue`,
/// `lapwing-routing-key`, `lapwing-type`, `lapwing-redelivered`, `traceparent` and `tracestate`.
/// The message's own headers have the names `lapwing-header-NAME`: the first 64, as long as they
/// fit into 16 KiB, because servers refuse requests with more.
///
/// The status decides the outcome, as soon as the handler has it. The handler reads at most 64 KiB
/// of the response's body, for at most 2 s, and keeps 2 KiB for the error. `Retry-After` is a
/// number of seconds or a date; a date in the past does not count.
///
/// The handler uses the proxy that the environment names: `HTTP_PROXY` for `http://` URLs,
/// `HTTPS_PROXY` for `https://` (by CONNECT), `ALL_PROXY` for both. Names in lower case work too;
/// upper case takes precedence. The proxy's URL is `http://`, with `user:password@` if the proxy
/// asks for them. With a SOCKS proxy every request fails. Loopback addresses and `localhost` go
/// through the proxy like all others. `NO_PROXY` lists the hosts that the handler reaches directly,
/// separated by commas: names (with all names below them), addresses, and networks such as
/// `127.0.0.0/8`. The handler compares these with the URL as it is written: `localhost` does not
/// stand for `127.0.0.1`, and `*` stands for all names, but for no address. The worker reads the
/// environment at its start. Connections to the broker do not use a proxy.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["url"]))]
pub struct HttpHandlerSettings {
    /// Where the handler POSTs each message: an `http://` or `https://` URL. Its password and query
    /// never print; put a secret in a header rather than in the path. Required.
    #[serde(skip_serializing_if = "String::is_empty", serialize_with = "redacted")]
    #[schemars(example = "http://127.0.0.1:8000/orders")]
    pub url: String,
    /// Headers to send with every request, as a table. Their values never print. Lapwing writes
    /// `content-type`, `host`, `traceparent`, `lapwing-*` and the like itself, and refuses them here.
    /// Default: none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, String>", example = example_headers())]
    pub headers: BTreeMap<String, Secret>,
    /// The longest wait for a connection, TLS included. The consumer's `timeout` limits the whole
    /// request. Too low: a slow server is treated as dead. Too high: a dead server is noticed late.
    /// Default: `5s`.
    #[serde(with = "Span::<1, HOUR>")]
    pub connect_timeout: Duration,
    /// A PEM file with certificate authorities to trust in addition to the system's, for `https://`.
    /// Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "/run/secrets/handler-ca.pem")]
    pub ca_file: Option<PathBuf>,
}

fn redacted<S: Serializer>(url: &str, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&redact(url))
}

/// Plain strings for the schema's example: a `Secret` would be shown as hidden.
fn example_headers() -> BTreeMap<&'static str, &'static str> {
    BTreeMap::from([("authorization", "Bearer ...")])
}

impl Default for HttpHandlerSettings {
    fn default() -> Self {
        Self {
            url: String::new(),
            headers: BTreeMap::new(),
            connect_timeout: Duration::from_secs(5),
            ca_file: None,
        }
    }
}

impl fmt::Debug for HttpHandlerSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpHandlerSettings")
            .field("url", &redact(&self.url))
            .field("headers", &self.headers)
            .field("connect_timeout", &self.connect_timeout)
            .field("ca_file", &self.ca_file)
            .finish()
    }
}

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

impl Kind for HttpHandlerSettings {
    fn make(&self) -> Result<Arc<dyn Handler>, HandlerError> {
        Ok(Arc::new(HttpHandler::new(self)?))
    }

    fn check(&self, findings: &mut Findings, path: &KeyPath) {
        let at_url = path.key("url");
        let url = (!self.url.is_empty()).then(|| Url::parse(&self.url));
        let mut is_plain = false;
        match &url {
            None => {
                let message = "is required by kind \"http\"";
                findings.contradiction(at_url.clone(), [path.key(KIND)], message);
            }
            // An http or https URL that parses has a host.
            Some(Ok(url)) if matches!(url.scheme(), "http" | "https") => {
                is_plain = url.scheme() == "http";
            }
            Some(_) => {
                let message = "must be a complete URL, such as http://127.0.0.1:8000/orders";
                findings.add(at_url.clone(), message);
            }
        }
        if let Some(file) = &self.ca_file {
            pem::check_certificates(findings, &path.key("ca_file"), file);
            if is_plain {
                let message = "needs TLS, but the URL begins with http://";
                findings.contradiction(path.key("ca_file"), [at_url], message);
            }
        }
        let mut seen = BTreeSet::new();
        for (name, value) in &self.headers {
            let path = path.key("headers").key(name);
            if !seen.insert(name.to_ascii_lowercase()) {
                findings.add(path.clone(), "is set twice: header names ignore case");
            }
            check_header(findings, path, name, value);
        }
    }
}

fn check_header(findings: &mut Findings, path: KeyPath, name: &str, value: &Secret) {
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
    if HeaderValue::from_str(value.expose()).is_err() {
        findings.add(
            path,
            "has a value that no header can carry, such as a line break",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config::samples::{CERTIFICATE, Sample, file, sections},
        handler::HandlerSettings,
    };

    sections!({ handler: HandlerSettings }, |it, findings| {
        it.handler.check(findings, &KeyPath::of("handler"));
    });

    #[test]
    fn passwords_and_header_values_never_print() {
        let handler = HttpHandlerSettings {
            url: "http://u:s3cret@localhost/orders?token=s3cret".to_owned(),
            headers: BTreeMap::from([("authorization".to_owned(), Secret::from("s3cret"))]),
            ..HttpHandlerSettings::default()
        };
        let shown = format!("{handler:?} {}", serde_json::to_string(&handler).unwrap());
        assert!(!shown.contains("s3cret"), "{shown}");
        assert!(
            shown.contains("http://u:***@localhost/orders?***"),
            "{shown}"
        );
    }

    #[test]
    fn http_handlers_have_a_whole_url_and_headers_of_their_own() {
        let http = |rest: &str| format!("handler.kind = \"http\"\n{rest}");
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
            Sections::refused(&[(&text, "handler.url: must be a complete URL")]);
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
            let beginning = format!("handler.headers.{name}: lapwing sets this header itself");
            Sections::refused(&[(&text, &beginning)]);
        }
        let headers = "handler.headers";
        Sections::refused(&[
            (
                &http(&format!("{url}\nhandler.headers = {{ \"a b\" = \"x\" }}")),
                &format!("{headers}.\"a b\": is not a header name"),
            ),
            (
                &http(&format!(
                    "{url}\nhandler.headers = {{ Lapwing-Queue = \"x\" }}"
                )),
                &format!("{headers}.Lapwing-Queue: names that begin with `lapwing-` are reserved"),
            ),
            (
                &http(&format!("{url}\nhandler.headers = {{ a = \"x\\ny\" }}")),
                &format!("{headers}.a: has a value that no header can carry"),
            ),
            (
                &http(&format!(
                    "{url}\nhandler.headers = {{ a = \"x\", A = \"y\" }}"
                )),
                &format!("{headers}.a: is set twice"),
            ),
            (
                &http(&format!("{url}\nhandler.connect_timeout = \"0s\"")),
                "handler.connect_timeout: is 0s, must be 1ms",
            ),
            (
                &http(&format!("{url}\nhandler.ca_file = \"{pem}\"")),
                "handler.ca_file: needs TLS",
            ),
            (
                &http("handler.url = \"https://a/\"\nhandler.ca_file = \"/missing\""),
                "handler.ca_file: cannot read /missing",
            ),
        ]);
        Sections::allowed(&[
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
