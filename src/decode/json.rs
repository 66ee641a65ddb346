//! Decides whether a body must be JSON, and checks that it is.

use serde::de::DeserializeOwned;

use super::{
    Decode,
    words::{charset, is_encoded, is_json, is_utf8},
};
use crate::{broker::Properties, message::Message, outcome::Failure};

/// Checks a body that must be JSON, and returns whether it was one. Called for handlers that pass
/// the body on unread. Handlers that parse it (the `Json` extractor) find an error themselves.
pub(super) fn check(message: &Message, decode: Decode) -> Result<bool, Failure> {
    if !must_be(&message.properties, decode) {
        return Ok(false);
    }
    match text(message).and_then(is_json_text) {
        Ok(()) => Ok(true),
        // Services differ in what they take for JSON, and the content type is the publisher's word.
        Err(failure) if decode == Decode::Auto => Err(Failure::undecodable(format!(
            "{}; with `decode = \"bytes\"` the handler gets such bodies too",
            failure.error
        ))),
        Err(failure) => Err(failure),
    }
}

fn is_json_text(body: &[u8]) -> Result<(), Failure> {
    if body.trim_ascii().is_empty() {
        return Err(Failure::undecodable("invalid JSON: the body is empty"));
    }
    // Check the UTF-8 first: a parser that ignores the content does not look into strings.
    std::str::from_utf8(body)
        .map_err(|error| Failure::undecodable(format!("invalid JSON: {error}")))?;
    json::<serde::de::IgnoredAny>(body).map(|_| ())
}

/// Whether a body with these properties must be JSON.
pub(super) fn must_be(properties: &Properties, decode: Decode) -> bool {
    match decode {
        Decode::Json => true,
        Decode::Bytes => false,
        // A body that is still packed is JSON only after unpacking, so it counts as bytes. The same is
        // true of a body in another charset.
        Decode::Auto => {
            properties.content_type().is_some_and(is_json)
                && !properties.content_encoding().is_some_and(is_encoded)
                && charset(properties).is_none_or(is_utf8)
        }
    }
}

/// The body of a message as a JSON parser needs it: in UTF-8, without a byte order mark.
fn text(message: &Message) -> Result<&[u8], Failure> {
    const MARK: &[u8] = b"\xef\xbb\xbf";
    const UTF_16: [&[u8]; 2] = [b"\xff\xfe", b"\xfe\xff"];
    let body = message.body();
    let other = match charset(&message.properties) {
        Some(charset) if !is_utf8(charset) => Some(charset),
        _ if UTF_16.iter().any(|mark| body.starts_with(mark)) => Some("utf-16"),
        _ => None,
    };
    match other {
        Some(charset) => Err(Failure::undecodable(format!(
            "the body is in {charset}, and the worker reads JSON in UTF-8 only"
        ))),
        None => Ok(body.strip_prefix(MARK).unwrap_or(body)),
    }
}

/// The body as it stands in other JSON, if it is JSON: one document, in UTF-8, not compressed. The content
/// type does not count.
pub(crate) fn as_json(message: &Message) -> Option<&[u8]> {
    let encoding = message.properties.content_encoding();
    if encoding.is_some_and(is_encoded) {
        return None;
    }
    text(message).ok().filter(|body| is_json_text(body).is_ok())
}

/// How many values and names a body has at most, if it is JSON. The parser makes a tree of them, which can
/// need a hundred times as much memory as the body.
pub(super) fn values(body: &[u8]) -> usize {
    let mut values = 1;
    let mut is_text = false;
    let mut bytes = body.iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => is_text = !is_text,
            b'\\' if is_text => {
                bytes.next();
            }
            b',' | b':' | b'[' | b'{' if !is_text => values += 1,
            _ => {}
        }
    }
    values
}

/// The body of a message as `T`.
pub(crate) fn message<T: DeserializeOwned>(message: &Message) -> Result<T, Failure> {
    json(text(message)?)
}

