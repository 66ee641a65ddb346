//! The table of a session's unsettled deliveries.
//!
//! Delivery tags are 1, 2, 3, …, so the table is a queue of slots. The queue makes acks cheap: one
//! `multiple` ack covers the finished deliveries at its front. Only finished deliveries behind an
//! open one need an ack of their own.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{broker::Acks, flight::Flight, status::End, telemetry::AckSpan};

/// The state of one delivery.
#[derive(Debug)]
enum Slot<R> {
    /// On its path.
    Open(R),
    /// To be acked.
    Finished(R, Finished),
    /// To be returned. A `multiple` ack stops in front of this slot until the nack is written.
    Returning(Option<Box<AckSpan>>),
    /// Acked or returned.
    Settled,
}

/// A delivery whose path has ended, and that is to be acked.
#[derive(Debug, PartialEq)]
pub(crate) struct Finished {
    pub(crate) end: End,
    /// The span of its ack, where its attempt is traced.
    pub(crate) span: Option<Box<AckSpan>>,
}

/// The deliveries that were unsettled when the channel died.
#[derive(Debug, PartialEq)]
pub(crate) struct Abandoned<R> {
    /// Deliveries whose acks were not written.
    pub(crate) finished: Vec<(R, Finished)>,
    /// Deliveries that were to be returned: for each the span of its nack, if its attempt is
    /// traced.
    pub(crate) returning: Vec<Option<Box<AckSpan>>>,
    /// The number of deliveries on their path.
    pub(crate) open: usize,
}

/// The table of a session's unsettled deliveries.
#[derive(Debug)]
pub(crate) struct Unsettled<R = Arc<Flight>> {
    /// The tag of the first slot.
    first: u64,
    slots: VecDeque<Slot<R>>,
    open: usize,
    returning: usize,
    /// Finished tags and when each finished, oldest first.
    finished: VecDeque<(u64, Instant)>,
}

