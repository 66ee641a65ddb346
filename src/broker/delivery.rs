//! One hand-over of a message, as it came off the wire.

use std::time::SystemTime;

use tokio::time::Instant;

use super::headers::Properties;
use crate::clock;

/// A message handed over on one channel, to be settled once.
#[derive(Debug)]
pub(crate) struct Delivery {
    /// Its number on its channel: 1, 2, 3, …
    pub(crate) tag: u64,
    /// When it was taken from lapin.
    pub(crate) received: Moment,
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

/// A moment on both clocks. Deliveries that are taken together share one: a look at a clock is not
/// free.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub(crate) instant: Instant,
    pub(crate) time: SystemTime,
}

impl Moment {
    pub(crate) fn now() -> Self {
        Self {
            instant: Instant::now(),
            time: clock::now(),
        }
    }
}

impl Delivery {
    pub(super) fn new(delivery: lapin::message::Delivery, received: Moment) -> Self {
        Self {
            tag: delivery.delivery_tag,
            received,
            exchange: delivery.exchange.into(),
            routing_key: delivery.routing_key.into(),
            redelivered: delivery.redelivered,
            properties: delivery.properties.into(),
            body: delivery.data,
        }
    }
}
