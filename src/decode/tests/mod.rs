//! What the handler sees, for each kind of body.

mod events;
mod packed;
mod schemas;

use std::io::Write;

use flate2::{Compression, write};
use serde_json::{Value, json};

use super::*;
use crate::{
    broker::{Delivery, HeaderValue, Moment, Properties},
    config::samples::file,
};

fn message_of(properties: Properties, body: &[u8]) -> Message {
    let delivery = Delivery {
        tag: 1,
        received: Moment::now(),
        exchange: String::new(),
        routing_key: "q".to_owned(),
        redelivered: false,
        properties,
        body: body.to_vec(),
    };
    Message::new(delivery, "q".into())
}

/// A message of JSON with this encoding.
fn packed(encoding: &str, body: &[u8]) -> Message {
    let properties = Properties::new("m1", Some("application/json"), None, &[]);
    message_of(properties.with_content_encoding(encoding), body)
}

/// A message with this content type and these headers.
fn typed(content_type: Option<&str>, headers: &[(&str, &str)], body: &[u8]) -> Message {
    let headers = headers.iter();
    let headers = headers.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let headers: Vec<_> = headers.collect();
    message_of(Properties::new("m1", content_type, None, &headers), body)
}

fn settings() -> BodySettings {
    BodySettings::default()
}

fn events() -> BodySettings {
    BodySettings {
        cloud_events: CloudEvents::Auto,
        ..settings()
    }
}

fn read(settings: &BodySettings, message: &Message) -> Result<Seen, Failure> {
    let reader = Reader::new(Decode::Auto, settings).unwrap();
    reader
        .read(message, true, false)
        .map_err(|unread| match unread {
            Unread::Failed(failure) => failure,
            Unread::TakesLong => panic!("only a look at once takes long"),
        })
}

/// The error of a message that cannot be read.
fn error(settings: &BodySettings, message: &Message) -> String {
    let failure = read(settings, message).unwrap_err();
    assert!(failure.undecodable && !failure.retryable, "{failure:?}");
    failure.error
}

fn gzip(body: &[u8]) -> Vec<u8> {
    let mut packer = write::GzEncoder::new(Vec::new(), Compression::default());
    packer.write_all(body).unwrap();
    packer.finish().unwrap()
}

fn zlib(body: &[u8]) -> Vec<u8> {
    let mut packer = write::ZlibEncoder::new(Vec::new(), Compression::default());
    packer.write_all(body).unwrap();
    packer.finish().unwrap()
}

fn deflate(body: &[u8]) -> Vec<u8> {
    let mut packer = write::DeflateEncoder::new(Vec::new(), Compression::default());
    packer.write_all(body).unwrap();
    packer.finish().unwrap()
}

fn zstd(body: &[u8]) -> Vec<u8> {
    zstd::encode_all(body, 3).unwrap()
}

const BODY: &[u8] = br#"{"id": 1}"#;

#[test]
fn a_plain_message_is_seen_as_it_is() {
    let seen = read(&events(), &typed(Some("application/json"), &[], BODY)).unwrap();
    assert!(seen.message.is_none() && seen.is_json && !seen.is_event);
}

#[test]
fn at_once_the_reader_does_little_work() {
    let long = format!("\"{}\"", "x".repeat(LONG)).into_bytes();
    let reader = Reader::new(Decode::Auto, &events()).unwrap();
    let at_once = |message: &Message| reader.read(message, true, true).map(|_| ());
    let event = [("cloudEvents:type", "a")];
    let structured = "application/cloudevents+json";
    for takes_long in [
        packed("gzip", &gzip(&long)),
        packed("gzip", &long),
        typed(Some(structured), &[], &long),
    ] {
        assert_eq!(at_once(&takes_long), Err(Unread::TakesLong));
    }
    assert_eq!(at_once(&packed("gzip", &gzip(BODY))), Ok(()));
    // Nothing is done with these but what is done with each message.
    assert_eq!(
        at_once(&typed(Some("application/json"), &[], &long)),
        Ok(())
    );
    assert_eq!(at_once(&packed("br", &long)), Ok(()));
    let failed = at_once(&typed(None, &event, &long));
    assert!(matches!(failed, Err(Unread::Failed(_))), "{failed:?}");
}
