//! The service behind the measured worker's HTTP handler in `make bench`. Answers each request at
//! `LISTEN` with 204 at once.

use axum::{Router, body::Body, http::StatusCode};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let listener = TcpListener::bind(std::env::var("LISTEN")?).await?;
    let router = Router::new().fallback(async |body: Body| {
        // A connection can be used again only if its request was read.
        axum::body::to_bytes(body, usize::MAX).await.ok();
        StatusCode::NO_CONTENT
    });
    axum::serve(listener, router).await?;
    Ok(())
}
