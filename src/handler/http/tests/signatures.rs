//! Signatures as Standard Webhooks has them.

use std::{fs, time::UNIX_EPOCH};

use base64::{Engine, prelude::BASE64_STANDARD};
use tempfile::TempDir;

use super::{tls::written, *};
use crate::{clock, handler::http::signature::Signer};

/// The example of the libraries of Standard Webhooks: `standardwebhooks` for Python signs it like this.
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
const TIME: &str = "1614265330";
const BODY: &[u8] = br#"{"test": 2432232314}"#;
const SIGNATURE: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";

#[test]
fn the_example_of_standard_webhooks_has_its_signature() {
    let signer = Signer::new(SECRET).unwrap();
    assert_eq!(signer.signature(ID, TIME, BODY), SIGNATURE);
    let bare = Signer::new(SECRET.trim_start_matches("whsec_")).unwrap();
    assert_eq!(bare.signature(ID, TIME, BODY), SIGNATURE);
    for (id, time, body) in [
        ("msg_1", TIME, BODY),
        (ID, "1614265331", BODY),
        (ID, TIME, b"{}"),
    ] {
        assert_ne!(signer.signature(id, time, body), SIGNATURE);
    }
}

#[test]
fn a_file_that_does_not_hold_secrets_is_refused_without_quoting_it() {
    let of = |length| format!("whsec_{}", BASE64_STANDARD.encode(vec![7; length]));
    for (text, words) in [
        (String::new(), "holds 0 secrets"),
        (format!("{SECRET}\n").repeat(5), "holds 5 secrets"),
        (
            format!("{SECRET}\n\nwhsec_?"),
            "line 3 is not `whsec_` and Base64",
        ),
        (of(23), "line 1 has 23 bytes"),
        (of(65), "line 1 has 65 bytes"),
    ] {
        let error = Signer::new(&text).map(drop).unwrap_err();
        assert!(error.starts_with(words), "{error}");
    }
    assert!(Signer::new(&of(24)).is_ok() && Signer::new(&of(64)).is_ok());
}

#[tokio::test]
async fn each_request_has_a_signature_by_each_secret_over_what_is_sent() {
    let folder = TempDir::new().unwrap();
    let second = format!("whsec_{}", BASE64_STANDARD.encode([9; 32]));
    let server = Server::answering(|_| Say::ok()).await;
    let settings = HttpHandlerSettings {
        signing_file: written(folder.path(), "s", &format!("{SECRET}\n{second}\n")),
        ..settings(server.url())
    };
    let handler = HttpHandler::new(&settings).unwrap();
    let properties = Properties::new("m.1 \u{e9}%", None, None, &[]);
    let before = clock::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let outcome = run(&handler, context(properties, BODY, Decode::Bytes)).await;
    assert_eq!(outcome, Outcome::Succeeded);

    let asked = &server.asked()[0];
    let id = asked.header("webhook-id");
    assert_eq!(id, "m%2E1%20%C3%A9%25");
    let time = asked.header("webhook-timestamp");
    let seconds: u64 = time.parse().unwrap();
    assert!(
        (before..before + 60).contains(&seconds),
        "{before} {seconds}"
    );
    let both = [SECRET, &second].map(|secret| {
        let signer = Signer::new(secret).unwrap();
        signer.signature(id, time, &asked.body)
    });
    assert_eq!(asked.header("webhook-signature"), both.join(" "));
}

#[tokio::test]
async fn a_secret_that_has_changed_is_used_when_the_service_refuses_the_old_one() {
    let folder = TempDir::new().unwrap();
    let new = format!("whsec_{}", BASE64_STANDARD.encode([9; 32]));
    let expected = new.clone();
    let server = Server::answering(move |asked| {
        let signer = Signer::new(&expected).unwrap();
        let (id, time) = (
            asked.header("webhook-id"),
            asked.header("webhook-timestamp"),
        );
        match asked.header("webhook-signature") == signer.signature(id, time, &asked.body) {
            true => Say::ok(),
            false => Say::status("401 Unauthorized", ""),
        }
    })
    .await;
    let settings = HttpHandlerSettings {
        signing_file: written(folder.path(), "s", SECRET),
        ..settings(server.url())
    };
    let handler = HttpHandler::new(&settings).unwrap();
    assert_eq!(failure(&handler, plain()).await.status, Some(401));
    fs::write(folder.path().join("s"), &new).unwrap();
    pass(Duration::from_secs(1)).await;
    assert_eq!(run(&handler, plain()).await, Outcome::Succeeded);
}
