//! What a program writes: read to its end, with a part of it kept.

use std::{borrow::Cow, collections::VecDeque, io};

use rustix::io::Errno;
use tokio::net::unix::pipe;

/// The bytes that are read at once.
const CHUNK: usize = 16 * 1024;
/// The most bytes that are read after the program's end: as many as the largest pipe holds. A
/// process that has left the program's group may hold the pipe open and go on writing.
const REST: usize = 1024 * 1024;

/// Takes what a program writes.
pub(in crate::handler) trait Take {
    /// The next bytes.
    fn take(&mut self, bytes: &[u8]);
}

/// Reads a pipe to its end.
pub(in crate::handler) async fn drain(pipe: &pipe::Receiver, into: &mut impl Take) {
    let mut chunk = vec![0; CHUNK];
    while pipe.readable().await.is_ok() {
        match pipe.try_read(&mut chunk) {
            Ok(0) => return,
            Ok(length) => into.take(&chunk[..length]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

/// Reads what is in the pipe of a program that has ended. Asks the descriptor itself: tokio reads only
/// after the runtime has noticed that the pipe can be read, and the runtime may notice the program's
/// end first.
pub(in crate::handler) fn rest(pipe: &pipe::Receiver, into: &mut impl Take) {
    let mut chunk = vec![0; CHUNK];
    let mut read = 0;
    while read < REST {
        match rustix::io::read(pipe, &mut chunk) {
            Ok(length @ 1..) => {
                into.take(&chunk[..length]);
                read += length;
            }
            Err(Errno::INTR) => {}
            Ok(0) | Err(_) => return,
        }
    }
}

/// The first bytes, and the number of all.
#[derive(Debug)]
pub(in crate::handler) struct Kept {
    pub(in crate::handler) first: Vec<u8>,
    pub(in crate::handler) total: u64,
    most: usize,
}

impl Kept {
    pub(in crate::handler) fn most(most: usize) -> Self {
        Self {
            first: Vec::new(),
            total: 0,
            most,
        }
    }

    /// The first bytes as text.
    pub(in crate::handler) fn text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.first)
    }
}

impl Take for Kept {
    fn take(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        let room = self.most - self.first.len();
        self.first
            .extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

/// The last bytes, and the number of all.
#[derive(Debug)]
pub(in crate::handler) struct Tail {
    last: VecDeque<u8>,
    pub(in crate::handler) total: u64,
    most: usize,
}

impl Tail {
    pub(in crate::handler) fn most(most: usize) -> Self {
        Self {
            last: VecDeque::new(),
            total: 0,
            most,
        }
    }

    /// The last bytes as text, without white space around them. Text that was cut begins with `…`.
    pub(in crate::handler) fn text(&self) -> String {
        let (first, second) = self.last.as_slices();
        let mut bytes = [first, second].concat();
        let is_cut = self.total > bytes.len() as u64;
        if is_cut {
            // The cut may lie inside of a character.
            let begins = bytes.iter().take(4).position(|byte| byte & 0xc0 != 0x80);
            bytes.drain(..begins.unwrap_or_default());
        }
        let text = String::from_utf8_lossy(&bytes);
        match is_cut {
            true => format!("…{}", text.trim()),
            false => text.trim().to_owned(),
        }
    }
}

impl Take for Tail {
    fn take(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        let bytes = &bytes[bytes.len().saturating_sub(self.most)..];
        let over = (self.last.len() + bytes.len()).saturating_sub(self.most);
        self.last.drain(..over);
        self.last.extend(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_and_the_last_bytes_are_kept_and_all_are_counted() {
        let (mut kept, mut tail) = (Kept::most(4), Tail::most(4));
        for bytes in ["ab", "cdefgh", "", "ij"] {
            kept.take(bytes.as_bytes());
            tail.take(bytes.as_bytes());
        }
        assert_eq!((kept.text().as_ref(), kept.total), ("abcd", 10));
        assert_eq!((tail.text().as_str(), tail.total), ("…ghij", 10));
    }

    #[test]
    fn a_tail_does_not_begin_inside_of_a_character() {
        let mut tail = Tail::most(4);
        tail.take("\u{e4}\u{20ac}b\n".as_bytes());
        assert_eq!(tail.text(), "…b");
        let mut whole = Tail::most(9);
        whole.take("\u{e4}b\n".as_bytes());
        assert_eq!(whole.text(), "\u{e4}b");
    }
}
