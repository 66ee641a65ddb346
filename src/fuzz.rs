//! What the fuzzer runs. Each function takes any bytes and must not panic. `fuzz/` at the root of the
//! repository has a target and a corpus for each; the tests here replay the corpus.

use crate::{
    Settings,
    broker::{CopyHeaders, Header, HeaderValue, fuzz, headers::names},
    decode::{Decode, Reader},
    doctor, handler,
    message::Message,
    settings::{BodySettings, CloudEvents},
};

/// The byte stream under lapin: the first byte is the size of the pieces in which the rest arrives.
pub fn byte_stream(data: &[u8]) {
    if let Some((size, bytes)) = data.split_first() {
        fuzz::byte_stream(bytes, usize::from(*size) + 1);
    }
}

/// Properties and headers of a message: what a worker reads in them.
pub fn headers(data: &[u8]) {
    let Some(delivery) = fuzz::delivery(data, b"{}") else {
        return;
    };
    let message = Message::new(delivery, "orders".into());
    let properties = message.properties();
    for (_, value) in properties.headers() {
        let _ = (
            value.as_str(),
            value.as_i64(),
            value.to_text(),
            value.to_json(),
        );
    }
    // No worker has written the message, or this worker has: then the headers are believed.
    let is_copy = properties.header(names::FIRST_SEEN).is_some();
    assert!(is_copy || message.attempts_before() == 0);
    let _ = (message.early_by(), message.expired_by(), message.trace_id());
    assert!(message.exchange().len() <= 255 && message.routing_key().len() <= 255);
    let _ = reader(BodySettings::default().unpacked_bytes).read(&message, true, true);
}

/// What reads messages, unpacked up to so many bytes, and events too.
fn reader(unpacked_bytes: u64) -> Reader {
    let settings = BodySettings {
        unpacked_bytes,
        cloud_events: CloudEvents::Auto,
        ..BodySettings::default()
    };
    Reader::without_schema(Decode::Auto, &settings)
}

/// A body: packed, or an event. The first byte says which.
pub fn bodies(data: &[u8]) {
    const MOST: usize = 4096;
    const KINDS: [(&str, Option<&str>); 6] = [
        ("application/json", Some("gzip")),
        ("application/json", Some("deflate")),
        ("application/json", Some("zstd")),
        ("text/plain", Some("gzip, zstd, deflate")),
        ("application/cloudevents+json", None),
        ("application/cloudevents+json", Some("gzip")),
    ];
    let Some((kind, body)) = data.split_first() else {
        return;
    };
    let (content_type, encoding) = KINDS[usize::from(*kind) % KINDS.len()];
    let Some(delivery) = fuzz::delivery(&[0, 0], body) else {
        return;
    };
    let message = Message::new(delivery, "orders".into());
    let properties = message.properties.of_body(Some(content_type), encoding);
    let message = message.with_body(properties, body.to_vec());
    if let Ok(seen) = reader(MOST as u64).read(&message, true, false)
        && let (Some(unpacked), Some(_)) = (seen.message, encoding)
    {
        assert!(unpacked.body().len() <= MOST);
        assert_eq!(unpacked.properties().content_encoding(), None);
    }
}

/// A copy of a message: parked, read again, and dead-lettered.
pub fn copies(data: &[u8]) {
    let Some(delivery) = fuzz::delivery(data, b"{}") else {
        return;
    };
    let original = delivery.properties;
    let parked = CopyHeaders {
        expiration: Some(1_000),
        set: vec![
            (
                names::FIRST_SEEN,
                Header::Text("2026-01-01T00:00:00Z".to_owned()),
            ),
            (names::ATTEMPTS, Header::Int(1)),
        ],
        remove: &[names::NOT_BEFORE],
        comes_back: true,
        is_named: true,
        ..CopyHeaders::default()
    };
    let read = fuzz::copied(&original, &parked);
    assert_eq!(read.user_id(), original.user_id());
    assert_eq!(read.priority(), original.priority());
    assert_eq!(read.message_type(), original.message_type());
    let is_whole = read.header(names::CUT_HEADERS).is_none();
    for (name, value) in original.headers().filter(|_| is_whole) {
        let is_theirs = !name.starts_with("lapwing-") && !name.starts_with("x-");
        if is_theirs && !matches!(name, "CC" | "BCC") {
            let kept = read.header(name).map(HeaderValue::to_json);
            assert_eq!(kept, Some(value.to_json()), "{name}");
        }
    }
    let deaths = |properties: &crate::broker::Properties| {
        properties.header("x-death").map(HeaderValue::to_json)
    };
    assert!(!is_whole || deaths(&read) == deaths(&original), "{read:?}");
    fuzz::copied(&read, &CopyHeaders::default());
}

/// A file of settings.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    // Settings name files, and reading a device may never end.
    if ["/dev", "/proc", "/sys"]
        .iter()
        .any(|folder| text.contains(folder))
    {
        return;
    }
    match Settings::from_toml(text) {
        Err(error) => drop(error.to_string()),
        Ok(settings) => {
            let _ = (
                doctor::at_start(&settings, &doctor::Surroundings::here()),
                toml::to_string(&settings),
                serde_json::to_string(&settings),
            );
        }
    }
}

/// The answer of a service: a status, headers, and a body behind an empty line.
pub fn answers(data: &[u8]) {
    handler::fuzz_answer(data);
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    /// Runs a target on each file of its corpus.
    fn replay(target: &str, run: fn(&[u8])) {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("fuzz/corpus")
            .join(target);
        let mut files = 0;
        for entry in fs::read_dir(&corpus).unwrap() {
            let file = entry.unwrap().path();
            println!("{}", file.display());
            run(&fs::read(&file).unwrap());
            files += 1;
        }
        assert!(files > 5, "{} has {files} files", corpus.display());
    }

    #[test]
    fn the_corpus_of_the_byte_stream_runs() {
        replay("byte_stream", super::byte_stream);
    }

    #[test]
    fn the_corpus_of_headers_runs() {
        replay("headers", super::headers);
    }

    #[test]
    fn the_corpus_of_bodies_runs() {
        replay("bodies", super::bodies);
    }

    #[test]
    fn the_corpus_of_copies_runs() {
        replay("copies", super::copies);
    }

    #[test]
    fn the_corpus_of_settings_runs() {
        replay("config", super::config);
    }

    #[test]
    fn the_corpus_of_answers_runs() {
        replay("answers", super::answers);
    }
}
