//! Checks of files that hold certificates or a key.

use std::path::Path;

use rustls::pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{self, PemObject},
};

use crate::config::{Findings, KeyPath};

/// What a TLS client trusts and shows: `ca_file`, `system_authorities`, `cert_file` and `key_file` of
/// some settings.
pub(crate) struct ClientFiles<'a> {
    pub(crate) ca: Option<&'a Path>,
    pub(crate) system_authorities: bool,
    pub(crate) cert: Option<&'a Path>,
    pub(crate) key: Option<&'a Path>,
}

impl ClientFiles<'_> {
    /// Checks each file, that some authority is trusted, and that a certificate comes with its key.
    /// `plain`: why TLS is never used, and the settings that say so.
    pub(crate) fn check(
        &self,
        findings: &mut Findings,
        section: &KeyPath,
        plain: Option<(&str, Vec<KeyPath>)>,
    ) {
        let files = [
            ("ca_file", self.ca),
            ("cert_file", self.cert),
            ("key_file", self.key),
        ];
        for (name, file) in files {
            let Some(file) = file else { continue };
            let path = section.key(name);
            match name {
                "key_file" => check_private_key(findings, &path, file),
                _ => check_certificates(findings, &path, file),
            }
            if let Some((message, others)) = &plain {
                findings.contradiction(path, others.clone(), *message);
            }
        }
        if !self.system_authorities && self.ca.is_none() {
            let message = "is false, so `ca_file` is needed: no server would be trusted";
            let others = [section.key("ca_file")];
            findings.contradiction(section.key("system_authorities"), others, message);
        }
        let (lone, missing) = match (self.cert, self.key) {
            (Some(_), None) => ("cert_file", "key_file"),
            (None, Some(_)) => ("key_file", "cert_file"),
            _ => return,
        };
        let others = [section.key(missing)];
        findings.contradiction(section.key(lone), others, format!("needs `{missing}` too"));
    }
}

/// Checks a PEM file with one or more certificates.
fn check_certificates(findings: &mut Findings, path: &KeyPath, file: &Path) {
    check::<CertificateDer<'_>>(findings, path, file, "certificate");
}

/// Checks a PEM file with a private key.
fn check_private_key(findings: &mut Findings, path: &KeyPath, file: &Path) {
    check::<PrivateKeyDer<'_>>(findings, path, file, "private key without a passphrase");
}

fn check<T: PemObject>(findings: &mut Findings, path: &KeyPath, file: &Path, what: &str) {
    let Some(text) = findings.text_file(path, file) else {
        return;
    };
    let mut items = T::pem_slice_iter(text.as_bytes()).peekable();
    let file = file.display();
    if items.peek().is_none() {
        findings.add(
            path.clone(),
            format!("{file} holds no {what} in PEM format"),
        );
    } else if items.any(|item: Result<T, pem::Error>| item.is_err()) {
        // The error's own text would quote the file, which may hold a key.
        findings.add(path.clone(), format!("{file} is not complete PEM"));
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::config::samples::{CERTIFICATE, KEY, Sample, file, sections};

    sections!({ certificate: Option<PathBuf>, key: Option<PathBuf> }, |it, findings| {
        if let Some(file) = &it.certificate {
            check_certificates(findings, &KeyPath::of("certificate"), file);
        }
        if let Some(file) = &it.key {
            check_private_key(findings, &KeyPath::of("key"), file);
        }
    });

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
        for (setting, file) in [
            ("certificate", &certificate),
            ("certificate", &both),
            ("key", &key),
            ("key", &both),
        ] {
            Sections::allowed(&[&format!("{setting} = \"{file}\"")]);
        }
        let no_certificate = "holds no certificate in PEM format";
        let no_key = "holds no private key without a passphrase in PEM format";
        for (setting, file, problem) in [
            ("certificate", &no_pem, no_certificate),
            ("certificate", &key, no_certificate),
            ("certificate", &cut, "is not complete PEM"),
            ("key", &no_pem, no_key),
            ("key", &certificate, no_key),
        ] {
            let text = format!("{setting} = \"{file}\"");
            Sections::refused(&[(&text, &format!("{setting}: {file} {problem}"))]);
        }
    }
}
