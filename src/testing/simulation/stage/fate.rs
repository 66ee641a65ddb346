//! The fate of each message, step by step, and the properties that each step must keep.

mod settled;

use std::collections::BTreeMap;

use super::{Id, Stage, State, Who};
use crate::testing::simulation::{play::queue, script::Step};

/// What is known of one message.
#[derive(Debug)]
pub(crate) struct Fate {
    pub(crate) lane: usize,
    plan: Vec<Step>,
    /// Runs that have started, in all processes.
    pub(crate) runs: usize,
    /// Runs that ended with a failure of their own.
    pub(crate) failures: u32,
    pub(crate) rejected: bool,
    /// It was postponed until this time.
    not_before: u128,
    /// Runs that succeeded, or dropped the message.
    pub(crate) successes: u32,
    /// The copies of the message that the broker has: in queues, delays, or with a worker.
    pub(crate) instances: i64,
    /// Something outside of the message gave it a further run: a return, a lost channel, a copy
    /// without a confirm.
    pub(crate) disturbed: bool,
    /// Deliveries that were lost with their channel.
    pub(crate) losses: u32,
    /// A copy of it that was to go back to its queue was not confirmed.
    pub(crate) uncopied: bool,
    /// By process: deliveries that may start a run, and runs that may follow one that failed.
    may_run: Vec<(usize, MayRun)>,
}

/// What a process may do with a message.
#[derive(Clone, Debug, Default)]
struct MayRun {
    /// Deliveries that have not started: their sessions and tags.
    delivered: Vec<(u64, u64)>,
    /// Deliveries that have started. Of several deliveries of one message the first is taken for the one
    /// that starts; the ack of a run shows which it was.
    started: Vec<(u64, u64)>,
    /// Runs that may follow one that ended without success: their sessions.
    again: Vec<u64>,
    /// Copies that were confirmed to it, and whose originals it has not acked.
    copies: u32,
    succeeded: bool,
}

/// A delivery of a session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flight {
    pub(crate) id: Id,
    /// The worker has written an ack or a nack for it.
    pub(crate) told: bool,
    /// The broker has carried it out.
    pub(crate) applied: bool,
}

/// The deliveries of a session. A tag is its place plus one.
#[derive(Debug, Default)]
pub(crate) struct Deliveries {
    all: Vec<Flight>,
    /// All tags up to this one were told.
    told_up_to: usize,
    /// When the worker learned that the session is lost.
    lost_at: Option<u128>,
    /// The worker knew that before its drain began.
    lost_before_drain: bool,
}

/// A lane looks at its channel at least this often, in milliseconds. Until then a delivery may start
/// although its session is lost.
const LOOKS: u128 = 300;

/// What a worker learns of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    Confirmed,
    /// The broker does not have it.
    Refused,
    /// The broker may have it.
    InDoubt,
}

/// How a run of a handler ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    Succeeded,
    Failed,
    Rejected,
    Snoozed,
    /// The handler's future was dropped, or ended after it was cancelled.
    Cancelled,
}

impl MayRun {
    /// The worker acks a delivery, after a run of it or after a copy.
    fn acked(&mut self, delivery: (u64, u64)) {
        let was_waiting = self.delivered.contains(&delivery);
        self.delivered.retain(|it| *it != delivery);
        self.started.retain(|it| *it != delivery);
        // This one has run, and not the one that was taken for it.
        if was_waiting && self.copies == 0 {
            self.delivered.extend(self.started.pop());
        }
    }
}

impl Fate {
    pub(crate) fn new(lane: usize, plan: Vec<Step>) -> Self {
        Self {
            lane,
            plan,
            runs: 0,
            failures: 0,
            rejected: false,
            not_before: 0,
            successes: 0,
            instances: 1,
            disturbed: false,
            losses: 0,
            uncopied: false,
            may_run: Vec::new(),
        }
    }

    /// Deliveries of such sessions may no longer start.
    fn withdraw(&mut self, process: usize, of: impl Fn(u64) -> bool) {
        let may = self.may_run(process);
        may.delivered.retain(|(session, _)| !of(*session));
        may.started.retain(|(session, _)| !of(*session));
        may.again.retain(|session| !of(*session));
    }

    fn may_run(&mut self, process: usize) -> &mut MayRun {
        let place = self.may_run.iter().position(|(of, _)| *of == process);
        let place = place.unwrap_or_else(|| {
            self.may_run.push((process, MayRun::default()));
            self.may_run.len() - 1
        });
        &mut self.may_run[place].1
    }
}

impl Stage {
    pub(crate) fn delivered(&self, process: usize, session: u64, id: Id, redelivered: bool) {
        let mut state = self.lock();
        let all = &mut state.sessions.entry(session).or_default().all;
        all.push(Flight {
            id,
            told: false,
            applied: false,
        });
        let tag = all.len();
        state.tallies[process].received += 1;
        state.fates[id]
            .may_run(process)
            .delivered
            .push((session, tag as u64));
        let text = match redelivered {
            false => "gets m{m}, tag {a} of session {b}",
            true => "gets m{m} again, tag {a} of session {b}",
        };
        let number = session_number(session);
        state.note(Who::Worker(process), text, id, tag, number);
    }

