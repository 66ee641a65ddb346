//! Tokens of an OAuth 2 server.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use base64::{Engine, prelude::BASE64_STANDARD};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::{tls::written, *};
use crate::handler::{
    OAuthSettings, SecretIn,
    http::{reach, signature::Signer},
    samples::Sample,
};

/// A server that gives tokens, `t1`, `t2` and so on, and the settings that name it.
pub(super) struct Login {
    pub(super) server: Server,
    pub(super) settings: OAuthSettings,
    _folder: TempDir,
}

impl Login {
    /// `expires`: the end of the answer's JSON.
    pub(super) async fn giving(expires: &'static str) -> Self {
        let count = AtomicUsize::new(0);
        let answer = move |_: &Asked| {
            let number = count.fetch_add(1, Ordering::Relaxed) + 1;
            json(&format!(
                "{{\"access_token\":\"t{number}\",\"token_type\":\"Bearer\"{expires}}}"
            ))
        };
        Self::answering(answer).await
    }

    async fn answering(answer: impl Fn(&Asked) -> Say + Send + Sync + 'static) -> Self {
        let server = Server::answering(answer).await;
        let folder = TempDir::new().unwrap();
        let settings = OAuthSettings {
            token_url: format!("{}token", server.url()),
            client_id: "orders+1".to_owned(),
            client_secret_file: written(folder.path(), "secret", "s3 cret\n").unwrap(),
            ..OAuthSettings::default()
        };
        Self {
            server,
            settings,
            _folder: folder,
        }
    }

    fn handler(&self, service: &Server) -> HttpHandler {
        let settings = HttpHandlerSettings {
            oauth: Some(self.settings.clone()),
            // A busy machine takes its time.
            connect_timeout: DEADLINE,
            ..settings(service.url())
        };
        HttpHandler::new(&settings).unwrap()
    }
}

/// Waits until the server has been asked so often.
async fn until_asked(server: &Server, times: usize) {
    let asked = async {
        while server.asked().len() < times {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, asked).await.expect("the server is asked");
}

fn json(body: &str) -> Say {
    let length = body.len();
    Say::text(&format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}"
    ))
}

fn tokens(server: &Server) -> Vec<String> {
    let asked = server.asked();
    let tokens = asked.iter().map(|asked| asked.header("authorization"));
    tokens.map(str::to_owned).collect()
}

#[tokio::test]
async fn requests_share_a_token_until_shortly_before_its_end() {
    let login = Login::giving(",\"expires_in\":3600").await;
    let service = Server::answering(|_| Say::ok()).await;
    let handler = Arc::new(login.handler(&service));
    let running: Vec<_> = (0..5)
        .map(|_| {
            let handler = Arc::clone(&handler);
            tokio::spawn(async move { run(&handler, plain()).await })
        })
        .collect();
    for run in running {
        assert_eq!(run.await.unwrap(), Outcome::Succeeded);
    }
    assert_eq!(tokens(&service), ["Bearer t1"; 5]);
    assert_eq!(login.server.asked().len(), 1);

    pass(Duration::from_secs(3500)).await;
    run(&handler, plain()).await;
    assert_eq!(login.server.asked().len(), 1);
    pass(Duration::from_secs(71)).await;
    // No request waits for the next token.
    let replaced = async {
        while tokens(&service).last().unwrap() != "Bearer t2" {
            run(&handler, plain()).await;
        }
    };
    timeout(DEADLINE, replaced).await.unwrap();
    assert_eq!(login.server.asked().len(), 2);
}

