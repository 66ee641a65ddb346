//! The only module that acks and nacks.
//!
//! Acks and nacks go through the channel, not through lapin's per-delivery acker. A channel here
//! never recovers, so a tag never means another channel's message, and a closed channel answers
//! with an error.

#![expect(
    clippy::disallowed_methods,
    reason = "this is the one place that settles"
)]

use std::time::Duration;

use lapin::{
    Channel,
    options::{BasicAckOptions, BasicNackOptions},
};

use super::{
    error::{BrokerError, within},
    seam::Returns,
};

/// The acks of one batch: first one ack for everything up to a tag, then acks for single tags.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Acks {
    /// Every unsettled delivery up to and including this tag. The tag itself must be unsettled:
    /// RabbitMQ closes the channel when it does not know the tag.
    pub(crate) through: Option<u64>,
    /// Single deliveries beyond that tag.
    pub(crate) singles: Vec<u64>,
}

impl Acks {
    pub(crate) fn is_empty(&self) -> bool {
        self.through.is_none() && self.singles.is_empty()
    }
}

/// Writes acks. `Ok` means that they were written to the socket, because AMQP has no reply to an
/// ack. An error means that the channel was closed and that the broker redelivers the messages.
pub(crate) async fn ack(
    channel: &Channel,
    acks: &Acks,
    limit: Duration,
) -> Result<(), BrokerError> {
    let through = acks.through.map(|tag| (tag, true));
    let singles = acks.singles.iter().map(|tag| (*tag, false));
    let write = through
        .into_iter()
        .chain(singles)
        .map(|(tag, multiple)| channel.basic_ack(tag, BasicAckOptions { multiple }));
    let write = futures_util::future::try_join_all(write);
    within(limit, "writing acks", write).await.map(drop)
}

/// Returns deliveries to their queue, where the messages keep their place if possible, or rejects
/// them.
///
/// Uses `nack`, never `reject`: on RabbitMQ 4.3 a reject raises a quorum queue's delivery count and
/// a nack with requeue does not (measured).
pub(crate) async fn give_back(
    channel: &Channel,
    returns: &Returns,
    limit: Duration,
) -> Result<(), BrokerError> {
    let (tags, multiple) = match returns {
        Returns::Single(tags) | Returns::Reject(tags) => (tags.as_slice(), false),
        Returns::Through(tags) => (tags.last().map_or(&[][..], std::slice::from_ref), true),
    };
    let options = BasicNackOptions {
        multiple,
        requeue: !matches!(returns, Returns::Reject(_)),
    };
    let write = tags.iter().map(|tag| channel.basic_nack(*tag, options));
    let write = futures_util::future::try_join_all(write);
    within(limit, "returning messages", write).await.map(drop)
}
