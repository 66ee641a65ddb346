//! The byte stream under lapin. It repairs frames that lapin cannot read.
//!
//! AMQP short strings (property values, header names, routing keys) are UTF-8 by the standard, but
//! RabbitMQ passes any bytes on. lapin treats other bytes as a broken connection: one such message
//! would end the connection, and every consumer on it, each time it is delivered. This stream
//! replaces the offending bytes by `?`, in place and before lapin sees them. The length stays, and
//! so does the framing. Long strings (header values, bodies) are bytes in lapin too and are not
//! changed.
//!
//! lapin reads tables inside tables by recursion. A frame has room for 20,000 nested tables, and
//! the broker accepts them. They overflow the stack of lapin's thread, which ends the process: such
//! a message kills each worker that receives it. So this stream turns whatever is nested deeper
//! than `DEEPEST` into bytes.
//!
//! lapin ends the connection when a frame is longer than both sides agreed, and the broker sends
//! such frames: see `fit`. lapin also allocates buffers of 64 times the agreed frame size. So the
//! stream never agrees on more than `LONGEST`, whatever the broker offers.
//!
//! lapin collects a frame of any length before it looks at it. So this stream ends a connection whose
//! next frame is longer than any that RabbitMQ sends.

mod fit;
#[cfg(any(test, fuzzing))]
pub(super) mod fuzz;
mod gate;
mod repair;

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
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
use tracing::warn;

pub(super) use gate::{Gate, Gated};
use repair::{HEADER, METHOD, agree_on_frame_max, release, repair};

use super::Version;

/// What the broker has last said about itself in the handshake.
#[derive(Debug)]
pub(super) struct Offers {
    /// The frame size of `connection.tune`, in bytes, up to 1 MiB. 128 KiB before the first offer.
    frame_max: AtomicUsize,
    /// The release of `connection.start`, as 1,000 times the major number and the minor number; 0
    /// before the first.
    release: AtomicUsize,
}

impl Default for Offers {
    fn default() -> Self {
        Self {
            frame_max: AtomicUsize::new(USUAL),
            release: AtomicUsize::new(0),
        }
    }
}

impl Offers {
    pub(super) fn frame_max(&self) -> usize {
        self.frame_max.load(Ordering::Relaxed)
    }

    /// Whether messages of high priority hold up expired ones of low priority in a quorum queue
    /// (measured: 40 s on 4.0; not on 3.10, which knows no priorities there, and not on 4.3).
    pub(super) fn priorities_delay(&self) -> bool {
        let is_affected = |it: Version| it >= Version::LIMITS && it < Version::RETURNS_FREELY;
        self.version().is_none_or(is_affected)
    }

    /// The broker's version, if the broker has named one.
    pub(super) fn version(&self) -> Option<Version> {
        match self.release.load(Ordering::Relaxed) {
            0 => None,
            release => Some(Version {
                major: u16::try_from(release / 1000).ok()?,
                minor: u16::try_from(release % 1000).ok()?,
            }),
        }
    }
}

/// A TCP or TLS connection, repaired on the way in.
pub(super) struct Wire {
    inner: AsyncTcpStream<Compat<TcpStream>>,
    inbox: Inbox,
    gate: Arc<Gate>,
    /// lapin has received bytes since the stream last answered that there are no more.
    passed: bool,
    shut: bool,
}

impl Wire {
    /// `gate` holds back the wake-ups of the connection's consumers.
    pub(super) fn new(
        inner: AsyncTcpStream<Compat<TcpStream>>,
        gate: Arc<Gate>,
        offered: Arc<Offers>,
    ) -> Self {
        let inbox = Inbox {
            offered,
            ..Inbox::default()
        };
        Self {
            inner,
            inbox,
            gate,
            passed: false,
            shut: false,
        }
    }

    /// lapin reads until there is no more, then handles all of it, then waits for its stream. The
    /// wake-up here tells lapin that there is more to read, so lapin does not wait and calls the
    /// stream again after handling.
    fn shut_gate(&mut self, cx: &Context<'_>) {
        if std::mem::take(&mut self.passed) {
            self.shut = true;
            self.gate.shut();
            cx.waker().wake_by_ref();
        }
    }

