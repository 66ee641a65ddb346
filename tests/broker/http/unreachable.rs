//! Servers that are missing or disconnect, and the certificates that the HTTP handler trusts.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::Setup;
use crate::support::{
    DEADLINE, HttpHandler, Proxy, Reply, WorkerProcess, consumer, field, require, vhost,
};

#[tokio::test]
async fn a_server_that_refuses_connections_is_tried_again() {
    let server = HttpHandler::answering(|_| Reply::ok()).await;
    let proxy = Proxy::to_address(server.address().to_string()).await;
    proxy.refuse().await;
    let changes = format!(
        "handler.url = 'http://{}/'\nretry = {{ base = '200ms', factor = 1.0 }}",
        proxy.address()
    );
    let mut setup = Setup::new(server, &changes).await;
    setup.vhost.publish("q", "x").await;

    let failed = setup
        .worker
        .wait_for_message("attempt failed", DEADLINE)
        .await;
    assert_eq!(setup.server.seen().exchanges.len(), 0);
    proxy.accept_again();

    assert_eq!(field(&failed, "class"), "http-connect");
    let error = field(&failed, "error").as_str().expect("it is text");
    assert!(error.contains("refused"), "{error}");
    let seen = setup.server.wait_for_answered(1, DEADLINE).await;
    assert_eq!(seen.exchanges[0].request.attempt(), 1, "not charged");
    let ledger = setup.worker.drain(DEADLINE).await;
    assert_eq!((ledger.acked, ledger.dead_lettered), (1, 0));
}

#[tokio::test]
async fn a_connection_that_is_reset_is_tried_again() {
    let gate = crate::support::Gate::default();
    let server = HttpHandler::behind(&gate, |_| Reply::ok()).await;
    let proxy = Proxy::to_address(server.address().to_string()).await;
    let changes = format!(
        "handler.url = 'http://{}/'\nretry = {{ base = '10ms' }}",
        proxy.address()
    );
    let mut setup = Setup::new(server, &changes).await;
    setup.vhost.publish("q", "x").await;
    setup.server.wait_for_requests(1, DEADLINE).await;

    proxy.cut().await;
    let failed = setup
        .worker
        .wait_for_message("attempt failed", DEADLINE)
        .await;
    gate.open();

    assert_eq!(field(&failed, "class"), "http-request");
    let second = |seen: &crate::support::exchange::Seen| {
        let attempts = seen
            .exchanges
            .iter()
            .map(|exchange| exchange.request.attempt());
        attempts.eq([1, 2]) && seen.answered == 1
    };
    setup
        .server
        .wait_for("the second attempt's answer", DEADLINE, second)
        .await;
    let ledger = setup.worker.drain(DEADLINE).await;
    assert_eq!((ledger.received, ledger.acked), (1, 1));
}

/// Starts an HTTPS server that answers each request with 204, on its own threads. Returns its port.
fn https_server(certificate: &std::path::Path, key: &std::path::Path) -> u16 {
    let chain: Vec<_> = CertificateDer::pem_file_iter(certificate)
        .expect("the script made it")
        .collect::<Result<_, _>>()
        .expect("it is PEM");
    let key = PrivateKeyDer::from_pem_file(key).expect("the script made it");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider has them")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("they belong together");
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let config = config.clone();
            // An error is a client that does not trust the certificate, as the test expects.
            std::thread::spawn(move || serve(config, socket).ok());
        }
    });
    port
}

fn serve(config: Arc<rustls::ServerConfig>, socket: std::net::TcpStream) -> std::io::Result<()> {
    let tls = rustls::ServerConnection::new(config).map_err(std::io::Error::other)?;
    let mut stream = rustls::StreamOwned::new(tls, socket);
    let (mut request, mut buffer) = (Vec::new(), [0; 4096]);
    while !request.ends_with(b"over TLS") {
        match stream.read(&mut buffer)? {
            0 => return Ok(()),
            read => request.extend_from_slice(&buffer[..read]),
        }
    }
    stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n")?;
    stream.flush()
}

