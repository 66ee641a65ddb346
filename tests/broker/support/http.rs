//! The test's HTTP server as the worker's handler: it records every request and answers as the test
//! says.

use std::collections::BTreeSet;
use std::future::{Future, ready};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::Response;
use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::exchange::{Ending, Reply, Request, Running, Seen};
use super::wait::{DEADLINE, Gate};

/// The server. Stops accepting when dropped.
#[derive(Debug)]
pub struct HttpHandler {
    address: SocketAddr,
    seen: watch::Sender<Seen>,
    serving: JoinHandle<()>,
}

impl HttpHandler {
    /// A handler that answers each request by `answer`.
    pub async fn answering(answer: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::answering_async(move |request| ready(answer(&request))).await
    }

    /// One that holds back all of its answers until the gate is opened.
    pub async fn behind(
        gate: &Gate,
        answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::holding(gate, |_| true, answer).await
    }

    /// One that holds back its answers to the requests that wait, until the gate is opened.
    pub async fn holding(
        gate: &Gate,
        waits: impl Fn(&Request) -> bool + Send + Sync + 'static,
        answer: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let (gate, answer) = (gate.clone(), Arc::new(answer));
        Self::answering_async(move |request| {
            let gate = waits(&request).then(|| gate.clone());
            let answer = Arc::clone(&answer);
            async move {
                if let Some(gate) = gate {
                    gate.passed().await;
                }
                answer(&request)
            }
        })
        .await
    }

    /// A handler that may wait, for a [`Gate`] for instance, before it answers.
    pub async fn answering_async<F>(
        answer: impl Fn(Arc<Request>) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Reply> + Send + 'static,
    {
        let seen = watch::Sender::new(Seen::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let counting = seen.clone();
        let listener = listener.tap_io(move |_| counting.send_modify(|seen| seen.connections += 1));
        let (log, answer) = (seen.clone(), Arc::new(answer));
        let router = Router::new().fallback(move |request| {
            let (log, answer) = (log.clone(), answer.clone());
            async move { serve(request, &log, &*answer).await }
        });
        let serving = tokio::spawn(async move {
            axum::serve(listener, router)
                .await
                .expect("serving ends only by being aborted");
        });
        Self {
            address,
            seen,
            serving,
        }
    }

    /// Where the worker sends its requests.
    pub fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Where it listens, for a [`super::Proxy`] before it.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it has seen up to now.
    pub fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }

    /// Waits until `accept` returns true for the record. Checks at every change.
    pub async fn wait_for(
        &self,
        what: &str,
        deadline: Duration,
        accept: impl FnMut(&Seen) -> bool,
    ) -> Seen {
        let mut seen = self.seen.subscribe();
        match tokio::time::timeout(deadline, seen.wait_for(accept)).await {
            Ok(seen) => seen.expect("the sender is ours").clone(),
            Err(_) => panic!("waited {deadline:?} until {what}; {}", self.summary()),
        }
    }

    /// Waits until `n` requests have come in since the start, finished or not.
    pub async fn wait_for_requests(&self, n: usize, deadline: Duration) -> Seen {
        let what = format!("{n} requests have come in");
        self.wait_for(&what, deadline, |seen| seen.exchanges.len() >= n)
            .await
    }

    /// Waits until `n` requests have been answered since the start.
    pub async fn wait_for_answered(&self, n: usize, deadline: Duration) -> Seen {
        let what = format!("{n} requests have been answered");
        self.wait_for(&what, deadline, |seen| seen.answered >= n)
            .await
    }

    /// Waits until each of these messages has been answered with success.
    pub async fn wait_for_success(&self, ids: &[String]) -> Seen {
        let all = |seen: &Seen| {
            let succeeded: BTreeSet<_> = seen.succeeded().collect();
            ids.iter().all(|id| succeeded.contains(id.as_str()))
        };
        self.wait_for("each message was answered with success", DEADLINE, all)
            .await
    }

    /// The figures in a line.
    fn summary(&self) -> String {
        let seen = self.seen.borrow();
        format!(
            "the handler saw {} requests: {} answered, {} abandoned, {} running, {} at most at once, \
             {} connections",
            seen.exchanges.len(),
            seen.answered,
            seen.abandoned,
            seen.running,
            seen.peak,
            seen.connections,
        )
    }
}

impl Drop for HttpHandler {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Serves one request and records it.
async fn serve<F: Future<Output = Reply>>(
    request: axum::extract::Request,
    log: &watch::Sender<Seen>,
    answer: &impl Fn(Arc<Request>) -> F,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, usize::MAX).await.unwrap_or_default();
    let path = parts
        .uri
        .path_and_query()
        .map_or_else(String::new, ToString::to_string);
    let (method, headers, at) = (parts.method, parts.headers, Instant::now());
    let request = Request {
        index: 0,
        method,
        path,
        headers,
        body,
        at,
    };
    let running = Running::start(request, log);
    let reply = answer(running.request.clone()).await;
    tokio::time::sleep(reply.delay).await;
    running.end(Ending::Answered(reply.status));
    let mut response = Response::builder().status(reply.status);
    for (name, value) in reply.headers {
        response = response.header(name, value);
    }
    response
        .body(reply.body.into())
        .expect("the test wrote a valid reply")
}
