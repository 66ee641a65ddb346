//! The helpers of the broker suites.
//!
//! A test creates its own virtual host in the suite's broker, and everything else from there:
//!
//! ```ignore
//! let vhost = vhost().await;
//! let handler = HttpHandler::answering(|_| Reply::ok()).await;
//! let worker = consumer(&vhost, "orders").http(&handler).start().await;
//! ```
//!
//! No helper sleeps in the hope that something happens. Helpers await events (log lines, HTTP
//! requests, confirms). The broker's state sends no events, so [`wait_until`] polls it with a
//! deadline. A helper that fails panics, and says what it tried and what it saw.

#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "shared helpers: not every suite uses each of them"
)]

pub mod admin;
pub mod backends;
pub mod broker;
pub mod consumer;
pub mod counts;
pub mod exchange;
pub mod http;
pub mod ledger;
pub mod management;
pub mod message;
pub mod notes;
pub mod otlp;
pub mod postgres;
pub mod proxy;
pub mod publish;
pub mod queue;
pub mod raw;
pub mod require;
pub mod running;
pub mod script;
pub mod vhost;
pub mod wait;
pub mod worker;
pub mod worker_log;

mod tests;

pub use admin::{ADMIN, Admin, Events, TOKEN};
pub use backends::{backends, get, get_json, run_with_input};
pub use broker::{Broker, Release};
pub use consumer::{Consumers, consumer, consumers};
pub use counts::Counts;
pub use exchange::{Ending, Reply, Request};
pub use http::HttpHandler;
pub use ledger::Account;
pub use message::{Got, PublishSpec};
pub use notes::{HandlerRun, Meter, Notes};
pub use otlp::{Collector, Received, attributes};
pub use postgres::{Database, Postgres};
pub use proxy::Proxy;
pub use queue::QueueType;
pub use raw::RawMessage;
pub(crate) use require::require;
pub use running::RunningWorker;
pub use vhost::{VHost, vhost};
pub use wait::{BUSY, Block, DEADLINE, Gate, ms, wait_until, within};
pub use worker::{Exit, WorkerProcess};
pub use worker_log::{assert_adds_up, field, message as log_message};
