//! `[broker.tls]`.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::urls::BrokerUrl;
use crate::{
    config::{Findings, KeyPath},
    pem,
};

/// PEM files for `amqps://` URLs. Without such a URL they are refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TlsSettings {
    /// Certificate authorities to trust, in addition to the system's. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "/run/secrets/ca.pem")]
    pub ca_file: Option<PathBuf>,
    /// Whether to trust the system's certificate authorities too. `false` needs `ca_file`. With `true`
    /// each of some hundred public authorities could issue a certificate to a false broker.
    /// Default: `true`.
    pub system_authorities: bool,
    /// The client certificate, or its chain, for brokers that ask for one. Needs `key_file`.
    /// Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "/run/secrets/client.pem")]
    pub cert_file: Option<PathBuf>,
    /// The key of the client certificate, PKCS#8, without a passphrase. Needs `cert_file`. Default:
    /// none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "/run/secrets/client.key")]
    pub key_file: Option<PathBuf>,
}

impl Default for TlsSettings {
    fn default() -> Self {
        Self {
            ca_file: None,
            system_authorities: true,
            cert_file: None,
            key_file: None,
        }
    }
}

impl TlsSettings {
    pub(super) fn check(&self, findings: &mut Findings, urls: &[BrokerUrl]) {
        let section = KeyPath::of("broker.tls");
        let Self {
            ca_file,
            system_authorities,
            cert_file,
            key_file,
        } = self;
        // A URL that cannot be parsed may have been meant as `amqps://`.
        let may_use_tls = urls.is_empty()
            || urls
                .iter()
                .any(|BrokerUrl { url, .. }| url.as_ref().is_none_or(|url| url.scheme() != "amqp"));
        let files = [
            ("ca_file", ca_file),
            ("cert_file", cert_file),
            ("key_file", key_file),
        ];
        for (key, file) in files {
            let Some(file) = file else { continue };
            let path = section.key(key);
            match key {
                "key_file" => pem::check_private_key(findings, &path, file),
                _ => pem::check_certificates(findings, &path, file),
            }
            if !may_use_tls {
                let others = urls.iter().map(|url| url.path.clone());
                let message = "needs TLS, but no broker URL begins with amqps://";
                findings.contradiction(path, others, message);
            }
        }
        if !system_authorities && ca_file.is_none() {
            let message = "is false, so `ca_file` is needed: no server would be trusted";
            let others = [section.key("ca_file")];
            findings.contradiction(section.key("system_authorities"), others, message);
        }
        let (lone, missing) = match (cert_file, key_file) {
            (Some(_), None) => ("cert_file", "key_file"),
            (None, Some(_)) => ("key_file", "cert_file"),
            _ => return,
        };
        let others = [section.key(missing)];
        findings.contradiction(section.key(lone), others, format!("needs `{missing}` too"));
    }
}

#[cfg(test)]
mod tests {
    use crate::broker::settings::{BrokerSettings, PublishSettings};
    use crate::config::samples::{CERTIFICATE, KEY, Sample, file, sections};

    sections!({
        broker: BrokerSettings, publish: PublishSettings
    }, |it, findings| it.broker.check(findings, &it.publish));

    #[test]
    fn certificates_need_tls_and_one_another() {
        let pem = file(&format!("{CERTIFICATE}{KEY}"));
        let pem = pem.path().display();
        let with = |url: &str, files: &[&str]| {
            let files = files
                .iter()
                .map(|key| format!("broker.tls.{key} = \"{pem}\"\n"));
            format!("broker.url = {url}\n{}", files.collect::<String>())
        };
        let (plain, tls) = ("\"amqp://a\"", "\"amqps://a\"");
        Sections::allowed(&[
            &with(tls, &["ca_file", "cert_file", "key_file"]),
            &with("[\"amqp://a\", \"amqps://b\"]", &["ca_file"]),
        ]);
        Sections::refused(&[
            (&with(plain, &["ca_file"]), "broker.tls.ca_file: needs TLS"),
            (
                &with(tls, &["cert_file"]),
                "broker.tls.cert_file: needs `key_file`",
            ),
            (
                &with(tls, &["key_file"]),
                "broker.tls.key_file: needs `cert_file`",
            ),
            (
                "broker.url = \"amqps://a\"\nbroker.tls.system_authorities = false",
                "broker.tls.system_authorities: is false, so `ca_file` is needed",
            ),
            (
                "broker.url = \"amqps://a\"\nbroker.tls.ca_file = \"/missing\"",
                "broker.tls.ca_file: cannot read /missing",
            ),
        ]);
    }
}
