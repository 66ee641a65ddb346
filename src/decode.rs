//! Decides whether a body must be JSON, and checks that it is.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{broker::Properties, message::Message, outcome::Failure};

/// How the worker reads a body before a handler sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Decode {
    /// JSON if the content type says so (`application/json`, `…+json`) and no content encoding other
    /// than `identity` hides it, bytes otherwise.
    Auto,
    /// Always JSON, also if the body is compressed. A body that is not JSON is dead-lettered as
    /// `decode`.
    Json,
    /// Always bytes.
    Bytes,
}

/// Checks a body that must be JSON. Called for handlers that pass the body on unread. Handlers that
/// parse it (the `Json` extractor) find an error themselves.
pub(crate) fn check(message: &Message, decode: Decode) -> Result<(), Failure> {
    if must_be_json(&message.properties, decode) {
        // Check the UTF-8 first: a parser that ignores the content does not look into strings.
        std::str::from_utf8(message.body())
            .map_err(|error| Failure::undecodable(format!("invalid JSON: {error}")))?;
        json::<serde::de::IgnoredAny>(message.body())?;
    }
    Ok(())
}

fn must_be_json(properties: &Properties, decode: Decode) -> bool {
    match decode {
        Decode::Json => true,
        Decode::Bytes => false,
        // A compressed body is JSON only after unpacking, and the worker treats it as bytes.
        Decode::Auto => {
            properties.content_type().is_some_and(is_json)
                && !properties.content_encoding().is_some_and(is_encoded)
        }
    }
}

/// The body as `T`, or a failure that names the place in the document.
pub(crate) fn json<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
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
fn is_json(content_type: &str) -> bool {
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
    let coding = content_encoding.trim();
    !coding.is_empty() && !coding.eq_ignore_ascii_case("identity")
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
        for no in ["", " ", "identity", "Identity "] {
            assert!(!is_encoded(no), "{no}");
        }
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
