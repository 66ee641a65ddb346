//! How a handler function fails, and what follows: a retry, a dead letter, or a wait for a service.
//!
//! `cargo run --example errors` runs it on a broker in memory.

use lapwing::{
    Failure, Settings, Worker,
    handler::{IntoFailure, Json},
    testing::TestWorker,
};

#[derive(serde::Deserialize)]
struct Order {
    card: String,
}

/// An error of this program that says what follows from it.
#[derive(Debug, thiserror::Error)]
enum PaymentError {
    #[error("the card {0:?} is refused")]
    Refused(String),
    #[error("the payment service is down")]
    Down(#[from] std::io::Error),
}

impl IntoFailure for PaymentError {
    fn into_failure(self) -> Failure {
        match self {
            // No attempt can succeed: a dead letter.
            Self::Refused(_) => Failure::permanent("card", self.to_string()),
            // It says nothing about the message: no attempt is charged, and after several of these in
            // a row the consumer waits until the service is back.
            Self::Down(_) => Failure::unavailable("payments", self.to_string()),
        }
    }
}

/// `?` converts the errors of others into the program's own.
async fn charge(Json(order): Json<Order>) -> Result<(), PaymentError> {
    match order.card.as_str() {
        "expired" => Err(PaymentError::Refused(order.card)),
        "offline" => Err(std::io::Error::other("connection refused"))?,
        _ => Ok(()),
    }
}

/// With `anyhow`, or with `Box<dyn Error + Send + Sync>`, each error is a retry.
async fn ship(Json(order): Json<Order>) -> anyhow::Result<()> {
    anyhow::ensure!(order.card != "expired", "no label for {:?}", order.card);
    Ok(())
}

/// With [`Failure`] too, unless the function says more.
async fn bill(Json(order): Json<Order>) -> Result<(), Failure> {
    let number: u64 = order.card.parse()?;
    if number == 0 {
        return Err(Failure::permanent("card", "0 is no card"));
    }
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
        .consumer("charge", "charge", |charge| charge.retry.max_attempts = 2)
        .consumer("ship", "ship", |ship| ship.retry.max_attempts = 2)
        .consumer("bill", "bill", |bill| bill.retry.max_attempts = 2)
        .build()?;
    let worker = Worker::new(settings)
        .handler("charge", charge)
        .handler("ship", ship)
        .handler("bill", bill);
    let worker = TestWorker::start(worker).await;
    for (queue, card) in [
        ("charge", "1"),
        ("charge", "expired"),
        ("ship", "expired"),
        ("bill", "0"),
        ("bill", "none"),
    ] {
        let order = format!("{{\"card\": {card:?}}}");
        worker.broker().publish_json(queue, &order);
    }
    worker.finished().await;

    let dead = |queue: &str| -> Vec<_> {
        let letters = worker.broker().messages(queue);
        let told = letters.iter().map(|letter| {
            let header = |name| letter.header(name).unwrap_or_default().to_owned();
            (header("lapwing-reason"), header("lapwing-error"))
        });
        told.collect()
    };
    let told = |reason: &str, error: &str| (reason.to_owned(), error.to_owned());
    let refused = "the card \"expired\" is refused";
    assert_eq!(dead("charge.dead"), [told("rejected", refused)]);
    let label = "no label for \"expired\"";
    assert_eq!(dead("ship.dead"), [told("max-attempts", label)]);
    let digit = "invalid digit found in string";
    assert_eq!(
        dead("bill.dead"),
        [
            told("rejected", "0 is no card"),
            told("max-attempts", digit)
        ]
    );
    println!("{:?}", worker.drain().await?.ledger());
    Ok(())
}