#[tokio::test]
async fn the_request_for_a_token_is_as_the_settings_say() {
    let mut login = Login::giving("").await;
    let service = Server::answering(|_| Say::ok()).await;
    login.settings.scope = Some("a b".to_owned());
    login.settings.audience = Some("https://shop".to_owned());
    run(&login.handler(&service), plain()).await;
    login.settings.secret_in = SecretIn::Body;
    run(&login.handler(&service), plain()).await;

    let asked = login.server.asked();
    let form = "grant_type=client_credentials&scope=a+b&audience=https%3A%2F%2Fshop";
    assert_eq!(asked[0].path(), "/token");
    assert_eq!(
        asked[0].header("content-type"),
        "application/x-www-form-urlencoded"
    );
    // `orders%2B1:s3+cret`
    let basic = "Basic b3JkZXJzJTJCMTpzMytjcmV0";
    assert_eq!(asked[0].header("authorization"), basic);
    assert_eq!(String::from_utf8_lossy(&asked[0].body), form);
    assert_eq!(asked[1].header("authorization"), "");
    let with_secret = format!("{form}&client_id=orders%2B1&client_secret=s3+cret");
    assert_eq!(String::from_utf8_lossy(&asked[1].body), with_secret);
}

#[tokio::test]
async fn a_token_that_the_service_refuses_is_replaced_in_the_same_attempt() {
    let login = Login::giving(",\"expires_in\":\"3600\"").await;
    let service = Server::answering(|asked| match asked.header("authorization") {
        "Bearer t2" => Say::ok(),
        _ => Say::status("401 Unauthorized", ""),
    })
    .await;
    let handler = login.handler(&service);
    // The server has just been asked.
    assert_eq!(failure(&handler, plain()).await.status, Some(401));
    pass(Duration::from_secs(10)).await;
    assert_eq!(run(&handler, plain()).await, Outcome::Succeeded);
    assert_eq!(run(&handler, plain()).await, Outcome::Succeeded);
    let expected = ["Bearer t1", "Bearer t1", "Bearer t2", "Bearer t2"];
    assert_eq!(tokens(&service), expected);
    assert_eq!(login.server.asked().len(), 2);
}

#[tokio::test]
async fn a_service_that_has_accepted_no_token_is_unavailable() {
    let login = Login::giving("").await;
    let service = Server::answering(|_| Say::status("401 Unauthorized", "")).await;
    let handler = login.handler(&service);
    for sent in [&["Bearer t1"][..], &["Bearer t1", "Bearer t1", "Bearer t2"]] {
        let failure = failure(&handler, plain()).await;
        assert_eq!(failure.status, Some(401));
        assert!(failure.unavailable && failure.retryable, "{failure:?}");
        assert_eq!(failure.class, "http-token");
        assert_eq!(tokens(&service), sent);
        pass(Duration::from_secs(10)).await;
    }
}

#[tokio::test]
async fn a_service_that_refuses_some_messages_gives_no_reason_for_many_tokens() {
    let login = Login::giving(",\"expires_in\":3600").await;
    let service = Server::answering(|asked| match asked.header("lapwing-header-tenant") {
        "bad" => Say::status("401 Unauthorized", ""),
        _ => Say::ok(),
    })
    .await;
    let handler = login.handler(&service);
    let bad = || with_headers(&[("tenant".to_owned(), "bad".to_owned())]);
    for token in 1..=3 {
        assert_eq!(run(&handler, plain()).await, Outcome::Succeeded);
        for _ in 0..5 {
            let failure = failure(&handler, bad()).await;
            assert_eq!((failure.status, &*failure.class), (Some(401), "http"));
            assert!(!failure.unavailable && !failure.retryable, "{failure:?}");
        }
        assert_eq!(login.server.asked().len(), token);
        pass(Duration::from_secs(10)).await;
        // The service has yet to accept the next token.
        assert!(failure(&handler, bad()).await.unavailable);
    }
}