/// The body as `T`, or a failure that names the place in the document.
fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    // The plain parser is faster. Parse a second time, with the path, only after an error.
    serde_json::from_slice(body).map_err(|error| {
        let mut parser = serde_json::Deserializer::from_slice(body);
        let located = serde_path_to_error::deserialize::<_, T>(&mut parser).err();
        let place = located.map(|error| error.path().to_string());
        Failure::undecodable(match place.as_deref() {
            None | Some("." | "") => format!("invalid JSON: {error}"),
            Some(path) => format!("invalid JSON at {path}: {error}"),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    /// A message with this content type and body.
    fn message_of(content_type: &str, body: &[u8]) -> Message {
        let delivery = crate::broker::Delivery {
            tag: 1,
            received: crate::broker::Moment::now(),
            exchange: String::new(),
            routing_key: "q".to_owned(),
            redelivered: false,
            properties: Properties::new("m1", Some(content_type), None, &[]),
            body: body.to_vec(),
        };
        Message::new(delivery, "q".into())
    }

    #[test]
    fn values_are_counted_and_text_is_not() {
        for (body, count) in [
            (r#""#, 1),
            (r#""a,b:[{""#, 1),
            (r#""a\",b\\""#, 1),
            (r#"[0,"x",[]]"#, 5),
            (r#"{"a":{"":0}}"#, 5),
            (r#""\"#, 1),
        ] {
            assert_eq!(values(body.as_bytes()), count, "{body}");
        }
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_json() {
        let marked = message_of("application/json", b"\xef\xbb\xbf{\"id\":1}");
        assert_eq!(check(&marked, Decode::Auto), Ok(true));
        let value: serde_json::Value = message(&marked).unwrap();
        assert_eq!(value["id"], 1);
    }

    #[test]
    fn a_body_in_another_charset_is_passed_on_unread_unless_it_must_be_json() {
        let latin = b"\"caf\xe9\"";
        let declared = message_of("application/json; charset=\"ISO-8859-1\"", latin);
        assert_eq!(check(&declared, Decode::Auto), Ok(false));
        let words = "the body is in ISO-8859-1, and the worker reads JSON in UTF-8 only";
        assert_eq!(check(&declared, Decode::Json).unwrap_err().error, words);
        let parsed = message::<serde_json::Value>(&declared);
        assert_eq!(parsed.unwrap_err().error, words);
        let undeclared = message_of("application/json", b"\xff\xfe{\0}\0");
        let refused = check(&undeclared, Decode::Auto).unwrap_err();
        assert!(refused.error.contains("utf-16"), "{refused:?}");
    }

    #[test]
    fn a_body_that_some_services_take_for_json_is_refused_with_the_setting_that_passes_it_on() {
        for body in ["", " ", "NaN", "{}\n{}", "{\"a\":\"\t\"}", "{}\0"] {
            let auto = check(
                &message_of("application/json", body.as_bytes()),
                Decode::Auto,
            );
            let error = auto.unwrap_err().error;
            assert!(error.starts_with("invalid JSON"), "{body:?}: {error}");
            assert!(error.contains("`decode = \"bytes\"`"), "{body:?}: {error}");
        }
        let empty = check(&message_of("application/json", b""), Decode::Json);
        assert_eq!(empty.unwrap_err().error, "invalid JSON: the body is empty");
    }

    #[test]
    fn a_body_is_checked_although_its_encoding_names_a_charset() {
        let mut broken = message_of("application/json", b"{");
        broken.properties = broken.properties.clone().with_content_encoding("UTF-8");
        assert!(check(&broken, Decode::Auto).is_err());
    }

    #[test]
    fn wrong_json_names_the_place_in_the_document() {
        #[derive(Debug, Deserialize)]
        #[allow(dead_code)]
        struct Order {
            items: Vec<Item>,
        }
        #[derive(Debug, Deserialize)]
        #[allow(dead_code)]
        struct Item {
            n: u32,
        }
        let failure = json::<Order>(br#"{"items":[{"n":1},{"n":"x"}]}"#).unwrap_err();
        assert!(failure.error.contains("items[1].n"), "{}", failure.error);
        assert!(failure.error.contains("line 1 column"), "{}", failure.error);
    }
}
