//! Bounded concurrency: deliveries that wait for a handler slot, and the tasks that carry them.
//!
//! A task for each delivery would be created on one thread and end on another, and most paths end
//! without ever waiting. So the lane puts deliveries in a queue, and runners serve the queue. A
//! runner is a task on the handlers' runtime. The runner takes a delivery together with a slot,
//! carries the delivery along its path, and takes the next one.
//!
//! Paths that never wait share one task. A path that waits keeps its runner for itself, and another
//! runner serves the rest of the queue. A freed slot is reused on the thread that freed it, without
//! waking the lane.
//!
//! A handler that blocks its thread, or computes for a long time, must not hold up the deliveries
//! behind it. Three rules prevent this:
//!
//! - A runner that was slow starts two new runners and ends. Another thread can take one of the
//!   two.
//! - The lane adds runners when no delivery was taken for a while.
//! - Deliveries that arrive during that time bring a runner of their own.
//!
//! A lane can have a fixed rate ([`RateLimit`]). While it allows no start, runners end as if no slot
//! were free, and the lane looks again when the rate allows the next start.

use std::{
    collections::VecDeque,
    future::pending,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::{sync::oneshot, time::Instant};

use crate::{
    flight::{Flight, Slot, Slots},
    lock::lock,
};
use order::Fifo;
pub(crate) use rate::RateLimit;

mod order;
mod rate;

/// A path that takes this long without waiting is slow.
const SLOW: Duration = Duration::from_micros(200);

/// The deliveries of one lane that wait for a slot, and the count of the runners that serve them.
#[derive(Debug)]
pub(crate) struct StartQueue<R = Arc<Flight>> {
    slots: Arc<Slots>,
    /// Whether the lane has a fixed rate.
    has_rate: bool,
    state: Mutex<State<R>>,
}

#[derive(Debug)]
struct State<R> {
    /// Deliveries that wait for their first attempt.
    first: Fifo<R>,
    /// No first attempt may start. Further attempts always may.
    held: bool,
    /// First attempts start only one by one, as they are [admitted](StartQueue::admit): how many
    /// more may start. `None`: there is no such limit.
    admitted: Option<usize>,
    /// The lane's fixed rate, for first and further attempts.
    rate: Option<RateLimit>,
    /// Paths that wait for a slot for a further attempt: each gets its slot by its channel.
    further: VecDeque<oneshot::Sender<Slot>>,
    /// Whether the next slot is for a further attempt, if both kinds wait. First and further
    /// attempts take turns: a handler that snoozes its messages again and again must not keep other
    /// messages from their first attempt.
    further_is_next: bool,
    /// Runners that will take another delivery, unless a handler keeps them.
    runners: usize,
    /// Of `runners`, those that have yet to take their first delivery. Each takes at least one
    /// delivery, so there need not be more of them than deliveries that can start.
    coming: usize,
    /// When a delivery was last taken.
    taken_at: Instant,
}

impl<R> StartQueue<R> {
    pub(crate) fn new(slots: Arc<Slots>, rate: Option<RateLimit>) -> Self {
        let has_rate = rate.is_some();
        let state = Mutex::new(State {
            first: Fifo::default(),
            held: false,
            admitted: None,
            rate,
            further: VecDeque::new(),
            further_is_next: true,
            runners: 0,
            coming: 0,
            taken_at: Instant::now(),
        });
        Self {
            slots,
            has_rate,
            state,
        }
    }

    /// Puts deliveries in the queue. True: the caller must start a runner.
    #[must_use]
    pub(crate) fn put(&self, arrived: &mut Vec<R>, now: Instant) -> bool {
        let mut state = self.lock();
        state.first.add(arrived);
        let busy = state.runners > 0 && now.saturating_duration_since(state.taken_at) < SLOW;
        let needed = !busy && self.startable(&state) > state.coming;
        if needed {
            state.add_runners(1);
            state.taken_at = now;
        }
        needed
    }

    /// Takes back the deliveries that have not started.
    pub(crate) fn withdraw(&self) -> VecDeque<R> {
        self.lock().first.take_all()
    }

    /// Takes back those of the deliveries that have not started for which `wanted` is true.
    pub(crate) fn withdraw_if(&self, wanted: impl Fn(&R) -> bool) -> Vec<R> {
        self.lock().first.take_if(wanted)
    }

    /// Holds first attempts back, or lets them start again. A caller that lets them start must also
    /// start the runners that are [`missing`](Self::missing).
    pub(crate) fn hold(&self, held: bool) {
        self.lock().held = held;
    }

    /// Suspends first attempts: only those start that are [admitted](Self::admit). False ends that.
    pub(crate) fn suspend(&self, suspended: bool) {
        let mut state = self.lock();
        state.admitted = suspended.then(|| state.admitted.unwrap_or_default());
    }

    /// While first attempts are suspended: lets one start.
    pub(crate) fn admit(&self) {
        let mut state = self.lock();
        state.admitted = state.admitted.map(|_| 1);
    }

    /// Whether an admitted first attempt has yet to start.
    pub(crate) fn has_admitted(&self) -> bool {
        self.lock().admitted.is_some_and(|count| count > 0)
    }

    /// A runner takes a delivery and a slot for it, and gives slots to the paths whose turn it is.
    /// `first`: this is the runner's first delivery. `None`: nothing can start, and the runner
    /// ends. If the lane [has a rate](Self::has_rate), the caller must wake the lane.
    pub(crate) fn take(&self, first: bool, now: Instant) -> Option<(R, Slot)> {
        let mut state = self.lock();
        state.coming -= usize::from(first);
        // A slot that is freed after this look brings another runner: see `pass_on`.
        while state.wanted() > 0
            && let Some(slot) = self.slots.try_take()
        {
            state.taken_at = now;
            let further = state.further_is_next || state.first_wanted() == 0;
            state.further_is_next = !further;
            match further.then(|| state.further.pop_front()).flatten() {
                Some(path) => {
                    // If the path no longer waits, the slot is dropped and free again.
                    if path.send(slot).is_ok() {
                        state.started();
                    }
                }
                None => {
                    state.started();
                    return state.pop_first().map(|delivery| (delivery, slot));
                }
            }
        }
        state.runners -= 1;
        None
    }

    /// Puts a path in the queue that needs a slot for a further attempt, and gives the future of the
    /// slot. First and further attempts take turns. If the lane [has a rate](Self::has_rate), the
    /// caller must wake the lane: the rate may be what the path waits for.
    pub(crate) fn retake(&self) -> impl Future<Output = Slot> + use<R> {
        let slot = self.take_or_wait();
        async move {
            match slot {
                Ok(slot) => slot,
                Err(waiting) => match waiting.await {
                    Ok(slot) => slot,
                    // This cannot happen: a sender leaves the queue only to send.
                    Err(_) => pending().await,
                },
            }
        }
    }

    fn take_or_wait(&self) -> Result<Slot, oneshot::Receiver<Slot>> {
        let mut state = self.lock();
        if state.waiting() == 0
            && state.rate_allows() > 0
            && let Some(slot) = self.slots.try_take()
        {
            state.started();
            return Ok(slot);
        }
        let (path, slot) = oneshot::channel();
        state.further.push_back(path);
        Err(slot)
    }

    /// Whether the lane has a fixed rate.
    pub(crate) fn has_rate(&self) -> bool {
        self.has_rate
    }

    /// When the lane should look for [missing](Self::missing) runners: `soon` if an attempt can start,
    /// or when the rate allows the next start. `None`: another event has to come first.
    pub(crate) fn look_at(&self, soon: Instant) -> Option<Instant> {
        let state = self.lock();
        if self.startable(&state) > 0 {
            return Some(soon);
        }
        let rate = state.rate.as_ref()?;
        (state.waiting() > 0 && state.rate_allows() == 0).then(|| rate.opens_at().max(soon))
    }

    /// A runner's path waits for the first time, and keeps the runner. True: the caller must start
    /// another runner.
    #[must_use]
    pub(crate) fn leave(&self) -> bool {
        let mut state = self.lock();
        state.runners -= 1;
        self.add_one(&mut state)
    }

    /// A path that keeps its runner has given its slot back. True: the caller must start another
    /// runner to use the slot.
    #[must_use]
    pub(crate) fn pass_on(&self) -> bool {
        self.add_one(&mut self.lock())
    }

    fn add_one(&self, state: &mut State<R>) -> bool {
        let needed = self.startable(state) > state.coming;
        state.add_runners(usize::from(needed));
        needed
    }

    /// A path that had kept its runner has ended, and the runner serves the queue again.
    pub(crate) fn join(&self) {
        self.lock().runners += 1;
    }

    /// A runner has taken this long for one path. True: the caller must start two runners and end.
    #[must_use]
    pub(crate) fn split(&self, took: Duration) -> bool {
        if took < SLOW {
            return false;
        }
        let mut state = self.lock();
        let useful = self.startable(&state) > state.coming + 1;
        if useful {
            state.runners -= 1;
            state.add_runners(2);
        }
        useful
    }

    /// The number of runners to add because no delivery was taken for a while: as many as have yet
    /// to take their first delivery, at least one, and never more than deliveries can start.
    pub(crate) fn missing(&self, now: Instant) -> usize {
        let mut state = self.lock();
        if now.saturating_duration_since(state.taken_at) < SLOW {
            return 0;
        }
        let useful = self.startable(&state).saturating_sub(state.coming);
        let add = state.coming.max(1).min(useful);
        state.add_runners(add);
        add
    }

    /// The number of deliveries that wait for their first attempt.
    pub(crate) fn waiting(&self) -> usize {
        self.lock().first.len()
    }

    fn startable(&self, state: &State<R>) -> usize {
        state.wanted().min(self.slots.free())
    }

    fn lock(&self) -> MutexGuard<'_, State<R>> {
        lock(&self.state)
    }
}

