//! The deliveries of a session that the broker has not been told the end of.
//!
//! Tags come as 1, 2, 3, …, so a queue of slots is the whole table. It is also what makes acks
//! cheap: the finished ones at its front go out as one `multiple` ack, and only those behind a
//! delivery that is still open need an ack of their own.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{broker::Acks, flight::Flight, status::End, telemetry::AckSpan};

/// What became of a tag.
#[derive(Debug)]
enum Slot<R> {
    /// On its path.
    Open(R),
    /// To be acked.
    Finished(Finished),
    /// The broker was told.
    Settled,
}

/// A delivery whose path has ended, and that is to be acked.
#[derive(Debug, PartialEq)]
pub(crate) struct Finished {
    pub(crate) end: End,
    /// The span of its ack, where its attempt is traced.
    pub(crate) span: Option<Box<AckSpan>>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Unsettled<R = Arc<Flight>> {
    /// The tag of the first slot.
    first: u64,
    slots: VecDeque<Slot<R>>,
    open: usize,
    /// Finished tags, oldest first; some may have gone out with a `multiple` ack since.
    finished: VecDeque<(u64, Instant)>,
}

/// Acks to write, and the ends they stand for.
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
            finished: VecDeque::new(),
        }
    }
}

impl<R> Unsettled<R> {
    /// A delivery has come. Tags are consecutive on a channel; one that is not would make a
    /// `multiple` ack cover what it must not, so it is refused.
    #[must_use]
    pub(crate) fn push(&mut self, tag: u64, flight: R) -> bool {
        let expected = self.first + self.slots.len() as u64;
        if tag == expected {
            self.slots.push_back(Slot::Open(flight));
            self.open += 1;
        }
        tag == expected
    }

    /// A delivery is to be acked; false for a tag that is not open.
    #[must_use]
    pub(crate) fn finish(&mut self, tag: u64, finished: Finished, now: Instant) -> bool {
        let Some(slot @ Slot::Open(_)) = self.slot(tag) else {
            return false;
        };
        *slot = Slot::Finished(finished);
        self.open -= 1;
        self.finished.push_back((tag, now));
        true
    }

    /// A delivery is nacked, and needs no ack; nothing for a tag that is not open.
    pub(crate) fn settle(&mut self, tag: u64) -> Option<R> {
        let slot = self.slot(tag)?;
        match std::mem::replace(slot, Slot::Settled) {
            Slot::Open(flight) => {
                self.open -= 1;
                Some(flight)
            }
            other => {
                *slot = other;
                None
            }
        }
    }

    /// Deliveries up to and with `tag` came and were nacked before they started.
    pub(crate) fn skip_to(&mut self, tag: u64) {
        let next = self.first + self.slots.len() as u64;
        let skipped = (tag + 1).saturating_sub(next);
        self.slots.extend((0..skipped).map(|_| Slot::Settled));
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
        self.open == 0 && self.finished.is_empty()
    }

    /// Deliveries to be acked.
    pub(crate) fn finished(&self) -> usize {
        self.finished.len()
    }

    /// Since when the oldest finished delivery has been waiting for its ack.
    pub(crate) fn oldest_finished(&self) -> Option<Instant> {
        self.finished.front().map(|(_, since)| *since)
    }

    /// The run of a tag that is on its path.
    pub(crate) fn run(&self, tag: u64) -> Option<&R> {
        let index = usize::try_from(tag.checked_sub(self.first)?).ok()?;
        match self.slots.get(index)? {
            Slot::Open(flight) => Some(flight),
            _ => None,
        }
    }

    /// The runs on their path, oldest first.
    pub(crate) fn runs(&self) -> impl Iterator<Item = &R> {
        self.slots.iter().filter_map(|slot| match slot {
            Slot::Open(flight) => Some(flight),
            _ => None,
        })
    }