    /// A handler starts. Returns what it does, and the session that it runs for.
    pub(crate) fn started(&self, process: usize, id: Id, attempt: u32) -> Option<(Step, u64)> {
        let mut state = self.lock();
        if state.tallies[process].is_dead {
            return None;
        }
        state.note(
            Who::Worker(process),
            "runs m{m}, attempt {a}",
            id,
            attempt as usize,
            0,
        );
        let now = state.millis();
        let State {
            fates, sessions, ..
        } = &mut *state;
        let fate = &mut fates[id];
        let (lane, failures, disturbed) = (fate.lane, fate.failures, fate.disturbed);
        let (rejected, not_before) = (fate.rejected, fate.not_before);
        let step = fate
            .plan
            .get(fate.runs)
            .copied()
            .unwrap_or(Step::Succeed(0));
        fate.runs += 1;
        fate.withdraw(process, |session| is_long_lost(sessions, session, now));
        let may = fate.may_run(process);
        let session = match may.delivered.is_empty() {
            true => may.again.pop(),
            false => {
                let delivery = may.delivered.remove(0);
                may.started.push(delivery);
                Some(delivery.0)
            }
        };
        if session.is_none() {
            state.fail("a run has a cause", || {
                format!("m{id} runs, but no delivery of it is open")
            });
        }
        if rejected && !disturbed && !state.excuses {
            state.fail("a failure for good is the end", || {
                format!("m{id} runs again")
            });
        }
        if now < not_before && !disturbed && !state.has_jumped {
            state.fail("a postponed message waits", || {
                format!("m{id} runs, {not_before} ms is its time")
            });
        }
        let (max, most) = (state.max_attempts, failures + 1);
        if attempt > max {
            state.fail("attempts are bounded", || {
                format!("m{id} has attempt {attempt} of {max}")
            });
        }
        let exact = !disturbed && !state.excuses;
        if attempt > most || (exact && attempt != most) {
            state.fail("an attempt is charged for a failure of its own", || {
                format!("m{id} has attempt {attempt} after {failures} failures")
            });
        }
        let tally = &mut state.tallies[process];
        let (running, limit) = (tally.running[lane] + 1, tally.limits[lane]);
        tally.running[lane] = running;
        if running > limit {
            state.fail("concurrency is bounded", || {
                format!("{running} handlers of lane {lane} run in worker {process}, {limit} may")
            });
        }
        Some((step, session.unwrap_or_default()))
    }

    pub(crate) fn ended(&self, process: usize, session: u64, id: Id, how: How, took: u128) {
        let mut state = self.lock();
        if state.tallies[process].is_dead {
            return;
        }
        let lane = state.fates[id].lane;
        state.tallies[process].running[lane] -= 1;
        let text = match how {
            How::Succeeded => "m{m} succeeds",
            How::Failed => "m{m} fails",
            How::Rejected => "m{m} fails for good",
            How::Snoozed => "m{m} is postponed",
            How::Cancelled => "m{m} is cancelled after {a} ms",
        };
        state.note(Who::Worker(process), text, id, took as usize, 0);
        let (now, timed_out) = (state.millis(), took >= state.timeout);
        let fate = &mut state.fates[id];
        match how {
            How::Succeeded => {
                fate.successes += 1;
                fate.may_run(process).succeeded = true;
            }
            How::Failed | How::Rejected => fate.failures += 1,
            How::Snoozed => {}
            How::Cancelled if timed_out => fate.failures += 1,
            How::Cancelled => fate.disturbed = true,
        }
        fate.rejected |= how == How::Rejected;
        if how == How::Snoozed
            && let Some(Step::Snooze(time)) = fate.plan.get(fate.runs - 1)
        {
            fate.not_before = now + u128::from(*time);
        }
        if how != How::Succeeded {
            fate.may_run(process).again.push(session);
        }
    }

    /// A copy of a message has reached the broker.
    pub(crate) fn copied(&self, id: Id, to: &str) {
        let mut state = self.lock();
        state.fates[id].instances += 1;
        state.note(Who::Broker, "stores a copy of m{m} in", id, 0, 0);
        state.log.add(to);
    }

    /// The worker learns how a publish of a copy ended.
    pub(crate) fn told_of_copy(&self, process: usize, id: Id, to: &str, told: Told) {
        let confirmed = told == Told::Confirmed;
        let mut state = self.lock();
        if state.tallies[process].is_dead {
            return;
        }
        let text = match confirmed {
            true => "learns that the copy of m{m} is confirmed",
            false => "learns that the copy of m{m} is not confirmed",
        };
        state.note(Who::Worker(process), text, id, 0, 0);
        let fate = &mut state.fates[id];
        let is_back = to == queue(fate.lane);
        fate.disturbed |= is_back || told == Told::InDoubt;
        fate.uncopied |= is_back && !confirmed;
        if confirmed {
            let is_alone = !fate.disturbed;
            let may = fate.may_run(process);
            may.copies += 1;
            // The copy is what follows the failure: the delivery does not run again.
            if is_alone {
                may.again.clear();
            }
        }
    }
}

/// Sessions are numbered by process and channel: see `Wire`.
fn session_number(session: u64) -> usize {
    usize::try_from(session).unwrap_or(usize::MAX)
}

fn is_long_lost(sessions: &BTreeMap<u64, Deliveries>, session: u64, now: u128) -> bool {
    let lost_at = sessions.get(&session).and_then(|it| it.lost_at);
    lost_at.is_some_and(|at| now > at + LOOKS)
}
