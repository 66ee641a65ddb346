//! An export: letters as lines of JSON, while the job reads them.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use axum::{
    Json,
    body::{Body, Bytes},
    extract::{Path, State, rejection::JsonRejection},
    http::header,
    response::{IntoResponse, Response},
};
use futures_util::stream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    changes::{Who, begin},
    select::Selection,
    views::JobKind,
    work::Work,
};
use crate::admin::{
    api::App,
    error::{ApiError, ErrorBody},
    reads::ConsumerPath,
    refusals::{BadRequest, NoConsumer, NotStarted, Refused},
};

/// The size of a piece of the answer, in bytes.
const PIECE: usize = 64 * 1024;
/// The pieces that wait for the client.
const PIECES: usize = 8;
/// How long the job waits for a client that takes no piece. Until the job ends nobody else can read its
/// letters.
const PATIENCE: Duration = Duration::from_secs(15);
/// The pause between two tries to hand over a piece.
const PAUSE: Duration = Duration::from_millis(10);

/// The lines of an export, on their way to the client. The job's thread writes them.
pub(super) struct Lines {
    to: mpsc::Sender<Bytes>,
    piece: Vec<u8>,
    /// Cancelled when the client is gone, or too slow.
    closed: CancellationToken,
    /// Somebody has stopped the job.
    stopped: CancellationToken,
    /// Whether the export has ended as it should.
    whole: Arc<AtomicBool>,
}

/// The client's end.
struct Pieces {
    from: mpsc::Receiver<Bytes>,
    whole: Arc<AtomicBool>,
    has_ended: bool,
}

impl Lines {
    fn channel() -> (Self, Pieces) {
        let (to, from) = mpsc::channel(PIECES);
        let whole = Arc::new(AtomicBool::new(false));
        let pieces = Pieces {
            from,
            whole: Arc::clone(&whole),
            has_ended: false,
        };
        let lines = Self {
            to,
            piece: Vec::with_capacity(PIECE),
            closed: CancellationToken::new(),
            stopped: CancellationToken::new(),
            whole,
        };
        (lines, pieces)
    }

    /// Writes no more once this is cancelled, also while a slow client takes nothing.
    pub(super) fn until(&mut self, stopped: CancellationToken) {
        self.stopped = stopped;
    }

    /// Cancelled when there is nobody to write for.
    pub(super) fn closed(&self) -> CancellationToken {
        self.closed.clone()
    }

    /// The way to the client, which is closed when the client is gone. An export that finds little hands
    /// nothing over for a long time.
    pub(super) fn client(&self) -> mpsc::Sender<Bytes> {
        self.to.clone()
    }

    /// Writes a line. Waits for a slow client: the job has this thread for itself.
    pub(super) fn write(&mut self, line: String) {
        if self.closed.is_cancelled() || self.stopped.is_cancelled() {
            return;
        }
        self.piece.extend_from_slice(line.as_bytes());
        self.piece.push(b'\n');
        if self.piece.len() >= PIECE {
            self.hand_over();
        }
    }

    fn hand_over(&mut self) {
        let mut piece = Bytes::from(std::mem::take(&mut self.piece));
        let until = Instant::now() + PATIENCE;
        loop {
            match self.to.try_send(piece) {
                Ok(()) => return,
                Err(mpsc::error::TrySendError::Full(_)) if self.stopped.is_cancelled() => return,
                Err(mpsc::error::TrySendError::Full(back)) if Instant::now() < until => {
                    piece = back;
                    thread::park_timeout(PAUSE);
                }
                Err(_) => return self.closed.cancel(),
            }
        }
    }

    /// All lines are written.
    pub(super) fn finish(&mut self) {
        if !self.piece.is_empty() {
            self.hand_over();
        }
        if !self.closed.is_cancelled() {
            self.whole.store(true, Ordering::Release);
        }
    }
}

