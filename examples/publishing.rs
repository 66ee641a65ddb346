//! A handler that publishes: the worker acks the message only after the broker has confirmed what the
//! handler left.
//!
//! `cargo run --example publishing` runs it on a broker in memory.

use lapwing::{
    Failure, NewMessage, Settings, Worker,
    handler::{Json, Results},
    testing::TestWorker,
};

#[derive(serde::Deserialize)]
struct Order {
    id: u64,
    cents: i64,
}

async fn charge(Json(order): Json<Order>, results: Results) -> Result<(), Failure> {
    // Published only if this attempt succeeds.
    results.publish(NewMessage {
        routing_key: "mails".to_owned(),
        body: format!("{{\"order\": {}}}", order.id).into_bytes(),
        content_type: Some("application/json".to_owned()),
        ..NewMessage::default()
    });
    if order.cents < 0 {
        return Err(Failure::permanent("price", "negative"));
    }
    // The settings `forward` say where the result goes.
    results.set(
        format!("{{\"paid\": {}}}", order.id),
        Some("application/json"),
    );
    Ok(())
}

async fn mail(Json(_): Json<serde_json::Value>) {}

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
        .consumer("mails", "mails", |_| {})
        .build()?;
    let worker = Worker::new(settings)
        .handler("orders", charge)
        .handler("mails", mail);
    let worker = TestWorker::start(worker).await;
    worker
        .broker()
        .publish_json("orders", r#"{"id": 1, "cents": 250}"#);
    worker
        .broker()
        .publish_json("orders", r#"{"id": 2, "cents": -1}"#);
    worker.finished().await;

    let ledger = worker.drain().await?.ledger();
    // The first order and its mail. The second order is a dead letter, and has no mail.
    assert_eq!((ledger.acked, ledger.dead_lettered), (2, 1));
    Ok(())
}
