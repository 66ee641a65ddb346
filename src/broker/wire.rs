//! The byte stream under lapin: repairs what lapin cannot read.
//!
//! AMQP short strings (property values, header names, routing keys) are UTF-8 by the standard, but
//! RabbitMQ passes any bytes on. lapin treats other bytes as a broken connection, so that one such
//! message would end the connection each time it is delivered, for ever, and every other lane with
//! it. This stream replaces the offending bytes by `?`, in place and before lapin sees them: the
//! length, and so the framing, stays. Long strings (header values, bodies) are bytes in lapin too
//! and stay as they are.

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
    pin::Pin,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use async_compat::Compat;
use async_rs::{
    Runtime, Tokio,
    traits::{Executor, Reactor, RuntimeKit},
    util::Task,
};
use futures_util::{
    Stream,
    io::{AsyncRead, AsyncWrite},
};
use lapin::tcp::AsyncTcpStream;
use tokio::net::TcpStream;

/// A TCP or TLS connection, repaired on the way in.
pub(super) struct Wire {
    inner: AsyncTcpStream<Compat<TcpStream>>,
    inbox: Inbox,
}

impl Wire {
    pub(super) fn new(inner: AsyncTcpStream<Compat<TcpStream>>) -> Self {
        Self {
            inner,
            inbox: Inbox::default(),
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        loop {
            let taken = this.inbox.take(buf);
            if taken > 0 || buf.is_empty() {
                return Poll::Ready(Ok(taken));
            }
            let room = this.inbox.room();
            let read = ready!(Pin::new(&mut this.inner).poll_read(cx, room))?;
            if read == 0 {
                return Poll::Ready(Ok(0));
            }
            this.inbox.arrived(read);
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

/// Bytes on their way to lapin: `data[start..ready]` may go, `data[ready..end]` is the beginning
/// of a frame that is looked at when it is whole.
struct Inbox {
    data: Vec<u8>,
    start: usize,
    ready: usize,
    end: usize,
    /// Bytes of a frame that needs no look and has not wholly arrived.
    skip: usize,
    /// What arrives is not AMQP frames: pass it on as it is.
    opaque: bool,
}

const CHUNK: usize = 64 * 1024;
const FRAME_HEAD: usize = 7;
const METHOD: u8 = 1;
const HEADER: u8 = 2;
/// Frames beyond this are none that we negotiated; lapin reports them.
const LARGEST: usize = 16 * 1024 * 1024;

impl Default for Inbox {
    fn default() -> Self {
        Self {
            data: vec![0; CHUNK],
            start: 0,
            ready: 0,
            end: 0,
            skip: 0,
            opaque: false,
        }
    }
}

impl Inbox {
    fn take(&mut self, buf: &mut [u8]) -> usize {
        let count = (self.ready - self.start).min(buf.len());
        buf[..count].copy_from_slice(&self.data[self.start..self.start + count]);
        self.start += count;
        count
    }

    /// Room for the next read; called when all that is ready was taken.
    fn room(&mut self) -> &mut [u8] {
        self.data.copy_within(self.ready..self.end, 0);
        self.end -= self.ready;
        self.start = 0;
        self.ready = 0;
        if self.end == self.data.len() {
            self.data.resize(self.data.len() * 2, 0);
        }
        &mut self.data[self.end..]
    }

    fn arrived(&mut self, count: usize) {
        self.end += count;
        while self.ready < self.end {
            let here = &mut self.data[self.ready..self.end];
            if self.opaque {
                self.ready = self.end;
            } else if self.skip > 0 {
                let skipped = self.skip.min(here.len());
                self.skip -= skipped;
                self.ready += skipped;
            } else if here.len() < FRAME_HEAD {
                return;
            } else {
                let size = u32::from_be_bytes([here[3], here[4], here[5], here[6]]) as usize;
                let whole = FRAME_HEAD + size + 1;
                match here[0] {
                    METHOD | HEADER if whole <= LARGEST => {
                        if here.len() < whole {
                            return;
                        }
                        repair(here[0], &mut here[FRAME_HEAD..FRAME_HEAD + size]);
                        self.ready += whole;
                    }
                    0..=8 => self.skip = whole,
                    _ => self.opaque = true,
                }
            }
        }
    }
}

/// Repairs the short strings of a content header, or of the methods that carry a message's.
fn repair(frame_type: u8, payload: &mut [u8]) {
    let mut cursor = Cursor { rest: payload };
    // `None`: malformed, which lapin reports.
    let _ = match frame_type {
        HEADER => cursor.content_header(),
        _ => cursor.method(),
    };
}

struct Cursor<'a> {
    rest: &'a mut [u8],
}

impl<'a> Cursor<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a mut [u8]> {
        let rest = std::mem::take(&mut self.rest);
        let (head, tail) = rest.split_at_mut_checked(count)?;
        self.rest = tail;
        Some(head)
    }

    fn number(&mut self, width: usize) -> Option<usize> {
        let bytes = self.bytes(width)?;
        Some(bytes.iter().fold(0, |n, byte| n << 8 | usize::from(*byte)))
    }

    fn short_string(&mut self) -> Option<()> {
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
    fn value(&mut self, depth: usize) -> Option<()> {
        const DEEPEST: usize = 64;
        let fixed = match self.number(1)?.try_into().unwrap_or(0) {
            b'V' => 0,
            b't' | b'b' | b'B' => 1,
            b's' | b'u' | b'U' => 2,
            b'I' | b'i' | b'f' => 4,
            b'D' => 5,
            b'L' | b'l' | b'd' | b'T' => 8,
            b'S' | b'x' => self.number(4)?,
            b'F' if depth < DEEPEST => return self.table(depth + 1),
            b'A' if depth < DEEPEST => return self.array(depth + 1),
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

/// The tokio runtime, with [`Wire`] as its connection type: how lapin is made to use it.
#[derive(Clone, Debug)]
pub(super) struct Kit(Tokio);

/// The runtime kit for lapin, on the current tokio runtime.
pub(super) fn runtime() -> Runtime<Kit> {
    Runtime::new(Kit(Tokio::current()))
}

impl RuntimeKit for Kit {}

impl Executor for Kit {
    type Task<T: Send + 'static> = <Tokio as Executor>::Task<T>;

    fn block_on<T, F: Future<Output = T>>(&self, f: F) -> T {
        self.0.block_on(f)
    }

    fn spawn<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
        &self,
        f: F,
    ) -> Task<Self::Task<T>> {
        self.0.spawn(f)
    }

    fn spawn_blocking<T: Send + 'static, F: FnOnce() -> T + Send + 'static>(
        &self,
        f: F,
    ) -> Task<Self::Task<T>> {
        self.0.spawn_blocking(f)
    }
}

impl Reactor for Kit {
    type TcpStream = Wire;
    type Sleep = <Tokio as Reactor>::Sleep;

    fn register<H: io::Read + io::Write + AsFd + AsRawFd + Send + 'static>(
        &self,
        socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        self.0.register(socket)
    }

    fn sleep(&self, dur: Duration) -> Self::Sleep {
        self.0.sleep(dur)
    }

    fn interval(&self, dur: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        self.0.interval(dur)
    }

    fn tcp_connect_addr(
        &self,
        addr: SocketAddr,
    ) -> impl Future<Output = io::Result<Self::TcpStream>> + Send + 'static {
        let connect = self.0.tcp_connect_addr(addr);
        async move { Ok(Wire::new(AsyncTcpStream::Plain(connect.await?))) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn short(bytes: &[u8]) -> Vec<u8> {
        [&[u8::try_from(bytes.len()).unwrap()], bytes].concat()
    }

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let size = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&[kind, 0, 1][..], &size, payload, &[0xCE]].concat()
    }

    /// A content header with a header table, message-id and routing key spoilt by `bad`.
    fn spoilt(bad: &[u8]) -> Vec<u8> {
        let inner = [short(bad), b"S\0\0\0\x02\xff\xfe".to_vec()].concat();
        let length = u32::try_from(inner.len()).unwrap().to_be_bytes();
        let nested = [&short(b"nested")[..], b"F", &length, &inner].concat();
        let table = [inner, nested].concat();
        let length = u32::try_from(table.len()).unwrap().to_be_bytes();
        let flags = (1u16 << 13 | 1 << 7).to_be_bytes();
        let header = [
            &[0, 60, 0, 0, 0, 0, 0, 0, 0, 0, 0, 3],
            &flags[..],
            &length,
            &table,
            &short(bad),
        ];
        let deliver = [
            &[0, 60, 0, 60][..],
            &short(b"tag"),
            &[0; 9],
            &short(b""),
            &short(bad),
        ];
        [
            frame(METHOD, &deliver.concat()),
            frame(HEADER, &header.concat()),
            frame(3, b"\xff\xfe\xfd"),
            frame(8, b""),
        ]
        .concat()
    }

    fn through(bytes: &[u8], sizes: &[usize]) -> Vec<u8> {
        let mut inbox = Inbox::default();
        let mut out = Vec::new();
        let mut rest = bytes;
        for size in sizes.iter().cycle() {
            let mut buf = vec![0; *size];
            let taken = inbox.take(&mut buf);
            out.extend_from_slice(&buf[..taken]);
            if taken > 0 {
                continue;
            }
            if rest.is_empty() {
                return out;
            }
            let room = inbox.room();
            let count = rest.len().min(*size).min(room.len());
            room[..count].copy_from_slice(&rest[..count]);
            inbox.arrived(count);
            rest = &rest[count..];
        }
        unreachable!("sizes is not empty")
    }

    proptest! {
        #[test]
        fn bad_bytes_are_replaced_wherever_the_reads_fall(
            sizes in prop::collection::vec(1usize..200, 1..8), bad in prop::collection::vec(128u8.., 1..6),
        ) {
            let fixed = vec![b'?'; bad.len()];
            prop_assume!(std::str::from_utf8(&bad).is_err());
            let expected = String::from_utf8_lossy(&bad).chars().all(|c| c == '\u{fffd}');
            prop_assume!(expected);
            prop_assert_eq!(through(&spoilt(&bad), &sizes), spoilt(&fixed));
        }

        #[test]
        fn good_bytes_and_garbage_pass_unchanged(
            sizes in prop::collection::vec(1usize..200, 1..8), text in "\\PC{0,20}", kind in 9u8..,
        ) {
            let good = spoilt(text.as_bytes());
            prop_assert_eq!(&through(&good, &sizes), &good);
            let opaque = frame(kind, &good);
            prop_assert_eq!(&through(&opaque, &sizes), &opaque);
        }

        #[test]
        fn malformed_frames_do_not_panic(kind in 1u8..=2, payload in prop::collection::vec(any::<u8>(), 0..300)) {
            let bytes = frame(kind, &[&[0, 60, 0, 60][..], &payload].concat());
            prop_assert_eq!(through(&bytes, &[64]).len(), bytes.len());
        }
    }
}
