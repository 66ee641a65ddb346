//! Cuts content headers that are too long for a frame.
//!
//! The broker sends such headers in three cases. The publisher's headers fill the frame and the
//! broker adds its own. The message came in by another protocol, which allows longer headers. The
//! message was stored when the broker allowed longer frames. A content header cannot continue in a
//! second frame, and lapin ends the connection when a frame is longer than agreed, so the message
//! would end the connection at each delivery.

use std::cmp::Reverse;

use super::repair::{Cursor, HEADER};
use crate::{
    broker::{copies::is_broker_header, headers::names::CUT_HEADERS},
    text::cut,
};

/// The longest list of dropped headers, in bytes.
const LIST_MOST: usize = 1024;

/// A content header that fits.
pub(super) struct Fitted {
    pub(super) payload: Vec<u8>,
    /// The number of the publisher's headers that were dropped.
    pub(super) cut: usize,
    /// The names of these headers, after those that earlier copies listed, as far as they fit the
    /// list.
    pub(super) names: String,
}

/// A content header, split at its header table.
struct Table<'a> {
    /// The bytes before the table's length.
    before: &'a [u8],
    entries: Vec<Entry<'a>>,
    behind: &'a [u8],
}

struct Entry<'a> {
    name: &'a str,
    /// Name and value.
    bytes: &'a [u8],
}

/// The content header in at most `most` bytes. Drops the headers that the broker added. If that is
/// not enough, drops the publisher's longest headers too and lists their names in
/// `lapwing-cut-headers`. `None` if the header does not fit even then or cannot be read.
pub(super) fn fitted(frame_type: u8, payload: &[u8], most: usize) -> Option<Fitted> {
    if frame_type != HEADER {
        return None;
    }
    let Table {
        before,
        entries,
        behind,
    } = table(payload)?;
    let (listed, mut kept): (Vec<_>, Vec<_>) = entries
        .into_iter()
        .filter(|entry| !is_broker_header(entry.name))
        .partition(|entry| entry.name == CUT_HEADERS);
    // Keep the names that earlier copies listed.
    let mut names = listed.first().map(text_of).unwrap_or_default();
    kept.sort_by_key(|entry| Reverse(entry.bytes.len()));
    let mut left: usize = kept.iter().map(|entry| entry.bytes.len()).sum();
    for (count, longest) in kept.iter().map(Some).chain([None]).enumerate() {
        let list = list_of(&names);
        if before.len() + 4 + left + list.len() + behind.len() <= most {
            let length = u32::try_from(left + list.len()).ok()?.to_be_bytes();
            let mut payload = [before, &length].concat();
            for entry in &kept[count..] {
                payload.extend_from_slice(entry.bytes);
            }
            payload.extend_from_slice(&list);
            payload.extend_from_slice(behind);
            let cut = count;
            return Some(Fitted {
                payload,
                cut,
                names,
            });
        }
        let longest = longest?;
        left -= longest.bytes.len();
        // There can be a million names, so the list stops growing at its limit.
        if names.len() < LIST_MOST {
            let space = if names.is_empty() { "" } else { " " };
            names = names + space + longest.name;
        }
    }
    None
}

/// The header table of a content header; `None` if there is no table or it cannot be read.
fn table(payload: &[u8]) -> Option<Table<'_>> {
    let mut copy = payload.to_vec();
    let mut cursor = Cursor { rest: &mut copy };
    cursor.bytes(2 + 2 + 8)?;
    let flags = cursor.number(2)?;
    if flags & 1 << 13 == 0 {
        return None;
    }
    for property in [15, 14] {
        if flags & 1 << property != 0 {
            cursor.short_string()?;
        }
    }
    let start = payload.len() - cursor.rest.len();
    let length = cursor.number(4)?;
    let mut rest = Cursor {
        rest: cursor.bytes(length)?,
    };
    let mut at = start + 4;
    let behind = at + length;
    let mut entries = Vec::new();
    while !rest.rest.is_empty() {
        let name_length = rest.number(1)?;
        rest.bytes(name_length)?;
        let name = payload.get(at + 1..at + 1 + name_length)?;
        let name = std::str::from_utf8(name).unwrap_or_default();
        rest.value(0)?;
        let next = behind - rest.rest.len();
        let bytes = &payload[at..next];
        entries.push(Entry { name, bytes });
        at = next;
    }
    Some(Table {
        before: &payload[..start],
        entries,
        behind: &payload[behind..],
    })
}

/// The entry's value, if it is text.
fn text_of(entry: &Entry<'_>) -> String {
    const TYPE_AND_LENGTH: usize = 1 + 4;
    let name = 1 + entry.name.len();
    let text = entry.bytes.get(name + TYPE_AND_LENGTH..);
    let text = String::from_utf8_lossy(text.unwrap_or_default());
    cut(&text, LIST_MOST).to_owned()
}

/// The entry that lists the dropped headers; empty if none was dropped.
fn list_of(names: &str) -> Vec<u8> {
    if names.is_empty() {
        return Vec::new();
    }
    let names = cut(names, LIST_MOST).as_bytes();
    let lengths = (CUT_HEADERS.len() as u8, (names.len() as u32).to_be_bytes());
    [
        &[lengths.0][..],
        CUT_HEADERS.as_bytes(),
        b"S",
        &lengths.1,
        names,
    ]
    .concat()
}
