//! Lapwing: a RabbitMQ worker that does not lose messages.
//!
//! **A message leaves its queue only after its handler succeeded, or its successor (a parked retry
//! or a dead letter) is confirmed by the broker.** A crash may run a message twice; nothing may
//! lose one. Handlers must be idempotent.
//!
//! ```no_run
//! use lapwing::{Failure, Worker, config::Settings, handler::Json};
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
//! let settings = Settings::load(Some("worker.toml".as_ref()), lapwing::config::environment()?)?;
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
//! The source is laid out along that path: [`broker`], `decode`, [`message`], `dispatch`,
//! [`handler`], `execute`, [`policy`], and `worker`, whose `path` module holds it all together.
//! Five patterns are its heart: bounded concurrency (`slots`, one for each running
//! handler), timeouts (`execute`, and every await on broker, pool and actor), retry with
//! exponential backoff ([`backoff`]), a state actor ([`state`]), and graceful shutdown
//! (`worker::lane`).

pub mod admin;
pub mod backoff;
pub mod broker;
pub mod config;
mod dead_letters;
mod decode;
pub mod deletion_cost;
mod dispatch;
mod execute;
pub mod handler;
pub mod message;
pub mod policy;
mod run;
mod slots;
pub mod state;
pub mod telemetry;
mod text;
mod worker;

pub use handler::{Context, Failure, Handler, Outcome};
pub use message::Message;
pub use run::Phase;
pub use worker::{
    CallError, CancelError, ConcurrencyError, DeliveryId, InFlight, InFlightPage,
    InvalidDeliveryId, LaneHealth, LaneReport, LaneReports, LaneState, Ledger, OutcomeKind,
    OutcomeRecord, Readiness, Report, RunError, SettlementKind, Worker, WorkerHandle,
    shutdown_signal,
};
