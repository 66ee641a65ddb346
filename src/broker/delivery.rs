//! One delivery, as lapin received it.

use std::time::SystemTime;

use tokio::time::Instant;

use super::{
    headers::Properties,
    trust::{Rungs, Trust},
};
use crate::clock;

/// One hand-over of a message on one channel. It is settled once.
#[derive(Debug)]
pub(crate) struct Delivery {
    /// The delivery tag: its number on its channel, 1, 2, 3, …
    pub(crate) tag: u64,
    /// When the session took the delivery from lapin.
    pub(crate) received: Moment,
    /// The exchange that the message was published to; empty for the default exchange.
    pub(crate) exchange: String,
    /// The routing key that the message was published with.
    pub(crate) routing_key: String,
    /// The broker's `redelivered` flag: the broker has delivered the message before.
    pub(crate) redelivered: bool,
    /// Properties and headers, as far as they are believed.
    pub(crate) properties: Properties,
    /// The body's bytes.
    pub(crate) body: Vec<u8>,
}

/// A moment on both clocks. Deliveries that are taken together share one, because reading a clock
/// costs time.
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
    /// A message of a consumer with these retry queues, or one that is read as it is.
    pub(super) fn new(
        delivery: lapin::message::Delivery,
        received: Moment,
        trust: &Trust,
        rungs: Option<&Rungs>,
    ) -> Self {
        Self {
            tag: delivery.delivery_tag,
            received,
            exchange: delivery.exchange.into(),
            routing_key: delivery.routing_key.into(),
            redelivered: delivery.redelivered,
            properties: match rungs {
                Some(rungs) => trust.read(rungs, delivery.properties),
                None => delivery.properties.into(),
            },
            body: delivery.data,
        }
    }
}
