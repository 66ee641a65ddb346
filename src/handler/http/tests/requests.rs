//! What a request tells about its message.

use super::*;
use crate::{
    config::Secret,
    decode::{BodySettings, CloudEvents},
    handler::samples::Sample,
};

/// The request of a message in one attempt, which succeeds.
async fn asked(settings: HttpHandlerSettings, context: Context) -> Asked {
    let server = Server::answering(|_| Say::ok()).await;
    let settings = HttpHandlerSettings {
        url: server.url(),
        ..settings
    };
    let handler = HttpHandler::new(&settings).unwrap();
    assert_eq!(run(&handler, context).await, Outcome::Succeeded);
    let mut asked = server.asked();
    assert_eq!(asked.len(), 1);
    asked.remove(0)
}

fn typed(content_type: Option<&str>, decode: Decode) -> Context {
    context(
        Properties::new("m1", content_type, None, &[]),
        b"{}",
        decode,
    )
}

#[tokio::test]
async fn a_body_that_was_checked_as_json_is_called_json() {
    for (theirs, decode, sent) in [
        (None, Decode::Json, "application/json"),
        (
            Some("application/octet-stream"),
            Decode::Json,
            "application/json",
        ),
        (
            Some("application/ld+json"),
            Decode::Json,
            "application/ld+json",
        ),
        (None, Decode::Auto, ""),
        (Some("text/csv"), Decode::Auto, "text/csv"),
    ] {
        let asked = asked(HttpHandlerSettings::default(), typed(theirs, decode)).await;
        assert_eq!(asked.header("content-type"), sent, "{theirs:?}");
    }
}

#[tokio::test]
async fn a_content_type_of_the_settings_wins() {
    let name = "content-type".to_owned();
    let settings = HttpHandlerSettings {
        headers: [(name, Secret::from("application/cloudevents+json"))].into(),
        ..HttpHandlerSettings::default()
    };
    for theirs in [None, Some("text/plain")] {
        let asked = asked(settings.clone(), typed(theirs, Decode::Auto)).await;
        let types = asked.head.matches("content-type: ").count();
        assert_eq!(
            (asked.header("content-type"), types),
            ("application/cloudevents+json", 1)
        );
    }
}

#[tokio::test]
async fn a_charset_is_no_compression() {
    let json = "application/json";
    for (theirs, encoding, sent_type, sent_encoding) in [
        (json, "utf-8", json, ""),
        (json, "8bit", json, ""),
        (json, "br", json, "br"),
        (
            "text/plain",
            "iso-8859-1",
            "text/plain; charset=iso-8859-1",
            "",
        ),
    ] {
        let properties = Properties::new("m1", Some(theirs), None, &[]);
        let properties = properties.with_content_encoding(encoding);
        let context = context(properties, b"{}", Decode::Auto);
        let asked = asked(HttpHandlerSettings::default(), context).await;
        assert_eq!(asked.header("content-type"), sent_type, "{encoding}");
        assert_eq!(
            asked.header("content-encoding"),
            sent_encoding,
            "{encoding}"
        );
    }
}

fn header(name: &str, length: usize) -> (String, String) {
    (name.to_owned(), "x".repeat(length))
}

#[tokio::test]
async fn headers_have_less_room_than_servers_have_and_what_is_cut_is_named() {
    let sixty: Vec<_> = (0..60).map(|n| header(&format!("h{n}"), 250)).collect();
    let mut seventy: Vec<_> = (0..70).map(|n| header(&format!("a-{n:02}"), 2)).collect();
    seventy.push(header("tenant-id", 2));
    for (headers, is_cut) in [
        (vec![header("a", 3_000), header("b", 2_000)], false),
        (vec![header("a", 9 * 1024)], true),
        (vec![header("a", 20_000)], true),
        (sixty, true),
        (seventy, true),
    ] {
        let asked = asked(HttpHandlerSettings::default(), with_headers(&headers)).await;
        assert!(asked.head.len() < 8 * 1024, "{} bytes", asked.head.len());
        let longest = asked.head.lines().map(str::len).max();
        assert!(longest < Some(5 * 1024), "{longest:?}");
        let cut: Vec<_> = asked
            .header("lapwing-cut-headers")
            .split_whitespace()
            .collect();
        assert_eq!(!cut.is_empty(), is_cut, "{}", asked.head);
        for (name, value) in &headers {
            let is_whole = asked.header(&format!("lapwing-header-{name}")) == value;
            let is_named = cut.contains(&name.as_str()) || cut.contains(&"...");
            assert!(is_whole || is_named, "{name} is missing from {cut:?}");
        }
    }
}

#[tokio::test]
async fn a_server_that_finds_headers_too_long_is_asked_again_without_them() {
    let server = Server::answering(|asked| match asked.header("lapwing-header-tenant") {
        "" => Say::ok(),
        _ => Say::status("431 Too Large", ""),
    })
    .await;
    let outcome = run(&handler(server.url()), with_headers(&[header("tenant", 2)])).await;
    assert_eq!(outcome, Outcome::Succeeded);
    let second = &server.asked()[1];
    let cut = second.header("lapwing-cut-headers");
    assert!(cut.split(' ').any(|name| name == "tenant"), "{cut:?}");
    assert_eq!(second.header("lapwing-attempt"), "1");
}

