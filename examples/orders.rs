//! A worker with its handler in Rust: typed JSON, shared values, the state actor, cancellation.
//!
//! `cargo run --example orders -- worker.toml`, where `worker.toml` configures a consumer `orders`.

use lapwing::{
    Failure, Settings, Worker,
    handler::{Attempt, Cancellation, Json, Shared},
    shutdown_signal,
    state::StateHandle,
    telemetry,
};
use serde::Deserialize;

#[derive(Deserialize)]
struct Order {
    id: u64,
    cents: i64,
}

/// A value that handlers share. In a real worker this may be a database pool.
struct Prices {
    least: i64,
}

async fn charge(
    Json(order): Json<Order>,
    Attempt(attempt): Attempt,
    prices: Shared<Prices>,
    state: StateHandle,
    cancellation: Cancellation,
) -> Result<(), Failure> {
    if order.cents < prices.least {
        return Err(Failure::permanent("price", "cheaper than anything we sell"));
    }
    tokio::select! {
        () = work() => {}
        reason = cancellation.cancelled() => println!("order {}: {reason:?}", order.id),
    }
    let total = state.increment("cents", order.cents).await?;
    println!(
        "order {} (attempt {attempt}), {total} cents so far",
        order.id
    );
    Ok(())
}

async fn work() {}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let file = std::env::args()
        .nth(1)
        .unwrap_or("config/default.toml".to_owned());
    let settings = Settings::from_file(file)?;
    let _telemetry = telemetry::start(&settings)?;
    let report = Worker::new(settings)
        .handler("orders", charge)
        .share(Prices { least: 1 })
        .run(shutdown_signal())
        .await?;
    println!("{:?}", report.ledger());
    Ok(())
}
