//! Which messages a consumer has acked, as long as there is room: for people who look for a message.
//!
//! The list of outcomes has few successes, because each of them takes a kilobyte. Here an acked message takes
//! eight bytes: a hash of its id, and the second of its ack.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        OnceLock,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use crate::clock;

/// The acked messages that are known. At 100 messages a second these are the last 22 minutes.
const KNOWN: usize = PARTS * PART;
/// The room is taken in parts, when it is needed.
const PARTS: usize = 32;
/// The messages of a part. It takes 32 KiB.
const PART: usize = 4096;
/// The bits of an entry that count seconds. After 194 days they begin again at zero: an entry is of the last such
/// second.
const SECOND_BITS: u32 = 24;
/// The bits of an entry for its second.
const SECONDS: u64 = (1 << SECOND_BITS) - 1;

/// The ids of the messages that a consumer acked last. The lane's runners write it, requests read it.
#[derive(Debug)]
pub(crate) struct Acks {
    /// Not the time of day: that may be wrong at the start, and be set later.
    began: Instant,
    /// The lower bits of the seconds since `began`, as of the last tick.
    seconds: AtomicU32,
    /// The number of acks so far.
    count: AtomicUsize,
    /// A ring of entries. An entry that is zero is free.
    parts: [OnceLock<Box<[AtomicU64]>>; PARTS],
}

impl Default for Acks {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            seconds: AtomicU32::new(0),
            count: AtomicUsize::new(0),
            parts: [const { OnceLock::new() }; PARTS],
        }
    }
}

impl Acks {
    /// Reads the clock. An ack is told the time of the last tick, so that it needs no clock of its own.
    pub(super) fn tick(&self) {
        let seconds = self.began.elapsed().as_secs() & SECONDS;
        let seconds = u32::try_from(seconds).unwrap_or_default();
        self.seconds.store(seconds, Ordering::Relaxed);
    }

    /// The consumer acks a message with this id.
    pub(super) fn note(&self, id: &str) {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let (part, place) = place(number);
        let part = self.parts[part].get_or_init(|| (0..PART).map(|_| AtomicU64::new(0)).collect());
        let seconds = u64::from(self.seconds.load(Ordering::Relaxed));
        part[place].store(hash(id) | seconds, Ordering::Relaxed);
    }

    /// When the consumer last acked a message with this id, to about two seconds; `None` if that is not
    /// known. An id that was never acked is taken for another one once in four million questions.
    pub(crate) fn of(&self, id: &str) -> Option<SystemTime> {
        let wanted = hash(id);
        let parts = self.parts.iter().filter_map(OnceLock::get);
        let entries = parts.flat_map(|part| part.iter().map(|it| it.load(Ordering::Relaxed)));
        let found = entries.filter(|entry| entry >> SECOND_BITS == wanted >> SECOND_BITS);
        found.map(|entry| self.time(entry)).max()
    }

    /// The acks since this time are all known.
    pub(crate) fn known_since(&self) -> SystemTime {
        let count = self.count.load(Ordering::Relaxed);
        if count <= KNOWN {
            return clock::now() - self.began.elapsed();
        }
        // The next one to be replaced. Others may have been acked before within its second.
        let (part, place) = place(count);
        let oldest = self.parts[part].get().map(|part| &part[place]);
        let oldest = oldest.map_or(0, |it| it.load(Ordering::Relaxed));
        self.time(oldest) + Duration::from_secs(1)
    }

    fn time(&self, entry: u64) -> SystemTime {
        let age = self.began.elapsed();
        let ago = age.as_secs().wrapping_sub(entry) & SECONDS;
        let at = age.as_secs().saturating_sub(ago);
        clock::now() - age.saturating_sub(Duration::from_secs(at))
    }
}

fn place(number: usize) -> (usize, usize) {
    let at = number % KNOWN;
    (at / PART, at % PART)
}

/// The hash of an id, in the upper bits of an entry. It is never zero.
fn hash(id: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    id.hash(&mut hasher);
    ((hasher.finish() >> SECOND_BITS) | 1) << SECOND_BITS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_ack_is_known_by_its_id_with_its_time_until_there_is_no_room() {
        let _clock = clock::Set::to(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000));
        let acks = Acks::default();
        let began = acks.known_since();
        acks.note("first");
        tokio::time::advance(Duration::from_secs(60)).await;
        acks.tick();
        acks.note("second");
        assert_eq!(acks.of("first"), Some(began));
        assert_eq!(acks.of("second"), Some(began + Duration::from_secs(60)));
        assert_eq!(acks.of("third"), None);
        assert_eq!(acks.known_since(), began, "nothing is forgotten");

        tokio::time::advance(Duration::from_secs(60)).await;
        acks.tick();
        (0..KNOWN - 2).for_each(|number| acks.note(&number.to_string()));
        assert_eq!(acks.known_since(), began, "there is just enough room");
        acks.note("one more");
        assert_eq!(acks.of("first"), None);
        assert_eq!(acks.known_since(), began + Duration::from_secs(61));
        assert!(acks.of("second").is_some() && acks.of("0").is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn the_newest_ack_of_an_id_counts_and_a_clock_set_back_does_no_harm() {
        let clock = clock::Set::to(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000));
        let acks = Acks::default();
        acks.note("a");
        tokio::time::advance(Duration::from_secs(5)).await;
        acks.tick();
        acks.note("a");
        clock.jump(Duration::from_secs(3), true);
        acks.tick();
        acks.note("b");
        let times = ["a", "b"].map(|id| acks.of(id));
        assert_eq!(times, [Some(clock::now()); 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_of_an_ack_is_right_after_half_a_year_and_after_the_clock_was_set() {
        let clock = clock::Set::to(SystemTime::UNIX_EPOCH);
        let acks = Acks::default();
        acks.note("first");
        clock.jump(Duration::from_secs(1_800_000_000), false);
        assert_eq!(acks.of("first"), Some(clock::now()));
        assert_eq!(acks.known_since(), clock::now());

        let half_a_year = Duration::from_secs(SECONDS);
        tokio::time::advance(half_a_year).await;
        acks.tick();
        acks.note("before");
        tokio::time::advance(Duration::from_secs(10)).await;
        acks.tick();
        acks.note("after");
        assert_eq!(acks.of("after"), Some(clock::now()));
        let before = clock::now() - Duration::from_secs(10);
        assert_eq!(acks.of("before"), Some(before));
    }

    #[test]
    fn a_consumer_without_acks_takes_no_room() {
        let acks = Acks::default();
        assert!(acks.parts.iter().all(|part| part.get().is_none()));
        acks.note("a");
        assert_eq!(acks.parts.iter().filter(|it| it.get().is_some()).count(), 1);
    }
}
