//! SIGTERM and SIGINT, from the first instruction of `main`.
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
    consts::{SIGINT, SIGTERM},
    flag, low_level,
};
use tokio::io::AsyncReadExt;

/// Signals that are caught, and wait to be read.
pub(crate) struct Caught {
    terminate: UnixStream,
    interrupt: UnixStream,
    /// Whether a signal ends the process, as it does without a handler.
    ends: Arc<AtomicBool>,
}

impl Caught {
    /// Catches both signals from now on. Unblocks them: a process inherits blocked signals from the
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
        let both = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
        both.thread_unblock()?;
        Ok(Self {
            terminate,
            interrupt,
            ends,
        })
    }

    /// For a command that does not wait for signals: from now on a signal ends the process, and so
    /// does one that was caught before.
    pub(super) fn end_process(self) -> io::Result<()> {
        self.ends.store(true, Ordering::SeqCst);
        for (mut caught, signal) in [(self.terminate, SIGTERM), (self.interrupt, SIGINT)] {
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
        })
    }
}

/// A listener for both signals.
pub(super) struct Signals {
    terminate: tokio::net::UnixStream,
    interrupt: tokio::net::UnixStream,
}

impl Signals {
    /// Waits for the next signal, and returns its name.
    pub(super) async fn next(&mut self) -> &'static str {
        // A read of one byte takes nothing if another branch wins. It does not fail: the handler
        // keeps the other end open.
        tokio::select! {
            _ = self.terminate.read_u8() => "SIGTERM",
            _ = self.interrupt.read_u8() => "SIGINT",
        }
    }
}
