//! Files that hold certificates or a key.

use std::path::Path;

use rustls::pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{self, PemObject},
};

use super::Findings;
use crate::config::problem::KeyPath;

impl Findings {
    /// A file with one certificate in PEM or several.
    pub(super) fn certificates(&mut self, path: &KeyPath, file: &Path) {
        self.pem::<CertificateDer<'_>>(path, file, "certificate");
    }

    /// A file with a private key in PEM.
    pub(super) fn private_key(&mut self, path: &KeyPath, file: &Path) {
        self.pem::<PrivateKeyDer<'_>>(path, file, "private key without a passphrase");
    }

    fn pem<T: PemObject>(&mut self, path: &KeyPath, file: &Path, what: &str) {
        let Some(text) = self.text_file(path, file) else {
            return;
        };
        let mut items = T::pem_slice_iter(text.as_bytes()).peekable();
        let file = file.display();
        if items.peek().is_none() {
            self.add(path.clone(), format!("{file} holds no {what}, as PEM"));
        } else if items.any(|item: Result<T, pem::Error>| item.is_err()) {
            // The error would quote the file, which may hold a key.
            self.add(path.clone(), format!("{file} is not whole as PEM"));
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::validate::tests::{CERTIFICATE, KEY, allowed, file, orders, refused};

    #[test]
    fn files_hold_the_pem_that_their_key_asks_for() {
        let [no_pem, certificate, key, both, cut] = [
            "hello",
            CERTIFICATE,
            KEY,
            &format!("our authority\n{CERTIFICATE}{CERTIFICATE}{KEY}"),
            &format!("{CERTIFICATE}-----BEGIN CERTIFICATE-----\ns3cret"),
        ]
        .map(file);
        let [no_pem, certificate, key, both, cut] =
            [&no_pem, &certificate, &key, &both, &cut].map(|file| file.path().display());
        let ca = |file| format!("broker = {{ url = \"amqps://a\", tls.ca_file = \"{file}\" }}");
        let client = |certificate, key| {
            format!(
                "broker.url = \"amqps://a\"\n\
                 broker.tls = {{ cert_file = \"{certificate}\", key_file = \"{key}\" }}"
            )
        };
        let handler = |file| {
            orders(&format!(
                "handler = {{ kind = \"http\", url = \"https://a\", ca_file = \"{file}\" }}"
            ))
        };
        allowed(&[
            &ca(&certificate),
            &ca(&both),
            &client(&certificate, &key),
            &client(&both, &both),
            &handler(&both),
        ]);
        let at_handler = "consumers.orders.handler.ca_file";
        let no_key = "holds no private key without a passphrase, as PEM";
        for (text, problem) in [
            (
                ca(&no_pem),
                format!("broker.tls.ca_file: {no_pem} holds no certificate, as PEM"),
            ),
            (
                ca(&key),
                format!("broker.tls.ca_file: {key} holds no certificate, as PEM"),
            ),
            (
                ca(&cut),
                format!("broker.tls.ca_file: {cut} is not whole as PEM"),
            ),
            (
                client(&no_pem, &key),
                format!("broker.tls.cert_file: {no_pem} holds no certificate, as PEM"),
            ),
            (
                client(&certificate, &no_pem),
                format!("broker.tls.key_file: {no_pem} {no_key}"),
            ),
            (
                client(&certificate, &certificate),
                format!("broker.tls.key_file: {certificate} {no_key}"),
            ),
            (
                handler(&no_pem),
                format!("{at_handler}: {no_pem} holds no certificate, as PEM"),
            ),
        ] {
            refused(&[(&text, &problem)]);
        }
    }
}
