//! The one source of randomness: jitter, and the ids of messages.
//!
//! Nothing else in the worker draws random numbers. A simulation seeds this source for its thread,
//! and then the same seed gives the same run.

use std::time::UNIX_EPOCH;

use uuid::{Builder, Uuid};

use crate::clock;

/// A random number in `[0, 1)`.
pub(crate) fn fraction() -> f64 {
    #[cfg(test)]
    if let Some(bits) = seeded::next() {
        // 53 bits are the precision of an `f64`.
        return (bits >> 11) as f64 / (1u64 << 53) as f64;
    }
    rand::random()
}

/// A new id for a message: a UUID of version 7, which begins with the time of day.
pub(crate) fn message_id() -> Uuid {
    let random = bytes();
    let since = clock::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
}

fn bytes() -> [u8; 10] {
    #[cfg(test)]
    if let (Some(low), Some(high)) = (seeded::next(), seeded::next()) {
        let mut bytes = [0; 10];
        bytes[..8].copy_from_slice(&low.to_le_bytes());
        bytes[8..].copy_from_slice(&high.to_le_bytes()[..2]);
        return bytes;
    }
    rand::random()
}

#[cfg(test)]
pub(crate) use seeded::{Dice, Seeded};

#[cfg(test)]
mod seeded {
    use std::cell::RefCell;

    /// A small generator whose numbers are the same in every release and on every machine
    /// (SplitMix64).
    #[derive(Clone, Debug)]
    pub(crate) struct Dice(u64);

    impl Dice {
        pub(crate) fn new(seed: u64) -> Self {
            Self(seed)
        }

        pub(crate) fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mut mixed = self.0;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
            mixed ^ (mixed >> 31)
        }

        /// A number below `limit`.
        pub(crate) fn below(&mut self, limit: u64) -> u64 {
            self.next() % limit.max(1)
        }
    }

    thread_local! {
        static DICE: RefCell<Option<Dice>> = const { RefCell::new(None) };
    }

    pub(super) fn next() -> Option<u64> {
        DICE.with_borrow_mut(|dice| dice.as_mut().map(Dice::next))
    }

    /// Seeds the source of this thread until it is dropped.
    #[must_use]
    pub(crate) struct Seeded(());

    impl Seeded {
        pub(crate) fn with(seed: u64) -> Self {
            DICE.set(Some(Dice::new(seed)));
            Self(())
        }
    }

    impl Drop for Seeded {
        fn drop(&mut self) {
            DICE.set(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn() -> (Vec<f64>, [u8; 10]) {
        ((0..100).map(|_| fraction()).collect(), bytes())
    }

    #[test]
    fn a_seed_gives_the_same_numbers_each_time_and_none_gives_others() {
        let of = |seed| {
            let _seeded = Seeded::with(seed);
            drawn()
        };
        assert_eq!(of(7), of(7));
        assert_ne!(of(7), of(8));
        assert_ne!(drawn(), drawn());
        assert!(of(7).0.iter().all(|it| (0.0..1.0).contains(it)));
    }

    #[test]
    fn ids_are_different_and_sort_by_time() {
        let [first, second] = [message_id(), message_id()];
        assert_ne!(first, second);
        assert_eq!(first.get_version_num(), 7);
        assert!(second.as_bytes()[..6] >= first.as_bytes()[..6]);
    }
}
