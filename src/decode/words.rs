//! The words of `content_type` and `content_encoding`.

use crate::broker::Properties;

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
pub(super) fn is_encoded(content_encoding: &str) -> bool {
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

/// What is left of a `content_encoding` without its codings: a charset, for instance.
pub(super) fn without_codings(content_encoding: &str) -> Option<String> {
    let others = words(content_encoding).filter(|word| is_charset(word) || is_transfer(word));
    let others: Vec<_> = others.collect();
    (!others.is_empty()).then(|| others.join(", "))
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

pub(super) fn charset(properties: &Properties) -> Option<&str> {
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
}
