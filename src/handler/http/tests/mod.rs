//! The HTTP handler against a small server, on real sockets.

mod answers;
mod connections;
mod requests;
mod server;
mod tls;

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::time::timeout;

use super::{HttpHandler, HttpHandlerSettings};
use crate::{
    broker::{Delivery, Moment, Properties},
    decode::{self, Decode},
    flight::{Extensions, Flight, Resources, SessionId},
    handler::{Context, Handler},
    message::Message,
    outcome::{Failure, Outcome},
    state,
};
pub(super) use server::{Asked, Say, Server};

/// The longest wait for something that must happen.
const DEADLINE: Duration = Duration::from_secs(20);

/// A message with these properties, as the handler gets it in the worker.
fn context(properties: Properties, body: &[u8], decode: Decode) -> Context {
    let delivery = Delivery {
        tag: 1,
        received: Moment::now(),
        exchange: String::new(),
        routing_key: "q".to_owned(),
        redelivered: false,
        properties,
        body: body.to_vec(),
    };
    let resources = Resources {
        state: state::start(1, Duration::from_secs(1)),
        extensions: Extensions::default(),
    };
    let message = Message::new(delivery, "q".into());
    let is_json = decode::check(&message, decode).unwrap();
    let flight = Flight::new(
        "q".into(),
        message,
        Arc::new(resources),
        SessionId::next(),
        1,
        Moment::now(),
    );
    flight.is_json.store(is_json, Ordering::Relaxed);
    Context::new(Arc::new(flight))
}

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
