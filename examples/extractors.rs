//! What a handler function can take: its arguments are made from the message and the worker.
//!
//! `cargo run --example extractors` runs it on a broker in memory.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use lapwing::{
    Context, Failure, Settings, Worker,
    handler::{Attempt, FromContext, Headers, Json, MessageId, Redelivered, RoutingKey, Shared},
    testing::TestWorker,
};

#[derive(serde::Deserialize)]
struct Order {
    cents: i64,
}

/// A value that all handlers share.
#[derive(Default)]
struct Shop {
    cents: AtomicU32,
}

/// An argument of this program's own: the tenant, from a header.
struct Tenant(String);

impl FromContext for Tenant {
    fn from_context(context: &Context) -> Result<Self, Failure> {
        let header = context.message().properties().header("tenant");
        let tenant = header.and_then(|value| value.as_str());
        Ok(Self(tenant.unwrap_or("nobody").to_owned()))
    }
}

/// The body as JSON, and a value of the program.
async fn charge(Json(order): Json<Order>, shop: Shared<Arc<Shop>>) -> Result<(), Failure> {
    let cents = u32::try_from(order.cents).map_err(|_| Failure::permanent("price", "negative"))?;
    shop.cents.fetch_add(cents, Ordering::Relaxed);
    Ok(())
}

/// What the broker and the worker know about the message. `Option` for what a message may lack.
async fn describe(
    id: Option<MessageId>,
    RoutingKey(key): RoutingKey,
    Redelivered(redelivered): Redelivered,
    Attempt(attempt): Attempt,
    headers: Headers,
    Tenant(tenant): Tenant,
) {
    let id = id.map_or_else(|| "no id".to_owned(), |MessageId(id)| id);
    println!(
        "{id} by {key}, attempt {attempt}, redelivered: {redelivered}, tenant {tenant}, {} bytes of {:?}",
        headers.body().len(),
        headers.properties().content_type(),
    );
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
        .consumer("events", "events", |events| events.concurrency = 1)
        .build()?;
    let shop = Arc::new(Shop::default());
    let worker = Worker::new(settings)
        .handler("orders", charge)
        .handler("events", describe)
        .share(Arc::clone(&shop));
    let worker = TestWorker::start(worker).await;
    worker.broker().publish_json("orders", r#"{"cents": 250}"#);
    worker.broker().publish_json("events", "{}");
    worker.finished().await;

    assert_eq!(shop.cents.load(Ordering::Relaxed), 250);
    assert_eq!(worker.drain().await?.ledger().acked, 2);
    Ok(())
}
