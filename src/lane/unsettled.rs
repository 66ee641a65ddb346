//! The deliveries of a session that the broker has not been told the end of.
//!
//! Tags come as 1, 2, 3, …, so a queue of slots is the whole table. It is also what makes acks
//! cheap: the finished ones at its front go out as one `multiple` ack, and only those behind a
//! delivery that is still open need an ack of their own.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{broker::Acks, flight::Flight, status::End};

/// What became of a tag.
#[derive(Debug)]
enum Slot<R> {
    /// On its path.
    Open(R),
    /// To be acked.
    Finished(End),
    /// To be returned. It stops a `multiple` ack until the nack is written.
    Returning,
    /// The broker was told.
    Settled,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Unsettled<R = Arc<Flight>> {
    /// The tag of the first slot.
    first: u64,
    slots: VecDeque<Slot<R>>,
    open: usize,
    returning: usize,
    /// Finished tags, oldest first; some may have gone out with a `multiple` ack since.
    finished: VecDeque<(u64, Instant)>,
}

/// Acks to write, and the ends they stand for.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Flush {
    pub(crate) acks: Acks,
    pub(crate) ends: Vec<End>,
}

impl<R> Default for Unsettled<R> {
    fn default() -> Self {
        Self {
            first: 1,
            slots: VecDeque::new(),
            open: 0,
            returning: 0,
            finished: VecDeque::new(),
        }
    }
}

impl<R> Unsettled<R> {
    /// A delivery has come. Tags are consecutive on a channel; one that is not would make a
    /// `multiple` ack cover what it must not, so it is refused.
    #[must_use]
    pub(crate) fn push(&mut self, tag: u64, flight: R) -> bool {
        let is_next = tag == self.next();
        if is_next {
            self.slots.push_back(Slot::Open(flight));
            self.open += 1;
        }
        is_next
    }

    /// A delivery has come that goes back without having started; false for a tag out of order.
    #[must_use]
    pub(crate) fn push_returning(&mut self, tag: u64) -> bool {
        let is_next = tag == self.next();
        if is_next {
            self.slots.push_back(Slot::Returning);
            self.returning += 1;
        }
        is_next
    }

