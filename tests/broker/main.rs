//! The suites that need a real broker, in one binary: one link instead of one for each.
//!
//! Without anything set they start a node by `scripts/rabbitmq`. `LAPWING_TEST_RELEASE` chooses its
//! release line, `AMQP_URL` (with `MANAGEMENT_URL`) names a broker that runs already.

mod support;

mod admin;
mod bad_input;
mod cli;
mod connect;
mod console;
mod crash;
mod delays;
mod drain;
mod faults;
mod handlers;
mod http;
mod load;
mod phoenix;
mod prometheus;
mod replicas;
mod republish;
mod semantics;
mod soak;
mod telemetry;
mod topology;
