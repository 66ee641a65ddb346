//! The pipes of a co-process: lines to it, and lines from it.

use std::io;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::unix::pipe,
};

/// The bytes that are read at once, at least.
const CHUNK: usize = 4 * 1024;

/// The pipes of a co-process. When this is dropped, the co-process sees the end of its input.
pub(super) struct Link {
    stdin: pipe::Sender,
    stdout: pipe::Receiver,
    /// What was read and not yet taken.
    buffer: Vec<u8>,
}

/// Why no line came.
#[derive(Debug)]
pub(super) enum Broken {
    /// The co-process closed its standard output, or its standard input, or it ended.
    Closed,
    /// It broke the protocol.
    Protocol(String),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::Closed,
            _ => Self::Protocol(format!("its pipes failed: {error}")),
        }
    }
}

impl Link {
    pub(super) fn new(stdin: pipe::Sender, stdout: pipe::Receiver) -> Self {
        Self {
            stdin,
            stdout,
            buffer: Vec::new(),
        }
    }

    /// Writes a line, and waits for the next line of the co-process.
    pub(super) async fn ask(&mut self, line: &[u8], longest: usize) -> Result<Vec<u8>, Broken> {
        self.stdin.write_all(line).await?;
        self.line(longest).await
    }

    /// Waits for the next line of the co-process, which may have so many bytes.
    pub(super) async fn line(&mut self, longest: usize) -> Result<Vec<u8>, Broken> {
        let mut seen = 0;
        loop {
            if let Some(found) = self.buffer[seen..].iter().position(|byte| *byte == b'\n') {
                let rest = self.buffer.split_off(seen + found + 1);
                let mut line = std::mem::replace(&mut self.buffer, rest);
                line.pop();
                return Ok(line);
            }
            seen = self.buffer.len();
            if seen > longest {
                let text = format!("a line is longer than {longest} bytes");
                return Err(Broken::Protocol(text));
            }
            self.buffer.reserve(CHUNK);
            if self.stdout.read_buf(&mut self.buffer).await? == 0 {
                return Err(Broken::Closed);
            }
        }
    }
}
