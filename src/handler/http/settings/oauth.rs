//! `oauth`: the server that gives tokens.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use serde::{Deserialize, Serialize};
use url::Url;

use super::redacted;
use crate::config::{Findings, KeyPath, redact};

/// An OAuth 2 server that gives the handler tokens, by client credentials.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OAuthSettings {
    /// Where the handler asks for a token: an `http://` or `https://` URL. Required.
    #[serde(serialize_with = "redacted")]
    pub token_url: String,
    /// The id of the client. Required.
    pub client_id: String,
    /// A file with the secret of the client. It is read for each token. Required.
    pub client_secret_file: PathBuf,
    /// The scopes to ask for, with spaces between them. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// The audience to ask for. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// Where the request for a token has the id and the secret. Default: `header`.
    pub secret_in: SecretIn,
}

/// Where the request for a token has the id and the secret of the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SecretIn {
    /// In the header `authorization`, as each server must take them.
    #[default]
    Header,
    /// In the body.
    Body,
}

impl fmt::Debug for OAuthSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OAuthSettings")
            .field("token_url", &redact(&self.token_url))
            .field("client_id", &self.client_id)
            .field("client_secret_file", &self.client_secret_file)
            .field("scope", &self.scope)
            .field("audience", &self.audience)
            .field("secret_in", &self.secret_in)
            .finish()
    }
}

impl OAuthSettings {
    /// Whether the server is asked over TLS.
    pub(super) fn needs_tls(&self) -> bool {
        Url::parse(&self.token_url).is_ok_and(|url| url.scheme() == "https")
    }

    pub(super) fn check(&self, findings: &mut Findings, path: &KeyPath) {
        let url = Url::parse(&self.token_url);
        if !url.is_ok_and(|url| matches!(url.scheme(), "http" | "https")) {
            let message = "must be a complete URL, such as https://login.example.com/token";
            findings.add(path.key("token_url"), message);
        }
        if self.client_id.is_empty() {
            findings.add(path.key("client_id"), "is required");
        }
        let at_file = path.key("client_secret_file");
        match self.client_secret_file.as_os_str().is_empty() {
            true => findings.add(at_file, "is required"),
            false => drop(findings.text_file(&at_file, &self.client_secret_file)),
        }
    }
}

/// The keys that the reference shows.
pub(super) fn example() -> BTreeMap<&'static str, &'static str> {
    BTreeMap::from([
        ("token_url", "https://login.example.com/token"),
        ("client_id", "orders"),
        ("client_secret_file", "/run/secrets/client"),
        ("scope", "orders.write"),
        ("secret_in", "header"),
    ])
}
