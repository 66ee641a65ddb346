//! Certificates, and secrets that are rotated.

use std::{fs, path::Path, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};
use tempfile::TempDir;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::handler::{HeaderFile, http::reach};

pub(super) type Authority = CertifiedIssuer<'static, KeyPair>;

pub(super) fn authority() -> Authority {
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn params() -> CertificateParams {
    CertificateParams::new(["localhost".to_owned()]).unwrap()
}

/// A certificate of the authority, and its key, as PEM.
pub(super) fn issued(by: &Authority) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let certificate = params().signed_by(&key, by).unwrap();
    (certificate.pem(), key.serialize_pem())
}

pub(super) fn acceptor(
    (certificate, key): &(String, String),
    clients: Option<&Authority>,
) -> TlsAcceptor {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .unwrap();
    let config = match clients {
        None => config.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(authority.der().clone()).unwrap();
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            config.with_client_cert_verifier(verifier.unwrap())
        }
    };
    let mut config = config.with_single_cert(vec![certificate], key).unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

pub(super) fn written(folder: &Path, name: &str, text: &str) -> Option<std::path::PathBuf> {
    let file = folder.join(name);
    fs::write(&file, text).unwrap();
    Some(file)
}

fn local(server: &Server) -> HttpHandlerSettings {
    settings(format!("https://localhost:{}/", server.port))
}

#[tokio::test]
async fn authorities_are_read_again_when_they_have_changed() {
    let folder = TempDir::new().unwrap();
    let [old, new] = [authority(), authority()];
    let tls = acceptor(&issued(&new), None);
    let server = Server::start(Some(tls), |_| Say::ok()).await;
    let settings = HttpHandlerSettings {
        ca_file: written(folder.path(), "ca", &old.pem()),
        ..local(&server)
    };
    let handler = HttpHandler::new(&settings).unwrap();
    let refused = failure(&handler, plain()).await;
    assert!(refused.error.contains("peer certificate"), "{refused:?}");

    written(folder.path(), "ca", &format!("{}{}", old.pem(), new.pem()));
    pass(Duration::from_secs(1)).await;
    assert_eq!(run(&handler, plain()).await, Outcome::Succeeded);
}

#[tokio::test]
async fn files_that_cannot_be_used_leave_what_was_read_before() {
    let folder = TempDir::new().unwrap();
    let authority = authority();
    let tls = acceptor(&issued(&authority), None);
    let server = Server::start(Some(tls), |_| Say::ok()).await;
    let settings = HttpHandlerSettings {
        ca_file: written(folder.path(), "ca", &authority.pem()),
        ..local(&server)
    };
    let handler = HttpHandler::new(&settings).unwrap();
    fs::remove_file(folder.path().join("ca")).unwrap();
    for _ in 0..2 {
        pass(Duration::from_secs(61)).await;
        assert_eq!(run(&handler, plain()).await, Outcome::Succeeded);
    }
}

#[tokio::test]
async fn a_rotated_header_is_read_again_when_the_service_refuses_the_old_one() {
    let folder = TempDir::new().unwrap();
    let server = Server::answering(|asked| match asked.header("authorization") {
        "Bearer new" => Say::ok(),
        _ => Say::status("401 Unauthorized", ""),
    })
    .await;
    let header = HeaderFile {
        file: written(folder.path(), "token", "old\n").unwrap(),
        prefix: "Bearer ".to_owned(),
    };
    let settings = HttpHandlerSettings {
        header_files: [("authorization".to_owned(), header)].into(),
        ..settings(server.url())
    };
    let handler = HttpHandler::new(&settings).unwrap();
    let refused = failure(&handler, plain()).await;
    assert_eq!((refused.status, server.asked().len()), (Some(401), 1));

    written(folder.path(), "token", "new\n");
    pass(Duration::from_secs(1)).await;
    assert_eq!(run(&handler, plain()).await, Outcome::Succeeded);
    assert_eq!(server.asked()[1].header("lapwing-attempt"), "1");
}

#[tokio::test]
async fn a_self_signed_certificate_in_ca_file_is_trusted_for_its_own_name_only() {
    let folder = TempDir::new().unwrap();
    // As `openssl req -x509` makes it.
    let self_signed = |mut params: CertificateParams| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        (pem, key.serialize_pem())
    };
    let good = self_signed(params());
    let mut params = params();
    params.not_after = rcgen::date_time_ymd(2000, 1, 1);
    params.not_before = rcgen::date_time_ymd(1999, 1, 1);
    let expired = self_signed(params);
    let other = self_signed(CertificateParams::new(["elsewhere".to_owned()]).unwrap());
    for (shown, trusted, problem) in [
        (&good, &good, ""),
        (&good, &other, "certificate"),
        (&other, &other, "elsewhere"),
        (&expired, &expired, "expired"),
    ] {
        let server = Server::start(Some(acceptor(shown, None)), |_| Say::ok()).await;
        let settings = HttpHandlerSettings {
            ca_file: written(folder.path(), "ca", &trusted.0),
            ..local(&server)
        };
        let handler = HttpHandler::new(&settings).unwrap();
        match run(&handler, plain()).await {
            Outcome::Succeeded => assert_eq!(problem, ""),
            Outcome::Failed(failure) => {
                assert!(
                    !problem.is_empty() && failure.error.contains(problem),
                    "{failure:?}"
                );
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_server_that_asks_for_a_certificate_gets_that_of_the_settings() {
    let folder = TempDir::new().unwrap();
    let authority = authority();
    let tls = acceptor(&issued(&authority), Some(&authority));
    let server = Server::start(Some(tls), |_| Say::ok()).await;
    let (certificate, key) = issued(&authority);
    let without = HttpHandlerSettings {
        ca_file: written(folder.path(), "ca", &authority.pem()),
        ..local(&server)
    };
    let with = HttpHandlerSettings {
        cert_file: written(folder.path(), "cert", &certificate),
        key_file: written(folder.path(), "key", &key),
        ..without.clone()
    };
    failure(&HttpHandler::new(&without).unwrap(), plain()).await;
    let outcome = run(&HttpHandler::new(&with).unwrap(), plain()).await;
    assert_eq!(outcome, Outcome::Succeeded);
}

#[tokio::test]
async fn the_doctor_reaches_a_server_whose_authority_is_trusted_and_sees_its_certificate() {
    let folder = TempDir::new().unwrap();
    let [trusted, other] = [authority(), authority()];
    let tls = acceptor(&issued(&trusted), None);
    let server = Server::start(Some(tls), |_| Say::ok()).await;
    let by = |authority: &Authority| HttpHandlerSettings {
        ca_file: written(folder.path(), "ca", &authority.pem()),
        ..local(&server)
    };
    let reached = reach::reach(&by(&trusted)).await.unwrap();
    assert_eq!(reached.certificates.len(), 1);
    let error = reach::reach(&by(&other)).await.unwrap_err().to_string();
    assert!(error.contains("TLS: invalid peer certificate"), "{error}");
    assert_eq!(server.asked().len(), 0, "the doctor sends no request");
}
