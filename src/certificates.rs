//! When certificates expire: those of files, and those that a server shows.

use std::{
    fs,
    net::{TcpStream, ToSocketAddrs},
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, Error as TlsError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};

/// A certificate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Certificate {
    /// The name of its owner.
    pub(crate) subject: String,
    /// The beginning and the end of its validity.
    pub(crate) begins: SystemTime,
    pub(crate) expires: SystemTime,
}

/// The certificates of a PEM file. Those that cannot be read are left out.
pub(crate) fn in_file(file: &Path) -> Vec<Certificate> {
    let text = fs::read(file).unwrap_or_default();
    let certificates = CertificateDer::pem_slice_iter(&text);
    certificates
        .filter_map(|der| read(der.ok()?.as_ref()))
        .collect()
}

fn read(der: &[u8]) -> Option<Certificate> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let validity = certificate.validity();
    Some(Certificate {
        subject: certificate.subject().to_string(),
        begins: time(validity.not_before.timestamp())?,
        expires: time(validity.not_after.timestamp())?,
    })
}

/// So many seconds after 1970, or before.
fn time(seconds: i64) -> Option<SystemTime> {
    let distance = Duration::from_secs(seconds.unsigned_abs());
    match seconds >= 0 {
        true => UNIX_EPOCH.checked_add(distance),
        false => UNIX_EPOCH.checked_sub(distance),
    }
}

/// The certificates that a TLS server shows, and why the handshake failed, if it did. Sends nothing
/// after the handshake. Without a `config` any certificate is accepted.
///
/// # Errors
/// When there is no connection.
pub(crate) async fn shown_by(
    host: &str,
    port: u16,
    config: Option<ClientConfig>,
    limit: Duration,
) -> Result<(Vec<Certificate>, Option<String>), String> {
    let host = host.to_owned();
    let shown = tokio::task::spawn_blocking(move || handshake(&host, port, config, limit));
    let shown = tokio::time::timeout(limit.saturating_mul(3), shown).await;
    match shown {
        Ok(Ok(shown)) => shown,
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {:?}", limit.saturating_mul(3))),
    }
}

fn handshake(
    host: &str,
    port: u16,
    config: Option<ClientConfig>,
    limit: Duration,
) -> Result<(Vec<Certificate>, Option<String>), String> {
    let name = ServerName::try_from(host.to_owned()).map_err(|error| error.to_string())?;
    let config = match config {
        Some(config) => config,
        None => accepting_all().map_err(|error| error.to_string())?,
    };
    let mut stream = connect(host, port, limit).map_err(|error| error.to_string())?;
    let mut tls =
        ClientConnection::new(Arc::new(config), name).map_err(|error| error.to_string())?;
    let error = tls.complete_io(&mut stream).err();
    let shown = tls.peer_certificates().unwrap_or_default().iter();
    let shown = shown.filter_map(|der| read(der.as_ref())).collect();
    Ok((shown, error.map(|error| error.to_string())))
}

fn connect(host: &str, port: u16, limit: Duration) -> std::io::Result<TcpStream> {
    let mut last = std::io::Error::other("the name has no address");
    for address in (host, port).to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, limit) {
            Ok(stream) => {
                stream.set_read_timeout(Some(limit))?;
                stream.set_write_timeout(Some(limit))?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Looks at certificates, and trusts none: nothing is sent over its connections.
fn accepting_all() -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let looks = Arc::new(Looks(Arc::clone(&provider)));
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(looks)
        .with_no_client_auth())
}

#[derive(Debug)]
struct Looks(Arc<CryptoProvider>);

impl ServerCertVerifier for Looks {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::samples::file;

    #[test]
    fn a_certificate_says_when_it_expires() {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(["rabbit".to_owned()]).unwrap();
        parameters.not_after = rcgen::date_time_ymd(2031, 2, 3);
        let pem = parameters.self_signed(&key).unwrap().pem();
        let found = in_file(file(&format!("{pem}{pem}nonsense")).path());
        assert_eq!(found.len(), 2);
        let expires = humantime::format_rfc3339_seconds(found[0].expires).to_string();
        assert_eq!(expires, "2031-02-03T00:00:00Z");
        assert_eq!(in_file(Path::new("/missing")), []);
    }
}
