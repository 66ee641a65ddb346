//! The suites that need a real broker, in one binary, so that only one binary is linked.
//!
//! By default the suites start a node with `scripts/rabbitmq`. `LAPWING_TEST_RELEASE` chooses its
//! release line. `AMQP_URL` (with `MANAGEMENT_URL`) names a running broker instead.

mod support;

mod admin;
mod bad_input;
mod cli;
mod command;
mod connect;
mod console;
mod crash;
mod dead;
mod delays;
mod doctor;
mod drain;
mod faults;
mod forward;
mod handlers;
mod http;
mod inbox;
mod load;
mod memory;
mod phoenix;
mod process;
mod prometheus;
mod replicas;
mod republish;
mod returns;
mod routes;
mod same;
mod semantics;
mod soak;
mod sql;
mod telemetry;
mod topology;
mod trust;
