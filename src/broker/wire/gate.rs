//! Wakes consumers at the end of a read, not at its first delivery.
//!
//! lapin parses a read delivery by delivery, and wakes the consumer at the first one. The
//! consumer's thread would then run in parallel with lapin's, compete for its locks, and sleep
//! again after each delivery. So wake-ups wait behind this gate until lapin has handled everything
//! that it has read. The stream shuts the gate before, and opens it when lapin comes back to the
//! stream.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard},
    task::{Wake, Waker},
};

use crate::lock::lock;

/// The gate of one connection: open, or shut with the wake-ups that wait.
#[derive(Debug, Default)]
pub(in crate::broker) struct Gate(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    shut: bool,
    waiting: Vec<Waker>,
}

impl Gate {
    /// Holds wake-ups back until [`open`](Self::open). Whoever shuts the gate must open it.
    pub(super) fn shut(&self) {
        self.lock().shut = true;
    }

    /// Passes the wake-ups that wait, and all later ones until the gate is shut again.
    pub(super) fn open(&self) {
        let mut state = self.lock();
        state.shut = false;
        let waiting = mem::take(&mut state.waiting);
        drop(state);
        waiting.into_iter().for_each(Waker::wake);
    }

    fn pass(&self, waker: &Waker) {
        let mut state = self.lock();
        if state.shut {
            state.waiting.push(waker.clone());
        } else {
            drop(state);
            waker.wake_by_ref();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.0)
    }
}

/// A task's waker, behind a gate.
#[derive(Debug)]
pub(in crate::broker) struct Gated {
    gate: Arc<Gate>,
    /// The task's own waker, and the waker that wakes the task through the gate.
    wakers: Option<(Waker, Waker)>,
}

impl Gated {
    pub(in crate::broker) fn new(gate: Arc<Gate>) -> Self {
        Self { gate, wakers: None }
    }

    /// The waker to register instead of the task's own.
    pub(in crate::broker) fn waker(&mut self, task: &Waker) -> &Waker {
        let same = |(known, _): &(Waker, Waker)| known.will_wake(task);
        if !self.wakers.as_ref().is_some_and(same) {
            self.wakers = None;
        }
        let gate = &self.gate;
        let (_, gated) = self.wakers.get_or_insert_with(|| {
            let gated = Waker::from(Arc::new(Through {
                gate: Arc::clone(gate),
                task: task.clone(),
            }));
            (task.clone(), gated)
        });
        gated
    }
}

struct Through {
    gate: Arc<Gate>,
    task: Waker,
}

impl Wake for Through {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.gate.pass(&self.task);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn what_comes_while_the_gate_is_shut_passes_when_it_opens() {
        let task = Arc::new(Task::default());
        let gate = Arc::new(Gate::default());
        let mut gated = Gated::new(Arc::clone(&gate));
        let waker = gated.waker(&Waker::from(Arc::clone(&task))).clone();
        let woken = || task.0.load(Ordering::SeqCst);
        waker.wake_by_ref();
        assert_eq!(woken(), 1);
        gate.shut();
        waker.wake_by_ref();
        assert_eq!(woken(), 1);
        gate.open();
        assert_eq!(woken(), 2);
        gate.open();
        waker.wake();
        assert_eq!(woken(), 3);
    }

    #[test]
    fn a_task_keeps_its_gated_waker_and_another_gets_its_own() {
        let (one, other) = (Arc::new(Task::default()), Arc::new(Task::default()));
        let mut gated = Gated::new(Arc::default());
        let first = gated.waker(&Waker::from(Arc::clone(&one))).clone();
        assert!(
            gated
                .waker(&Waker::from(Arc::clone(&one)))
                .will_wake(&first)
        );
        gated.waker(&Waker::from(Arc::clone(&other))).wake_by_ref();
        assert_eq!(one.0.load(Ordering::SeqCst), 0);
        assert_eq!(other.0.load(Ordering::SeqCst), 1);
    }
}
