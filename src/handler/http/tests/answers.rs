//! What follows from each answer.

use super::*;

#[tokio::test]
async fn a_status_counts_however_odd_the_rest_of_its_head_is() {
    let many: String = (0..150).map(|n| format!("x-{n}: 1\r\n")).collect();
    let odd = [
        "a name: 1\r\n",
        "folded: 1\r\n 2\r\n",
        "spaced : 1\r\n",
        "value: \x7f\r\n",
        "value: \x01\r\n",
        many.as_str(),
    ];
    for lines in odd {
        let answer = Say::status("200 OK", lines);
        let server = Server::answering(move |_| answer.clone()).await;
        let outcome = run(&handler(server.url()), plain()).await;
        assert_eq!(outcome, Outcome::Succeeded, "{lines:?}");
    }
}

#[tokio::test]
async fn a_server_that_names_a_time_is_asked_again_whatever_its_status() {
    for status in ["307", "400", "403", "409", "413", "423"] {
        for (header, is_retried) in [("retry-after: 1\r\n", true), ("", false)] {
            let answer = Say::status(&format!("{status} X"), header);
            let server = Server::answering(move |_| answer.clone()).await;
            let failure = failure(&handler(server.url()), plain()).await;
            assert_eq!(failure.retryable, is_retried, "{failure:?}");
            let after = is_retried.then_some(Duration::from_secs(1));
            assert_eq!(failure.retry_after, after, "{failure:?}");
        }
    }
}

#[tokio::test]
async fn a_proxys_refusal_is_not_taken_for_the_services() {
    let server = Server::answering(|_| Say::status("407 Denied", "")).await;
    let failure = failure(&handler(server.url()), plain()).await;
    assert!(failure.retryable, "{failure:?}");
    assert_eq!(failure.class, "http-proxy");
}

#[tokio::test]
async fn a_redirect_is_refused_with_the_place_it_names() {
    let answer = Say::status("307 Temporary Redirect", "location: /orders/\r\n");
    let server = Server::answering(move |_| answer.clone()).await;
    let failure = failure(&handler(server.url()), plain()).await;
    assert!(!failure.retryable);
    assert_eq!(failure.error, "HTTP 307 Temporary Redirect to /orders/");
}

#[tokio::test]
async fn a_compressed_error_is_not_shown_as_bytes() {
    let text = "HTTP/1.1 500 Oops\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\n\x1f\x08x";
    let server = Server::answering(move |_| Say::text(text)).await;
    let failure = failure(&handler(server.url()), plain()).await;
    assert!(failure.error.ends_with(": 3 bytes of gzip"), "{failure:?}");
}

#[tokio::test]
async fn an_answer_is_the_result_if_somebody_takes_it_and_only_as_a_whole() {
    let long = "x".repeat(1024 * 1024 + 1);
    let whole = |body: &str| {
        let length = body.len();
        Say::text(&format!(
            "HTTP/1.1 200 OK\r\ncontent-type: a/b\r\ncontent-length: {length}\r\n\r\n{body}"
        ))
    };
    let half = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf";
    for (answer, wanted, wrong) in [
        (whole("priced"), true, None),
        (whole("priced"), false, None),
        (whole(&long), false, None),
        (whole(&long), true, Some((false, "is longer than"))),
        (Say::Last(half.into()), true, Some((true, "breaks off"))),
    ] {
        let server = Server::answering(move |_| answer.clone()).await;
        let context = plain();
        context.outbox().begin(wanted);
        let outcome = run(&handler(server.url()), context.clone()).await;
        match wrong {
            None => assert_eq!(outcome, Outcome::Succeeded),
            Some((retryable, text)) => {
                let Outcome::Failed(failure) = outcome else {
                    panic!("{outcome:?}");
                };
                assert_eq!((failure.retryable, &*failure.class), (retryable, "result"));
                assert!(failure.error.contains(text), "{failure:?}");
            }
        }
        let result = context.outbox().take().result;
        let result = result.map(|it| (it.body, it.content_type));
        let taken = wanted && wrong.is_none();
        let whole = (b"priced".to_vec(), Some("a/b".to_owned()));
        assert_eq!(result, taken.then_some(whole));
    }
}