#[tokio::test]
async fn a_server_behind_a_private_authority_is_trusted_by_its_ca_file_only() {
    let vhost = vhost().await;
    let (_, tls) = require!(Tls, vhost.tls());
    let port = https_server(
        &tls.ca.with_file_name("server.pem"),
        &tls.ca.with_file_name("server.key"),
    );
    let url = format!("https://localhost:{port}/");
    let start = |queue: &str, changes: &str| {
        let changes = format!("[consumers.{queue}]\ntimeout = '5s'\n{changes}");
        WorkerProcess::start(&consumer(&vhost, queue).http_at(&url).with(&changes).toml())
    };
    let ca = format!("handler.ca_file = '{}'", tls.ca.display());
    let mut trusting = start("trusting", &ca);
    let mut strict = start("strict", "retry.max_age = '1s'");
    trusting.wait_for_consumers(&vhost, "trusting", 1).await;
    strict.wait_for_consumers(&vhost, "strict", 1).await;

    for queue in ["trusting", "strict"] {
        vhost.publish(queue, "over TLS").await;
    }

    vhost.wait_for_counts("strict.dead", 1, 0, DEADLINE).await;
    vhost.wait_for_counts("trusting", 0, 0, DEADLINE).await;
    assert_eq!(trusting.drain(DEADLINE).await.acked, 1);
    assert_eq!(strict.drain(DEADLINE).await.dead_lettered, 1);
    let dead = vhost.drain_all("strict.dead").await.pop().expect("counted");
    assert_eq!(dead.header("lapwing-error-kind"), "http-connect");
    let error = dead.header("lapwing-error").as_str().expect("it is text");
    assert!(error.contains("certificate"), "{error}");
}

#[tokio::test]
async fn plain_http_needs_no_certificate_authorities() {
    let server = HttpHandler::answering(|_| Reply::ok()).await;
    let vhost = vhost().await;
    let config = consumer(&vhost, "q").http(&server).toml();
    let mut worker = WorkerProcess::start_with(&config, |command| {
        command
            .env("SSL_CERT_FILE", "/nonexistent")
            .env("SSL_CERT_DIR", "/nonexistent");
    });
    worker.wait_for_consumers(&vhost, "q", 1).await;
    vhost.publish("q", "x").await;
    server.wait_for_answered(1, DEADLINE).await;
    assert_eq!(worker.drain(DEADLINE).await.acked, 1);
}

#[tokio::test]
async fn a_refusal_of_the_proxy_is_retried_and_named() {
    let asked = AtomicUsize::new(0);
    let proxy = HttpHandler::answering(move |_| match asked.fetch_add(1, Ordering::Relaxed) {
        0 => Reply::status(407),
        1 => Reply::status(403),
        _ => Reply::ok(),
    })
    .await;
    let vhost = vhost().await;
    let changes = "[consumers.q]\nretry = { base = '10ms', \
                   rules = [{ status = 403, action = 'retry' }] }";
    let config = consumer(&vhost, "q")
        .http_at("http://127.0.0.1:1/")
        .with(changes)
        .toml();
    let mut worker = WorkerProcess::start_with(&config, |command| {
        command.env("HTTP_PROXY", proxy.url());
    });
    worker.wait_for_consumers(&vhost, "q", 1).await;
    vhost.publish("q", "x").await;

    let failed = worker.wait_for_message("attempt failed", DEADLINE).await;
    assert_eq!(field(&failed, "class"), "http-proxy");
    let error = field(&failed, "error").as_str().expect("it is text");
    let named = format!("(by way of the proxy {})", proxy.address());
    assert!(error.contains(&named), "{error}");
    proxy.wait_for_answered(3, DEADLINE).await;
    assert_eq!(worker.drain(DEADLINE).await.acked, 1);
}