impl Pieces {
    /// The next piece. An export that was cut short ends with an error, so that the client notices.
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        if let Some(piece) = self.from.recv().await {
            return Some(Ok(piece));
        }
        let is_whole = self.whole.load(Ordering::Acquire);
        if is_whole || std::mem::replace(&mut self.has_ended, true) {
            return None;
        }
        Some(Err(io::Error::other("the export was cut short")))
    }
}

/// Export dead letters
///
/// Lines of JSON without loss, as `lapwing dead export` writes them and `lapwing dead import` reads them.
/// The letters stay in their queue; until the export ends, nobody else can read them. If the export is cut
/// short, so is the answer: the connection ends before the answer's end. A client that takes no data for
/// 15 s is too slow.
#[utoipa::path(post, path = "/api/v1/dead/{consumer}/export", tag = "dead letters",
    params(("consumer" = String, Path, description = "The consumer's name")),
    request_body = Selection,
    security(("token" = [])),
    responses((status = 200, description = "The letters, one in each line", body = String, content_type = "application/x-ndjson"),
        (status = 410, description = "The look of the selection is over", body = ErrorBody),
        (status = 422, description = "The selection cannot be used", body = ErrorBody),
        BadRequest, NoConsumer, NotStarted, Refused),
)]
pub(in crate::admin) async fn export(
    State(app): State<Arc<App>>,
    who: Who,
    consumer: ConsumerPath,
    body: Result<Json<Selection>, JsonRejection>,
) -> Result<Response, ApiError> {
    let Path(name) = consumer?;
    let Json(selection) = body?;
    let filter = selection.filter(&app.dead, &name)?;
    let (lines, pieces) = Lines::channel();
    begin(
        &app,
        &name,
        JobKind::Export,
        who,
        Work::Export { filter, lines },
    )?;
    let pieces = stream::unfold(pieces, async |mut pieces| {
        let next = pieces.next().await?;
        Some((next, pieces))
    });
    let headers = [
        (header::CONTENT_TYPE, "application/x-ndjson"),
        (
            header::CONTENT_DISPOSITION,
            "attachment; filename=\"dead-letters.jsonl\"",
        ),
    ];
    Ok((headers, Body::from_stream(pieces)).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(mut pieces: Pieces) -> (Vec<u8>, bool) {
        let (mut bytes, mut is_cut) = (Vec::new(), false);
        while let Some(piece) = pieces.next().await {
            match piece {
                Ok(piece) => bytes.extend_from_slice(&piece),
                Err(_) => is_cut = true,
            }
        }
        (bytes, is_cut)
    }

    #[tokio::test]
    async fn an_export_that_is_cut_short_ends_with_an_error() {
        for is_whole in [true, false] {
            let (mut lines, pieces) = Lines::channel();
            let writing = std::thread::spawn(move || {
                for number in 0..100_000 {
                    lines.write(format!("{{\"number\":{number}}}"));
                }
                if is_whole {
                    lines.finish();
                }
            });
            let (bytes, is_cut) = all(pieces).await;
            writing.join().unwrap();
            let text = String::from_utf8(bytes).unwrap();
            assert_eq!(is_cut, !is_whole);
            assert!(text.starts_with("{\"number\":0}\n{\"number\":1}\n"));
            assert_eq!(text.ends_with("{\"number\":99999}\n"), is_whole);
        }
    }

    #[test]
    fn a_client_that_goes_away_ends_the_export() {
        let (mut lines, pieces) = Lines::channel();
        let closed = lines.closed();
        drop(pieces);
        for _ in 0..PIECE {
            lines.write("{}".to_owned());
        }
        assert!(closed.is_cancelled());
    }

    /// An export that finds little writes nothing for a long time.
    #[test]
    fn an_export_notices_without_a_line_that_its_client_is_gone() {
        let (lines, pieces) = Lines::channel();
        let client = lines.client();
        assert!(!client.is_closed());
        drop(pieces);
        assert!(client.is_closed());
    }
}
