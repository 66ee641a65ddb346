//! `handler = { kind = "http" }`.

mod headers;
mod oauth;

use std::{collections::BTreeMap, fmt, path::PathBuf, sync::Arc, time::Duration};

use reqwest::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};
use url::Url;

use super::{HTTP_CLASSES, HttpHandler, answer, reach, signature::Signer};
use crate::{
    config::{Findings, HOUR, KIND, KeyPath, Secret, Span, redact},
    handler::{Handler, HandlerError, HandlerFuture, Reached, kind::Kind},
    outcome::Outcome,
    pem::ClientFiles,
};
pub use headers::HeaderFile;
pub use oauth::{OAuthSettings, SecretIn};

/// The handler POSTs each message to a URL. A status 2xx is a success. The statuses 407, 408, 425,
/// 429 and 5xx, any other error status with `Retry-After`, connection errors and timeouts are
/// retried. Any other status dead-letters the message, redirects included.
///
/// A request has the message's body, its `content-type` and `content-encoding`, and these headers
/// about the message: `lapwing-message-id`, `lapwing-attempt` (from 1), `lapwing-queue`,
/// `lapwing-exchange` (not for the default exchange), `lapwing-routing-key`, `lapwing-type`,
/// `lapwing-redelivered`, `lapwing-correlation-id`, `lapwing-reply-to`, `lapwing-app-id`,
/// `lapwing-user-id`, `lapwing-timestamp` (seconds since 1970), `lapwing-priority`,
/// `lapwing-expiration` (milliseconds), `traceparent` and `tracestate`. A property that the message
/// does not have has no header. With `decode = "json"` the content type is `application/json` if
/// the message names none or another one. The handler does not send a `content_encoding` that is no
/// compression: a charset (`utf-8`), `7bit`, `8bit` or `binary`.
///
/// The message's own headers have the names `lapwing-header-NAME`: the first 64, as long as they
/// fit into 6 KiB, and at most 4 KiB of each value, because servers refuse requests with more.
/// `lapwing-cut-headers` names those that are missing, cut or changed, with spaces between them. If
/// the server still answers 431, the handler sends the request once more without them, in the same
/// attempt.
///
/// The status decides the outcome, as soon as the handler has it. The handler reads at most 64 KiB
/// of the response's body, for at most 2 s, and keeps 2 KiB for the error. If `forward` takes the
/// result, a success counts only once its whole body has arrived, of at most 1 MiB. `Retry-After` is
/// a number of seconds or a date; a date in the past does not count.
///
/// The handler keeps idle connections for 4 s, and replaces all connections after a minute: so it
/// follows a service that moves to another address. On HTTP/2 it sends a PING each 5 s. If a
/// connection that was used before breaks before the answer, the handler sends the request once more
/// on a new connection, in the same attempt: servers close idle connections at any time. So a
/// request can arrive twice, as a message can.
///
/// The handler reads `ca_file`, `cert_file`, `key_file`, `header_files` and `signing_file` again each
/// minute, and also after a failed handshake and after 401 or 403. If they have changed, it then sends
/// the request once more.
///
/// With `oauth` each request has a token of an OAuth 2 server, by client credentials. The keys of the
/// table: `token_url`, `client_id` and `client_secret_file` are required, `scope` and `audience` are
/// sent if they are set, and `secret_in` says where the id and the secret stand: `header` (the
/// default) or `body`. The handler keeps a token until shortly before its end, and asks for the next one
/// once at a time. If the service answers 401, the handler asks for another token and sends the request
/// once more, in the same attempt. If the server gives no token within `connect_timeout`, the service
/// counts as unavailable. The handler reaches the server as it reaches the service: with the same
/// authorities, client certificate and proxies. Neither tokens nor secrets are ever logged.
///
/// With `signing_file` each request is signed as [Standard Webhooks](https://www.standardwebhooks.com)
/// has it: `webhook-id` is the message-id, `webhook-timestamp` the time of the request, and
/// `webhook-signature` has a signature of both and the body by each secret. A message without an id
/// gets another `webhook-id` in each request. Characters of the id that are not visible ASCII, `"` and
/// `%` are sent as `%` and two digits.
///
/// The handler uses the proxy that the environment names: `HTTP_PROXY` for `http://` URLs,
/// `HTTPS_PROXY` for `https://` (by CONNECT), `ALL_PROXY` for both. Names in lower case work too;
/// upper case takes precedence. The proxy's URL is `http://`, with `user:password@` if the proxy
/// asks for them. With a SOCKS proxy every request fails. Loopback addresses and `localhost` go
/// through the proxy like all others. `NO_PROXY` lists the hosts that the handler reaches directly,
/// separated by commas: names (with all names below them), addresses, and networks such as
/// `127.0.0.0/8`. The handler compares these with the URL as it is written: `localhost` does not
/// stand for `127.0.0.1`, and `*` stands for all names, but for no address. The worker reads the
/// environment at its start, and warns of proxies and exceptions that cannot work, as `lapwing config
/// check` does. Errors name the proxy. Connections to the broker do not use a proxy.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("required" = ["url"]))]
pub struct HttpHandlerSettings {
    /// Where the handler POSTs each message: an `http://` or `https://` URL. Its password and query
    /// never print; put a secret in a header rather than in the path. Required.
    #[serde(skip_serializing_if = "String::is_empty", serialize_with = "redacted")]
    #[schemars(example = "http://127.0.0.1:8000/orders")]
    pub url: String,
    /// Headers to send with every request, as a table. Their values never print. `content-type`
    /// replaces the message's. Lapwing writes `host`, `traceparent`, `lapwing-*` and the like itself,
    /// and refuses them here. Default: none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(with = "BTreeMap<String, String>", example = example_headers())]
    pub headers: BTreeMap<String, Secret>,
    /// Headers whose values are in files, such as a token that is rotated: a table for each header,
    /// with `file` and, if the file does not hold the whole value, `prefix`. The handler drops white
    /// space around the file's text. Default: none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(
        with = "BTreeMap<String, BTreeMap<String, String>>",
        example = example_header_files()
    )]
    pub header_files: BTreeMap<String, HeaderFile>,
    /// The longest wait for a connection, TLS included. The consumer's `timeout` limits the whole
    /// request. Too low: a slow server is treated as dead. Too high: a dead server is noticed late.
    /// Default: `5s`.
    #[serde(with = "Span::<1, HOUR>")]
    pub connect_timeout: Duration,
    /// A PEM file with certificate authorities to trust, in addition to the system's, for `https://`.
    /// Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "/run/secrets/handler-ca.pem")]
    pub ca_file: Option<PathBuf>,
    /// Whether to trust the system's certificate authorities too. `false` needs `ca_file`. Default:
    /// `true`.
    pub system_authorities: bool,
    /// A PEM file with the client certificate, or its chain, for a server that asks for one. Needs
    /// `key_file`. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "/run/secrets/client.pem")]
    pub cert_file: Option<PathBuf>,
    /// A PEM file with the key of the client certificate, without a passphrase. Needs `cert_file`.
    /// Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "/run/secrets/client.key")]
    pub key_file: Option<PathBuf>,
    /// The OAuth 2 server that gives the handler its tokens, as a table. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<BTreeMap<String, String>>", example = oauth::example())]
    pub oauth: Option<OAuthSettings>,
    /// A file with the secrets that sign requests: `whsec_` and Base64 of 24 to 64 bytes, one a line. To
    /// change a secret, add a line for the new one, and remove the old one when the service knows the
    /// new one. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "/run/secrets/webhook")]
    pub signing_file: Option<PathBuf>,
    /// Whether an answer counts only if it repeats the request's header `lapwing-delivery`, which is
    /// different in each request; any other answer is retried. For services, or proxies before them,
    /// that may answer a request twice on HTTP/1.1: the second answer would be taken for the next
    /// request's, and would ack a message that the service never handled. HTTP/2 does not need this.
    /// Default: `false`.
    pub echo: bool,
}

