//! Unpacking: gzip, deflate and zstd bodies, with a limit.

use std::{
    error::Error,
    fmt,
    io::{self, BufRead, BufReader, Read},
};

use flate2::{Decompress, FlushDecompress, Status, bufread::MultiGzDecoder};

use super::words;
use crate::{
    outcome::Failure,
    text::{causes, cut},
};

/// The most codings in a row.
const MOST: usize = 3;
/// How many bytes go from one coding to the next at once, and how many the result has room for at first.
const PIECE: usize = 32 * 1024;
/// The window that each decoder of zstd must support (RFC 9659), as a power of two: 8 MiB.
const ZSTD_WINDOW: u32 = 23;
/// The largest window that zstd uses by itself: 128 MiB.
const ZSTD_LONGEST_WINDOW: u32 = 27;

/// Why a body cannot be unpacked.
#[derive(Debug)]
pub(super) enum Refusal {
    /// It has more bytes than it may have.
    TooLarge,
    /// It is not what its encoding says.
    Broken(String),
}

/// A body, or a step on the way to it, has more bytes than it may have.
#[derive(Debug)]
struct TooLarge;

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("too large")
    }
}

impl Error for TooLarge {}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        match error.get_ref() {
            Some(inner) if inner.is::<TooLarge>() => Self::TooLarge,
            _ => Self::Broken(cut(&causes(&error), 200).to_owned()),
        }
    }
}

/// The failure of a message whose body cannot be unpacked.
pub(super) fn failure(encoding: &str, refusal: &Refusal, most: usize) -> Failure {
    let encoding = cut(encoding, 64);
    let text = match refusal {
        Refusal::TooLarge => format!(
            "the {encoding} body has more than {most} bytes unpacked, which `body.unpacked_bytes` allows"
        ),
        Refusal::Broken(why) => format!("the {encoding} body cannot be unpacked: {why}"),
    };
    Failure::undecodable(text).of_class("unpack")
}

/// One coding that the worker knows.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Coding {
    Gzip,
    Deflate,
    Zstd,
}

impl Coding {
    fn named(word: &str) -> Option<Self> {
        let all = [
            ("gzip", Self::Gzip),
            ("x-gzip", Self::Gzip),
            ("deflate", Self::Deflate),
            ("zstd", Self::Zstd),
        ];
        let found = all
            .into_iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(word));
        found.map(|(_, coding)| coding)
    }

    /// A reader of what was packed. `most`: how many bytes somebody wants of it.
    fn unpacking<'a>(
        self,
        packed: impl BufRead + 'a,
        most: usize,
    ) -> io::Result<Box<dyn Read + 'a>> {
        Ok(match self {
            Self::Gzip => Box::new(MultiGzDecoder::new(packed)),
            Self::Deflate => Box::new(Inflate::new(packed)?),
            Self::Zstd => {
                let mut decoder = zstd::Decoder::with_buffer(packed)?;
                // The window is memory that the publisher asks for. None larger than the result helps.
                let window = most.max(1).ilog2() + 1;
                decoder.window_log_max(window.clamp(ZSTD_WINDOW, ZSTD_LONGEST_WINDOW))?;
                Box::new(decoder)
            }
        })
    }
}

/// The codings of a body, the last one first. `None`: the body is not packed, or in a way that the worker
/// does not know.
fn codings(encoding: &str) -> Option<Vec<Coding>> {
    let is_some = |word: &&str| !word.eq_ignore_ascii_case("identity");
    let named = words::codings(encoding).filter(is_some).map(Coding::named);
    let mut all = named.collect::<Option<Vec<_>>>()?;
    all.reverse();
    Some(all).filter(|all| !all.is_empty())
}

/// Whether the worker unpacks a body with this encoding.
pub(super) fn is_packed(encoding: &str) -> bool {
    codings(encoding).is_some()
}

/// Unpacks a body. `None`: it is not packed, or in a way that the worker does not know. Needs memory for
/// `most` bytes at most, and a window for each coding.
pub(super) fn unpack(
    encoding: &str,
    packed: &[u8],
    most: usize,
) -> Result<Option<Vec<u8>>, Refusal> {
    let Some(codings) = codings(encoding) else {
        return Ok(None);
    };
    if codings.len() > MOST {
        let why = format!(
            "it has {} encodings in a row, and may have {MOST}",
            codings.len()
        );
        return Err(Refusal::Broken(why));
    }
    // Clients send no body with the same properties as others.
    if packed.is_empty() {
        return Ok(Some(Vec::new()));
    }
    let mut reader: Box<dyn Read + '_> = Box::new(packed);
    for (step, coding) in codings.into_iter().enumerate() {
        reader = match step {
            0 => coding.unpacking(packed, most)?,
            _ => {
                let before = Limited { reader, left: most };
                coding.unpacking(BufReader::with_capacity(PIECE, before), most)?
            }
        };
    }
    Ok(Some(read(reader, most)?))
}

/// Reads to the end. The result never has room for more than `most` bytes.
fn read(mut reader: impl Read, most: usize) -> Result<Vec<u8>, Refusal> {
    let mut body = Vec::new();
    loop {
        let left = most - body.len();
        if left == 0 {
            return match reader.read(&mut [0])? {
                0 => Ok(body),
                _ => Err(Refusal::TooLarge),
            };
        }
        let room = body.len().clamp(PIECE, usize::MAX).min(left);
        body.reserve_exact(room);
        let mut piece = reader.by_ref().take(room as u64);
        let got = piece.read_to_end(&mut body)?;
        if got < room {
            return Ok(body);
        }
    }
}

/// Fails once more than `left` bytes have been read.
struct Limited<R> {
    reader: R,
    left: usize,
}

impl<R: Read> Read for Limited<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let got = self.reader.read(into)?;
        self.left = self
            .left
            .checked_sub(got)
            .ok_or_else(|| io::Error::other(TooLarge))?;
        Ok(got)
    }
}

/// The coding `deflate`. HTTP means zlib by it (RFC 9110), and some clients send what zlib has inside.
struct Inflate<R> {
    packed: R,
    state: Decompress,
    has_ended: bool,
}

impl<R: BufRead> Inflate<R> {
    fn new(mut packed: R) -> io::Result<Self> {
        let is_zlib = match packed.fill_buf()? {
            [method, flags, ..] => {
                method & 0x0f == 8 && u16::from_be_bytes([*method, *flags]).is_multiple_of(31)
            }
            [method] => *method == 0x78,
            [] => true,
        };
        Ok(Self {
            packed,
            state: Decompress::new(is_zlib),
            has_ended: false,
        })
    }
}

fn wrong(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

impl<R: BufRead> Read for Inflate<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while !into.is_empty() {
            let input = self.packed.fill_buf()?;
            let is_over = input.is_empty();
            if self.has_ended {
                return match is_over {
                    true => Ok(0),
                    false => Err(wrong("bytes follow its end")),
                };
            }
            let (read, written) = (self.state.total_in(), self.state.total_out());
            let status = self.state.decompress(input, into, FlushDecompress::None);
            let status = status.map_err(|error| wrong(&error.to_string()))?;
            // Both fit: they are lengths of the slices.
            let read = (self.state.total_in() - read) as usize;
            let written = (self.state.total_out() - written) as usize;
            self.packed.consume(read);
            self.has_ended = status == Status::StreamEnd;
            if written > 0 {
                return Ok(written);
            }
            if is_over && !self.has_ended {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if read == 0 && !self.has_ended {
                return Err(wrong("it makes no progress"));
            }
        }
        Ok(0)
    }
}