    /// The tag that comes next.
    fn next(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    /// A delivery is to be acked; false for a tag that is not open.
    #[must_use]
    pub(crate) fn finish(&mut self, tag: u64, end: End, now: Instant) -> bool {
        let Some(slot @ Slot::Open(_)) = self.slot(tag) else {
            return false;
        };
        *slot = Slot::Finished(end);
        self.open -= 1;
        self.finished.push_back((tag, now));
        true
    }

    /// A delivery is to be returned; false for a tag that is not open.
    #[must_use]
    pub(crate) fn withhold(&mut self, tag: u64) -> bool {
        let Some(slot @ Slot::Open(_)) = self.slot(tag) else {
            return false;
        };
        *slot = Slot::Returning;
        self.open -= 1;
        self.returning += 1;
        true
    }

    /// The nack of a delivery was written.
    pub(crate) fn returned(&mut self, tag: u64) {
        if let Some(slot @ Slot::Returning) = self.slot(tag) {
            *slot = Slot::Settled;
            self.returning -= 1;
        }
        while let Some(Slot::Settled) = self.slots.front() {
            self.slots.pop_front();
            self.first += 1;
        }
    }

    /// Whether everything that the broker waits for is to be returned.
    pub(crate) fn is_all_returning(&self) -> bool {
        self.open == 0 && self.finished.is_empty()
    }

    fn slot(&mut self, tag: u64) -> Option<&mut Slot<R>> {
        let index = usize::try_from(tag.checked_sub(self.first)?).ok()?;
        self.slots.get_mut(index)
    }

    /// Deliveries on their path.
    pub(crate) fn open(&self) -> usize {
        self.open
    }

    /// Whether the broker was told everything.
    pub(crate) fn is_empty(&self) -> bool {
        self.open == 0 && self.returning == 0 && self.finished.is_empty()
    }

    /// Deliveries to be acked.
    pub(crate) fn finished(&self) -> usize {
        self.finished.len()
    }

    /// Since when the oldest finished delivery has been waiting for its ack.
    pub(crate) fn oldest_finished(&self) -> Option<Instant> {
        self.finished.front().map(|(_, since)| *since)
    }

    /// The delivery of a tag that is on its path.
    pub(crate) fn flight(&self, tag: u64) -> Option<&R> {
        let index = usize::try_from(tag.checked_sub(self.first)?).ok()?;
        match self.slots.get(index)? {
            Slot::Open(flight) => Some(flight),
            _ => None,
        }
    }

    /// The deliveries on their path, oldest first.
    pub(crate) fn flights(&self) -> impl Iterator<Item = &R> {
        self.slots.iter().filter_map(|slot| match slot {
            Slot::Open(flight) => Some(flight),
            _ => None,
        })
    }

    /// What can be acked now: the finished front in one ack; of those behind an open one, at most
    /// `singles`, and only if they have waited for `patience`: the front may reach them first.
    pub(crate) fn flush(&mut self, now: Instant, patience: Duration, singles: usize) -> Flush {
        let mut flush = Flush::default();
        while let Some(slot) = self.slots.front() {
            match slot {
                Slot::Open(_) | Slot::Returning => break,
                Slot::Finished(end) => {
                    flush.ends.push(*end);
                    flush.acks.through = Some(self.first);
                }
                Slot::Settled => {}
            }
            self.slots.pop_front();
            self.first += 1;
        }
        if flush.acks.through.is_some() {
            let first = self.first;
            self.finished.retain(|(tag, _)| *tag >= first);
        }
        while let Some((tag, since)) = self.finished.front().copied() {
            if flush.acks.singles.len() == singles || now.duration_since(since) < patience {
                break;
            }
            self.finished.pop_front();
            if let Some(slot @ Slot::Finished(_)) = self.slot(tag) {
                let Slot::Finished(end) = std::mem::replace(slot, Slot::Settled) else {
                    unreachable!("matched above");
                };
                flush.ends.push(end);
                flush.acks.singles.push(tag);
            }
        }
        flush
    }

    /// Everything that is left, when the channel is gone: the ends that are known, and the count
    /// of those still on their path or to be returned.
    pub(crate) fn abandon(&mut self) -> (Vec<End>, usize) {
        let slots = std::mem::take(self).slots;
        let mut unfinished = 0;
        let mut ends = Vec::new();
        for slot in slots {
            match slot {
                Slot::Open(_) | Slot::Returning => unfinished += 1,
                Slot::Finished(end) => ends.push(end),
                Slot::Settled => {}
            }
        }
        (ends, unfinished)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn table(count: u64) -> Unsettled<()> {
        let mut table = Unsettled::default();
        for tag in 1..=count {
            assert!(table.push(tag, ()));
        }
        table
    }

    #[tokio::test(start_paused = true)]
    async fn the_finished_front_goes_out_as_one_ack() {
        let now = Instant::now();
        let mut table = table(5);
        for tag in [2, 1, 3, 5] {
            assert!(table.finish(tag, End::Done, now));
        }
        let flush = table.flush(now, Duration::from_millis(10), 99);
        assert_eq!(
            flush.acks,
            Acks {
                through: Some(3),
                singles: vec![]
            }
        );
        assert_eq!(flush.ends.len(), 3);
        let later = now + Duration::from_millis(10);
        let flush = table.flush(later, Duration::from_millis(10), 99);
        assert_eq!(
            flush.acks,
            Acks {
                through: None,
                singles: vec![5]
            }
        );
        assert!(table.finish(4, End::Parked, later));
        let flush = table.flush(later, Duration::from_millis(10), 99);
        assert_eq!(
            flush.acks,
            Acks {
                through: Some(4),
                singles: vec![]
            }
        );
        assert_eq!(flush.ends, [End::Parked]);
        assert!(table.is_empty());
    }

    #[test]
    fn a_gap_in_the_tags_and_a_second_end_are_refused() {
        let mut table = table(2);
        assert!(!table.push(4, ()));
        assert!(table.withhold(1));
        assert!(!table.finish(1, End::Done, Instant::now()));
        assert!(!table.withhold(1));
        assert!(!table.withhold(9));
        assert!(!table.withhold(0));
    }

    proptest! {
        /// The broker's side: it knows what is outstanding, and closes the channel over a tag that
        /// is not.
        #[test]
        fn every_ack_names_an_outstanding_tag_and_covers_only_finished_ones(
            steps in prop::collection::vec((0u8..6, any::<prop::sample::Index>()), 1..200),
            singles in 1usize..5,
        ) {
            let now = Instant::now();
            let mut table = Unsettled::default();
            let (mut outstanding, mut open) = (BTreeSet::new(), BTreeSet::new());
            // Deliveries whose nack has yet to be written.
            let mut returning = BTreeSet::new();
            let mut next = 1;
            for (step, pick) in steps {
                let some_open = (!open.is_empty())
                    .then(|| *open.iter().nth(pick.index(open.len())).unwrap());
                match (step, some_open) {
                    (0, _) | (1 | 2, None) => {
                        prop_assert!(table.push(next, ()));
                        outstanding.insert(next);
                        open.insert(next);
                        next += 1;
                    }
                    (1, Some(tag)) => {
                        prop_assert!(table.finish(tag, End::Done, now));
                        open.remove(&tag);
                    }
                    (2, Some(tag)) => {
                        prop_assert!(table.withhold(tag));
                        open.remove(&tag);
                        returning.insert(tag);
                    }
                    (3, _) => {
                        if let Some(tag) = returning.pop_first() {
                            table.returned(tag);
                            prop_assert!(outstanding.remove(&tag));
                        }
                    }
                    (4, _) => {
                        prop_assert!(table.push_returning(next));
                        outstanding.insert(next);
                        returning.insert(next);
                        next += 1;
                    }
                    _ => {
                        let flush = table.flush(now, Duration::ZERO, singles);
                        let mut acked = 0;
                        if let Some(through) = flush.acks.through {
                            prop_assert!(outstanding.contains(&through));
                            let rest = outstanding.split_off(&(through + 1));
                            prop_assert!(outstanding.is_disjoint(&open));
                            prop_assert!(outstanding.is_disjoint(&returning));
                            acked += outstanding.len();
                            outstanding = rest;
                        }
                        for tag in flush.acks.singles {
                            prop_assert!(outstanding.remove(&tag));
                            prop_assert!(!open.contains(&tag) && !returning.contains(&tag));
                            acked += 1;
                        }
                        prop_assert_eq!(acked, flush.ends.len());
                    }
                }
                prop_assert_eq!(table.open(), open.len());
                let unfinished = open.len() + returning.len();
                prop_assert_eq!(table.finished(), outstanding.len() - unfinished);
                prop_assert_eq!(table.is_empty(), outstanding.is_empty());
            }
            let (ends, left) = table.abandon();
            prop_assert_eq!(left, open.len() + returning.len());
            prop_assert_eq!(ends.len(), outstanding.len() - left);
        }
    }
}
