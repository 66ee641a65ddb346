//! The headers of a request: what they tell about the message, and how much of it.

use std::borrow::Cow;

use reqwest::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
};

use crate::{
    broker::{
        self,
        headers::names::{CUT_HEADERS, TRACEPARENT, TRACESTATE},
    },
    decode,
    handler::{
        Context,
        about::{self, CUT_LIST, CutList},
    },
    text::cut,
};

/// The most bytes of all message headers of a request together, names included. nginx and gunicorn
/// refuse a header of 8 KiB, and Node refuses a request with 16 KiB of them.
const ROOM: usize = 6 * 1024;
/// The most bytes of one value.
const VALUE: usize = 4 * 1024;
/// The most message headers of a request. HTTP servers in Python and Rust refuse a request with
/// more than 100 headers.
const MOST: usize = 64;

/// Names the message to a service that does nothing twice.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// Which of the message's own headers a request has.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Theirs {
    /// Those that common servers accept.
    Fitting,
    /// None, because the server refused the request with them.
    None,
}

/// The headers that describe the message. `configured`: the headers of the settings, which are sent
/// too.
pub(super) fn describe(context: &Context, configured: &HeaderMap, theirs: Theirs) -> HeaderMap {
    let message = context.message();
    let properties = message.properties();
    let mut headers = HeaderMap::new();
    for (name, value) in about::facts(context) {
        headers.insert(
            HeaderName::from_static(name.header),
            printable(&value.text()),
        );
    }
    if !configured.contains_key(IDEMPOTENCY_KEY)
        && let Some(key) = idempotency_key(message.id())
    {
        headers.insert(IDEMPOTENCY_KEY, key);
    }
    if !configured.contains_key(CONTENT_TYPE)
        && let Some(content_type) = content_type(context)
    {
        headers.insert(CONTENT_TYPE, printable(&content_type));
    }
    if let Some(encoding) = properties.content_encoding().and_then(content_encoding) {
        headers.insert(CONTENT_ENCODING, printable(&encoding));
    }
    if message.body().is_empty() {
        // reqwest sends no Content-Length for an empty body, and servers answer 411 to a POST without
        // one.
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    let mut pass = Pass::new(properties);
    for name in [TRACEPARENT, TRACESTATE] {
        // A part of a trace context is worth nothing.
        if let Some(value) = properties.header(name).map(broker::HeaderValue::to_text)
            && value.len() <= CUT_LIST
        {
            headers.insert(HeaderName::from_static(name), printable(&value));
        }
    }
    if context.is_event() {
        pass.event(&mut headers, properties);
    }
    for (name, value) in properties.headers() {
        let is_attribute = context.is_event() && decode::attribute(name).is_some();
        if let Some(key) = header_name(name).filter(|_| !is_attribute) {
            match theirs {
                Theirs::Fitting => pass.on(&mut headers, name, key, &value.to_text()),
                Theirs::None => pass.cut.add(name),
            }
        }
    }
    if let Some(list) = pass.cut.text() {
        headers.insert(HeaderName::from_static(CUT_HEADERS), printable(list));
    }
    headers
}

/// The key by which a service knows a message that it has done. An id that a header cannot hold as it is
/// gives none: two messages must never share a key.
fn idempotency_key(id: Option<&str>) -> Option<HeaderValue> {
    let id = id.filter(|id| !id.is_empty())?;
    let key = printable(id);
    (key.as_bytes() == id.as_bytes()).then_some(key)
}

/// Whether the message has headers of its own that a request can carry.
pub(super) fn has_theirs(context: &Context) -> bool {
    let mut headers = context.message().properties().headers();
    headers.any(|(name, _)| header_name(name).is_some())
}

/// Passes the message's headers on as long as there is room.
struct Pass {
    room: usize,
    left: usize,
    cut: CutList,
}

impl Pass {
    fn new(properties: &broker::Properties) -> Self {
        Self {
            room: ROOM,
            left: MOST,
            cut: CutList::of(properties),
        }
    }

    /// Passes the attributes of an event on, as CloudEvents over HTTP have them. Those that each event has
    /// come first.
    fn event(&mut self, headers: &mut HeaderMap, properties: &broker::Properties) {
        let is_required = |name: &str| decode::REQUIRED_ATTRIBUTES.contains(&name);
        for first in [true, false] {
            for (header, value) in properties.headers() {
                let name = decode::attribute(header).filter(|name| is_required(name) == first);
                let key = name.and_then(|name| HeaderName::try_from(format!("ce-{name}")).ok());
                // A header of the first spelling counts.
                let Some(key) = key.filter(|key| !headers.contains_key(key)) else {
                    continue;
                };
                let value = escaped(&decode::attribute_text(value));
                let length = key.as_str().len() + value.len();
                match HeaderValue::try_from(value) {
                    Ok(value) if self.left > 0 && length <= self.room => {
                        self.left -= 1;
                        self.room -= length;
                        headers.insert(key, value);
                    }
                    _ => self.cut.add(header),
                }
            }
        }
    }

    fn on(&mut self, headers: &mut HeaderMap, name: &str, key: HeaderName, text: &str) {
        let sent = cut(text, VALUE);
        let length = key.as_str().len() + sent.len();
        if self.left == 0 || length > self.room {
            self.cut.add(name);
            return;
        }
        self.left -= 1;
        self.room -= length;
        let value = printable(sent);
        // Bytes that are not UTF-8 have become U+FFFD.
        let is_whole = value.len() == text.len()
            && value.as_bytes() == text.as_bytes()
            && !text.contains(char::REPLACEMENT_CHARACTER);
        if !is_whole {
            self.cut.add(name);
        }
        headers.append(key, value);
    }
}

/// The text in visible ASCII: each other byte, each `"` and each `%` as `%` and two digits.
pub(super) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            0x21..=0x7e if !matches!(byte, b'"' | b'%') => escaped.push(byte.into()),
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

/// The content type to send: that of the message, unless the worker knows better.
fn content_type(context: &Context) -> Option<Cow<'_, str>> {
    let properties = context.message().properties();
    let theirs = properties.content_type().filter(|text| !text.is_empty());
    if context.is_checked_json() && !theirs.is_some_and(decode::is_json) {
        return Some(Cow::Borrowed("application/json"));
    }
    let theirs = theirs?;
    // The charset stands in `content_encoding`, which HTTP uses for compressions only.
    let charset = properties
        .content_encoding()
        .and_then(decode::charset_of_encoding);
    Some(match charset {
        Some(charset) if !decode::is_utf8(charset) && decode::charset_of_type(theirs).is_none() => {
            Cow::Owned(format!("{theirs}; charset={charset}"))
        }
        _ => Cow::Borrowed(theirs),
    })
}

