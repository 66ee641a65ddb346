//! The only place that acks and nacks.
//!
//! Everything goes through the channel, not through lapin's per-delivery acker: a channel here is
//! one incarnation and never recovers, so a tag can never mean another channel's message, and a
//! channel that died answers with an error.

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

/// What is settled in one go: first everything up to one tag, then single tags.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Acks {
    /// Every unsettled delivery up to and with this tag. It must itself be unsettled: RabbitMQ
    /// closes the channel over a tag that it does not know.
    pub(crate) through: Option<u64>,
    /// Single deliveries beyond.
    pub(crate) singles: Vec<u64>,
}

impl Acks {
    pub(crate) fn is_empty(&self) -> bool {
        self.through.is_none() && self.singles.is_empty()
    }
}

/// Writes acks. `Ok` means that they were written to the socket: AMQP has no reply to an ack. An
/// error means that the channel was gone, and that the broker redelivers.
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

/// Returns deliveries to their queue, where they keep their place if they can.
///
/// `nack`, never `reject`: on RabbitMQ 4.3 a nack does not raise a quorum queue's delivery count
/// and a reject does (measured).
pub(crate) async fn give_back(
    channel: &Channel,
    returns: &Returns,
    limit: Duration,
) -> Result<(), BrokerError> {
    let (tags, multiple) = match returns {
        Returns::Single(tags) => (tags.as_slice(), false),
        Returns::Through(tags) => (tags.last().map_or(&[][..], std::slice::from_ref), true),
    };
    let options = BasicNackOptions {
        multiple,
        requeue: true,
    };
    let write = tags.iter().map(|tag| channel.basic_nack(*tag, options));
    let write = futures_util::future::try_join_all(write);
    within(limit, "returning messages", write).await.map(drop)
}
