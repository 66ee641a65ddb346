//! Wakes consumers at the end of what was read, not at its first delivery.
//!
//! lapin takes a read apart delivery by delivery, and wakes the consumer at the first. Its thread
//! would then run beside lapin's, fight it for its locks, and sleep again after each delivery. So
//! the wake-ups wait behind this gate until lapin is through with what it has read: it is shut
//! before, and opened when lapin comes back to its stream.

use std::{
    mem,
    sync::{Arc, Mutex, MutexGuard},
    task::{Wake, Waker},
};

use crate::lock::lock;

/// See the module.
#[derive(Debug, Default)]
pub(in crate::broker) struct Gate(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    shut: bool,
    waiting: Vec<Waker>,
}

impl Gate {
    /// Holds wake-ups back. Whoever shuts the gate opens it.
    pub(super) fn shut(&self) {
        self.lock().shut = true;
    }

    /// Lets everything through, until it is shut again.
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
    /// The task's, and the one that goes through the gate to it.
    wakers: Option<(Waker, Waker)>,
}

impl Gated {
    pub(in crate::broker) fn new(gate: Arc<Gate>) -> Self {
        Self { gate, wakers: None }
    }

    /// The waker to use in place of this one.
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
