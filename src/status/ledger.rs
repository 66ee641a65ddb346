//! The account of a consumer: every delivery ends in exactly one of five.

use std::ops::AddAssign;

use serde::Serialize;
use utoipa::ToSchema;

/// How deliveries ended. The five ends add up to `received` once everything is settled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[non_exhaustive]
pub struct Ledger {
    /// Deliveries received.
    pub received: u64,
    /// Acked: handled, or dropped at the handler's word.
    pub acked: u64,
    /// Acked after a copy was parked on a retry rung.
    pub parked: u64,
    /// Acked after a copy was put in the dead-letter queue.
    pub dead_lettered: u64,
    /// Given back to the queue.
    pub returned: u64,
    /// Their channel died before they were settled; the broker redelivers them.
    pub stale: u64,
    /// Of `acked`: dropped at the handler's word.
    pub dropped: u64,
    /// Of `stale`: handled, parked or dead-lettered already, so that they will run a second time.
    pub duplicates: u64,
}

impl Ledger {
    /// Deliveries that have not ended.
    #[must_use]
    pub fn open(&self) -> u64 {
        let ended = self.ends().into_iter().map(|(_, count)| count).sum();
        self.received.saturating_sub(ended)
    }
}

impl Ledger {
    /// The ends, with their words as attribute values.
    pub(crate) fn ends(&self) -> [(&'static str, u64); 5] {
        [
            ("acked", self.acked),
            ("parked", self.parked),
            ("dead-lettered", self.dead_lettered),
            ("returned", self.returned),
            ("stale", self.stale),
        ]
    }
}

impl AddAssign for Ledger {
    fn add_assign(&mut self, other: Self) {
        self.received += other.received;
        self.acked += other.acked;
        self.parked += other.parked;
        self.dead_lettered += other.dead_lettered;
        self.returned += other.returned;
        self.stale += other.stale;
        self.dropped += other.dropped;
        self.duplicates += other.duplicates;
    }
}

/// How one delivery's path ended: what is left is to tell the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Ack it.
    Done,
    /// Ack it; the handler did not want it.
    Dropped,
    /// Ack it; its copy is confirmed on a retry rung.
    Parked,
    /// Ack it; its copy is confirmed in the dead-letter queue.
    DeadLettered,
    /// Nack it: it goes back to the queue.
    Return,
    /// Its copy could not be published: hold the consumer, and nack it later.
    NotPublished,
    /// Its path panicked: hold the consumer, and nack it later.
    Fault,
    /// Its channel died: there is nobody to tell.
    Stale,
}

impl End {
    /// Whether the broker is told by an ack.
    pub(crate) fn is_acked(self) -> bool {
        match self {
            Self::Done | Self::Dropped | Self::Parked | Self::DeadLettered => true,
            Self::Return | Self::NotPublished | Self::Fault | Self::Stale => false,
        }
    }
}

impl Ledger {
    /// Books an end that the broker was told of.
    pub(crate) fn settled(&mut self, end: End) {
        match end {
            End::Done => self.acked += 1,
            End::Dropped => {
                self.acked += 1;
                self.dropped += 1;
            }
            End::Parked => self.parked += 1,
            End::DeadLettered => self.dead_lettered += 1,
            End::Return | End::NotPublished | End::Fault => self.returned += 1,
            End::Stale => self.stale += 1,
        }
    }

    /// Books an end that the broker could not be told of.
    pub(crate) fn unsettled(&mut self, end: End) {
        self.stale += 1;
        if end.is_acked() {
            self.duplicates += 1;
        }
    }
}
