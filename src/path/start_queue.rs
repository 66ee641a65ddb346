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
    future::pending,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::oneshot, time::Instant};

use crate::flight::{Flight, Permit, Slots};

/// A path that takes this long without waiting is slow.
const SLOW: Duration = Duration::from_micros(200);

/// See the module.
#[derive(Debug)]
pub(crate) struct StartQueue<R = Arc<Flight>> {
    slots: Arc<Slots>,
    state: Mutex<State<R>>,
}

#[derive(Debug)]
struct State<R> {
    waiting: VecDeque<R>,
    /// Paths that wait for a slot for a further attempt, and the way to give them one.
    again: VecDeque<oneshot::Sender<Permit>>,
    /// Whether the next slot is for one of those, where both wait. Turn by turn: a handler that
    /// puts its message off again and again must not keep others from their first attempt.
    again_next: bool,
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

impl<R> StartQueue<R> {
    pub(crate) fn new(slots: Arc<Slots>) -> Self {
        let state = Mutex::new(State {
            waiting: VecDeque::new(),
            again: VecDeque::new(),
            again_next: true,
            runners: 0,
            coming: 0,
            taken_at: Instant::now(),
            held: false,
        });
        Self { slots, state }
    }

    /// Puts deliveries in the queue; true when they need a runner.
    #[must_use]
    pub(crate) fn put(&self, runs: &mut Vec<R>, now: Instant) -> bool {
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
    pub(crate) fn withdraw(&self) -> VecDeque<R> {
        mem::take(&mut self.lock().waiting)
    }

    /// Lets nothing be started, or lets it again.
    pub(crate) fn hold(&self, held: bool) {
        self.lock().held = held;
    }

    /// A runner takes a delivery and a slot for it, its `first` or a further one, and gives slots to
    /// the paths whose turn it is. When there is none of either its work is done.
    pub(crate) fn take(&self, first: bool, now: Instant) -> Option<R> {
        let mut state = self.lock();
        state.coming -= usize::from(first);
        // A slot that comes free after this look brings a runner: see `pass_on`.
        while state.wanted() > 0 && self.slots.try_take() {
            state.taken_at = now;
            let again = state.again_next || state.held || state.waiting.is_empty();
            state.again_next = !again;
            let Some(path) = again.then(|| state.again.pop_front()).flatten() else {
                return state.waiting.pop_front();
            };
            let slot = Permit::new(Arc::clone(&self.slots));
            slot.granted();
            // A path that waits no longer leaves it here, and it is free again.
            drop(path.send(slot));
        }
        state.runners -= 1;
        None
    }

    /// Waits for a slot for a further attempt, in turn with those that wait for their first.
    pub(crate) async fn retake(&self, permit: &Permit) {
        let slot = {
            let mut state = self.lock();
            if state.wanted() == 0 && self.slots.try_take() {
                return permit.granted();
            }
            let (path, slot) = oneshot::channel();
            state.again.push_back(path);
            slot
        };
        match slot.await {
            Ok(slot) => permit.take_over(&slot),
            // Nobody takes it out of the queue but to give it a slot.
            Err(_) => pending().await,
        }
    }

    /// A runner's path has to wait, and the runner with it; true when another is needed in its
    /// place.
    #[must_use]
    pub(crate) fn leave(&self) -> bool {
        let mut state = self.lock();
        state.runners -= 1;
        self.add_one(&mut state)
    }

    /// A runner that stays with its path has given its slot back; true when another is needed to
    /// take that.
    #[must_use]
    pub(crate) fn pass_on(&self) -> bool {
        self.add_one(&mut self.lock())
    }

    fn add_one(&self, state: &mut State<R>) -> bool {
        let needed = self.startable(state) > state.coming;
        state.add(usize::from(needed));
        needed
    }

    /// A runner is back from a path that had to wait.
    pub(crate) fn join(&self) {
        self.lock().runners += 1;
    }

    /// A runner has taken this long for one path; true when two are to go on in its place.
    #[must_use]
    pub(crate) fn split(&self, took: Duration) -> bool {
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
    pub(crate) fn missing(&self, now: Instant) -> usize {
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
    pub(crate) fn waiting(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Whether any of them could be started.
    pub(crate) fn is_behind(&self) -> bool {
        self.startable(&self.lock()) > 0
    }

    fn startable(&self, state: &State<R>) -> usize {
        state.wanted().min(self.slots.free())
    }

    fn lock(&self) -> MutexGuard<'_, State<R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<R> State<R> {
    /// Slots that could be used.
    fn wanted(&self) -> usize {
        let first = match self.held {
            true => 0,
            false => self.waiting.len(),
        };
        first + self.again.len()
    }

    fn add(&mut self, runners: usize) {
        self.runners += runners;
        self.coming += runners;
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
