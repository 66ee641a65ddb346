//! Tokens and signatures of requests.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use aws_lc_rs::hmac;
use base64::{Engine, prelude::BASE64_STANDARD};

use super::Setup;
use crate::support::{DEADLINE, HttpHandler, Reply};

#[tokio::test]
async fn a_worker_gets_tokens_and_while_there_are_none_its_service_is_down() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "s3cret\n").unwrap();
    // The server gives no token at first, and then `t2`.
    let asked = Arc::new(AtomicUsize::new(0));
    let login = HttpHandler::answering(move |request| {
        assert_eq!(
            request.header("authorization"),
            "Basic b3JkZXJzOnMzY3JldA=="
        );
        match asked.fetch_add(1, Ordering::Relaxed) + 1 {
            1 => Reply::status(503),
            n => Reply::ok().body(format!(
                "{{\"access_token\": \"t{n}\", \"expires_in\": 3600}}"
            )),
        }
    })
    .await;
    let server = HttpHandler::answering(|request| match request.header("authorization") {
        "Bearer t2" => Reply::ok(),
        _ => Reply::status(401),
    })
    .await;
    let changes = format!(
        "retry = {{ base = '10ms', max_attempts = 1 }}\n\
         handler.oauth = {{ token_url = '{}/token', client_id = 'orders', \
         client_secret_file = {secret:?} }}",
        login.url().trim_end_matches('/'),
    );
    let setup = Setup::new(server, &changes).await;
    let ids = vec![
        setup.vhost.publish("q", "{}").await,
        setup.vhost.publish("q", "{}").await,
    ];
    setup.server.wait_for_success(&ids).await;

    let tokens: Vec<_> = login
        .seen()
        .exchanges
        .iter()
        .map(|it| it.request.path.clone())
        .collect();
    assert!(tokens.iter().all(|path| path == "/token"), "{tokens:?}");
    for exchange in setup.server.seen().exchanges {
        // No attempt without a token was charged.
        assert_eq!(exchange.request.attempt(), 1);
    }
    setup.vhost.wait_for_counts("q.dead", 0, 0, DEADLINE).await;
}

#[tokio::test]
async fn a_request_has_a_signature_that_its_service_can_check() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("secrets");
    std::fs::write(&file, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n").unwrap();
    let key = BASE64_STANDARD
        .decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
        .unwrap();
    let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
    let server = HttpHandler::answering(move |request| {
        let [id, time, signature] = ["webhook-id", "webhook-timestamp", "webhook-signature"]
            .map(|name| request.header(name));
        let signed = [id.as_bytes(), b".", time.as_bytes(), b".", &request.body].concat();
        let signature = signature.strip_prefix("v1,").unwrap_or_default();
        let signature = BASE64_STANDARD.decode(signature).unwrap_or_default();
        let is_right =
            id == request.message_id() && hmac::verify(&key, &signed, &signature).is_ok();
        match is_right {
            true => Reply::ok(),
            false => Reply::status(403),
        }
    })
    .await;
    let setup = Setup::new(server, &format!("handler.signing_file = {file:?}")).await;
    let ids = vec![setup.vhost.publish("q", r#"{"test": 2432232314}"#).await];
    setup.server.wait_for_success(&ids).await;
}
