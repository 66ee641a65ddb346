//! `handler = { … }`: what runs for each message.

use std::{collections::BTreeMap, fmt, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::secret::{Secret, redact, serialize_redacted};

/// `handler = { kind = "http", … }`: what runs for each message.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HandlerSettings {
    /// Which kind; the others of these settings belong to one kind each. Default: `none`.
    pub kind: HandlerKind,
    /// `http`: where to POST each message. Required there. A password or query in it never prints.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "serialize_redacted"
    )]
    pub url: Option<String>,
    /// `http`: headers to send with every request; their values never print.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, Secret>,
    /// `http`: the longest wait for a TCP (and TLS) connection. Default: 5 s. The whole request is
    /// bounded by the consumer's `timeout`.
    #[serde(with = "humantime_serde", skip_serializing_if = "Option::is_none")]
    pub connect_timeout: Option<Duration>,
    /// `http`: a PEM file with certificate authorities to trust beside the system's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
}

impl fmt::Debug for HandlerSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HandlerSettings")
            .field("kind", &self.kind)
            .field("url", &self.url.as_deref().map(redact))
            .field("headers", &self.headers)
            .field("connect_timeout", &self.connect_timeout)
            .field("ca_file", &self.ca_file)
            .finish()
    }
}

/// The kinds of handler that a file can name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HandlerKind {
    /// No handler here: one is registered in code, or every type has its own.
    #[default]
    None,
    /// POST the body to a URL.
    Http,
    /// Write the message to the log and ack it.
    Log,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_and_header_values_never_print() {
        let handler = HandlerSettings {
            kind: HandlerKind::Http,
            url: Some("http://u:s3cret@localhost/orders?token=s3cret".to_owned()),
            headers: BTreeMap::from([("authorization".to_owned(), Secret::from("s3cret"))]),
            ..HandlerSettings::default()
        };
        let shown = format!("{handler:?} {}", serde_json::to_string(&handler).unwrap());
        assert!(!shown.contains("s3cret"), "{shown}");
        assert!(
            shown.contains("http://u:***@localhost/orders?***"),
            "{shown}"
        );
    }
}
