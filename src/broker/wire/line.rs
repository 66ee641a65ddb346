//! The socket under a connection.
//!
//! A socket of tokio wakes the thread of the runtime that has it. That thread would then wake lapin's
//! thread, which reads, and wakes the first thread again, now for the deliveries: two wake-ups too many
//! for each read, and a wake-up costs as much as several small messages. So while reads follow each other
//! closely, lapin's thread waits for its socket itself (see [`traffic`](super::traffic)), and the socket
//! is not registered with tokio. For the rest of the time it is, and lapin's thread sleeps.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use futures_util::io::{AsyncRead, AsyncWrite};
use tokio::{
    io::{AsyncRead as _, AsyncWrite as _, ReadBuf},
    net,
    runtime::Handle,
};

/// What a line and the stream above it share.
#[derive(Debug)]
pub(in crate::broker) struct Ends {
    /// The socket, to wait for.
    pub(super) socket: TcpStream,
    /// lapin's thread waits for the socket itself.
    pub(super) busy: AtomicBool,
    /// The socket may have bytes: lapin's thread has waited for it.
    pub(super) has_bytes: AtomicBool,
    /// The socket has no room for what lapin writes, and tokio wakes lapin when it has. The line stays
    /// registered for that long: tokio forgets whom to wake with the registration.
    pub(super) write_waits: AtomicBool,
}

/// The socket, as a stream for lapin or for TLS.
#[derive(Debug)]
pub(in crate::broker) struct Line {
    ends: Arc<Ends>,
    runtime: Handle,
    socket: Socket,
    /// The last read of the busy line took all that there was.
    is_drained: bool,
}

#[derive(Debug)]
enum Socket {
    /// tokio wakes whoever waits for it.
    Registered(net::TcpStream),
    /// Nobody is woken. It does not block.
    Free(TcpStream),
    /// Between the two. It stays so if tokio does not take it.
    Moving,
}

impl Ends {
    pub(super) fn new(socket: TcpStream) -> Self {
        Self {
            socket,
            busy: AtomicBool::new(false),
            has_bytes: AtomicBool::new(false),
            write_waits: AtomicBool::new(false),
        }
    }
}

impl Line {
    /// Takes the socket of a connection, within the runtime that waits for it.
    pub(in crate::broker) fn new(socket: net::TcpStream) -> io::Result<Self> {
        let socket = socket.into_std()?;
        let ends = Ends::new(socket.try_clone()?);
        Ok(Self {
            ends: Arc::new(ends),
            runtime: Handle::current(),
            socket: Socket::Free(socket),
            is_drained: false,
        })
    }

    pub(in crate::broker) fn ends(&self) -> Arc<Ends> {
        Arc::clone(&self.ends)
    }

    fn is_busy(&self) -> bool {
        self.ends.busy.load(Ordering::Relaxed)
    }

    /// The socket, as one of tokio's.
    fn registered(&mut self) -> io::Result<&mut net::TcpStream> {
        if let Socket::Free(_) = &self.socket
            && let Socket::Free(socket) = std::mem::replace(&mut self.socket, Socket::Moving)
        {
            let _inside = self.runtime.enter();
            self.socket = Socket::Registered(net::TcpStream::from_std(socket)?);
            self.is_drained = false;
        }
        match &mut self.socket {
            Socket::Registered(socket) => Ok(socket),
            _ => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// The socket without tokio.
    fn free(&mut self) -> io::Result<&TcpStream> {
        if let Socket::Registered(_) = &self.socket
            && let Socket::Registered(socket) = std::mem::replace(&mut self.socket, Socket::Moving)
        {
            self.socket = Socket::Free(socket.into_std()?);
        }
        match &self.socket {
            Socket::Free(socket) => Ok(socket),
            _ => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Reads from a busy line. Pending: the caller waits for the socket.
    fn read_busy(&mut self, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let has_bytes = self.ends.has_bytes.swap(false, Ordering::Relaxed);
        let is_drained = self.is_drained && !has_bytes;
        let mut socket = self.free()?;
        // A read that would only show that there is nothing costs a system call.
        let read = match is_drained {
            true => None,
            false => unless_blocked(|| socket.read(buf)),
        };
        self.is_drained = match &read {
            Some(Ok(count)) => 0 < *count && *count < buf.len(),
            Some(Err(_)) => false,
            None => true,
        };
        read.map_or(Poll::Pending, Poll::Ready)
    }

    /// Writes by tokio, which wakes lapin if the socket has no room now.
    fn write_registered(
        &mut self,
        write: impl FnOnce(Pin<&mut net::TcpStream>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let written = write(Pin::new(self.registered()?));
        let waits = &self.ends.write_waits;
        waits.store(written.is_pending(), Ordering::Relaxed);
        written
    }

    /// Writes to a busy line. `None`: the socket has no room. The line is then no longer busy.
    fn write_busy(
        &mut self,
        mut write: impl FnMut(&TcpStream) -> io::Result<usize>,
    ) -> Option<io::Result<usize>> {
        if !self.is_busy() {
            return None;
        }
        let written = match self.free() {
            Ok(socket) => unless_blocked(|| write(socket)),
            Err(error) => Some(Err(error)),
        };
        self.ends.busy.store(written.is_some(), Ordering::Relaxed);
        written
    }
}

/// `None`: the socket would block.
fn unless_blocked(mut call: impl FnMut() -> io::Result<usize>) -> Option<io::Result<usize>> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return Some(done),
        }
    }
}

impl AsyncRead for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if self.is_busy() {
            return self.read_busy(buf);
        }
        let mut buf = ReadBuf::new(buf);
        ready!(Pin::new(self.registered()?).poll_read(cx, &mut buf))?;
        Poll::Ready(Ok(buf.filled().len()))
    }
}

impl AsyncWrite for Line {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.write_busy(|mut socket| socket.write(buf)) {
            Some(written) => Poll::Ready(written),
            None => self.write_registered(|socket| socket.poll_write(cx, buf)),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.write_busy(|mut socket| socket.write_vectored(bufs)) {
            Some(written) => Poll::Ready(written),
            None => self.write_registered(|socket| socket.poll_write_vectored(cx, bufs)),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(match self.ends.socket.shutdown(Shutdown::Write) {
            // The other end was faster.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            shut => shut,
        })
    }
}

#[cfg(test)]
mod tests;