#[tokio::test]
async fn a_server_that_finds_even_that_too_long_is_not_asked_a_third_time() {
    let server = Server::answering(|_| Say::status("431 Too Large", "")).await;
    let failure = failure(&handler(server.url()), with_headers(&[header("tenant", 2)])).await;
    assert_eq!((failure.status, server.asked().len()), (Some(431), 2));
}

#[tokio::test]
async fn a_spare_answer_is_not_taken_for_the_next_requests_where_answers_are_echoed() {
    // The second answer on each connection is a spare one: it repeats the first request's mark.
    let last = std::sync::Mutex::new(String::new());
    let server = Server::answering(move |asked| {
        let mark = asked.header("lapwing-delivery").to_owned();
        let (status, mark) = match asked.earlier {
            1 => ("200 OK", last.lock().unwrap().clone()),
            _ => ("400 No", mark),
        };
        *last.lock().unwrap() = mark.clone();
        Say::status(status, &format!("lapwing-delivery: {mark}\r\n"))
    })
    .await;
    let settings = HttpHandlerSettings {
        echo: true,
        ..settings(server.url())
    };
    let handler = HttpHandler::new(&settings).unwrap();
    for _ in 0..4 {
        let failure = failure(&handler, plain()).await;
        assert_eq!(failure.status, Some(400), "{failure:?}");
    }
}

#[tokio::test]
async fn an_answer_without_the_mark_is_retried_where_answers_are_echoed() {
    let server = Server::answering(|_| Say::ok()).await;
    let settings = HttpHandlerSettings {
        echo: true,
        ..settings(server.url())
    };
    let failure = failure(&HttpHandler::new(&settings).unwrap(), plain()).await;
    assert_eq!(
        (failure.class.as_ref(), failure.retryable),
        ("http-echo", true)
    );
    assert_eq!(server.asked().len(), 1);
}

/// A message that is read as an event.
fn event(content_type: &str, headers: &[(&str, &str)], body: &[u8]) -> Context {
    let headers = headers.iter();
    let headers = headers.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let headers: Vec<_> = headers.collect();
    let properties = Properties::new("m1", Some(content_type), None, &headers);
    let settings = BodySettings {
        cloud_events: CloudEvents::Auto,
        ..BodySettings::default()
    };
    Sample::read(properties, body, Decode::Auto, &settings).context()
}

#[tokio::test]
async fn an_event_is_sent_as_cloud_events_over_http_have_it() {
    let headers = [
        ("cloudEvents:specversion", "1.0"),
        ("cloudEvents:id", "e1"),
        ("cloudEvents:type", "order.placed"),
        ("cloudEvents_source", "/shop"),
        ("cloudEvents:subject", "50 % \"off\" \u{e9}"),
        ("tenant", "a"),
    ];
    let body = br#"{"specversion":"1.0","id":"e1","type":"order.placed","source":"/shop",
        "subject":"50 % \"off\" \u00e9","data":{"n":1}}"#;
    for context in [
        event("application/json", &headers, b"{\"n\":1}"),
        event("application/cloudevents+json", &[("tenant", "a")], body),
    ] {
        let asked = asked(HttpHandlerSettings::default(), context).await;
        for (name, value) in [
            ("ce-specversion", "1.0"),
            ("ce-id", "e1"),
            ("ce-type", "order.placed"),
            ("ce-source", "/shop"),
            ("ce-subject", "50%20%25%20%22off%22%20%C3%A9"),
            ("content-type", "application/json"),
            ("lapwing-header-tenant", "a"),
            ("lapwing-message-id", "m1"),
        ] {
            assert_eq!(asked.header(name), value, "{name}: {}", asked.head);
        }
        let theirs = asked.head.to_lowercase();
        assert!(!theirs.contains("lapwing-header-cloudevents"), "{theirs}");
        assert_eq!(asked.body, b"{\"n\":1}");
    }
}

#[tokio::test]
async fn what_an_event_must_have_is_sent_before_what_has_no_room() {
    let long = "x".repeat(7000);
    let headers = [
        ("cloudEvents:specversion", "1.0"),
        ("cloudEvents:id", "e1"),
        ("cloudEvents:type", "t"),
        ("cloudEvents:source", "/shop"),
        ("cloudEvents:a", &long),
    ];
    let asked = asked(HttpHandlerSettings::default(), event("a/b", &headers, b"")).await;
    for name in ["ce-specversion", "ce-id", "ce-type", "ce-source"] {
        assert_ne!(asked.header(name), "", "{name}");
    }
    assert_eq!(asked.header("ce-a"), "");
    assert_eq!(asked.header("lapwing-cut-headers"), "cloudEvents:a");
}
