//! Lapwing: a RabbitMQ worker that does not lose messages.
//!
//! **A message leaves its queue only after its handler succeeded, or its successor (a parked retry
//! or a dead letter) is confirmed by the broker.** A crash may run a message twice; nothing may
//! lose one. Handlers must be idempotent.
//!
//! ```no_run
//! use lapwing::{Failure, Settings, Worker, handler::Json, settings::environment};
//!
//! #[derive(serde::Deserialize)]
//! struct Order {
//!     id: u64,
//! }
//!
//! async fn ship(Json(order): Json<Order>) -> Result<(), Failure> {
//!     println!("shipping order {}", order.id);
//!     Ok(())
//! }
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let settings = Settings::load(Some("worker.toml".as_ref()), environment()?)?;
//! Worker::new(settings)
//!     .handler("orders", ship)
//!     .run(lapwing::shutdown_signal())
//!     .await?;
//! # Ok(())
//! # }
//! ```
//!
//! # How a message travels
//!
//! `session -> Delivery -> decode -> Message -> dispatch -> Handler -> execute under timeout ->
//! Outcome -> policy::decide -> Settlement -> settle -> Settled | Stale`
//!
//! The modules below stand in the order in which a message meets them. Five patterns are the heart of
//! the crate: bounded concurrency (`flight::slots`, one slot for each running handler), timeouts
//! (`path::execute`, and every await on broker, pool and actor), retry with exponential backoff
//! ([`retry`] and [`policy`]), a state actor ([`state`]), and graceful shutdown (`lane::drain`).

// The broker hands over a delivery, which is decoded into a message.
pub mod broker;

mod decode;
pub mod message;

// The delivery is in flight: it waits for a slot, its handler runs, and the broker is told the end.
mod flight;

mod path;

pub mod handler;
mod outcome;

// What follows an outcome: an ack, a retry after a delay, a dead letter.
pub mod policy;

pub mod retry;

mod dead_letters;

// Who carries it out: one actor for each consumer, in a worker; and an actor for handlers' state.
mod lane;

mod consumer;
mod worker;

pub mod state;

// What others see of it.
mod status;

pub mod telemetry;

pub mod admin;
pub mod kubernetes;

// A worker on a broker in memory, for tests.
pub mod testing;

// Beside the path: publishing new messages, the time of day, settings as a whole and how they are
// read, text.
mod client;
mod clock;

pub mod settings;

mod config;
mod lock;
mod pem;
mod text;
mod words;

pub use client::{Client, NewMessage};
pub use flight::Phase;
pub use handler::{Context, Handler};
pub use lane::{CallError, CancelError};
pub use message::Message;
pub use outcome::{Ending, Failure, Outcome, OutcomeKind};
pub use policy::SettlementKind;
pub use settings::Settings;
pub use status::{
    ConsumerHealth, ConsumerReport, ConsumerReports, ConsumerState, DeliveryId, InFlight,
    InFlightPage, InvalidDeliveryId, Ledger, OutcomeRecord, Readiness,
};
pub use worker::{ConcurrencyError, Report, RunError, Worker, WorkerHandle, shutdown_signal};
