//! The end of a run: no more faults, and then everything has to end.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::play::{Play, millis, queue};
use crate::{ConsumerState, WorkerHandle, lock::lock};

/// Once the faults have stopped, everything ends within this time.
const LONGEST: Duration = Duration::from_hours(2);

impl Play {
    /// Ends all faults, waits until everything has ended, and compares.
    pub(super) async fn end(&self) {
        self.note("-- all faults have ended --", 0, 0);
        self.alarm.set(false);
        let began = Instant::now();
        loop {
            for slot in 0..self.world.workers {
                self.heal(slot);
            }
            if self.is_idle() || self.has_failed() {
                break;
            }
            if began.elapsed() > LONGEST {
                let mut state = self.stage.lock();
                state.fail("everything ends", || format!("not within {LONGEST:?}"));
                return;
            }
            sleep(millis(500)).await;
        }
        if self.has_failed() {
            return;
        }
        self.stage.check_places(&self.broker, true);
        for slot in 0..self.world.workers {
            self.drain(slot, None);
        }
        while (0..self.world.workers).any(|slot| self.process(slot).is_some()) {
            if began.elapsed() > LONGEST * 2 {
                self.stage
                    .lock()
                    .fail("a drain ends", || format!("not within {LONGEST:?}"));
                return;
            }
            sleep(millis(100)).await;
        }
        // A drain may have parked a copy that was under way.
        self.stage.check_places(&self.broker, false);
        for violation in self.broker.violations() {
            self.stage
                .lock()
                .fail("the worker follows the protocol", || violation);
        }
    }

    fn heal(&self, slot: usize) {
        let (Some(process), Some(handle)) = (self.process(slot), self.handle(slot)) else {
            return;
        };
        process.consuming.heal();
        process.publishing.heal();
        for lane in 0..self.world.lanes {
            let state = handle.health(&queue(lane)).map(|it| it.state);
            if state == Some(ConsumerState::Paused) {
                let handle = handle.clone();
                tokio::spawn(async move {
                    let _ = handle.resume(&queue(lane)).await;
                });
            }
        }
    }

    /// Whether all messages are done or dead, and all workers are there and say that they can work.
    fn is_idle(&self) -> bool {
        let mut is_idle = true;
        self.broker
            .each_message(|queue, _| is_idle &= queue.ends_with(".dead"));
        let slots = lock(&self.slots);
        is_idle
            && slots.iter().all(|slot| {
                let handle = slot.handle.as_ref();
                slot.process.is_some() && handle.is_some_and(is_well)
            })
            && self.broker.unacked() == 0
    }
}

/// Whether a worker says that it can work.
fn is_well(handle: &WorkerHandle) -> bool {
    let readiness = handle.readiness();
    readiness.ready && readiness.publishing.is_none()
}