#[tokio::test]
async fn a_token_and_a_file_that_have_changed_together_are_both_used() {
    let folder = TempDir::new().unwrap();
    let [old, new] = [7, 9].map(|byte| format!("whsec_{}", BASE64_STANDARD.encode([byte; 32])));
    let login = Login::giving(",\"expires_in\":3600").await;
    let has_changed = Arc::new(AtomicBool::new(false));
    let (is_new, expected) = (Arc::clone(&has_changed), new.clone());
    let service = Server::answering(move |asked| {
        if !is_new.load(Ordering::Relaxed) {
            return Say::ok();
        }
        let signer = Signer::new(&expected).unwrap();
        let [id, time] = ["webhook-id", "webhook-timestamp"].map(|name| asked.header(name));
        let is_signed =
            asked.header("webhook-signature") == signer.signature(id, time, &asked.body);
        match is_signed && asked.header("authorization") == "Bearer t2" {
            true => Say::ok(),
            false => Say::status("401 Unauthorized", ""),
        }
    })
    .await;
    let settings = HttpHandlerSettings {
        oauth: Some(login.settings.clone()),
        connect_timeout: DEADLINE,
        signing_file: written(folder.path(), "s", &old),
        ..settings(service.url())
    };
    let handler = HttpHandler::new(&settings).unwrap();
    assert_eq!(run(&handler, plain()).await, Outcome::Succeeded);
    pass(Duration::from_secs(10)).await;
    fs::write(folder.path().join("s"), &new).unwrap();
    has_changed.store(true, Ordering::Relaxed);
    assert_eq!(run(&handler, plain()).await, Outcome::Succeeded);
    assert_eq!(tokens(&service), ["Bearer t1", "Bearer t1", "Bearer t2"]);
}

/// The settings of a server that answers only when the test does it.
async fn by_hand() -> (TcpListener, Login) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut login = Login::giving("").await;
    login.settings.token_url = format!("http://{}/", listener.local_addr().unwrap());
    (listener, login)
}

#[tokio::test(start_paused = true)]
async fn while_the_server_gives_no_token_no_attempt_comes_to_its_timeout() {
    let (_listener, login) = by_hand().await;
    let service = Server::answering(|_| Say::ok()).await;
    let message = Sample::with_body(b"{}");
    message.start(Duration::from_secs(3));
    let handler = login.handler(&service);
    let outcome = timeout(Duration::from_secs(2), handler.handle(message.context())).await;
    let Ok(Outcome::Failed(failure)) = outcome else {
        panic!("{outcome:?}");
    };
    assert!(failure.unavailable, "{failure:?}");
    assert_eq!(failure.class, "http-token");
}

#[tokio::test]
async fn the_request_for_a_token_outlives_its_attempt_and_nobody_waits_for_it_while_there_is_one() {
    let (listener, login) = by_hand().await;
    let service = Server::answering(|_| Say::ok()).await;
    let handler = login.handler(&service);
    let (mut stream, _) = tokio::select! {
        biased;
        outcome = run(&handler, plain()) => panic!("{outcome:?}"),
        accepted = listener.accept() => accepted.unwrap(),
    };
    // The attempt is dropped. The next one waits for the answer to its request.
    let answer = r#"{"access_token":"t1","expires_in":3600}"#;
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{answer}",
        answer.len()
    );
    stream.read_u8().await.unwrap();
    stream.write_all(answer.as_bytes()).await.unwrap();
    assert_eq!(run(&handler, plain()).await, Outcome::Succeeded);
    // It is time for the next token, and the server does not answer.
    pass(Duration::from_secs(3580)).await;
    assert_eq!(run(&handler, plain()).await, Outcome::Succeeded);
    assert_eq!(tokens(&service), ["Bearer t1"; 2]);
    timeout(DEADLINE, listener.accept()).await.unwrap().unwrap();
}