impl<R> State<R> {
    /// The number of slots that first attempts could use.
    fn first_wanted(&self) -> usize {
        match (self.held, self.admitted) {
            (true, _) => 0,
            (false, None) => self.first.startable(),
            (false, Some(admitted)) => self.first.startable().min(admitted),
        }
    }

    fn pop_first(&mut self) -> Option<R> {
        let popped = self.first.pop()?;
        self.admitted = self.admitted.map(|count| count.saturating_sub(1));
        Some(popped)
    }

    /// The number of slots that first and further attempts could use if there were no rate.
    fn waiting(&self) -> usize {
        self.first_wanted() + self.further.len()
    }

    /// The number of slots that first and further attempts could use.
    fn wanted(&self) -> usize {
        match self.waiting() {
            0 => 0,
            waiting => waiting.min(self.rate_allows()),
        }
    }

    /// The number of attempts that the rate allows to start now.
    fn rate_allows(&self) -> usize {
        let open = |rate: &RateLimit| rate.open(Instant::now());
        self.rate.as_ref().map_or(usize::MAX, open)
    }

    /// An attempt starts.
    fn started(&mut self) {
        if let Some(rate) = &mut self.rate {
            rate.start(Instant::now());
        }
    }

    fn add_runners(&mut self, count: usize) {
        self.runners += count;
        self.coming += count;
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
