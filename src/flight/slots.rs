//! Bounded concurrency: a lane's handler slots, whose number can be changed while they are in use.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::Semaphore;

/// The handler slots of a lane: one permit of the semaphore for each.
///
/// Fewer slots never cost a running handler its own: what cannot be taken from the semaphore at
/// once is owed, and each slot that comes back pays for one.
#[derive(Debug)]
pub(crate) struct Slots {
    free: Semaphore,
    /// Slots that are in use and will not be free again.
    owed: AtomicUsize,
    /// How many there are to be. Held while that changes.
    wanted: Mutex<usize>,
}

impl Slots {
    pub(crate) fn new(count: usize) -> Self {
        Self {
            free: Semaphore::new(count),
            owed: AtomicUsize::new(0),
            wanted: Mutex::new(count),
        }
    }

    /// Takes a slot, if one is free.
    #[must_use]
    pub(crate) fn try_take(&self) -> bool {
        let Ok(permit) = self.free.try_acquire() else {
            return false;
        };
        permit.forget();
        true
    }

    /// Gives a slot back.
    pub(crate) fn give_back(&self) {
        if self.owed.load(Ordering::SeqCst) > 0 && self.pay(1) == 1 {
            return;
        }
        self.free.add_permits(1);
        // Whoever lowered the number in between looked for free slots before this one was.
        if self.owed.load(Ordering::SeqCst) > 0 {
            self.collect(1);
        }
    }

    /// Slots that are free.
    pub(crate) fn free(&self) -> usize {
        self.free.available_permits()
    }

    /// How many slots there are to be.
    pub(crate) fn wanted(&self) -> usize {
        *self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Slots in use.
    pub(crate) fn in_use(&self) -> usize {
        let wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        let exist = *wanted + self.owed.load(Ordering::SeqCst);
        exist.saturating_sub(self.free.available_permits())
    }

    /// Changes how many there are: more at once, fewer as they come back.
    pub(crate) fn set(&self, count: usize) {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        if count >= *wanted {
            let more = count - *wanted;
            self.free.add_permits(more - self.pay(more));
        } else {
            let fewer = *wanted - count;
            self.owed.fetch_add(fewer, Ordering::SeqCst);
            self.collect(fewer);
        }
        *wanted = count;
    }

    /// Takes free slots away for as many that are owed.
    fn collect(&self, most: usize) {
        let taken = self.free.forget_permits(most);
        // Others may have paid meanwhile.
        self.free.add_permits(taken - self.pay(taken));
    }

    /// Owes so many slots less, as far as any are owed; how many that was.
    fn pay(&self, most: usize) -> usize {
        let before = self
            .owed
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |owed| {
                Some(owed.saturating_sub(most))
            });
        before.map_or(0, |owed| owed.min(most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fewer_slots_take_effect_as_they_come_back() {
        let slots = Slots::new(4);
        for _ in 0..3 {
            assert!(slots.try_take());
        }
        slots.set(1);
        assert_eq!((slots.wanted(), slots.in_use()), (1, 3));
        assert!(!slots.try_take());
        slots.give_back();
        slots.give_back();
        assert!(!slots.try_take(), "one still runs, and one may");
        slots.give_back();
        assert!(slots.try_take());
        assert!(!slots.try_take());
    }

    #[test]
    fn more_slots_take_effect_at_once_and_cancel_what_is_owed() {
        let slots = Slots::new(3);
        for _ in 0..3 {
            assert!(slots.try_take());
        }
        slots.set(1);
        slots.set(4);
        assert!(slots.try_take());
        assert!(!slots.try_take());
        assert_eq!(slots.in_use(), 4);
    }

    proptest! {
        #[test]
        fn no_more_are_taken_than_wanted(
            steps in prop::collection::vec((0u8..3, 1usize..9), 1..200),
        ) {
            let slots = Slots::new(3);
            let (mut taken, mut wanted) = (0, 3);
            for (step, count) in steps {
                match step {
                    0 => {
                        let got = slots.try_take();
                        prop_assert_eq!(got, taken < wanted);
                        taken += usize::from(got);
                    }
                    1 if taken > 0 => {
                        slots.give_back();
                        taken -= 1;
                    }
                    1 => {}
                    _ => {
                        slots.set(count);
                        wanted = count;
                    }
                }
                prop_assert_eq!(slots.in_use(), taken);
                prop_assert_eq!(slots.wanted(), wanted);
            }
        }
    }

    #[test]
    fn changes_while_slots_come_and_go_lose_none_and_make_none() {
        let slots = Slots::new(8);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        if slots.try_take() {
                            slots.give_back();
                        }
                    }
                });
            }
            scope.spawn(|| {
                for round in 0..5_000 {
                    slots.set(1 + round % 8);
                }
            });
        });
        slots.set(5);
        assert_eq!(slots.in_use(), 0);
        let taken = std::iter::repeat_with(|| slots.try_take()).take_while(|taken| *taken);
        assert_eq!(taken.count(), 5);
    }
}