/// Acks to write, and the ends of the deliveries that they ack.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Flush {
    pub(crate) acks: Acks,
    pub(crate) ends: Vec<Finished>,
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
    /// Adds a delivery; false for a tag out of order. Tags are consecutive on a channel. After a
    /// gap a `multiple` ack could cover a delivery that it must not cover.
    #[must_use]
    pub(crate) fn push(&mut self, tag: u64, flight: R) -> bool {
        let is_next = tag == self.next();
        if is_next {
            self.slots.push_back(Slot::Open(flight));
            self.open += 1;
        }
        is_next
    }

    /// Adds a delivery that is to be returned without starting; false for a tag out of order.
    #[must_use]
    pub(crate) fn push_returning(&mut self, tag: u64) -> bool {
        let is_next = tag == self.next();
        if is_next {
            self.slots.push_back(Slot::Returning(None));
            self.returning += 1;
        }
        is_next
    }

    /// The tag that comes next.
    pub(crate) fn next(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    /// Marks a delivery as finished, to be acked; false for a tag that is not open.
    #[must_use]
    pub(crate) fn finish(&mut self, tag: u64, finished: Finished, now: Instant) -> bool {
        let Some(slot @ Slot::Open(_)) = self.slot(tag) else {
            return false;
        };
        if let Slot::Open(flight) = std::mem::replace(slot, Slot::Settled) {
            *slot = Slot::Finished(flight, finished);
        }
        self.open -= 1;
        self.finished.push_back((tag, now));
        true
    }

    /// Marks a delivery as returning; false for a tag that is not open.
    #[must_use]
    pub(crate) fn withhold(&mut self, tag: u64, span: Option<Box<AckSpan>>) -> bool {
        let Some(slot @ Slot::Open(_)) = self.slot(tag) else {
            return false;
        };
        *slot = Slot::Returning(span);
        self.open -= 1;
        self.returning += 1;
        true
    }

    /// Settles a delivery whose nack was written, and gives the span of the nack.
    pub(crate) fn returned(&mut self, tag: u64) -> Option<Box<AckSpan>> {
        let mut span = None;
        if let Some(slot @ Slot::Returning(_)) = self.slot(tag) {
            if let Slot::Returning(its) = std::mem::replace(slot, Slot::Settled) {
                span = its;
            }
            self.returning -= 1;
        }
        while let Some(Slot::Settled) = self.slots.front() {
            self.slots.pop_front();
            self.first += 1;
        }
        span
    }

    /// Whether every unsettled delivery is to be returned.
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

    /// Deliveries that are not settled.
    pub(crate) fn unsettled(&self) -> usize {
        self.open + self.returning + self.finished.len()
    }

    /// Deliveries from this tag on that are not settled.
    pub(crate) fn unsettled_from(&self, tag: u64) -> usize {
        let before = usize::try_from(tag.saturating_sub(self.first)).unwrap_or(usize::MAX);
        let slots = self.slots.iter().skip(before);
        slots.filter(|slot| !matches!(slot, Slot::Settled)).count()
    }

    /// Whether every delivery is settled.
    pub(crate) fn is_empty(&self) -> bool {
        self.unsettled() == 0
    }

    /// Deliveries to be acked.
    pub(crate) fn finished(&self) -> usize {
        self.finished.len()
    }

    /// Since when the oldest finished delivery has been waiting for its ack.
    pub(crate) fn oldest_finished(&self) -> Option<Instant> {
        self.finished.front().map(|(_, since)| *since)
    }

    /// The delivery with this tag, if it is on its path.
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

    /// Takes the finished deliveries that can be acked now. One ack covers the finished front. Of
    /// those behind an open delivery, takes at most `singles`, and only those that have waited for
    /// `patience`: the front may reach the others first.
    pub(crate) fn flush(&mut self, now: Instant, patience: Duration, singles: usize) -> Flush {
        let mut flush = Flush::default();
        let can_go = |slot: &mut Slot<R>| matches!(slot, Slot::Finished(..) | Slot::Settled);
        while let Some(slot) = self.slots.pop_front_if(can_go) {
            if let Slot::Finished(_, finished) = slot {
                flush.ends.push(finished);
                flush.acks.through = Some(self.first);
            }
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
            if let Some(slot @ Slot::Finished(..)) = self.slot(tag) {
                let Slot::Finished(_, finished) = std::mem::replace(slot, Slot::Settled) else {
                    unreachable!("matched above");
                };
                flush.ends.push(finished);
                flush.acks.singles.push(tag);
            }
        }
        flush
    }

    /// Empties the table when the channel is gone, and gives what was left in it.
    pub(crate) fn abandon(&mut self) -> Abandoned<R> {
        let mut left = Abandoned {
            finished: Vec::new(),
            returning: Vec::new(),
            open: self.open,
        };
        for slot in std::mem::take(self).slots {
            match slot {
                Slot::Finished(flight, finished) => left.finished.push((flight, finished)),
                Slot::Returning(span) => left.returning.push(span),
                Slot::Open(_) | Slot::Settled => {}
            }
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    fn untraced(end: End) -> Finished {
        Finished { end, span: None }
    }

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
            assert!(table.finish(tag, untraced(End::Done), now));
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
        assert!(table.finish(4, untraced(End::Parked), later));
        let flush = table.flush(later, Duration::from_millis(10), 99);
        assert_eq!(
            flush.acks,
            Acks {
                through: Some(4),
                singles: vec![]
            }
        );
        assert_eq!(flush.ends, [untraced(End::Parked)]);
        assert!(table.is_empty());
    }

    #[test]
    fn the_span_of_a_traced_delivery_comes_out_with_its_end() {
        let now = Instant::now();
        let mut table = table(6);
        let span = |tag| Some(AckSpan::of_tag(tag));
        let traced = |tag| Finished {
            end: End::Done,
            span: span(tag),
        };
        for tag in [1, 3, 4] {
            assert!(table.finish(tag, traced(tag), now));
        }
        for tag in [5, 6] {
            assert!(table.withhold(tag, span(tag)));
        }
        let flush = table.flush(now, Duration::ZERO, 1);
        assert_eq!(flush.ends, [traced(1), traced(3)], "in front, then single");
        assert_eq!(table.returned(5), span(5));
        assert_eq!(table.returned(5), None, "once");
        let left = Abandoned {
            finished: vec![((), traced(4))],
            returning: vec![span(6)],
            open: 1,
        };
        assert_eq!(table.abandon(), left);
    }

    #[test]
    fn a_gap_in_the_tags_and_a_second_end_are_refused() {
        let mut table = table(2);
        assert!(!table.push(4, ()));
        assert!(table.withhold(1, None));
        assert!(!table.finish(1, untraced(End::Done), Instant::now()));
        assert!(!table.withhold(1, None));
        assert!(!table.withhold(9, None));
        assert!(!table.withhold(0, None));
    }

    proptest! {
        /// Plays the broker, which knows the outstanding tags and closes the channel over any
        /// other.
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
                        prop_assert!(table.finish(tag, untraced(End::Done), now));
                        open.remove(&tag);
                    }
                    (2, Some(tag)) => {
                        prop_assert!(table.withhold(tag, None));
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
            let left = table.abandon();
            prop_assert_eq!(left.open, open.len());
            prop_assert_eq!(left.returning.len(), returning.len());
            let unfinished = open.len() + returning.len();
            prop_assert_eq!(left.finished.len(), outstanding.len() - unfinished);
        }
    }
}
