//! The byte stream without a connection.

use super::Inbox;

/// What is passed on of bytes that arrive in pieces of this size.
pub(in crate::broker) fn through(bytes: &[u8], size: usize) -> Vec<u8> {
    let mut inbox = Inbox::default();
    let mut passed = Vec::new();
    let mut rest = bytes;
    let mut buffer = vec![0; size.max(1)];
    loop {
        let taken = inbox.take(&mut buffer);
        passed.extend_from_slice(&buffer[..taken]);
        if taken > 0 {
            continue;
        }
        if rest.is_empty() || inbox.too_long.is_some() {
            return passed;
        }
        let room = inbox.room();
        let count = rest.len().min(size.max(1)).min(room.len());
        room[..count].copy_from_slice(&rest[..count]);
        inbox.arrived(count);
        rest = &rest[count..];
    }
}
