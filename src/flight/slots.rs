//! Bounded concurrency: a lane's handler slots, whose limit can change while handlers run.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

/// The handler slots of a lane: each running handler holds one.
///
/// Lowering the limit never interrupts a running handler. Until enough handlers end, more slots are
/// in use than the limit allows, and no new slot is given out.
#[derive(Debug)]
pub(crate) struct Slots {
    limit: AtomicUsize,
    /// A second limit: what the service behind the handlers takes. [`usize::MAX`]: no limit.
    allowance: AtomicUsize,
    in_use: AtomicUsize,
}

impl Slots {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit: AtomicUsize::new(limit),
            allowance: AtomicUsize::new(usize::MAX),
            in_use: AtomicUsize::new(0),
        }
    }

    /// Takes a slot, if one is free.
    pub(crate) fn try_take(self: &Arc<Self>) -> Option<Slot> {
        let one_more = |in_use| (in_use < self.most()).then_some(in_use + 1);
        self.in_use
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, one_more)
            .ok()?;
        Some(Slot(Some(Arc::clone(self))))
    }

    /// Slots that can be taken now.
    pub(crate) fn free(&self) -> usize {
        self.most().saturating_sub(self.in_use())
    }

    fn most(&self) -> usize {
        self.limit().min(self.allowance.load(Ordering::Acquire))
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit.load(Ordering::Acquire)
    }

    pub(crate) fn in_use(&self) -> usize {
        self.in_use.load(Ordering::Acquire)
    }

    /// Changes the limit. A lower limit takes effect as slots are given back.
    pub(crate) fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Release);
    }

    /// Changes the second limit, in the same way.
    pub(crate) fn set_allowance(&self, allowance: usize) {
        self.allowance.store(allowance, Ordering::Release);
    }

    fn give_back(&self) {
        self.in_use.fetch_sub(1, Ordering::AcqRel);
    }
}

/// One slot in use. Dropping it gives it back.
#[derive(Debug)]
#[must_use = "a slot that is dropped is given back"]
pub(crate) struct Slot(
    /// `None` once a flight has taken it over.
    Option<Arc<Slots>>,
);

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(slots) = &self.0 {
            slots.give_back();
        }
    }
}

/// A flight's place for the slot of its handler. The path puts the slot in. The path or the lane
/// gives it back, whichever is first, and dropping the flight gives it back too.
///
/// A flag is cheaper than a lock, and each message comes here three times.
#[derive(Debug, Default)]
pub(crate) struct SlotPlace {
    /// The lane's slots. Set with the first slot.
    slots: OnceLock<Arc<Slots>>,
    held: AtomicBool,
}

impl SlotPlace {
    pub(crate) fn put(&self, mut slot: Slot) {
        let Some(slots) = slot.0.take() else { return };
        // Only the first attempt sets this: later slots are slots of the same lane.
        let _ = self.slots.set(slots);
        let had_one = self.held.swap(true, Ordering::AcqRel);
        debug_assert!(!had_one, "a flight holds one slot at a time");
    }

    pub(crate) fn is_held(&self) -> bool {
        self.held.load(Ordering::Acquire)
    }

    /// Whether no slot is free, and so many flights hold all those in use: no other flight can get one
    /// before one of these gives its slot back.
    pub(crate) fn are_all_held_by(&self, count: usize) -> bool {
        let slots = self.slots.get();
        slots.is_some_and(|slots| slots.free() == 0 && slots.in_use() <= count)
    }

    /// Gives the slot back, if the flight holds one.
    pub(crate) fn give_back(&self) {
        if self.held.swap(false, Ordering::AcqRel)
            && let Some(slots) = self.slots.get()
        {
            slots.give_back();
        }
    }
}

impl Drop for SlotPlace {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fewer_slots_take_effect_as_they_come_back() {
        let slots = Arc::new(Slots::new(4));
        let mut taken: Vec<_> = (0..3).map(|_| slots.try_take().unwrap()).collect();
        slots.set_limit(1);
        assert_eq!((slots.limit(), slots.in_use()), (1, 3));
        assert!(slots.try_take().is_none());
        taken.truncate(1);
        assert!(slots.try_take().is_none(), "one still runs, and one may");
        taken.clear();
        let _slot = slots.try_take().unwrap();
        assert!(slots.try_take().is_none());
    }

    #[test]
    fn the_lower_of_the_two_limits_counts() {
        let slots = Arc::new(Slots::new(2));
        slots.set_allowance(1);
        let _one = slots.try_take().unwrap();
        assert_eq!((slots.free(), slots.limit()), (0, 2));
        assert!(slots.try_take().is_none());
        slots.set_allowance(usize::MAX);
        let _two = slots.try_take().unwrap();
        assert!(slots.try_take().is_none());
    }

    #[test]
    fn more_slots_take_effect_at_once_also_after_a_lower_limit() {
        let slots = Arc::new(Slots::new(3));
        let _taken: Vec<_> = (0..3).map(|_| slots.try_take().unwrap()).collect();
        slots.set_limit(1);
        slots.set_limit(4);
        let _slot = slots.try_take().unwrap();
        assert!(slots.try_take().is_none());
        assert_eq!(slots.in_use(), 4);
    }

    proptest! {
        #[test]
        fn no_more_are_taken_than_the_limit_allows(
            steps in prop::collection::vec((0u8..3, 1usize..9), 1..200),
        ) {
            let slots = Arc::new(Slots::new(3));
            let (mut taken, mut limit) = (Vec::new(), 3);
            for (step, count) in steps {
                match step {
                    0 => {
                        let got = slots.try_take();
                        prop_assert_eq!(got.is_some(), taken.len() < limit);
                        taken.extend(got);
                    }
                    1 => drop(taken.pop()),
                    _ => {
                        slots.set_limit(count);
                        limit = count;
                    }
                }
                prop_assert_eq!(slots.in_use(), taken.len());
                prop_assert_eq!(slots.limit(), limit);
            }
        }
    }

    #[test]
    fn changes_while_slots_come_and_go_lose_none_and_make_none() {
        let slots = Arc::new(Slots::new(8));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        drop(slots.try_take());
                    }
                });
            }
            scope.spawn(|| {
                for round in 0..5_000 {
                    slots.set_limit(1 + round % 8);
                }
            });
        });
        slots.set_limit(5);
        assert_eq!(slots.in_use(), 0);
        let taken = std::iter::from_fn(|| slots.try_take());
        assert_eq!(taken.collect::<Vec<_>>().len(), 5);
    }

    #[test]
    fn a_flight_gives_each_slot_back_once() {
        let slots = Arc::new(Slots::new(2));
        let place = SlotPlace::default();
        place.give_back();
        for _ in 0..2 {
            place.put(slots.try_take().unwrap());
            assert!(place.is_held());
            assert_eq!(slots.in_use(), 1);
            place.give_back();
            place.give_back();
            assert!(!place.is_held());
            assert_eq!(slots.in_use(), 0);
        }
        place.put(slots.try_take().unwrap());
        drop(place);
        assert_eq!(slots.in_use(), 0);
    }
}
