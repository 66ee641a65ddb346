//! The changes to a single frame; the parent module gives the reasons.

pub(super) const METHOD: u8 = 1;
pub(super) const HEADER: u8 = 2;
/// The number of nested tables and arrays that lapin gets to see.
pub(super) const DEEPEST: usize = 32;

/// The longest frame that both sides agree on, in bytes, from the broker's `connection.tune`. If
/// the broker offers more than `most`, or 0 for any length, this writes `most` into the frame. The
/// client may choose less than the broker offers (AMQP 0-9-1, 1.4.2.6).
pub(super) fn agree_on_frame_max(frame_type: u8, payload: &mut [u8], most: u32) -> Option<usize> {
    const TUNE: [u8; 4] = [0, 10, 0, 30];
    if frame_type != METHOD || !payload.starts_with(&TUNE) {
        return None;
    }
    let proposed = payload.get_mut(6..10)?;
    let bytes = match u32::from_be_bytes(proposed.try_into().ok()?) {
        0 => most,
        bytes => bytes.min(most),
    };
    proposed.copy_from_slice(&bytes.to_be_bytes());
    usize::try_from(bytes).ok()
}

/// The broker's release, from `connection.start`: 1,000 times the major number and the minor number.
pub(super) fn release(frame_type: u8, payload: &[u8]) -> Option<usize> {
    const START: [u8; 4] = [0, 10, 0, 10];
    const VERSION: &[u8] = b"\x07versionS";
    if frame_type != METHOD || !payload.starts_with(&START) {
        return None;
    }
    let mut places = payload.windows(VERSION.len());
    let behind = places.position(|place| place == VERSION)? + VERSION.len();
    let (length, text) = payload.get(behind..)?.split_first_chunk::<4>()?;
    let text = text.get(..usize::try_from(u32::from_be_bytes(*length)).ok()?)?;
    let mut numbers = std::str::from_utf8(text).ok()?.split('.');
    let mut next = || numbers.next()?.parse::<u16>().ok();
    Some(usize::from(next()?) * 1000 + usize::from(next()?))
}

/// Repairs the short strings of a content header, or of the methods that carry a message's routing.
pub(super) fn repair(frame_type: u8, payload: &mut [u8]) {
    let mut cursor = Cursor { rest: payload };
    // `None` means that the frame is malformed. lapin reports that.
    let _ = match frame_type {
        HEADER => cursor.content_header(),
        _ => cursor.method(),
    };
}

pub(super) struct Cursor<'a> {
    pub(super) rest: &'a mut [u8],
}

impl<'a> Cursor<'a> {
    pub(super) fn bytes(&mut self, count: usize) -> Option<&'a mut [u8]> {
        let rest = std::mem::take(&mut self.rest);
        let (head, tail) = rest.split_at_mut_checked(count)?;
        self.rest = tail;
        Some(head)
    }

    pub(super) fn number(&mut self, width: usize) -> Option<usize> {
        let bytes = self.bytes(width)?;
        Some(bytes.iter().fold(0, |n, byte| n << 8 | usize::from(*byte)))
    }

    pub(super) fn short_string(&mut self) -> Option<()> {
        let length = self.number(1)?;
        replace_invalid(self.bytes(length)?);
        Some(())
    }

    /// Property list of class `basic` (AMQP 0-9-1, 4.2.6.1).
    fn content_header(&mut self) -> Option<()> {
        self.bytes(2 + 2 + 8)?;
        let flags = self.number(2)?;
        for property in 0..14 {
            if flags & (1 << (15 - property)) == 0 {
                continue;
            }
            match property {
                2 => self.table(0)?,
                3 | 4 => drop(self.bytes(1)?),
                9 => drop(self.bytes(8)?),
                _ => self.short_string()?,
            }
        }
        Some(())
    }

    /// `basic.deliver` and `basic.return` carry exchange and routing key.
    fn method(&mut self) -> Option<()> {
        const BASIC: usize = 60;
        if self.number(2)? != BASIC {
            return Some(());
        }
        match self.number(2)? {
            60 => {
                self.short_string()?;
                self.bytes(8 + 1)?;
            }
            50 => {
                self.bytes(2)?;
                self.short_string()?;
            }
            _ => return Some(()),
        }
        self.short_string()?;
        self.short_string()
    }

    fn table(&mut self, depth: usize) -> Option<()> {
        let length = self.number(4)?;
        let mut entries = Cursor {
            rest: self.bytes(length)?,
        };
        while !entries.rest.is_empty() {
            entries.short_string()?;
            entries.value(depth)?;
        }
        Some(())
    }

    fn array(&mut self, depth: usize) -> Option<()> {
        let length = self.number(4)?;
        let mut items = Cursor {
            rest: self.bytes(length)?,
        };
        while !items.rest.is_empty() {
            items.value(depth)?;
        }
        Some(())
    }

    /// A field value, by RabbitMQ's type letters (which differ from the standard's).
    pub(super) fn value(&mut self, depth: usize) -> Option<()> {
        let letter = self.bytes(1)?.first_mut()?;
        if matches!(*letter, b'F' | b'A') && depth == DEEPEST {
            // A byte array has the same form: a length and that many bytes.
            *letter = b'x';
        }
        let fixed = match *letter {
            b'V' => 0,
            b't' | b'b' | b'B' => 1,
            b's' | b'u' | b'U' => 2,
            b'I' | b'i' | b'f' => 4,
            b'D' => 5,
            b'L' | b'l' | b'd' | b'T' => 8,
            b'S' | b'x' => self.number(4)?,
            b'F' => return self.table(depth + 1),
            b'A' => return self.array(depth + 1),
            _ => return None,
        };
        self.bytes(fixed).map(drop)
    }
}

fn replace_invalid(text: &mut [u8]) {
    while let Err(error) = std::str::from_utf8(text) {
        let bad = error.valid_up_to();
        text[bad] = b'?';
    }
}
