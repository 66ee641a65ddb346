//! Keys in the memory of one worker.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Mutex,
    time::Duration,
};

use tokio::time::Instant;

use super::{Claim, Epoch, Terms};
use crate::lock::lock;

/// The keys of one consumer.
pub(super) struct Memory {
    most: usize,
    keys: Mutex<Keys>,
}

#[derive(Default)]
struct Keys {
    last: Epoch,
    known: BTreeMap<String, Known>,
    /// The keys that are done, oldest first, with the epoch in which they were.
    done: VecDeque<(String, Epoch)>,
}

struct Known {
    epoch: Epoch,
    state: State,
}

enum State {
    /// The lease ends then.
    Runs(Instant),
    /// The key is forgotten then.
    Done(Instant),
}

impl Memory {
    pub(super) fn new(most: u32) -> Self {
        Self {
            most: most.try_into().unwrap_or(usize::MAX),
            keys: Mutex::default(),
        }
    }

    pub(super) fn claim(&self, key: &str, terms: &Terms) -> Claim {
        let now = Instant::now();
        let mut keys = lock(&self.keys);
        if let Some(known) = keys.known.get(key) {
            match known.state {
                State::Runs(until) if now < until => return Claim::Runs(until - now),
                State::Done(until) if now < until => return Claim::Done,
                State::Runs(_) | State::Done(_) => {}
            }
        }
        keys.last += 1;
        let epoch = keys.last;
        let state = State::Runs(now + terms.lease);
        keys.known.insert(key.to_owned(), Known { epoch, state });
        Claim::Mine(epoch)
    }

    /// The message is done. False: another run has taken the key meanwhile.
    pub(super) fn done(&self, key: &str, epoch: Epoch, ttl: Duration) -> bool {
        let now = Instant::now();
        let mut keys = lock(&self.keys);
        match keys.known.get_mut(key) {
            Some(known) if known.epoch == epoch => known.state = State::Done(now + ttl),
            _ => return false,
        }
        keys.done.push_back((key.to_owned(), epoch));
        keys.forget(self.most, now);
        true
    }

    /// The message is not done.
    pub(super) fn release(&self, key: &str, epoch: Epoch) {
        let mut keys = lock(&self.keys);
        let is_mine = |known: &Known| known.epoch == epoch && matches!(known.state, State::Runs(_));
        if keys.known.get(key).is_some_and(is_mine) {
            keys.known.remove(key);
        }
    }
}

impl Keys {
    /// Forgets the keys that are over, and the oldest above `most`.
    fn forget(&mut self, most: usize, now: Instant) {
        while let Some((key, epoch)) = self.done.front() {
            let known = self.known.get(key).filter(|known| known.epoch == *epoch);
            let is_over = match known {
                None => true,
                Some(known) => matches!(known.state, State::Done(until) if until <= now),
            };
            if !is_over && self.known.len() <= most {
                return;
            }
            if known.is_some() {
                self.known.remove(key);
            }
            self.done.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handler::source::Source;

    fn terms() -> Terms {
        Terms {
            key: Source::Body,
            scope: String::new(),
            ttl: Duration::from_secs(60),
            lease: Duration::from_secs(10),
            limit: Duration::from_secs(1),
        }
    }

    fn claimed(memory: &Memory, key: &str) -> Epoch {
        match memory.claim(key, &terms()) {
            Claim::Mine(epoch) => epoch,
            other => panic!("{key}: {other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_is_free_again_after_a_release_a_lost_lease_and_its_time() {
        let (memory, terms) = (Memory::new(10), terms());
        let first = claimed(&memory, "a");
        let left = memory.claim("a", &terms);
        assert_eq!(left, Claim::Runs(terms.lease));
        memory.release("a", first);
        claimed(&memory, "a");
        tokio::time::advance(terms.lease).await;
        let third = claimed(&memory, "a");
        assert!(memory.done("a", third, terms.ttl));
        assert_eq!(memory.claim("a", &terms), Claim::Done);
        memory.release("a", third);
        assert_eq!(
            memory.claim("a", &terms),
            Claim::Done,
            "what is done stays done"
        );
        tokio::time::advance(terms.ttl).await;
        claimed(&memory, "a");
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_overtaken_neither_marks_nor_releases() {
        let (memory, terms) = (Memory::new(10), terms());
        let slow = claimed(&memory, "a");
        tokio::time::advance(terms.lease).await;
        let fast = claimed(&memory, "a");
        assert!(!memory.done("a", slow, terms.ttl));
        memory.release("a", slow);
        assert_eq!(memory.claim("a", &terms), Claim::Runs(terms.lease));
        assert!(memory.done("a", fast, terms.ttl));
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_keys_are_forgotten_when_there_are_too_many() {
        let (memory, terms) = (Memory::new(2), terms());
        for key in ["a", "b", "c"] {
            let epoch = claimed(&memory, key);
            assert!(memory.done(key, epoch, terms.ttl));
        }
        claimed(&memory, "a");
        assert_eq!(memory.claim("c", &terms), Claim::Done);
    }
}
