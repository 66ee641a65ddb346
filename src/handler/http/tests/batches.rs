//! Batches over HTTP.

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::{tls::written, tokens::Login, *};
use crate::{
    flight::HandlerResult,
    handler::{batch::BatchSettings, http::signature::Signer},
};

/// A handler whose batches are full with so many messages, and wait for as many.
fn batching(url: String, size: u16) -> HttpHandler {
    let batch = BatchSettings {
        size,
        max_wait: DEADLINE,
        ..BatchSettings::default()
    };
    let settings = HttpHandlerSettings {
        batch,
        ..settings(url)
    };
    HttpHandler::new(&settings).unwrap()
}

fn with_body(body: &[u8]) -> Context {
    let properties = Properties::new("same", None, None, &[]);
    context(properties, body, Decode::Auto)
}

/// The outcomes of these bodies, which run at once.
async fn run_all(handler: &HttpHandler, bodies: &[&str]) -> Vec<Outcome> {
    let runs = bodies
        .iter()
        .map(|body| run(handler, with_body(body.as_bytes())));
    join_all(runs).await
}

fn messages(asked: &Asked) -> Vec<Value> {
    serde_json::from_slice(&asked.body).unwrap()
}

/// An answer with this body.
fn answer(body: &Value) -> Say {
    let body = body.to_string();
    let length = body.len();
    Say::text(&format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}"
    ))
}

/// All messages of the request succeed.
fn good(asked: &Asked) -> Say {
    let outcome = |message: &Value| json!({ "id": message["id"], "outcome": "succeeded" });
    let outcomes: Vec<_> = messages(asked).iter().map(outcome).collect();
    answer(&json!({ "outcomes": outcomes }))
}

/// A server that says this about requests with a message whose body is `"bad"`.
async fn with_bad(bad: Say) -> Server {
    Server::answering(move |asked| {
        let is_bad = |message: &Value| message["body"] == "bad";
        match messages(asked).iter().any(is_bad) {
            true => bad.clone(),
            false => good(asked),
        }
    })
    .await
}

#[tokio::test]
async fn a_request_has_all_messages_and_the_answer_an_outcome_for_each() {
    let server = Server::answering(|asked| {
        let ids: Vec<_> = messages(asked).iter().map(|it| it["id"].clone()).collect();
        answer(&json!({ "outcomes": [
            { "id": ids[2], "outcome": "permanent", "error": "no", "class": "order" },
            { "id": ids[0], "outcome": "succeeded", "result": "done", "content_type": "a/b" },
            { "id": ids[1], "outcome": "unavailable", "after": 2 },
        ] }))
    })
    .await;
    let handler = batching(server.url(), 3);
    let contexts = [&b"{\"a\": [1]}"[..], b"\"x\"", b"\xff"].map(with_body);
    contexts[0].outbox().begin(true);
    let runs = contexts.iter().map(|it| run(&handler, it.clone()));
    let outcomes = join_all(runs).await;
    let unavailable = Failure::unavailable("http", "no error was given");
    let unavailable = unavailable.retry_after(Duration::from_secs(2));
    let expected = [
        Outcome::Succeeded,
        Outcome::Failed(unavailable),
        Outcome::Failed(Failure::permanent("order", "no")),
    ];
    assert_eq!(outcomes, expected);
    let result = contexts[0].outbox().take().result;
    let done = HandlerResult {
        body: b"done".to_vec(),
        content_type: Some("a/b".to_owned()),
    };
    assert_eq!(result, Some(done));

    let asked = server.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].header("content-type"), "application/json");
    assert_eq!(asked[0].header("lapwing-batch"), "3");
    let messages = messages(&asked[0]);
    assert_eq!(messages[0]["body"], json!({ "a": [1] }));
    assert_eq!(messages[1]["body"], "x");
    assert_eq!(
        (&messages[2]["body"], &messages[2]["body_base64"]),
        (&Value::Null, &json!("/w=="))
    );
    for message in &messages {
        assert_eq!(message["message_id"], "same");
        assert_eq!(
            (&message["attempt"], &message["queue"]),
            (&json!(1), &json!("q"))
        );
    }
}

