//! A message as a JSON object.

use std::{io::Write, ops::Range};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Serialize;

use crate::{
    decode,
    handler::{
        Context,
        about::{self, Known},
    },
};

/// The bytes to reserve for what is written about a message, beside its body.
const ABOUT: usize = 512;

/// How a body is written. A body that is written neither way is written in base64, as `body_base64`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::handler) enum Bodies {
    /// `body` is a string, if the body is text in UTF-8.
    Text,
    /// `body` is the body itself, if the body is JSON.
    Json,
}

/// The bytes to reserve for this message.
pub(in crate::handler) fn room(context: &Context) -> usize {
    let body = context.message().body().len();
    ABOUT + body + body / 8
}

/// Adds the objects of these messages, with commas between them. `ids`: one for each.
pub(in crate::handler) fn all(
    mut bytes: Vec<u8>,
    ids: Range<u64>,
    contexts: &[Context],
    bodies: Bodies,
) -> Vec<u8> {
    bytes.reserve(contexts.iter().map(room).sum());
    for (number, (id, context)) in ids.zip(contexts).enumerate() {
        if number > 0 {
            bytes.push(b',');
        }
        bytes = message(bytes, id, context, bodies);
    }
    bytes
}

/// Adds the object of a message.
pub(in crate::handler) fn message(
    bytes: Vec<u8>,
    id: u64,
    context: &Context,
    bodies: Bodies,
) -> Vec<u8> {
    let message = context.message();
    let properties = message.properties();
    let mut object = Object::begin(bytes, id);
    for (name, value) in about::facts(context) {
        match value {
            Known::Text(text) => object.add(name.key, text),
            Known::Number(number) => object.add(name.key, &number),
            Known::Flag(flag) => object.add(name.key, &flag),
        }
    }
    for (key, value) in [
        ("content_type", properties.content_type()),
        ("content_encoding", properties.content_encoding()),
    ] {
        if let Some(value) = value {
            object.add(key, value);
        }
    }
    let trace = {
        // The call for several messages is in the trace of one of them.
        let own = context.attempt_trace();
        let _current = own.map(|own| own.context.attach());
        about::trace(context)
    };
    for (key, value) in trace {
        object.add(key, &value);
    }
    let (headers, cut) = about::headers(properties, None);
    object.add("headers", &headers);
    if let Some(list) = cut.text() {
        object.add("cut_headers", list);
    }
    match bodies {
        Bodies::Text => object.body(message.body()),
        Bodies::Json => object.json_body(decode::as_json(message), message.body()),
    }
    object.end()
}

/// A JSON object that is being written.
pub(in crate::handler) struct Object(Vec<u8>);

impl Object {
    /// Begins an object with this id, behind what `bytes` holds.
    pub(in crate::handler) fn begin(mut bytes: Vec<u8>, id: u64) -> Self {
        // Writing to memory does not fail.
        let _ = write!(bytes, "{{\"id\":{id}");
        Self(bytes)
    }

    /// Adds a key. Its name needs no escapes.
    pub(in crate::handler) fn add(&mut self, key: &str, value: &(impl Serialize + ?Sized)) {
        self.key(key);
        let written = serde_json::to_writer(&mut self.0, value);
        debug_assert!(written.is_ok(), "texts, numbers and JSON can be written");
    }

    fn key(&mut self, key: &str) {
        self.0.extend_from_slice(b",\"");
        self.0.extend_from_slice(key.as_bytes());
        self.0.extend_from_slice(b"\":");
    }

    /// The body as text if it is UTF-8, or else in base64.
    pub(in crate::handler) fn body(&mut self, body: &[u8]) {
        match std::str::from_utf8(body) {
            Ok(text) => self.add("body", text),
            Err(_) => self.base64(body),
        }
    }

    /// The body as it is if it is JSON, or else in base64.
    fn json_body(&mut self, json: Option<&[u8]>, body: &[u8]) {
        match json {
            Some(json) => {
                self.key("body");
                self.0.extend_from_slice(json);
            }
            None => self.base64(body),
        }
    }

    fn base64(&mut self, body: &[u8]) {
        self.add("body_base64", &STANDARD.encode(body));
    }

    pub(in crate::handler) fn end(mut self) -> Vec<u8> {
        self.0.push(b'}');
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        broker::Properties,
        decode::{BodySettings, Decode},
        handler::samples,
    };

    #[test]
    fn a_body_that_is_no_text_is_written_in_base64() {
        let object = |body: &[u8]| {
            let mut object = Object::begin(Vec::new(), 1);
            object.body(body);
            String::from_utf8(object.end()).unwrap()
        };
        assert_eq!(
            object(b"a\n\0\""),
            "{\"id\":1,\"body\":\"a\\n\\u0000\\\"\"}"
        );
        assert_eq!(object(b"\xff"), "{\"id\":1,\"body_base64\":\"/w==\"}");
    }

    /// What is no JSON must not become a part of the JSON around it.
    #[tokio::test]
    async fn a_body_is_a_part_of_the_json_only_if_it_is_json_as_a_whole() {
        let written = |body: &[u8], encoding: Option<&str>| {
            let mut properties = Properties::new("m1", None, None, &[]);
            if let Some(encoding) = encoding {
                properties = properties.with_content_encoding(encoding);
            }
            let settings = BodySettings {
                unpack: false,
                ..BodySettings::default()
            };
            let sample = samples::Sample::read(properties, body, Decode::Bytes, &settings);
            let context = sample.context();
            let bytes = message(Vec::new(), 7, &context, Bodies::Json);
            let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
            (value["body"].clone(), value["body_base64"].clone())
        };
        let none = serde_json::Value::Null;
        let json = serde_json::json!({ "a": [1, "\u{1f426}\n"] });
        let text = json.to_string();
        assert_eq!(written(text.as_bytes(), None), (json, none.clone()));
        for (body, base64) in [
            (&b""[..], ""),
            (b"abc", "YWJj"),
            (b"1},{\"id\":8", "MX0seyJpZCI6OA=="),
            (b"1 2", "MSAy"),
            (b"\"a\nb\"", "ImEKYiI="),
            (b"\"\xff\"", "Iv8i"),
        ] {
            assert_eq!(
                written(body, None),
                (none.clone(), base64.into()),
                "{body:?}"
            );
        }
        assert_eq!(written(b"1", Some("gzip")), (none, "MQ==".into()));
    }

    #[tokio::test]
    async fn messages_stand_in_their_order_with_ids_of_their_own() {
        let contexts: Vec<_> = ["1", "[2]"]
            .map(|body| {
                let properties = Properties::new("same", None, None, &[]);
                samples::context(properties, body.as_bytes(), Decode::Bytes)
            })
            .into();
        let bytes = all(b"[".to_vec(), 5..7, &contexts, Bodies::Json);
        let text = String::from_utf8(bytes).unwrap() + "]";
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let ids: Vec<_> = value
            .as_array()
            .unwrap()
            .iter()
            .map(|it| &it["id"])
            .collect();
        assert_eq!(ids, [5, 6]);
        assert_eq!(value[1]["body"], serde_json::json!([2]));
        assert_eq!(value[0]["message_id"], "same");
    }
}
