//! The service behind the measured worker's HTTP handler in `make bench`. Answers each request at
//! `LISTEN` at once: a batch with its outcomes, and any other request with 204.

use axum::{
    Router,
    body::Body,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use tokio::net::TcpListener;

#[derive(Deserialize)]
struct Message {
    id: u64,
}

async fn answer(body: Body) -> Response {
    // A connection can be used again only if its request was read.
    let body = axum::body::to_bytes(body, usize::MAX).await;
    match serde_json::from_slice::<Vec<Message>>(&body.unwrap_or_default()) {
        Ok(messages) => {
            let outcome = |it: &Message| format!("{{\"id\":{},\"outcome\":\"succeeded\"}}", it.id);
            let outcomes: Vec<_> = messages.iter().map(outcome).collect();
            format!("{{\"outcomes\":[{}]}}", outcomes.join(",")).into_response()
        }
        Err(_) => StatusCode::NO_CONTENT.into_response(),
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listener = TcpListener::bind(std::env::var("LISTEN")?).await?;
    axum::serve(listener, Router::new().fallback(answer)).await?;
    Ok(())
}
