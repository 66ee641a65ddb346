//! One queue with several types of message, each with its own handler and its own type in Rust.
//!
//! `cargo run --example dispatch` runs it on a broker in memory.

use lapwing::{Failure, Settings, Worker, handler::Json, state::StateHandle, testing::TestWorker};

#[derive(serde::Deserialize)]
struct Placed {
    cents: i64,
}

#[derive(serde::Deserialize)]
struct Cancelled {
    reason: String,
}

async fn placed(Json(order): Json<Placed>, state: StateHandle) -> Result<(), Failure> {
    state.increment("cents", order.cents).await?;
    Ok(())
}

async fn cancelled(Json(order): Json<Cancelled>, state: StateHandle) -> Result<(), Failure> {
    println!("cancelled: {}", order.reason);
    state.increment("cancelled", 1).await?;
    Ok(())
}

/// Takes what no other handler takes. Without it such messages are dead letters.
async fn other(state: StateHandle) -> Result<(), Failure> {
    state.increment("other", 1).await?;
    Ok(())
}

pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()?;
    runtime.block_on(run())
}

async fn run() -> Result<(), Box<dyn std::error::Error>> {
    let settings = Settings::builder()
        .consumer("orders", "orders", |_| {})
        .build()?;
    let worker = Worker::new(settings)
        .handler_for_route("orders", "order.placed", placed)
        .handler_for_route("orders", "order.cancelled", cancelled)
        .handler("orders", other);
    let worker = TestWorker::start(worker).await;
    for (message_type, body) in [
        ("order.placed", r#"{"cents": 250}"#),
        ("order.placed", r#"{"cents": 50}"#),
        ("order.cancelled", r#"{"reason": "too late"}"#),
        ("order.shipped", "{}"),
        // It does not fit its type, so it is a dead letter.
        ("order.placed", r#"{"cents": "many"}"#),
    ] {
        let json = Some("application/json");
        let body = body.as_bytes();
        worker
            .broker()
            .publish("orders", body, json, Some(message_type));
    }
    worker.finished().await;

    let dead = worker.broker().messages("orders.dead");
    assert_eq!(dead.len(), 1);
    assert_eq!(dead[0].header("lapwing-reason"), Some("decode"));
    assert_eq!(worker.drain().await?.ledger().acked, 4);
    Ok(())
}