#[tokio::test]
async fn one_bad_message_is_found_however_the_service_fails() {
    let half = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"outcomes\":[";
    let long = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: 2000000\r\n\r\n{}",
        " ".repeat(2_000_000)
    );
    let chunks = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_owned()
        + &format!("10000\r\n{}\r\n", " ".repeat(0x10000)).repeat(32);
    let cases = [
        (Say::Close, "http-request", true),
        (Say::status("500 Oops", ""), "http", true),
        (Say::status("400 Bad", ""), "http", false),
        (Say::status("413 Long", ""), "http", false),
        (Say::ok(), "http-answer", true),
        (answer(&json!("fine")), "http-answer", true),
        (answer(&json!({ "outcomes": null })), "http-answer", true),
        (Say::Last(half.as_bytes().to_vec()), "http-answer", true),
        (Say::Bytes(long.into_bytes()), "http-answer", true),
        // It never ends.
        (Say::Bytes(chunks.into_bytes()), "http-answer", true),
    ];
    for (say, class, is_retried) in cases {
        let server = with_bad(say.clone()).await;
        let handler = batching(server.url(), 8);
        let bodies = ["1", "2", "\"bad\"", "4", "5", "6", "7", "8"];
        let mut outcomes = run_all(&handler, &bodies).await;
        let Outcome::Failed(failure) = outcomes.remove(2) else {
            panic!("{class}: {outcomes:?}");
        };
        assert_eq!((&*failure.class, failure.retryable), (class, is_retried));
        assert!(!failure.unavailable, "{failure:?}");
        assert_eq!(outcomes, vec![Outcome::Succeeded; 7], "{failure:?}");
    }
}

#[tokio::test]
async fn a_service_that_is_down_is_asked_once_and_no_message_is_at_fault() {
    for status in ["429 Slow", "502 Gone", "503 Full", "504 Late", "407 Proxy"] {
        let say = Say::status(status, "retry-after: 3\r\n");
        let server = Server::answering(move |_| say.clone()).await;
        let handler = batching(server.url(), 8);
        for outcome in run_all(&handler, &["1"; 8]).await {
            let Outcome::Failed(failure) = outcome else {
                panic!("{outcome:?}");
            };
            assert!(failure.unavailable, "{failure:?}");
            assert_eq!(failure.retry_after, Some(Duration::from_secs(3)));
        }
        assert_eq!(server.asked().len(), 1, "{status}");
    }
    // Nothing listens on a socket that is only bound, and nobody else gets its port.
    let bound = tokio::net::TcpSocket::new_v4().unwrap();
    bound.bind(([127, 0, 0, 1], 0).into()).unwrap();
    let address = bound.local_addr().unwrap();
    let handler = batching(format!("http://{address}/"), 8);
    for outcome in run_all(&handler, &["1"; 8]).await {
        let Outcome::Failed(failure) = outcome else {
            panic!("{outcome:?}");
        };
        assert!(failure.unavailable, "{failure:?}");
        assert_eq!(failure.class, "http-connect");
    }
}

