//! Lapwing: a RabbitMQ worker that does not lose messages.
//!
//! **A message leaves its queue only after its handler succeeded, or after the broker confirmed its
//! successor: a parked retry, a dead letter, or a copy in its place.** A crash can make a message run
//! twice, but no crash loses a message. Handlers must be idempotent.
//!
//! ```no_run
//! use lapwing::{Failure, Settings, Worker, handler::Json};
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
//! let settings = Settings::from_file("worker.toml")?;
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
//! The modules below are in the order in which a message meets them. The crate has five main
//! patterns:
//!
//! - bounded concurrency: `flight::slots`, one slot for each running handler;
//! - timeouts: `path::execute`, and a deadline for every wait for the broker, a pool or an actor;
//! - retry with exponential backoff: [`retry`] and [`policy`];
//! - a state actor: [`state`];
//! - graceful shutdown: `lane::drain`.

// The broker sends a delivery, which the worker decodes into a message.
pub mod broker;

mod decode;

// What other systems write into their messages.
mod dialect;
pub mod message;

// The delivery is in flight: it waits for a slot, its handler runs, and the worker settles it.
mod flight;

mod path;

pub mod handler;
mod outcome;

// Whether the service behind the handlers works.
pub mod breaker;

// What follows an outcome: an ack, a retry after a delay, a dead letter.
pub mod policy;

pub mod retry;

// What will happen to a message that keeps failing.
pub mod explain;

mod dead_letters;

// The tool that reads dead letters and puts them right.
pub mod letters;

// The tool that compares queues and bindings with the settings, and replaces queues.
pub mod topology;

// The actors: one for each consumer of a worker, and one for the state that handlers share.
mod lane;

mod consumer;
mod worker;

pub mod state;

// Reports: figures, metrics, traces, logs, and the admin server.
mod status;

pub mod telemetry;

pub mod admin;
pub mod kubernetes;

// Whether a set-up can keep the promise.
pub mod doctor;

mod certificates;

// A worker on a broker in memory, for tests.
pub mod testing;

// The rest: randomness, publishing new messages, the time of day, reading settings, texts.
mod chance;
mod client;
mod clock;

pub mod settings;

mod config;
mod lock;
mod pem;
mod pointer;
mod postgres;
mod text;
// The text of others is made plain by one rule, in the library and in the command.
#[doc(hidden)]
pub use text::is_hidden;
mod tls;
mod words;

// The functions that the fuzzer runs.
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzz;

pub use broker::NewMessage;
pub use client::Client;
pub use flight::Phase;
pub use handler::{Context, Handler};
pub use lane::{CallError, CancelError};
pub use message::Message;
pub use outcome::{Ending, Failure, Outcome, OutcomeKind};
pub use policy::SettlementKind;
pub use settings::Settings;
pub use status::{
    Backlog, ConsumerHealth, ConsumerReport, ConsumerReports, ConsumerState, DeliveryId, InFlight,
    InFlightPage, InvalidDeliveryId, Ledger, Limit, Load, OldestFrom, OutcomeRecord, Readiness,
    RouteReport,
};
pub use worker::{
    ConcurrencyError, EndWhen, EndedBy, Report, RunError, Worker, WorkerHandle, shutdown_signal,
};
