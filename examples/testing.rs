//! Tests of a handler without RabbitMQ: `cargo run --example testing`, or the same lines in a
//! `#[test]`.
//!
//! The worker is the real one, with its retries and dead letters. The broker holds its queues in
//! memory. tokio's clock is paused, so the retries below wait for minutes and the example still
//! ends at once.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use lapwing::{
    Failure, Settings, Worker,
    handler::{Json, Shared},
    testing::TestWorker,
};

#[derive(serde::Deserialize)]
struct Order {
    cents: i64,
}

/// A payment service that is down for the first two calls.
#[derive(Default)]
struct Payments {
    calls: AtomicU32,
}

impl Payments {
    async fn charge(&self, _cents: i64) -> Result<(), Failure> {
        if self.calls.fetch_add(1, Ordering::Relaxed) < 2 {
            return Err(Failure::retryable("payments", "service is down"));
        }
        Ok(())
    }
}

async fn charge(
    Json(order): Json<Order>,
    Shared(payments): Shared<Arc<Payments>>,
) -> Result<(), Failure> {
    if order.cents < 0 {
        return Err(Failure::permanent("price", "negative"));
    }
    payments.charge(order.cents).await
}

const SETTINGS: &str = "
    [consumers.orders]
    queue = 'orders'
    retry = { base = '2m', cap = '10m' }";

pub(crate) fn main() -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()?;
    runtime.block_on(async {
        let payments = Arc::new(Payments::default());
        let worker = Worker::new(Settings::from_toml(SETTINGS)?)
            .handler("orders", charge)
            .share(Arc::clone(&payments));
        let worker = TestWorker::start(worker).await;
        worker.broker().publish_json("orders", r#"{"cents": 250}"#);
        worker.broker().publish_json("orders", r#"{"cents": -1}"#);
        worker.finished().await;

        // The first order was charged in its third attempt, minutes later on the paused clock.
        assert_eq!(payments.calls.load(Ordering::Relaxed), 3);
        // The second order has a negative price, so it is dead-lettered.
        let dead = worker.broker().messages("orders.dead");
        assert_eq!(dead.len(), 1);
        assert_eq!(dead[0].header("lapwing-reason"), Some("rejected"));

        let ledger = worker.drain().await?.ledger();
        println!("{ledger:?}");
        assert_eq!(
            (ledger.acked, ledger.parked, ledger.dead_lettered),
            (1, 2, 1)
        );
        Ok(())
    })
}
