//! The harness of the broker suites.
//!
//! A test takes a broker, makes a virtual host of its own in it, and from there everything else:
//!
//! ```ignore
//! let broker = Broker::shared().await;
//! let vhost = broker.vhost().await;
//! vhost.declare("orders", QueueType::Quorum).await;
//! let handler = HttpHandler::answering(|_| Reply::ok()).await;
//! let worker = WorkerProcess::start(&lane_config(vhost.amqp_url(), "orders", handler.url(), "")).await;
//! ```
//!
//! Nothing here sleeps to let something happen. What reports by itself is awaited (log lines, HTTP
//! requests, confirms); the broker's state, which reports nothing, is polled by [`wait_until`] with
//! a deadline. A helper that cannot do its work panics with what it tried and what it saw: a test
//! has no use for the error.

#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "a toolbox: each suite takes what it needs, and suites come and go"
)]

pub mod admin;
pub mod backends;
pub mod broker;
pub mod config;
pub mod counts;
pub mod exchange;
pub mod http;
pub mod in_process;
pub mod ledger;
pub mod management;
pub mod message;
pub mod otlp;
pub mod proxy;
pub mod publish;
pub mod queue;
pub mod raw;
pub mod running;
pub mod script;
pub mod vhost;
pub mod wait;
pub mod worker;
pub mod worker_log;

pub use admin::{ADMIN, Admin, Events, TOKEN};
pub use backends::{backends, get, get_json, run_with_input};
pub use broker::{Broker, Release};
pub use config::lane_config;
pub use counts::Counts;
pub use exchange::{Ending, Reply, Request};
pub use http::HttpHandler;
pub use in_process::{InProcess, Meter, Notes, lane_settings, ms};
pub use ledger::Account;
pub use message::{Got, PublishSpec};
pub use otlp::{Collector, Received, attributes};
pub use proxy::Proxy;
pub use queue::QueueType;
pub use raw::RawMessage;
pub use running::{RunningWorker, all_succeeded};
pub use vhost::VHost;
pub use wait::{DEADLINE, Gate, wait_until, within};
pub use worker::{Exit, WorkerProcess};
pub use worker_log::{DrainLedger, field, message as log_message};