/// The compressions that `content_encoding` names, without charsets and the like.
fn content_encoding(text: &str) -> Option<Cow<'_, str>> {
    if !decode::has_other_words(text) {
        return Some(Cow::Borrowed(text));
    }
    let codings: Vec<_> = decode::codings(text).collect();
    (!codings.is_empty()).then(|| Cow::Owned(codings.join(", ")))
}

/// The name of a message's header as an HTTP header: `lapwing-header-` and the name, with `-` for each
/// character that an HTTP name cannot have. `None` for our own headers, and for the trace headers,
/// which keep their names.
fn header_name(name: &str) -> Option<HeaderName> {
    if about::is_ours(name) {
        return None;
    }
    let allowed = |c: char| match c.is_ascii_alphanumeric() || c == '-' || c == '_' || c == '.' {
        true => c.to_ascii_lowercase(),
        false => '-',
    };
    let name: String = name.chars().map(allowed).collect();
    HeaderName::try_from(format!("lapwing-header-{name}")).ok()
}

/// The text as a header's value, with `?` for each control character. Characters beyond ASCII are sent
/// as UTF-8.
pub(super) fn printable(text: &str) -> HeaderValue {
    HeaderValue::from_bytes(text.as_bytes()).unwrap_or_else(|_| {
        let clean = text.replace(|c: char| c.is_ascii_control(), "?");
        HeaderValue::from_bytes(clean.as_bytes()).unwrap_or(HeaderValue::from_static("?"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_names_and_values_are_made_to_fit() {
        let name = |name| header_name(name).map(|name| name.to_string());
        assert_eq!(
            name("X-Tenant id\u{e9}"),
            Some("lapwing-header-x-tenant-id-".to_owned())
        );
        assert_eq!(printable("a\r\nb").as_bytes(), b"a??b");
        assert_eq!(printable("\u{e9}").as_bytes(), "\u{e9}".as_bytes());
    }

    #[test]
    fn an_id_is_an_idempotency_key_only_as_it_is() {
        let key = |id| idempotency_key(id).map(|key| key.as_bytes().to_vec());
        assert_eq!(key(Some("order-7")), Some(b"order-7".to_vec()));
        for id in [None, Some(""), Some("a\nb")] {
            assert_eq!(key(id), None, "{id:?}");
        }
    }

    #[test]
    fn a_content_encoding_is_sent_without_its_charsets() {
        for (text, sent) in [
            ("gzip", Some("gzip")),
            ("identity", Some("identity")),
            ("utf-8", None),
            ("UTF-8", None),
            ("8bit", None),
            ("binary", None),
            ("gzip, UTF-8", Some("gzip")),
            ("gzip:utf-8", Some("gzip")),
            ("x-own", Some("x-own")),
        ] {
            assert_eq!(content_encoding(text).as_deref(), sent, "{text}");
        }
    }
}
