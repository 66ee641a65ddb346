//! One hand-over of a message, as it came off the wire.

use tokio::time::Instant;

use super::headers::Properties;

/// A message handed over on one channel, to be settled once.
#[derive(Debug)]
pub(crate) struct Delivery {
    /// Its number on its channel: 1, 2, 3, …
    pub(crate) tag: u64,
    /// When it was taken from lapin.
    pub(crate) received: Instant,
    /// The exchange it was published to; empty for the default exchange.
    pub(crate) exchange: String,
    /// The routing key it was published with.
    pub(crate) routing_key: String,
    /// The broker's flag: it was handed to some consumer before.
    pub(crate) redelivered: bool,
    /// Properties and headers.
    pub(crate) properties: Properties,
    /// The body's bytes.
    pub(crate) body: Vec<u8>,
}

impl From<lapin::message::Delivery> for Delivery {
    fn from(delivery: lapin::message::Delivery) -> Self {
        Self {
            tag: delivery.delivery_tag,
            received: Instant::now(),
            exchange: delivery.exchange.into(),
            routing_key: delivery.routing_key.into(),
            redelivered: delivery.redelivered,
            properties: delivery.properties.into(),
            body: delivery.data,
        }
    }
}
