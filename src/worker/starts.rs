//! Bounded concurrency: deliveries that wait for a handler slot, and their way to a thread that
//! carries them along their paths.
//!
//! A task for each delivery would be made on one thread and ended on another, and most paths end
//! without ever waiting. So the lane puts what arrives in a queue, and a runner, which is a task on
//! the handlers' runtime, takes one after the other. When a path has to wait, its runner stays with
//! it, and a new runner takes the rest. So each path that waits has a task of its own, and those
//! that do not share one. A runner takes a delivery when there is a slot for it, so a slot that comes
//! free goes from one path to the next where it is, and nobody has to be asked.
//!
//! A handler that blocks its thread, or computes for long, must not hold up those behind it: a
//! runner that has been slow makes two of itself, of which another thread can take one; the lane
//! adds runners when none has taken anything for a while; and what arrives meanwhile brings its own.

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::{run::Run, slots::Slots};

/// A path that takes this long without waiting is slow.
const SLOW: Duration = Duration::from_micros(200);

/// See the module.
#[derive(Debug)]
pub(super) struct Starts<R = Arc<Run>> {
    slots: Arc<Slots>,
    state: Mutex<State<R>>,
}

#[derive(Debug)]
struct State<R> {
    waiting: VecDeque<R>,
    /// Runners that will come back for more, unless a handler keeps them.
    runners: usize,
    /// Those of them that have yet to take their first. Each takes one at least, so that no more
    /// are of use than deliveries wait.
    coming: usize,
    /// When a delivery was last taken.
    taken_at: Instant,
    /// None is to be started for now.
    held: bool,
}

impl<R> Starts<R> {
    pub(super) fn new(slots: Arc<Slots>) -> Self {
        let state = Mutex::new(State {
            waiting: VecDeque::new(),
            runners: 0,
            coming: 0,
            taken_at: Instant::now(),
            held: false,
        });
        Self { slots, state }
    }

    /// Puts deliveries in the queue; true when they need a runner.
    #[must_use]
    pub(super) fn put(&self, runs: &mut Vec<R>, now: Instant) -> bool {
        let mut state = self.lock();
        state.waiting.extend(runs.drain(..));
        let busy = state.runners > 0 && now.saturating_duration_since(state.taken_at) < SLOW;
        let needed = !busy && self.startable(&state) > state.coming;
        if needed {
            state.add(1);
            state.taken_at = now;
        }
        needed
    }

    /// Takes back what waits.
    pub(super) fn withdraw(&self) -> VecDeque<R> {
        mem::take(&mut self.lock().waiting)
    }

    /// Lets nothing be started, or lets it again.
    pub(super) fn hold(&self, held: bool) {
        self.lock().held = held;
    }

    /// A runner takes a delivery and a slot for it, its `first` or a further one. When there is none
    /// of either its work is done.
    pub(super) fn take(&self, first: bool, now: Instant) -> Option<R> {
        let mut state = self.lock();
        state.coming -= usize::from(first);
        // A slot that comes free after this look brings a runner: see `pass_on`.
        if state.held || state.waiting.is_empty() || !self.slots.try_take() {
            state.runners -= 1;
            return None;
        }
        state.taken_at = now;
        state.waiting.pop_front()
    }

    /// A runner's path has to wait, and the runner with it; true when another is needed in its
    /// place.
    #[must_use]
    pub(super) fn leave(&self) -> bool {
        let mut state = self.lock();
        state.runners -= 1;
        self.add_one(&mut state)
    }

    /// A runner that stays with its path has given its slot back; true when another is needed to
    /// take that.
    #[must_use]
    pub(super) fn pass_on(&self) -> bool {
        self.add_one(&mut self.lock())
    }

    fn add_one(&self, state: &mut State<R>) -> bool {
        let needed = self.startable(state) > state.coming;
        state.add(usize::from(needed));
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
        let useful = self.startable(&state) > state.coming + 1;
        if useful {
            state.runners -= 1;
            state.add(2);
        }
        useful
    }

    /// How many runners to add because nothing was taken for a while: as many as are coming, or one.
    pub(super) fn missing(&self, now: Instant) -> usize {
        let mut state = self.lock();
        if now.saturating_duration_since(state.taken_at) < SLOW {
            return 0;
        }
        let useful = self.startable(&state).saturating_sub(state.coming);
        let add = state.coming.max(1).min(useful);
        state.add(add);
        add
    }

    /// Deliveries that wait.
    pub(super) fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Whether any of them could be started.
    pub(super) fn is_behind(&self) -> bool {
        self.startable(&self.lock()) > 0
    }

