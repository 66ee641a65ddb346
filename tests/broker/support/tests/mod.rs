//! Tests of the test helpers themselves, against a real broker.

mod broker;
mod network;
mod require;
mod worker;

use lapin::{Connection, ConnectionProperties};

use crate::support::within;

/// A connection that the helpers do not know, as the worker would make it.
async fn stranger(url: &str) -> Connection {
    let properties = ConnectionProperties::default().with_connection_name("stranger".into());
    within("connecting", Connection::connect(url, properties))
        .await
        .expect("the broker takes it")
}
