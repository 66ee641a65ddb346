//! Messages for the tests of handlers, as a handler gets them in the worker.

use std::{sync::Arc, time::Duration};

use super::Context;
use crate::{
    broker::{Delivery, Moment, Properties},
    decode::{BodySettings, Decode, Reader, Seen},
    flight::{CancelReason, Extensions, Flight, Resources, SessionId},
    message::Message,
    state,
};

/// A message with these properties and this body.
pub(super) fn context(properties: Properties, body: &[u8], decode: Decode) -> Context {
    Sample::of(properties, body, decode).context()
}

/// A message whose run can be cancelled.
pub(super) struct Sample(Arc<Flight>, Seen);

impl Sample {
    pub(super) fn of(properties: Properties, body: &[u8], decode: Decode) -> Self {
        Self::made(1, properties, body, decode, &BodySettings::default())
    }

    /// A message with this delivery tag.
    pub(super) fn delivered(tag: u64, properties: Properties, body: &[u8], decode: Decode) -> Self {
        Self::made(tag, properties, body, decode, &BodySettings::default())
    }

    /// A message that is read with these settings.
    pub(super) fn read(
        properties: Properties,
        body: &[u8],
        decode: Decode,
        settings: &BodySettings,
    ) -> Self {
        Self::made(1, properties, body, decode, settings)
    }

    fn made(
        tag: u64,
        properties: Properties,
        body: &[u8],
        decode: Decode,
        settings: &BodySettings,
    ) -> Self {
        let delivery = Delivery {
            tag,
            received: Moment::now(),
            exchange: "events".to_owned(),
            routing_key: "q".to_owned(),
            redelivered: false,
            properties,
            body: body.to_vec(),
        };
        let resources = Resources {
            state: state::start(1, Duration::from_secs(1)),
            extensions: Extensions::default(),
            drain: tokio_util::sync::CancellationToken::new(),
        };
        let message = Message::new(delivery, "q".into());
        let reader = Reader::new(decode, settings).unwrap();
        let seen = reader.read(&message, true, false).unwrap();
        let flight = Flight::new(
            "q".into(),
            message,
            Arc::new(resources),
            SessionId::next(),
            tag,
            Moment::now(),
        );
        Self(Arc::new(flight), seen)
    }

    /// A message with nothing but an id and this body.
    pub(super) fn with_body(body: &[u8]) -> Self {
        let properties = Properties::new("m1", None, None, &[]);
        Self::of(properties, body, Decode::Bytes)
    }

    pub(super) fn context(&self) -> Context {
        Context::new(Arc::clone(&self.0), self.1.clone())
    }

    /// Starts the run, as the worker does it, with this time limit.
    pub(super) fn start(&self, limit: Duration) {
        self.0.handler_started(limit);
    }

    /// Whether the run ended without asking the service.
    pub(super) fn has_asked_nothing(&self) -> bool {
        self.0.has_asked_nothing()
    }

    /// Begins the drain of the worker.
    pub(super) fn drain(&self) {
        self.0.resources.drain.cancel();
    }

    /// The messages of the call that is counted with this message.
    pub(super) fn batch(&self) -> Option<u32> {
        self.0.take_batch()
    }

    /// Cancels the run as the worker does it at the timeout.
    pub(super) fn time_out(&self) {
        self.0.cancel.request(CancelReason::Timeout);
    }
}