fn example_header_files() -> BTreeMap<&'static str, HeaderFile> {
    let token = HeaderFile {
        file: "/run/secrets/token".into(),
        prefix: "Bearer ".to_owned(),
    };
    BTreeMap::from([("authorization", token)])
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
            header_files: BTreeMap::new(),
            connect_timeout: Duration::from_secs(5),
            ca_file: None,
            system_authorities: true,
            cert_file: None,
            key_file: None,
            oauth: None,
            signing_file: None,
            echo: false,
        }
    }
}

impl fmt::Debug for HttpHandlerSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpHandlerSettings")
            .field("url", &redact(&self.url))
            .field("headers", &self.headers)
            .field("header_files", &self.header_files)
            .field("connect_timeout", &self.connect_timeout)
            .field("ca_file", &self.ca_file)
            .field("system_authorities", &self.system_authorities)
            .field("cert_file", &self.cert_file)
            .field("key_file", &self.key_file)
            .field("oauth", &self.oauth)
            .field("signing_file", &self.signing_file)
            .field("echo", &self.echo)
            .finish()
    }
}

impl Kind for HttpHandlerSettings {
    fn make(&self, _: u16) -> Result<Arc<dyn Handler>, HandlerError> {
        Ok(Arc::new(HttpHandler::new(self)?))
    }

    fn reach(&self) -> HandlerFuture<'_, Result<Reached, HandlerError>> {
        Box::pin(reach::reach(self))
    }

    fn judge(
        &self,
        class: Option<&str>,
        status: Option<u16>,
        retry_after: Option<Duration>,
    ) -> Option<Outcome> {
        if let Some(status) = status {
            let status = StatusCode::from_u16(status).ok()?;
            return Some(match status.is_success() {
                true => Outcome::Succeeded,
                false => Outcome::Failed(answer::refusal(status, retry_after, String::new())),
            });
        }
        let mut known = HTTP_CLASSES.into_iter();
        let class = known.find(|known| class == Some(known) && known.starts_with("http-"))?;
        Some(Outcome::Failed(answer::no_answer(class, String::new())))
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
        let token_needs_tls = self.oauth.as_ref().is_some_and(OAuthSettings::needs_tls);
        let plain = (is_plain && !token_needs_tls).then(|| {
            let message = "needs TLS, but the URL begins with http://";
            (message, vec![path.key("url")])
        });
        let files = ClientFiles {
            ca: self.ca_file.as_deref(),
            system_authorities: self.system_authorities,
            cert: self.cert_file.as_deref(),
            key: self.key_file.as_deref(),
        };
        files.check(findings, path, plain);
        headers::check(findings, path, self);
        if let Some(oauth) = &self.oauth {
            oauth.check(findings, &path.key("oauth"));
        }
        if let Some(file) = &self.signing_file {
            let path = path.key("signing_file");
            if let Some(text) = findings.text_file(&path, file)
                && let Err(error) = Signer::new(&text)
            {
                findings.add(path, format!("{}: {error}", file.display()));
            }
        }
    }
}

#[cfg(test)]
mod tests;
