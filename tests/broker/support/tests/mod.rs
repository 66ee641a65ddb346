//! The harness itself, against a real broker: a suite is worth what its instruments are.

mod broker;
mod network;
mod require;
mod worker;

use lapin::{Connection, ConnectionProperties};

use crate::support::within;

/// A connection as the worker would make it: a stranger to the harness.
async fn stranger(url: &str) -> Connection {
    let properties = ConnectionProperties::default().with_connection_name("stranger".into());
    within("connecting", Connection::connect(url, properties))
        .await
        .expect("the broker takes it")
}