#[tokio::test]
async fn without_a_token_the_service_is_unavailable_and_no_secret_is_told() {
    let refused = r#"{"error":"invalid_client","error_description":"s3 cret is wrong"}"#;
    let refused = format!(
        "HTTP/1.1 401 No\r\nretry-after: 7\r\ncontent-length: {}\r\n\r\n{refused}",
        refused.len()
    );
    for (answer, words) in [
        (
            Say::text(&refused),
            "answers HTTP 401 Unauthorized: invalid_client",
        ),
        (
            Say::status("503 Full", ""),
            "answers HTTP 503 Service Unavailable",
        ),
        (
            Say::status("302 Found", "location: /s3cret\r\n"),
            "answers HTTP 302 Found",
        ),
        (
            json("{\"access_token\":\"\"}"),
            "answers without a bearer token",
        ),
        (
            json("{\"access_token\":\"s3\",\"token_type\":\"mac\"}"),
            "answers without a bearer token",
        ),
        (json("s3cret"), "answers without a bearer token"),
        (Say::Close, "gives no answer"),
    ] {
        let login = Login::answering(move |_| answer.clone()).await;
        let service = Server::answering(|_| Say::ok()).await;
        let failure = failure(&login.handler(&service), plain()).await;
        assert!(failure.unavailable, "{failure:?}");
        assert_eq!(failure.class, "http-token");
        let begins = format!("no token: {} {words}", login.settings.token_url);
        assert!(failure.error.starts_with(&begins), "{failure:?}");
        assert!(!failure.error.contains("s3"), "{failure:?}");
        let asked = failure.retry_after.map(|after| after.as_secs());
        assert_eq!(asked, words.contains("invalid_client").then_some(7));
        assert_eq!(service.asked().len(), 0);
    }
}

#[tokio::test]
async fn a_token_is_used_to_its_end_if_there_is_no_other() {
    let count = AtomicUsize::new(0);
    let login = Login::answering(move |_| match count.fetch_add(1, Ordering::Relaxed) {
        0 => json(r#"{"access_token":"t1","expires_in":3600}"#),
        _ => Say::status("503 Full", ""),
    })
    .await;
    let service = Server::answering(|_| Say::ok()).await;
    let handler = login.handler(&service);
    run(&handler, plain()).await;
    pass(Duration::from_secs(3580)).await;
    assert_eq!(run(&handler, plain()).await, Outcome::Succeeded);
    until_asked(&login.server, 2).await;
    assert_eq!(run(&handler, plain()).await, Outcome::Succeeded);
    assert_eq!(
        login.server.asked().len(),
        2,
        "not each request asks for a token"
    );
    pass(Duration::from_secs(30)).await;
    assert_eq!(failure(&handler, plain()).await.class, "http-token");
    assert_eq!(tokens(&service), ["Bearer t1"; 3]);
}

#[tokio::test]
async fn the_secret_of_a_client_is_read_for_each_token() {
    let login = Login::giving(",\"expires_in\":0").await;
    let service = Server::answering(|_| Say::ok()).await;
    let handler = login.handler(&service);
    run(&handler, plain()).await;
    fs::write(&login.settings.client_secret_file, "other").unwrap();
    run(&handler, plain()).await;
    let sent = tokens(&login.server);
    assert_ne!(sent[0], sent[1]);
    fs::remove_file(&login.settings.client_secret_file).unwrap();
    let failure = failure(&handler, plain()).await;
    assert!(failure.error.starts_with("cannot read "), "{failure:?}");
}

#[tokio::test]
async fn the_doctor_asks_for_a_token_and_sends_no_message() {
    let login = Login::giving("").await;
    let service = Server::answering(|_| Say::ok()).await;
    let of = |oauth: &OAuthSettings| HttpHandlerSettings {
        oauth: Some(oauth.clone()),
        connect_timeout: DEADLINE,
        ..settings(service.url())
    };
    assert!(reach::reach(&of(&login.settings)).await.is_ok());
    assert_eq!((login.server.asked().len(), service.asked().len()), (1, 0));
    let wrong = OAuthSettings {
        client_secret_file: "/missing".into(),
        ..login.settings.clone()
    };
    let error = reach::reach(&of(&wrong)).await.unwrap_err().to_string();
    assert!(error.contains("cannot read /missing"), "{error}");
}
