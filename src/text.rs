//! Small functions for text in headers and logs.

use std::{
    borrow::Cow,
    time::{Duration, SystemTime},
};

/// The start of `text`: at most `most` bytes, ending at a character boundary.
#[must_use]
pub(crate) fn cut(text: &str, most: usize) -> &str {
    if text.len() <= most {
        return text;
    }
    let mut end = most;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// A text that may be long, such as an error: its beginning of at most `head` bytes and its end of at most
/// `tail`, as errors often differ at their end only.
#[must_use]
pub(crate) fn ends(text: &str, head: usize, tail: usize) -> Cow<'_, str> {
    const GAP: &str = " … ";
    if text.len() <= head + GAP.len() + tail {
        return Cow::Borrowed(text);
    }
    let mut begin = text.len() - tail;
    while !text.is_char_boundary(begin) {
        begin += 1;
    }
    Cow::Owned(format!("{}{GAP}{}", cut(text, head), &text[begin..]))
}

/// Text of others, for a log line or a terminal: each control character and each character that changes
/// the direction of the text becomes an escape such as `\n` or `\u{1b}`. So nobody can forge a line, or
/// hide a part of one.
#[must_use]
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    if !text.contains(is_hidden) {
        return Cow::Borrowed(text);
    }
    let mut visible = String::with_capacity(text.len() + 16);
    for letter in text.chars() {
        match is_hidden(letter) {
            true => visible.extend(letter.escape_default()),
            false => visible.push(letter),
        }
    }
    Cow::Owned(visible)
}

/// Whether a character does something to a line instead of being seen in it: a control character, or one that
/// changes the direction of the text.
#[must_use]
pub fn is_hidden(letter: char) -> bool {
    letter.is_control()
        || matches!(letter,
            '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A word as a value of an attribute in telemetry: with underscores, where logs, the API and settings
/// have hyphens (`timed_out` for `timed-out`).
#[must_use]
pub(crate) fn snake_case(word: &str) -> String {
    word.replace('-', "_")
}

/// An error's text, with those of all its causes.
#[must_use]
pub(crate) fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// A time as RFC 3339 with milliseconds, in UTC. A time before 1970 becomes the first moment of that
/// year, and one after the year 9999, which RFC 3339 cannot write, becomes the last moment of that year.
#[must_use]
pub(crate) fn rfc3339(time: SystemTime) -> String {
    humantime::format_rfc3339_millis(writable(time)).to_string()
}

fn writable(time: SystemTime) -> SystemTime {
    const END: Duration = Duration::from_millis(253_402_300_799_999);
    time.clamp(SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH + END)
}

/// Serialises a time as [`rfc3339`] writes it.
pub(crate) fn as_rfc3339<S: serde::Serializer>(
    time: &SystemTime,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&rfc3339(*time))
}

/// As [`as_rfc3339`], or null.
pub(crate) fn as_rfc3339_or_null<S: serde::Serializer>(
    time: &Option<SystemTime>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => as_rfc3339(time, serializer),
        None => serializer.serialize_none(),
    }
}

/// A time with microseconds, for comparison with other times of the same clock.
#[must_use]
pub(crate) fn rfc3339_micros(time: SystemTime) -> String {
    humantime::format_rfc3339_micros(writable(time)).to_string()
}

/// A duration for people: `1.5s`, not `1s 500ms`.
#[must_use]
pub(crate) fn seconds(duration: Duration) -> String {
    format!("{duration:?}")
}

/// The fingerprint of a failure: a hash of its class and normalised text, as 16 hexadecimal digits.
/// Texts that differ only in numbers, ids or addresses have the same fingerprint. The hash is
/// FNV-1a with 64 bits, so it is the same on all machines and in all versions.
#[must_use]
pub(crate) fn fingerprint(class: &str, text: &str) -> String {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0000_0100_0000_01b3;
    let hash = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(PRIME);
    let sum = class.bytes().chain([0]).fold(OFFSET, hash);
    let sum = normalise(text).bytes().fold(sum, hash);
    format!("{sum:016x}")
}

/// Normalises a text: lower case, with `#` in place of each word that has a digit.
fn normalise(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for piece in text.split_inclusive(|c: char| !c.is_alphanumeric()) {
        let word = piece.trim_end_matches(|c: char| !c.is_alphanumeric());
        if word.contains(|c: char| c.is_ascii_digit()) {
            out.push('#');
        } else {
            out.extend(word.chars().flat_map(char::to_lowercase));
        }
        out.push_str(&piece[word.len()..]);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_long_text_both_ends_stay() {
        assert_eq!(ends("short", 5, 5), "short");
        let text = format!("begin{}end", "ä".repeat(100));
        let shown = ends(&text, 6, 4);
        assert_eq!(shown, "begin … end");
        assert_eq!(ends(&text, 7, 5), "beginä … äend");
    }

    #[test]
    fn cut_never_splits_a_character() {
        assert_eq!(cut("äöü", 3), "ä");
        assert_eq!(cut("abc", 3), "abc");
        assert_eq!(cut("", 0), "");
    }

    #[test]
    fn text_of_others_cannot_forge_a_line() {
        assert_eq!(
            visible("order 17: caf\u{e9}, \u{5d0}"),
            "order 17: caf\u{e9}, \u{5d0}"
        );
        assert!(matches!(visible("plain"), Cow::Borrowed(_)));
        assert_eq!(
            visible("x\u{1b}[2J\nFAKE ERROR\r\n\0tail\u{202e}\u{9b}\u{2028}"),
            r"x\u{1b}[2J\nFAKE ERROR\r\n\u{0}tail\u{202e}\u{9b}\u{2028}"
        );
    }

    #[test]
    fn times_beyond_what_can_be_written_are_its_end() {
        let in_years =
            |years: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(years * 31_556_952);
        assert_eq!(rfc3339(in_years(1)), "1971-01-01T05:49:12.000Z");
        assert_eq!(rfc3339(in_years(9_000)), "9999-12-31T23:59:59.999Z");
        let before = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(rfc3339(before), "1970-01-01T00:00:00.000Z");
        let micros = [before, in_years(9_000)].map(rfc3339_micros);
        assert_eq!(micros[0], "1970-01-01T00:00:00.000000Z");
        assert_eq!(micros[1], "9999-12-31T23:59:59.999000Z");
    }

    #[test]
    fn equal_failures_have_equal_fingerprints() {
        let a = fingerprint("http", "order 4711 not found at 0x7f3a");
        assert_eq!(a, fingerprint("http", "Order 12 not found at 0x11"));
        assert_ne!(a, fingerprint("http", "order 4711 is closed at 0x7f3a"));
        assert_ne!(a, fingerprint("timeout", "order 4711 not found at 0x7f3a"));
        assert_eq!(a.len(), 16);
    }
}
