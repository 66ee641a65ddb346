//! A message at the fake broker.

use std::{sync::Arc, time::Duration};

use lapin::types::{AMQPValue, FieldTable};
use tokio::time::Instant;

use super::death::Death;
use crate::broker::{
    Properties,
    headers::{PERSISTENT, short},
};

/// The header with the number of failed deliveries.
const DELIVERY_COUNT: &str = "x-delivery-count";

/// A message in a queue, or delivered to a consumer.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    /// The order of arrival in its queue.
    pub(super) position: u64,
    pub(crate) body: Vec<u8>,
    pub(crate) properties: Properties,
    pub(crate) redelivered: bool,
    /// The deliveries that count for the limit of a quorum queue.
    pub(crate) delivery_count: u64,
    /// The deliveries whose channel closed. Only RabbitMQ 4.0 counts them apart.
    pub(super) failed: u64,
    /// The count that a dead-lettering carried along. RabbitMQ 4.0 shows it until the new queue
    /// counts itself.
    pub(super) carried: u64,
    /// The routing key of the last publish or dead-lettering.
    pub(super) routing_key: Arc<str>,
    /// Why the broker moved the message before, newest first.
    pub(super) deaths: Vec<Death>,
    pub(super) expires_at: Option<Instant>,
}

impl Stored {
    pub(super) fn new(routing_key: &str, body: &[u8], properties: Properties) -> Self {
        Self {
            position: 0,
            body: body.to_vec(),
            properties,
            redelivered: false,
            delivery_count: 0,
            failed: 0,
            carried: 0,
            routing_key: routing_key.into(),
            deaths: Vec::new(),
            expires_at: None,
        }
    }

    /// Removes the delivery count that a client has written, as RabbitMQ 3.10 does for a client
    /// that takes a single message.
    pub(super) fn without_sent_count(&mut self) {
        let properties = self.properties.to_amqp();
        let headers = properties.headers().clone().unwrap_or_default();
        let mut headers = headers.inner().clone();
        if headers.remove(DELIVERY_COUNT).is_some() {
            self.properties = properties.with_headers(headers.into()).into();
        }
    }

    /// The properties as a consumer gets them: with the delivery count of a quorum queue.
    pub(super) fn delivered_properties(&self) -> Properties {
        let count = match self.delivery_count {
            0 => self.carried,
            own => own,
        };
        if count == 0 {
            return self.properties.clone();
        }
        let properties = self.properties.to_amqp();
        let mut headers: FieldTable = properties.headers().clone().unwrap_or_default();
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        headers.insert(short(DELIVERY_COUNT), AMQPValue::LongLongInt(count));
        properties.with_headers(headers).into()
    }

    /// Whether the message survives a restart of the broker.
    pub(crate) fn is_persistent(&self) -> bool {
        *self.properties.to_amqp().delivery_mode() == Some(PERSISTENT)
    }

    /// The `user-id` property itself.
    pub(crate) fn user_id(&self) -> Option<String> {
        let properties = self.properties.to_amqp();
        properties.user_id().as_ref().map(ToString::to_string)
    }

    /// A header's text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.properties.header(name)?.as_str()
    }

    /// A header's number.
    pub(crate) fn number(&self, name: &str) -> Option<i64> {
        self.properties.header(name)?.as_i64()
    }

    /// The `expiration` property.
    pub(crate) fn expiration(&self) -> Option<Duration> {
        let properties = self.properties.to_amqp();
        let milliseconds = properties.expiration().as_ref()?.as_str().parse().ok()?;
        Some(Duration::from_millis(milliseconds))
    }
}
