//! Decides whether a body must be JSON, and checks that it is.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{broker::Properties, message::Message, outcome::Failure};

/// How the worker reads a body before a handler sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Decode {
    /// JSON if the content type says so (`application/json`, `…+json`) and neither a compression nor
    /// a charset other than UTF-8 hides it, bytes otherwise. A body that should be JSON and is not is
    /// dead-lettered as `decode`. An empty body, `NaN`, a line break within a string, and several
    /// documents one after the other are no JSON, although some services take them.
    Auto,
    /// Always JSON in UTF-8, also if the body is compressed. A body that is not JSON is dead-lettered
    /// as `decode`. The HTTP handler sends it as `application/json`.
    Json,
    /// Always bytes.
    Bytes,
}

/// Checks a body that must be JSON, and returns whether it was one. Called for handlers that pass
/// the body on unread. Handlers that parse it (the `Json` extractor) find an error themselves.
pub(crate) fn check(message: &Message, decode: Decode) -> Result<bool, Failure> {
    if !must_be_json(&message.properties, decode) {
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

fn must_be_json(properties: &Properties, decode: Decode) -> bool {
    match decode {
        Decode::Json => true,
        Decode::Bytes => false,
        // A compressed body is JSON only after unpacking, and the worker treats it as bytes. The
        // same is true of a body in another charset.
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

/// Whether the type is JSON: `application/json`, `application/problem+json; charset=utf-8` and
/// similar.
pub(crate) fn is_json(content_type: &str) -> bool {
    if content_type == "application/json" {
        return true;
    }
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    let Some((_, subtype)) = essence.split_once('/') else {
        return false;
    };
    let subtype = subtype.as_bytes();
    subtype.eq_ignore_ascii_case(b"json")
        || (subtype.len() > 5 && subtype[subtype.len() - 5..].eq_ignore_ascii_case(b"+json"))
}

/// Whether the coding changes the body: `gzip` and similar, but not `identity`.
fn is_encoded(content_encoding: &str) -> bool {
    let mut codings = codings(content_encoding);
    codings.any(|coding| !coding.eq_ignore_ascii_case("identity"))
}

/// The codings that a `content_encoding` names, as HTTP understands the word. Many AMQP clients
/// (kombu, Spring, .NET) write a charset there, alone or behind a coding.
pub(crate) fn codings(content_encoding: &str) -> impl Iterator<Item = &str> {
    words(content_encoding).filter(|word| !is_charset(word) && !is_transfer(word))
}

/// Whether a `content_encoding` has words that HTTP does not use there.
pub(crate) fn has_other_words(content_encoding: &str) -> bool {
    words(content_encoding).any(|word| is_charset(word) || is_transfer(word))
}

/// The charset that a `content_encoding` names.
pub(crate) fn charset_of_encoding(content_encoding: &str) -> Option<&str> {
    words(content_encoding).find(|word| is_charset(word))
}

/// The charset that a content type names.
pub(crate) fn charset_of_type(content_type: &str) -> Option<&str> {
    let mut parameters = content_type.split(';').skip(1);
    parameters.find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let is_charset = name.trim().eq_ignore_ascii_case("charset");
        is_charset.then(|| value.trim().trim_matches('"'))
    })
}

fn charset(properties: &Properties) -> Option<&str> {
    let named = properties.content_type().and_then(charset_of_type);
    named.or_else(|| properties.content_encoding().and_then(charset_of_encoding))
}

/// Whether a body in this charset can be read as UTF-8.
pub(crate) fn is_utf8(charset: &str) -> bool {
    let names = ["utf-8", "utf8", "us-ascii", "ascii"];
    names.iter().any(|name| charset.eq_ignore_ascii_case(name))
}

fn words(content_encoding: &str) -> impl Iterator<Item = &str> {
    let words = content_encoding.split([',', ':', ';']).map(str::trim);
    words.filter(|word| !word.is_empty())
}

fn is_charset(word: &str) -> bool {
    const BEGINNINGS: [&str; 16] = [
        "utf-",
        "utf8",
        "utf16",
        "utf32",
        "us-ascii",
        "ascii",
        "iso-8859",
        "iso8859",
        "iso_8859",
        "latin",
        "windows-12",
        "cp12",
        "koi8",
        "shift_jis",
        "euc-",
        "gb",
    ];
    let begins = |beginning: &&str| {
        let start = word.get(..beginning.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(beginning))
    };
    BEGINNINGS.iter().any(begins) || word.eq_ignore_ascii_case("big5")
}

/// Whether the word is one that MIME has for mail.
fn is_transfer(word: &str) -> bool {
    let words = ["7bit", "8bit", "binary"];
    words.iter().any(|other| word.eq_ignore_ascii_case(other))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[test]
    fn a_body_is_encoded_where_its_encoding_is_any_but_identity() {
        for yes in ["gzip", "br", "x-unknown", "gzip, identity"] {
            assert!(is_encoded(yes), "{yes}");
        }
        for no in [
            "",
            " ",
            "identity",
            "Identity ",
            "utf-8",
            "UTF-8",
            "8bit",
            "Binary",
            "iso-8859-1",
        ] {
            assert!(!is_encoded(no), "{no}");
        }
        assert!(is_encoded("gzip, UTF-8"));
    }

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
    fn json_is_known_by_its_content_type() {
        for yes in [
            "application/json",
            "APPLICATION/JSON; charset=utf-8",
            "application/ld+json",
        ] {
            assert!(is_json(yes), "{yes}");
        }
        for no in [
            "text/plain",
            "json",
            "",
            "application/jsonl",
            "application/+jsonx",
            "a/é",
        ] {
            assert!(!is_json(no), "{no}");
        }
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