    fn startable(&self, state: &State<R>) -> usize {
        match state.held {
            true => 0,
            false => state.waiting.len().min(self.slots.free()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<R> State<R> {
    fn add(&mut self, runners: usize) {
        self.runners += runners;
        self.coming += runners;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A queue with these in it, and the moment at which they were put there.
    fn queue(runs: std::ops::Range<u32>) -> (Starts<u32>, Instant) {
        queue_with(usize::MAX >> 3, runs)
    }

    /// With so many slots.
    fn queue_with(slots: usize, runs: std::ops::Range<u32>) -> (Starts<u32>, Instant) {
        let (starts, now) = (Starts::new(Arc::new(Slots::new(slots))), Instant::now());
        assert!(
            starts.put(&mut runs.collect(), now),
            "nobody is there to take them"
        );
        (starts, now)
    }

    #[test]
    fn a_slot_that_comes_free_is_taken_by_the_path_that_had_it_or_by_a_runner_for_it() {
        let (starts, now) = queue_with(2, 0..5);
        assert_eq!(starts.take(true, now), Some(0));
        assert!(starts.leave());
        assert_eq!(starts.take(true, now), Some(1));
        assert!(!starts.leave(), "no slot is free");
        assert!(!starts.put(&mut vec![5], now));
        assert_eq!(starts.missing(now + SLOW), 0);
        assert!(!starts.is_behind());

        starts.slots.give_back();
        starts.join();
        assert_eq!(starts.take(false, now), Some(2), "from path to path");
        assert!(!starts.leave());

        starts.slots.give_back();
        assert!(starts.is_behind());
        assert!(starts.pass_on(), "its path goes on without it");
        assert!(!starts.pass_on(), "one comes for it");
        assert_eq!(starts.take(true, now), Some(3));
        assert_eq!(starts.take(false, now), None);
        assert_eq!(starts.waiting(), 2);
    }

    #[test]
    fn what_is_held_is_not_started_and_what_is_withdrawn_never_will_be() {
        let (starts, now) = queue(0..3);
        assert_eq!(starts.take(true, now), Some(0));
        starts.hold(true);
        assert_eq!(starts.take(false, now), None);
        assert!(!starts.put(&mut vec![3], now + SLOW));
        assert_eq!(starts.missing(now + SLOW), 0);
        starts.hold(false);
        assert_eq!(starts.missing(now + SLOW), 1);
        assert_eq!(starts.take(true, now), Some(1));
        assert_eq!(starts.withdraw(), [2, 3]);
        assert_eq!(starts.take(false, now), None);
    }

    #[test]
    fn one_runner_takes_all_in_order_and_what_comes_meanwhile() {
        let (starts, now) = queue(0..2);
        assert_eq!(starts.take(true, now), Some(0));
        assert!(!starts.put(&mut vec![2], now));
        assert_eq!(starts.take(false, now), Some(1));
        assert_eq!(starts.take(false, now), Some(2));
        assert_eq!(starts.take(false, now), None);
        assert!(starts.put(&mut vec![3], now), "it has gone");
    }

    #[test]
    fn a_runner_that_stays_with_its_path_is_replaced_where_others_wait() {
        let (starts, now) = queue(0..2);
        assert_eq!(starts.take(true, now), Some(0));
        assert!(starts.leave());
        assert_eq!(starts.take(true, now), Some(1));
        assert!(!starts.leave());
        assert!(starts.put(&mut vec![2], now));
        starts.join();
        assert_eq!(starts.take(false, now), Some(2));
        assert_eq!(starts.take(false, now), None);
        assert_eq!(starts.take(true, now), None);
        assert!(starts.put(&mut vec![3], now), "both have gone");
    }

    #[test]
    fn what_arrives_behind_a_handler_that_keeps_its_thread_brings_its_own_runner() {
        let (starts, now) = queue(0..1);
        assert_eq!(starts.take(true, now), Some(0));
        assert!(!starts.put(&mut vec![1], now + SLOW / 2));
        assert!(starts.put(&mut vec![2], now + SLOW));
    }

    #[test]
    fn runners_are_added_while_none_takes_anything_up_to_one_for_each_that_waits() {
        let (starts, now) = queue(0..10);
        assert_eq!(starts.missing(now), 0, "it has just been asked for");
        let later = now + SLOW;
        let added: Vec<_> = (0..6).map(|_| starts.missing(later)).collect();
        assert_eq!(added, [1, 2, 4, 2, 0, 0], "beside the first one");
        assert_eq!(starts.take(true, later), Some(0));
        assert_eq!(starts.missing(later), 0);
        assert_eq!(starts.missing(later + SLOW), 0, "nine wait for nine");
    }

    #[test]
    fn a_slow_runner_becomes_two_where_there_is_work_for_two() {
        let (starts, now) = queue(0..3);
        assert_eq!(starts.take(true, now), Some(0));
        assert!(!starts.split(SLOW / 2));
        assert!(starts.split(SLOW));
        assert_eq!(starts.take(true, now), Some(1));
        assert!(!starts.split(SLOW), "one is left, and another runner comes");
    }

    /// The handlers' runtime, with runners as its tasks, oldest first, and a lane that always has
    /// more to start: as long as it goes on, nothing may pile up.
    #[test]
    fn runners_do_not_pile_up_while_slow_handlers_have_a_backlog() {
        const BACKLOG: u32 = 30;
        let (starts, mut now) = queue(0..BACKLOG);
        let mut first = VecDeque::from([true]);
        for next in BACKLOG..10_000 {
            now += SLOW;
            first.extend((0..starts.missing(now)).map(|_| true));
            let runner = first.pop_front().expect("one is left");
            if starts.take(runner, now).is_some() {
                now += SLOW;
                first.extend(starts.put(&mut vec![next], now).then_some(true));
                match (next % 3 == 0, starts.split(SLOW)) {
                    (_, true) => first.extend([true, true]),
                    (true, false) if starts.leave() => first.push_back(true),
                    (true, false) => {}
                    (false, false) => first.push_front(false),
                }
            }
            let tasks = first.len();
            assert!(tasks <= BACKLOG as usize + 2, "{tasks} at {next}");
        }
    }
}
