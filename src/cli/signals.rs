//! SIGTERM, SIGINT and SIGHUP, from the first instruction of `main`.
//!
//! As process 1 of a container a signal without a handler is ignored, and elsewhere it ends the
//! process. So `main` installs the handlers before anything else. A handler writes a byte into a
//! socket, where the signal waits until the command reads it.

use std::{
    io::{self, Read},
    os::unix::net::UnixStream,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use nix::sys::signal::{SigSet, Signal};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    flag, low_level,
};
use tokio::io::AsyncReadExt;

/// Signals that are caught, and wait to be read.
pub(crate) struct Caught {
    terminate: UnixStream,
    interrupt: UnixStream,
    hang_up: UnixStream,
    /// Whether a signal ends the process, as it does without a handler.
    ends: Arc<AtomicBool>,
}

impl Caught {
    /// Catches the signals from now on. Unblocks them: a process inherits blocked signals from the
    /// one that starts it, and would never see them.
    pub(crate) fn new() -> io::Result<Self> {
        let ends = Arc::new(AtomicBool::new(false));
        let catch = |signal| {
            flag::register_conditional_default(signal, Arc::clone(&ends))?;
            let (read, write) = UnixStream::pair()?;
            read.set_nonblocking(true)?;
            low_level::pipe::register(signal, write)?;
            Ok::<_, io::Error>(read)
        };
        let (terminate, interrupt) = (catch(SIGTERM)?, catch(SIGINT)?);
        // A closed terminal, or a service manager that wants settings to be read again. The worker reads
        // its settings at the start only, so it drains, and whoever started it starts it again.
        let hang_up = catch(SIGHUP)?;
        let all = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]);
        all.thread_unblock()?;
        Ok(Self {
            terminate,
            interrupt,
            hang_up,
            ends,
        })
    }

    /// For a command that does not wait for signals: from now on a signal ends the process, and so
    /// does one that was caught before.
    pub(super) fn end_process(self) -> io::Result<()> {
        self.ends.store(true, Ordering::SeqCst);
        let all = [
            (self.terminate, SIGTERM),
            (self.interrupt, SIGINT),
            (self.hang_up, SIGHUP),
        ];
        for (mut caught, signal) in all {
            if caught.read(&mut [0]).is_ok_and(|bytes| bytes > 0) {
                low_level::emulate_default_handler(signal)?;
            }
        }
        Ok(())
    }

    /// A listener on the current runtime. Its first signal may have come before.
    pub(super) fn listen(self) -> io::Result<Signals> {
        Ok(Signals {
            terminate: tokio::net::UnixStream::from_std(self.terminate)?,
            interrupt: tokio::net::UnixStream::from_std(self.interrupt)?,
            hang_up: tokio::net::UnixStream::from_std(self.hang_up)?,
        })
    }
}

/// A listener for the signals.
pub(super) struct Signals {
    terminate: tokio::net::UnixStream,
    interrupt: tokio::net::UnixStream,
    hang_up: tokio::net::UnixStream,
}

impl Signals {
    /// Waits for the next signal, and returns its name.
    pub(super) async fn next(&mut self) -> &'static str {
        // A read of one byte takes nothing if another branch wins. It does not fail: the handler
        // keeps the other end open.
        tokio::select! {
            _ = self.terminate.read_u8() => "SIGTERM",
            _ = self.interrupt.read_u8() => "SIGINT",
            _ = self.hang_up.read_u8() => "SIGHUP",
        }
    }
}
