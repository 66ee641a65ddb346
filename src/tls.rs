//! TLS to the server of a handler: whom to trust, and the client certificate to show.

use std::{error::Error, sync::Arc};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore,
    SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};

/// The content of the PEM files that the settings name.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pem<'a> {
    /// Certificate authorities to trust, in addition to the system's.
    pub(crate) ca: Option<&'a [u8]>,
    /// The client certificate, or its chain.
    pub(crate) cert: Option<&'a [u8]>,
    /// The key of the client certificate.
    pub(crate) key: Option<&'a [u8]>,
}

/// The TLS configuration of a client.
///
/// # Errors
/// If a certificate or the key cannot be used. Missing authorities of the system are no error:
/// then each handshake fails, and says so.
pub(crate) fn config(
    files: Pem<'_>,
    system: bool,
) -> Result<ClientConfig, Box<dyn Error + Send + Sync>> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let trusted = certificates(files.ca)?;
    let mut roots = RootCertStore::empty();
    for certificate in &trusted {
        roots.add(certificate.clone())?;
    }
    if system {
        // Certificates of the system that cannot be parsed are left out.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    let authorities = match roots.is_empty() {
        true => None,
        false => {
            let builder =
                WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
            Some(builder.build()?)
        }
    };
    let verifier = Verifier {
        authorities,
        trusted,
        provider: Arc::clone(&provider),
    };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    Ok(match files.key {
        Some(key) => {
            let chain = certificates(files.cert)?;
            config.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key)?)?
        }
        None => config.with_no_client_auth(),
    })
}

fn certificates(
    pem: Option<&[u8]>,
) -> Result<Vec<CertificateDer<'static>>, rustls::pki_types::pem::Error> {
    let pem = pem.unwrap_or_default();
    CertificateDer::pem_slice_iter(pem).collect()
}

/// Trusts what webpki trusts, and a server's certificate that stands in `ca_file` itself.
///
/// `openssl req -x509` makes self-signed certificates that are marked as authorities. webpki refuses
/// such a certificate as a server's, although curl, Python and Node accept it.
#[derive(Debug)]
struct Verifier {
    /// `None`: no authority is known.
    authorities: Option<Arc<WebPkiServerVerifier>>,
    /// The certificates of `ca_file`.
    trusted: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let Some(authorities) = &self.authorities else {
            let text =
                "no certificate authority is known: the system has none, and `ca_file` is not set";
            return Err(TlsError::General(text.to_owned()));
        };
        let verified = authorities.verify_server_cert(certificate, intermediates, name, ocsp, now);
        match verified {
            // webpki has checked the dates before it looks for this.
            Err(error) if is_authority(&error) && self.trusted.contains(certificate) => {
                verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &self.provider.signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

/// Whether webpki refused a server's certificate because it is marked as an authority.
fn is_authority(error: &TlsError) -> bool {
    let TlsError::InvalidCertificate(CertificateError::Other(other)) = error else {
        return false;
    };
    let cause = other.0.downcast_ref::<webpki::Error>();
    cause == Some(&webpki::Error::CaUsedAsEndEntity)
}