    /// What can be acked now: the finished front in one ack; of those behind an open one, at most
    /// `singles`, and only if they have waited for `patience`: the front may reach them first.
    pub(crate) fn flush(&mut self, now: Instant, patience: Duration, singles: usize) -> Flush {
        let mut flush = Flush::default();
        let is_open = |slot: &Slot<R>| matches!(slot, Slot::Open(_));
        while let Some(slot) = self.slots.pop_front_if(|slot| !is_open(slot)) {
            if let Slot::Finished(finished) = slot {
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
            if let Some(slot @ Slot::Finished(_)) = self.slot(tag) {
                let Slot::Finished(finished) = std::mem::replace(slot, Slot::Settled) else {
                    unreachable!("matched above");
                };
                flush.ends.push(finished);
                flush.acks.singles.push(tag);
            }
        }
        flush
    }

    /// Everything that is left, when the channel is gone: the ends that are known, and the count
    /// of those still on their path.
    pub(crate) fn abandon(&mut self) -> (Vec<Finished>, usize) {
        let slots = std::mem::take(self).slots;
        let mut open = 0;
        let mut ends = Vec::new();
        for slot in slots {
            match slot {
                Slot::Open(_) => open += 1,
                Slot::Finished(finished) => ends.push(finished),
                Slot::Settled => {}
            }
        }
        (ends, open)
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
        let mut table = table(4);
        let traced = |tag| Finished {
            end: End::Done,
            span: Some(AckSpan::of_tag(tag)),
        };
        for tag in [1, 3, 4] {
            assert!(table.finish(tag, traced(tag), now));
        }
        let flush = table.flush(now, Duration::ZERO, 1);
        assert_eq!(flush.ends, [traced(1), traced(3)], "in front, then single");
        assert_eq!(table.abandon(), (vec![traced(4)], 1));
    }

    #[test]
    fn a_gap_in_the_tags_and_a_second_end_are_refused() {
        let mut table = table(2);
        assert!(!table.push(4, ()));
        assert!(table.settle(1).is_some());
        assert!(!table.finish(1, untraced(End::Done), Instant::now()));
        for tag in [1, 9, 0] {
            assert!(table.settle(tag).is_none());
        }
        assert!(table.finish(2, untraced(End::Done), Instant::now()));
        assert!(table.settle(2).is_none(), "it is to be acked");
        assert_eq!((table.open(), table.finished()), (0, 1));
    }

    proptest! {
        /// The broker's side: it knows what is outstanding, and closes the channel over a tag that
        /// is not.
        #[test]
        fn every_ack_names_an_outstanding_tag_and_covers_only_finished_ones(
            steps in prop::collection::vec((0u8..4, any::<prop::sample::Index>()), 1..200),
            singles in 1usize..5,
        ) {
            let now = Instant::now();
            let mut table = Unsettled::default();
            let (mut outstanding, mut open) = (BTreeSet::new(), BTreeSet::new());
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
                        prop_assert!(table.settle(tag).is_some());
                        open.remove(&tag);
                        prop_assert!(outstanding.remove(&tag));
                    }
                    _ => {
                        let flush = table.flush(now, Duration::ZERO, singles);
                        let mut acked = 0;
                        if let Some(through) = flush.acks.through {
                            prop_assert!(outstanding.contains(&through));
                            let rest = outstanding.split_off(&(through + 1));
                            prop_assert!(outstanding.is_disjoint(&open));
                            acked += outstanding.len();
                            outstanding = rest;
                        }
                        for tag in flush.acks.singles {
                            prop_assert!(outstanding.remove(&tag) && !open.contains(&tag));
                            acked += 1;
                        }
                        prop_assert_eq!(acked, flush.ends.len());
                    }
                }
                prop_assert_eq!(table.open(), open.len());
                prop_assert_eq!(table.finished(), outstanding.len() - open.len());
            }
            let (ends, left) = table.abandon();
            prop_assert_eq!(left, open.len());
            prop_assert_eq!(ends.len(), outstanding.len() - open.len());
        }
    }
}
