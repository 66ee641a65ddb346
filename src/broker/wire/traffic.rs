//! Whether a connection is busy, and how lapin's thread waits for the socket of one that is.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};

use super::line::Ends;

/// So many reads within [`SOON`] of each other make a connection busy.
const MANY: u32 = 16;
/// The longest time between two reads of a busy connection.
const SOON: Duration = Duration::from_millis(1);
/// How long lapin's thread waits for its socket, as poll takes it. In this time it hears nothing of lapin's
/// own tasks, for instance of a heartbeat that is due. Lanes [ring](Bell::ring).
const WAIT: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 1_000_000,
};

/// Whether reads follow each other so closely that lapin's thread waits for them itself.
#[derive(Debug)]
pub(super) struct Traffic {
    ends: Arc<Ends>,
    /// [`SOON`], unless a test needs more time.
    pub(super) soon: Duration,
    /// Reads in a row within this time of each other.
    reads: u32,
    last: Option<Instant>,
}

/// What a wait of lapin's thread ended with.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Waited {
    /// The line is not busy, so its stream has registered whom to wake.
    NotAtAll,
    /// The socket has bytes, or its registration is due: look at it again.
    Look,
    /// Somebody has something to write.
    Rung,
}

impl Traffic {
    pub(super) fn new(ends: Arc<Ends>) -> Self {
        Self {
            ends,
            soon: SOON,
            reads: 0,
            last: None,
        }
    }

    /// lapin has taken all that the socket had.
    pub(super) fn read(&mut self, now: Instant) {
        let is_soon = self.last.is_some_and(|last| now - last < self.soon);
        self.last = Some(now);
        self.reads = if is_soon {
            self.reads.saturating_add(1)
        } else {
            0
        };
        if self.reads >= MANY && !self.ends.write_waits.load(Ordering::Relaxed) {
            self.ends.busy.store(true, Ordering::Relaxed);
        }
    }

    /// Waits for the socket or the bell, if the line is busy.
    pub(super) fn wait(&mut self, bell: &Bell) -> Waited {
        if !self.ends.busy.load(Ordering::Relaxed) {
            return Waited::NotAtAll;
        }
        match bell.wait(&self.ends.socket) {
            Heard::Socket => self.ends.has_bytes.store(true, Ordering::Relaxed),
            Heard::Bell => {
                // Nobody has looked whether there are bytes too.
                self.ends.has_bytes.store(true, Ordering::Relaxed);
                return Waited::Rung;
            }
            Heard::Nothing => {
                self.reads = 0;
                self.ends.busy.store(false, Ordering::Relaxed);
            }
        }
        Waited::Look
    }
}

/// What ended a wait.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Socket,
    Bell,
    Nothing,
}

/// Wakes lapin's thread while it waits for its socket.
#[derive(Debug)]
pub(super) struct Bell {
    /// Somebody has rung since lapin's thread last looked.
    rung: AtomicBool,
    /// lapin's thread waits, or is about to.
    waits: AtomicBool,
    inside: UnixStream,
    outside: UnixStream,
}

impl Bell {
    pub(super) fn new() -> io::Result<Self> {
        let (inside, outside) = UnixStream::pair()?;
        inside.set_nonblocking(true)?;
        outside.set_nonblocking(true)?;
        Ok(Self {
            rung: AtomicBool::new(false),
            waits: AtomicBool::new(false),
            inside,
            outside,
        })
    }

    /// lapin has been given something to write.
    pub(super) fn ring(&self) {
        self.rung.store(true, Ordering::SeqCst);
        if self.waits.swap(false, Ordering::SeqCst) {
            // One byte for each wait: the socket has room for it.
            let _ = (&self.outside).write(&[0]);
        }
    }

    fn wait(&self, socket: &TcpStream) -> Heard {
        self.waits.store(true, Ordering::SeqCst);
        // Whoever rings after this look finds that somebody waits.
        if self.rung.swap(false, Ordering::SeqCst) {
            self.waits.store(false, Ordering::SeqCst);
            return Heard::Bell;
        }
        let mut fds = [
            PollFd::new(socket, PollFlags::IN),
            PollFd::new(&self.inside, PollFlags::IN),
        ];
        let heard = poll(&mut fds, Some(&WAIT));
        let [has_bytes, has_rung] = fds.map(|fd| !fd.revents().is_empty());
        self.waits.store(false, Ordering::SeqCst);
        match heard {
            // A signal. Nothing is lost by another look.
            Err(Errno::INTR) => Heard::Socket,
            // This thread cannot wait here, so tokio does.
            Err(_) => Heard::Nothing,
            Ok(_) if has_rung => {
                let _ = (&self.inside).read(&mut [0; 16]);
                self.rung.store(false, Ordering::SeqCst);
                Heard::Bell
            }
            Ok(_) if has_bytes => Heard::Socket,
            Ok(_) => Heard::Nothing,
        }
    }
}

#[cfg(test)]
mod tests;
