//! The HTTP handler against a small server, on real sockets.

mod answers;
mod batches;
mod connections;
mod http2;
mod requests;
mod server;
mod signatures;
mod tls;
mod tokens;

use std::time::Duration;

use tokio::time::timeout;

use super::{HttpHandler, HttpHandlerSettings};
use crate::{
    broker::Properties,
    decode::Decode,
    handler::{Context, Handler, samples::context},
    outcome::{Failure, Outcome},
};
pub(super) use server::{Asked, Say, Server};

/// The longest wait for something that must happen.
const DEADLINE: Duration = Duration::from_secs(20);

/// A message without anything special.
fn plain() -> Context {
    with_headers(&[])
}

fn with_headers(headers: &[(String, String)]) -> Context {
    let properties = Properties::new("m1", None, None, headers);
    context(properties, b"{}", Decode::Auto)
}

fn handler(url: String) -> HttpHandler {
    HttpHandler::new(&settings(url)).unwrap()
}

fn settings(url: String) -> HttpHandlerSettings {
    HttpHandlerSettings {
        url,
        ..HttpHandlerSettings::default()
    }
}

/// One attempt.
async fn run(handler: &HttpHandler, context: Context) -> Outcome {
    let outcome = timeout(DEADLINE, handler.handle(context)).await;
    outcome.expect("the handler ends")
}

/// The failure of one attempt.
async fn failure(handler: &HttpHandler, context: Context) -> Failure {
    match run(handler, context).await {
        Outcome::Failed(failure) => failure,
        other => panic!("{other:?}"),
    }
}

/// Lets time pass, for timers only: sockets are real.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}
