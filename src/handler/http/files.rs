//! The files that a handler's settings name. They are read again while the worker runs, because
//! secrets are rotated.

use std::{collections::BTreeMap, fs, path::Path};

use reqwest::header::{HeaderMap, HeaderName, HeaderValue};

use super::{HttpHandlerSettings, signature::Signer};
use crate::{
    config::Secret,
    tls::{self, Pem},
};

/// The content of all files at one moment.
#[derive(Default, PartialEq)]
pub(super) struct Files {
    pub(super) ca: Option<Vec<u8>>,
    pub(super) cert: Option<Vec<u8>>,
    pub(super) key: Option<Vec<u8>>,
    /// Headers whose values come from files, by name.
    headers: BTreeMap<String, String>,
    /// The secrets that sign requests.
    pub(super) signing: Option<Secret>,
}

impl Files {
    /// Whether the settings name any file.
    pub(super) fn are_set(settings: &HttpHandlerSettings) -> bool {
        let files = [
            &settings.ca_file,
            &settings.cert_file,
            &settings.key_file,
            &settings.signing_file,
        ];
        files.into_iter().any(Option::is_some) || !settings.header_files.is_empty()
    }

    /// Reads the files.
    ///
    /// # Errors
    /// A text that names the file. It does not quote the file, which may hold a secret.
    pub(super) fn read(settings: &HttpHandlerSettings) -> Result<Self, String> {
        let content = |file: &Path| {
            fs::read(file).map_err(|error| format!("cannot read {}: {error}", file.display()))
        };
        let text = |file: &Path| {
            let text = String::from_utf8(content(file)?);
            text.map_err(|_| format!("{} is not text", file.display()))
        };
        let signing = settings.signing_file.as_deref().map(text).transpose()?;
        let optional = |file: &Option<_>| file.as_deref().map(content).transpose();
        let mut headers = BTreeMap::new();
        for (name, header) in &settings.header_files {
            let text = text(&header.file)?;
            headers.insert(name.clone(), header.value(&text));
        }
        Ok(Self {
            ca: optional(&settings.ca_file)?,
            cert: optional(&settings.cert_file)?,
            key: optional(&settings.key_file)?,
            headers,
            signing: signing.as_deref().map(Secret::from),
        })
    }

    /// The TLS configuration for one generation of connections.
    ///
    /// # Errors
    /// If a certificate or the key cannot be used.
    pub(super) fn tls(
        &self,
        system: bool,
    ) -> Result<rustls::ClientConfig, Box<dyn std::error::Error + Send + Sync>> {
        let files = Pem {
            ca: self.ca.as_deref(),
            cert: self.cert.as_deref(),
            key: self.key.as_deref(),
        };
        let mut config = tls::config(files, system)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }

    /// What signs the requests, if the settings name a file for it.
    ///
    /// # Errors
    /// What is wrong with the file. The text does not quote it.
    pub(super) fn signer(&self, settings: &HttpHandlerSettings) -> Result<Option<Signer>, String> {
        let signing = self.signing.as_ref().zip(settings.signing_file.as_ref());
        let signer = signing.map(|(text, file)| {
            let signer = Signer::new(text.expose());
            signer.map_err(|error| format!("{}: {error}", file.display()))
        });
        signer.transpose()
    }

    /// The headers of every request: those of the settings, and those whose values are in files.
    ///
    /// # Errors
    /// If a name or value cannot be sent. The text names the header only.
    pub(super) fn headers(&self, settings: &HttpHandlerSettings) -> Result<HeaderMap, String> {
        let written = settings.headers.iter();
        let written = written.map(|(name, value)| (name, value.expose()));
        let read = self.headers.iter();
        let read = read.map(|(name, value)| (name, value.as_str()));
        let mut headers = HeaderMap::new();
        for (name, value) in written.chain(read) {
            let unusable = || format!("header {name:?} cannot be sent");
            let key = HeaderName::try_from(name.as_str()).map_err(|_| unusable())?;
            let mut value = HeaderValue::from_str(value).map_err(|_| unusable())?;
            value.set_sensitive(true);
            headers.insert(key, value);
        }
        Ok(headers)
    }
}
