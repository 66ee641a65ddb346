//! Requests and answers between the worker and the test's HTTP handler, and their record.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::http::{HeaderMap, Method};
use serde_json::Value;
use tokio::sync::watch;

/// The header in which the worker sends the message id.
const MESSAGE_ID: &str = "lapwing-message-id";

/// The header in which the worker sends the attempt, from 1.
const ATTEMPT: &str = "lapwing-attempt";

/// A request as it came in.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its index among all requests of this server, from 0.
    pub index: usize,
    /// The method.
    pub method: Method,
    /// The path, with its query.
    pub path: String,
    /// The headers.
    pub headers: HeaderMap,
    /// The body: that of the message.
    pub body: Bytes,
    /// The time at which it was read to its end.
    pub at: Instant,
}

impl Request {
    /// A header; empty if it is missing or not text.
    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default()
    }

    /// The message id from the worker; empty if there is none.
    pub fn message_id(&self) -> &str {
        self.header(MESSAGE_ID)
    }

    /// The attempt from the worker, from 1; 0 if there is none.
    pub fn attempt(&self) -> u32 {
        self.header(ATTEMPT).parse().unwrap_or(0)
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("the body is JSON")
    }
}

/// An answer to a request.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// Headers to send.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// The time that the handler takes before it answers.
    pub delay: Duration,
}

impl Reply {
    /// 200, at once, with nothing in it.
    pub fn ok() -> Self {
        Self::status(200)
    }

    /// This status, at once.
    pub fn status(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Vec::new(),
            delay: Duration::ZERO,
        }
    }

    /// After `delay`.
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// With this header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With this body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Answered with this status. The server does not know whether the worker read the answer.
    Answered(u16),
    /// The worker closed the connection before the answer: a timeout, an interruption, a crash.
    Abandoned,
}

/// A request and its end.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// The request.
    pub request: Arc<Request>,
    /// When it ended and how; `None` while the handler runs.
    pub ended: Option<(Instant, Ending)>,
}

/// Everything the server has seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// All requests, in order of arrival.
    pub exchanges: Vec<Exchange>,
    /// How many were answered.
    pub answered: usize,
    /// How many the worker abandoned.
    pub abandoned: usize,
    /// How many run now.
    pub running: usize,
    /// The most that ever ran at once.
    pub peak: usize,
    /// TCP connections accepted: few, if the worker pools them.
    pub connections: usize,
}

impl Seen {
    /// The ids of the requests that were answered with success, in order of arrival.
    pub fn succeeded(&self) -> impl Iterator<Item = &str> {
        let succeeded = self
            .exchanges
            .iter()
            .filter(|exchange| matches!(exchange.ended, Some((_, Ending::Answered(200..=299)))));
        succeeded.map(|exchange| exchange.request.message_id())
    }
}

/// A running request. Recorded as abandoned if it is dropped before its end.
pub(super) struct Running<'log> {
    /// What runs.
    pub request: Arc<Request>,
    log: &'log watch::Sender<Seen>,
    ended: bool,
}

impl<'log> Running<'log> {
    /// Records that `request` came in.
    pub fn start(mut request: Request, log: &'log watch::Sender<Seen>) -> Self {
        let mut recorded = None;
        log.send_modify(|seen| {
            request.index = seen.exchanges.len();
            let request = recorded.insert(Arc::new(request)).clone();
            seen.exchanges.push(Exchange {
                request,
                ended: None,
            });
            seen.running += 1;
            seen.peak = seen.peak.max(seen.running);
        });
        Self {
            request: recorded.expect("recorded above"),
            log,
            ended: false,
        }
    }

    /// Records that it ended.
    pub fn end(mut self, ending: Ending) {
        self.record(ending);
    }

    fn record(&mut self, ending: Ending) {
        self.ended = true;
        self.log.send_modify(|seen| {
            seen.exchanges[self.request.index].ended = Some((Instant::now(), ending));
            seen.running -= 1;
            match ending {
                Ending::Answered(_) => seen.answered += 1,
                Ending::Abandoned => seen.abandoned += 1,
            }
        });
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.record(Ending::Abandoned);
        }
    }
}
