//! Tokens of an OAuth 2 server.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tempfile::TempDir;

use super::{tls::written, *};
use crate::handler::{OAuthSettings, SecretIn, http::reach};

/// A server that gives tokens, `t1`, `t2` and so on, and the settings that name it.
struct Login {
    server: Server,
    settings: OAuthSettings,
    _folder: TempDir,
}

impl Login {
    /// `expires`: the end of the answer's JSON.
    async fn giving(expires: &'static str) -> Self {
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
    run(&handler, plain()).await;
    assert_eq!(tokens(&service).last().unwrap(), "Bearer t2");
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
    assert_eq!(run(&handler, plain()).await, Outcome::Succeeded);
    assert_eq!(run(&handler, plain()).await, Outcome::Succeeded);
    assert_eq!(tokens(&service), ["Bearer t1", "Bearer t2", "Bearer t2"]);
    assert_eq!(service.asked()[1].header("lapwing-attempt"), "1");
    assert_eq!(login.server.asked().len(), 2);
}

#[tokio::test]
async fn a_service_that_refuses_each_token_is_asked_twice() {
    let login = Login::giving("").await;
    let service = Server::answering(|_| Say::status("401 Unauthorized", "")).await;
    let failure = failure(&login.handler(&service), plain()).await;
    assert_eq!(failure.status, Some(401));
    assert_eq!(tokens(&service), ["Bearer t1", "Bearer t2"]);
    assert_eq!(login.server.asked().len(), 2);
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
