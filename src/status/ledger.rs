//! The ledger of a consumer: every delivery ends in exactly one of five ways.

use std::ops::{AddAssign, SubAssign};

use serde::Serialize;
use utoipa::ToSchema;

/// How deliveries ended. The five ends add up to `received` once everything is settled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[non_exhaustive]
pub struct Ledger {
    /// Deliveries received.
    pub received: u64,
    /// Acked because the handler succeeded or dropped the message.
    pub acked: u64,
    /// Acked after the broker confirmed a copy in a retry queue.
    pub parked: u64,
    /// Acked after the broker confirmed a copy in the dead-letter queue, or rejected so that the
    /// broker itself moves the message there.
    pub dead_lettered: u64,
    /// Returned to the queue, by a nack or as a copy.
    pub returned: u64,
    /// Not settled before their channel closed, or acked without anything by which the broker showed
    /// that it has the ack. The broker redelivers them.
    pub stale: u64,
    /// The part of `acked` that the handler dropped.
    pub dropped: u64,
    /// The part of `returned` that went back as a copy, near the queue's delivery limit or because the
    /// message has an `expiration`: acked after the broker confirmed the copy at the tail of the queue.
    pub copied: u64,
    /// The part of `stale` that was already handled, parked, dead-lettered or copied. These messages run
    /// again, apart from those whose ack has reached the broker without the worker learning of it.
    pub duplicates: u64,
}

impl Ledger {
    /// The number of deliveries that have not ended.
    #[must_use]
    pub fn open(&self) -> u64 {
        let ended = self.ends().into_iter().map(|(_, count)| count).sum();
        self.received.saturating_sub(ended)
    }
}

impl Ledger {
    /// The ends, with their names as attribute values.
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
        self.copied += other.copied;
        self.duplicates += other.duplicates;
    }
}

impl SubAssign for Ledger {
    fn sub_assign(&mut self, other: Self) {
        self.received -= other.received;
        self.acked -= other.acked;
        self.parked -= other.parked;
        self.dead_lettered -= other.dead_lettered;
        self.returned -= other.returned;
        self.stale -= other.stale;
        self.dropped -= other.dropped;
        self.copied -= other.copied;
        self.duplicates -= other.duplicates;
    }
}

/// How one delivery's path ended. The lane then settles the delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// The handler succeeded: ack.
    Done,
    /// The handler dropped the message: ack.
    Dropped,
    /// The broker confirmed the copy in a retry queue: ack.
    Parked,
    /// The broker confirmed the copy in the dead-letter queue: ack.
    DeadLettered,
    /// The message goes back to its queue: nack, or ack once a copy is in its place.
    Return,
    /// The broker confirmed a copy at the tail of the queue, in place of a return: ack.
    Copied,
    /// The broker did not confirm that copy: nack.
    Uncopied,
    /// The broker refuses each copy of the message: reject, so that the broker dead-letters it.
    Rejected,
    /// The path panicked: hold the lane, and nack later.
    Fault,
    /// The session has ended: nothing to settle, the broker redelivers.
    Stale,
}

impl End {
    /// Whether the message is settled for good, so that it must not run again.
    pub(crate) fn is_final(self) -> bool {
        self.is_acked() || self == Self::Rejected
    }

    /// Whether the delivery is to be acked.
    pub(crate) fn is_acked(self) -> bool {
        match self {
            Self::Done | Self::Dropped | Self::Parked | Self::DeadLettered | Self::Copied => true,
            Self::Return | Self::Uncopied | Self::Rejected | Self::Fault | Self::Stale => false,
        }
    }
}

impl Ledger {
    /// Books the end of a delivery that was acked or returned.
    pub(crate) fn settled(&mut self, end: End) {
        match end {
            End::Done => self.acked += 1,
            End::Dropped => {
                self.acked += 1;
                self.dropped += 1;
            }
            End::Parked => self.parked += 1,
            End::DeadLettered | End::Rejected => self.dead_lettered += 1,
            End::Return | End::Uncopied | End::Fault => self.returned += 1,
            End::Copied => {
                self.returned += 1;
                self.copied += 1;
            }
            End::Stale => self.stale += 1,
        }
    }

    /// Books deliveries whose acks were written, and may be lost.
    pub(crate) fn unproven(&mut self, acks: u64) {
        self.stale += acks;
        self.duplicates += acks;
    }

    /// The larger of both numbers, for each number.
    pub(crate) fn largest(self, other: Self) -> Self {
        Self {
            received: self.received.max(other.received),
            acked: self.acked.max(other.acked),
            parked: self.parked.max(other.parked),
            dead_lettered: self.dead_lettered.max(other.dead_lettered),
            returned: self.returned.max(other.returned),
            stale: self.stale.max(other.stale),
            dropped: self.dropped.max(other.dropped),
            copied: self.copied.max(other.copied),
            duplicates: self.duplicates.max(other.duplicates),
        }
    }

    /// Books the end of a delivery that could not be settled.
    pub(crate) fn unsettled(&mut self, end: End) {
        self.stale += 1;
        if end.is_acked() {
            self.duplicates += 1;
        }
    }
}
