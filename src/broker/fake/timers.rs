//! What the fake broker does at a later time.

use std::collections::BTreeMap;

use tokio::{
    runtime::Handle,
    time::{Instant, sleep_until},
};

use super::{FakeBroker, Model};

/// One thing to do.
#[derive(Debug)]
pub(super) enum Due {
    /// Look for expired messages in this queue.
    Expire(String),
    /// Publish the dead letters of this queue again.
    DeadLetter(String),
    /// Delete this queue if it still has no consumer: its name and the number of its declaration.
    Unused(String, u64),
    /// Look for deliveries of this channel that wait too long for their acks.
    TimeOut(u64),
    /// Apply the acks and nacks of this channel that have arrived.
    Apply(u64),
}

/// All things to do, by time and then in the order of their booking.
#[derive(Debug, Default)]
pub(super) struct Timers {
    due: BTreeMap<(Instant, u64), Due>,
    last: u64,
    /// The earliest time for which a task waits.
    armed: Option<Instant>,
}

impl Timers {
    pub(super) fn at(&mut self, time: Instant, due: Due) {
        self.last += 1;
        self.due.insert((time, self.last), due);
    }

    fn next(&mut self, now: Instant) -> Option<Due> {
        let first = self.due.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }

    /// The time for which a new task has to wait.
    fn next_to_arm(&mut self) -> Option<Instant> {
        let (next, _) = *self.due.first_key_value()?.0;
        if self.armed.is_some_and(|armed| armed <= next) {
            return None;
        }
        self.armed = Some(next);
        Some(next)
    }
}

impl FakeBroker {
    /// Starts a task for the next thing to do, unless one waits for it. Outside a runtime there is
    /// no time, so nothing becomes due.
    pub(super) fn arm(&self, model: &mut Model) {
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        let Some(time) = model.timers.next_to_arm() else {
            return;
        };
        let broker = self.clone();
        runtime.spawn(async move {
            sleep_until(time).await;
            let mut model = broker.lock();
            model.timers.armed = model.timers.armed.filter(|armed| *armed > time);
            let now = Instant::now();
            while let Some(due) = model.timers.next(now) {
                model.run(due);
            }
        });
    }
}

impl Model {
    fn run(&mut self, due: Due) {
        match due {
            Due::Expire(queue) => {
                if let Some(queue) = self.queues.get_mut(&queue) {
                    queue.check_at = None;
                }
                self.drop_expired(&queue);
                self.shrink(&queue);
                self.watch_expiry(&queue);
            }
            Due::DeadLetter(queue) => self.publish_dying(&queue),
            Due::Unused(queue, born) => self.delete_unused(&queue, born),
            Due::TimeOut(channel) => self.time_out(channel),
            Due::Apply(channel) => self.apply_arrived(channel),
        }
    }
}