    /// Opens the gate: lapin has come back to the stream, or has dropped it.
    fn open_gate(&mut self) {
        if std::mem::take(&mut self.shut) {
            self.gate.open();
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.open_gate();
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        this.open_gate();
        loop {
            let taken = this.inbox.take(buf);
            if taken > 0 || buf.is_empty() {
                this.passed |= taken > 0;
                return Poll::Ready(Ok(taken));
            }
            if let Some(bytes) = this.inbox.too_long {
                let text = format!("the broker sends a frame of {bytes} bytes, which is too long");
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, text)));
            }
            let room = this.inbox.room();
            let Poll::Ready(read) = Pin::new(&mut this.inner).poll_read(cx, room) else {
                this.shut_gate(cx);
                return Poll::Pending;
            };
            let read = read?;
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
        // lapin begins each turn with a flush.
        self.open_gate();
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.open_gate();
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

/// Bytes on their way to lapin. `data[start..ready]` can be passed on. `data[ready..end]` is the
/// beginning of a frame that is checked when it is complete.
struct Inbox {
    data: Vec<u8>,
    start: usize,
    ready: usize,
    end: usize,
    /// Bytes still to arrive of a frame that needs no check.
    skip: usize,
    /// The incoming bytes are not AMQP frames: pass them on unchanged.
    opaque: bool,
    /// The longest frame, as agreed with the broker, in bytes; `usize::MAX` before that.
    frame_max: usize,
    /// The length of a frame that is too long, in bytes. The connection ends when everything before it
    /// was passed on.
    too_long: Option<usize>,
    offered: Arc<Offers>,
}

const CHUNK: usize = 64 * 1024;
const FRAME_HEAD: usize = 7;
const FRAME_END: usize = 1;
/// The longest frame that we agree on, in bytes.
const LONGEST: u32 = 1024 * 1024;
/// The frame size that RabbitMQ offers by default, in bytes.
const USUAL: usize = 128 * 1024;
/// The longest header that is still fitted into an agreed frame, in bytes. RabbitMQ 4 takes no message
/// that is larger.
const LONGEST_HEADER: usize = 16 * 1024 * 1024 + USUAL;

impl Default for Inbox {
    fn default() -> Self {
        Self {
            data: vec![0; CHUNK],
            start: 0,
            ready: 0,
            end: 0,
            skip: 0,
            opaque: false,
            frame_max: usize::MAX,
            too_long: None,
            offered: Arc::default(),
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

    /// The room for the next read. Called when everything that is ready was taken.
    fn room(&mut self) -> &mut [u8] {
        self.data.copy_within(self.ready..self.end, 0);
        self.end -= self.ready;
        self.start = 0;
        self.ready = 0;
        if self.end == 0 && self.data.len() > LONGEST as usize {
            // A very long header has made the buffer grow: shrink it again.
            self.data = vec![0; CHUNK];
        }
        if self.end == self.data.len() {
            self.data.resize(self.data.len() * 2, 0);
        }
        &mut self.data[self.end..]
    }

    /// Replaces the payload of the frame at `ready`, which has `size` bytes, by a shorter one.
    fn replace_payload(&mut self, size: usize, shorter: &[u8]) {
        let payload = self.ready + FRAME_HEAD;
        let length = u32::try_from(shorter.len()).expect("it is shorter than what a u32 counted");
        self.data[payload - 4..payload].copy_from_slice(&length.to_be_bytes());
        self.data[payload..payload + shorter.len()].copy_from_slice(shorter);
        self.data
            .copy_within(payload + size..self.end, payload + shorter.len());
        self.end -= size - shorter.len();
        self.ready = payload + shorter.len() + FRAME_END;
    }

    /// The longest frame of this kind that is passed on, in bytes.
    fn longest(&self, kind: u8) -> usize {
        match (self.frame_max, kind) {
            (usize::MAX, _) => USUAL,
            (_, METHOD | HEADER) => LONGEST_HEADER,
            (agreed, _) => agreed,
        }
    }

    fn arrived(&mut self, count: usize) {
        self.end += count;
        while self.ready < self.end && self.too_long.is_none() {
            let here = &self.data[self.ready..self.end];
            if self.opaque {
                self.ready = self.end;
            } else if self.skip > 0 {
                let skipped = self.skip.min(here.len());
                self.skip -= skipped;
                self.ready += skipped;
            } else if here.len() < FRAME_HEAD {
                return;
            } else {
                let kind = here[0];
                let size = u32::from_be_bytes([here[3], here[4], here[5], here[6]]) as usize;
                let whole = FRAME_HEAD + size + FRAME_END;
                match kind {
                    0..=8 if whole > self.longest(kind) => self.too_long = Some(whole),
                    METHOD | HEADER => {
                        if here.len() < whole {
                            return;
                        }
                        self.look_at_frame(kind, size);
                    }
                    0..=8 => self.skip = whole,
                    _ => self.opaque = true,
                }
            }
        }
    }

    /// Repairs the frame at `ready`, whose payload has `size` bytes, and marks it as ready.
    fn look_at_frame(&mut self, kind: u8, size: usize) {
        let payload = self.ready + FRAME_HEAD;
        let payload = &mut self.data[payload..payload + size];
        repair(kind, payload);
        if let Some(release) = release(kind, payload) {
            self.offered.release.store(release, Ordering::Relaxed);
        }
        if let Some(bytes) = agree_on_frame_max(kind, payload, LONGEST) {
            self.frame_max = bytes;
            self.offered.frame_max.store(bytes, Ordering::Relaxed);
        }
        let most = self.frame_max.saturating_sub(FRAME_HEAD + FRAME_END);
        if size > most
            && let Some(fitted) = fit::fitted(kind, payload, most)
        {
            if fitted.cut > 0 {
                warn!(
                    cut = fitted.cut,
                    names = fitted.names,
                    bytes = size,
                    frame_max = self.frame_max,
                    "the headers of a message do not fit a frame; dropped the longest"
                );
            }
            self.replace_payload(size, &fitted.payload);
            return;
        }
        self.ready += FRAME_HEAD + size + FRAME_END;
    }
}

/// The tokio runtime with [`Wire`] as its connection type. This makes lapin use `Wire`.
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
        async move {
            Ok(Wire::new(
                AsyncTcpStream::Plain(connect.await?),
                Arc::default(),
                Arc::default(),
            ))
        }
    }
}

#[cfg(test)]
mod tests;
