//! Deliveries that have a permit, on their way to a thread that carries them along their paths.
//!
//! A task for each delivery would be made on one thread and ended on another, and most paths end
//! without ever waiting. So the lane puts what arrives in a queue, and a runner, which is a task on
//! the handlers' runtime, takes one after the other. When a path has to wait, its runner stays with
//! it, and a new runner takes the rest. So each path that waits has a task of its own, and those
//! that do not share one.
//!
//! A handler that blocks its thread, or computes for long, must not hold up those behind it: a
//! runner that has been slow makes two of itself, of which another thread can take one; the lane
//! adds runners when none has taken anything for a while; and what arrives meanwhile brings its own.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::run::Run;

/// A path that takes this long without waiting is slow.
const SLOW: Duration = Duration::from_micros(200);

/// See the module.
#[derive(Debug)]
pub(super) struct Starts<R = Arc<Run>>(Mutex<State<R>>);

#[derive(Debug)]
struct State<R> {
    waiting: VecDeque<R>,
    /// Runners that will come back for more, unless a handler keeps them.
    runners: usize,
    /// When one last did.
    taken_at: Instant,
    /// Runners that the lane has added since then.
    added: usize,
}

impl<R> Starts<R> {
    pub(super) fn new() -> Self {
        Self(Mutex::new(State {
            waiting: VecDeque::new(),
            runners: 0,
            taken_at: Instant::now(),
            added: 0,
        }))
    }

    /// Puts deliveries in the queue; true when they need a runner.
    #[must_use]
    pub(super) fn put(&self, runs: &mut Vec<R>, now: Instant) -> bool {
        let mut state = self.lock();
        state.waiting.extend(runs.drain(..));
        let busy = state.runners > 0 && now.saturating_duration_since(state.taken_at) < SLOW;
        if !busy {
            state.runners += 1;
            state.taken_at = now;
        }
        !busy
    }

    /// A runner takes a delivery. When there is none its work is done.
    pub(super) fn take(&self, now: Instant) -> Option<R> {
        let mut state = self.lock();
        let run = state.waiting.pop_front();
        match run {
            Some(_) => {
                state.taken_at = now;
                state.added = 0;
            }
            None => state.runners -= 1,
        }
        run
    }

    /// A runner's path has to wait, and the runner with it; true when another is needed in its
    /// place.
    #[must_use]
    pub(super) fn leave(&self) -> bool {
        let mut state = self.lock();
        let needed = !state.waiting.is_empty();
        if !needed {
            state.runners -= 1;
        }
        needed
    }

    /// A runner is back from a path that had to wait.
    pub(super) fn join(&self) {
        self.lock().runners += 1;
    }

    /// A runner has taken this long for one path; true when two are to go on in its place.
    #[must_use]
    pub(super) fn split(&self, took: Duration) -> bool {
        if took < SLOW {
            return false;
        }
        let mut state = self.lock();
        let useful = state.waiting.len() > 1;
        if useful {
            state.runners += 1;
        }
        useful
    }

    /// How many runners to add because nothing was taken for a while: one, then as many again.
    pub(super) fn missing(&self, now: Instant) -> usize {
        let mut state = self.lock();
        if state.waiting.is_empty() || now.saturating_duration_since(state.taken_at) < SLOW {
            return 0;
        }
        let add = (state.added.max(1)).min(state.waiting.len());
        state.added += add;
        state.runners += add;
        add
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lock().waiting.is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, State<R>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A queue with these in it, and the moment at which they were put there.
    fn queue(runs: std::ops::Range<u32>) -> (Starts<u32>, Instant) {
        let (starts, now) = (Starts::new(), Instant::now());
        assert!(
            starts.put(&mut runs.collect(), now),
            "nobody is there to take them"
        );
        (starts, now)
    }

    #[test]
    fn one_runner_takes_all_in_order_and_what_comes_meanwhile() {
        let (starts, now) = queue(0..2);
        assert_eq!(starts.take(now), Some(0));
        assert!(!starts.put(&mut vec![2], now));
        assert_eq!(starts.take(now), Some(1));
        assert_eq!(starts.take(now), Some(2));
        assert_eq!(starts.take(now), None);
        assert!(starts.put(&mut vec![3], now), "it has gone");
    }

    #[test]
    fn a_runner_that_stays_with_its_path_is_replaced_where_others_wait() {
        let (starts, now) = queue(0..2);
        assert_eq!(starts.take(now), Some(0));
        assert!(starts.leave());
        assert_eq!(starts.take(now), Some(1));
        assert!(!starts.leave());
        assert!(starts.put(&mut vec![2], now));
        starts.join();
        assert_eq!(starts.take(now), Some(2));
        assert_eq!(starts.take(now), None);
        assert_eq!(starts.take(now), None);
        assert!(starts.put(&mut vec![3], now), "both have gone");
    }

    #[test]
    fn what_arrives_behind_a_handler_that_keeps_its_thread_brings_its_own_runner() {
        let (starts, now) = queue(0..1);
        assert_eq!(starts.take(now), Some(0));
        assert!(!starts.put(&mut vec![1], now + SLOW / 2));
        assert!(starts.put(&mut vec![2], now + SLOW));
    }

    #[test]
    fn runners_are_added_as_long_as_none_takes_anything() {
        let (starts, now) = queue(0..10);
        assert_eq!(starts.missing(now), 0, "it has just been asked for");
        let later = now + SLOW;
        let added: Vec<_> = (0..4).map(|_| starts.missing(later)).collect();
        assert_eq!(added, [1, 1, 2, 4]);
        assert_eq!(starts.take(later), Some(0));
        assert_eq!(starts.missing(later), 0);
        assert_eq!(starts.missing(later + SLOW), 1);
    }

    #[test]
    fn a_slow_runner_becomes_two_where_there_is_work_for_two() {
        let (starts, now) = queue(0..3);
        assert_eq!(starts.take(now), Some(0));
        assert!(!starts.split(SLOW / 2));
        assert!(starts.split(SLOW));
        assert_eq!(starts.take(now), Some(1));
        assert!(!starts.split(SLOW), "one is left, for the one that is here");
    }
}