#[tokio::test]
async fn each_request_has_a_token_and_a_signature_and_no_batch_is_halved_for_want_of_a_token() {
    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let folder = tempfile::TempDir::new().unwrap();
    let login = Login::giving("").await;
    let server = Server::answering(|asked| {
        let signer = Signer::new(SECRET).unwrap();
        let [id, time] = ["webhook-id", "webhook-timestamp"].map(|name| asked.header(name));
        let signature = signer.signature(id, time, &asked.body);
        let is_signed = !id.is_empty() && asked.header("webhook-signature") == signature;
        match is_signed && asked.header("authorization") == "Bearer t2" {
            true => good(asked),
            false => Say::status("401 Unauthorized", ""),
        }
    })
    .await;
    let settings = HttpHandlerSettings {
        oauth: Some(login.settings.clone()),
        connect_timeout: DEADLINE,
        signing_file: written(folder.path(), "s", SECRET),
        batch: BatchSettings {
            size: 8,
            max_wait: DEADLINE,
            ..BatchSettings::default()
        },
        ..settings(server.url())
    };
    let handler = HttpHandler::new(&settings).unwrap();
    for outcome in run_all(&handler, &["1"; 8]).await {
        let Outcome::Failed(failure) = outcome else {
            panic!("{outcome:?}");
        };
        assert!(failure.unavailable, "{failure:?}");
        assert_eq!(failure.class, "http-token");
    }
    assert_eq!(server.asked().len(), 1);
    pass(Duration::from_secs(10)).await;
    let outcomes = run_all(&handler, &["1"; 8]).await;
    assert_eq!(outcomes, vec![Outcome::Succeeded; 8]);
    assert_eq!((server.asked().len(), login.server.asked().len()), (3, 2));
}

#[tokio::test]
async fn a_connection_that_was_idle_for_too_long_is_replaced_in_the_same_call() {
    let server = Server::answering(|asked| match asked.earlier {
        0 => good(asked),
        // The server closes the idle connection as the request comes.
        _ => Say::Close,
    })
    .await;
    let handler = batching(server.url(), 2);
    for _ in 0..3 {
        let outcomes = run_all(&handler, &["1", "2"]).await;
        assert_eq!(outcomes, vec![Outcome::Succeeded; 2]);
    }
    let counts: Vec<_> = server
        .asked()
        .iter()
        .map(|asked| asked.header("lapwing-batch").to_owned())
        .collect();
    assert!(counts.iter().all(|count| count == "2"), "{counts:?}");
}

#[tokio::test]
async fn an_answer_to_another_request_acks_nothing() {
    let server = Server::answering(|_| {
        let outcome = |id: u64| json!({ "id": id, "outcome": "succeeded" });
        let outcomes: Vec<_> = (1000..1008).map(outcome).collect();
        answer(&json!({ "outcomes": outcomes }))
    })
    .await;
    let handler = batching(server.url(), 4);
    for outcome in run_all(&handler, &["1"; 4]).await {
        let Outcome::Failed(failure) = outcome else {
            panic!("{outcome:?}");
        };
        assert_eq!(failure.class, "http-answer");
        assert!(failure.retryable && !failure.unavailable, "{failure:?}");
    }
    // The answer was one, so there are no halves.
    assert_eq!(server.asked().len(), 1);
}

#[tokio::test]
async fn two_workers_give_their_messages_different_ids() {
    let server = Server::answering(good).await;
    for _ in 0..2 {
        let handler = batching(server.url(), 2);
        let outcomes = run_all(&handler, &["1", "2"]).await;
        assert_eq!(outcomes, vec![Outcome::Succeeded; 2]);
    }
    let ids: Vec<u64> = server
        .asked()
        .iter()
        .flat_map(messages)
        .map(|it| it["id"].as_u64().unwrap())
        .collect();
    assert!(ids.iter().all(|id| *id < 1 << 53), "{ids:?}");
    assert_eq!((ids[0] + 1, ids[2] + 1), (ids[1], ids[3]));
    assert!(ids[0].abs_diff(ids[2]) > 1, "{ids:?}");
}

#[tokio::test]
async fn the_answer_to_many_messages_may_be_longer_than_that_to_one() {
    let server = Server::answering(|asked| {
        let result = "x".repeat(40_000);
        let outcome = |message: &Value| json!({ "id": message["id"], "outcome": "succeeded", "result": result });
        let outcomes: Vec<_> = messages(asked).iter().map(outcome).collect();
        answer(&json!({ "outcomes": outcomes }))
    })
    .await;
    let handler = batching(server.url(), 32);
    let outcomes = run_all(&handler, &["1"; 32]).await;
    assert_eq!(outcomes, vec![Outcome::Succeeded; 32]);
    assert_eq!(server.asked().len(), 1);
}
