//! The fate of each message, step by step, and the properties that each step must keep.

use std::collections::BTreeMap;

use super::{Id, Stage, State, Who};
use crate::testing::simulation::script::Step;

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
    /// Runs that succeeded, or dropped the message.
    pub(crate) successes: u32,
    /// The copies of the message that the broker has: in queues, delays, or with a worker.
    pub(crate) instances: i64,
    /// Something outside of the message gave it a further run: a return, a lost channel, a copy
    /// without a confirm.
    pub(crate) disturbed: bool,
    /// Deliveries that were lost with their channel.
    pub(crate) losses: u32,
    /// By process: deliveries that may start a run, and runs that may follow one that failed.
    may_run: Vec<(usize, MayRun)>,
}

/// What a process may do with a message.
#[derive(Clone, Debug, Default)]
struct MayRun {
    /// Deliveries that have not started: their sessions and tags.
    delivered: Vec<(u64, u64)>,
    /// Runs that may follow one that ended without success.
    again: u32,
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
}

/// A lane looks at its channel at least this often, in milliseconds. Until then a delivery may start
/// although its session is lost.
const LOOKS: u128 = 300;

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

impl Fate {
    pub(crate) fn new(lane: usize, plan: Vec<Step>) -> Self {
        Self {
            lane,
            plan,
            runs: 0,
            failures: 0,
            rejected: false,
            successes: 0,
            instances: 1,
            disturbed: false,
            losses: 0,
            may_run: Vec::new(),
        }
    }

    /// Deliveries of such sessions may no longer start.
    fn withdraw(&mut self, process: usize, of: impl Fn(u64) -> bool) {
        self.may_run(process)
            .delivered
            .retain(|(session, _)| !of(*session));
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

    /// A handler starts. Returns what it does.
    pub(crate) fn started(&self, process: usize, id: Id, attempt: u32) -> Option<Step> {
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
        let step = fate
            .plan
            .get(fate.runs)
            .copied()
            .unwrap_or(Step::Succeed(0));
        fate.runs += 1;
        fate.withdraw(process, |session| is_long_lost(sessions, session, now));
        let may = fate.may_run(process);
        let is_caused = if may.delivered.is_empty() {
            may.again = may.again.wrapping_sub(1);
            may.again != u32::MAX
        } else {
            may.delivered.remove(0);
            true
        };
        if !is_caused {
            state.fail("a run has a cause", || {
                format!("m{id} runs, but no delivery of it is open")
            });
        }
        let (max, most) = (state.max_attempts, failures + 1);
        if attempt > max {
            state.fail("attempts are bounded", || {
                format!("m{id} has attempt {attempt} of {max}")
            });
        }
        if attempt > most || (!disturbed && attempt != most) {
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
        Some(step)
    }

    pub(crate) fn ended(&self, process: usize, id: Id, how: How, took: u128) {
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
        let timed_out = took >= state.timeout;
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
        if how != How::Succeeded {
            fate.may_run(process).again += 1;
        }
    }

    /// A copy of a message has reached the broker.
    pub(crate) fn copied(&self, process: usize, id: Id, to: &str) {
        let mut state = self.lock();
        state.fates[id].instances += 1;
        state.note(Who::Broker, "stores a copy of m{m} in", id, 0, 0);
        state.log.add(to);
    }

    /// The worker learns how a publish of a copy ended. `in_doubt`: the broker may have it.
    pub(crate) fn told_of_copy(&self, process: usize, id: Id, confirmed: bool, in_doubt: bool) {
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
        fate.disturbed |= in_doubt;
        if confirmed {
            let is_alone = !fate.disturbed;
            let may = fate.may_run(process);
            may.copies += 1;
            // The copy is what follows the failure: the delivery does not run again.
            may.again = if is_alone { 0 } else { may.again };
        }
    }

    /// The worker writes an ack. Returns the tags that the ack covers.
    pub(crate) fn acks(
        &self,
        process: usize,
        session: u64,
        through: u64,
        singles: &[u64],
    ) -> Vec<u64> {
        let mut state = self.lock();
        let tags = state.covered(session, through, singles);
        let (count, number) = (tags.len(), session_number(session));
        state.note(
            Who::Worker(process),
            "acks {a} deliveries of session {b}:",
            0,
            count,
            number,
        );
        let ids: Vec<_> = tags
            .iter()
            .filter_map(|tag| state.flight(session, *tag))
            .collect();
        let words: Vec<_> = ids.iter().map(|it| format!("m{}", it.id)).collect();
        state.log.add(words.join(" "));
        for flight in ids {
            let may = state.fates[flight.id].may_run(process);
            if may.copies > 0 {
                may.copies -= 1;
            } else if !may.succeeded {
                let id = flight.id;
                state.fail("an ack has a reason", || {
                    format!(
                        "m{id} is acked, but no run of it has succeeded and no copy is confirmed"
                    )
                });
            }
        }
        tags
    }

    pub(crate) fn returns(
        &self,
        process: usize,
        session: u64,
        tags: &[u64],
        through: bool,
    ) -> Vec<u64> {
        let mut state = self.lock();
        let last = tags.last().copied().unwrap_or_default();
        let tags = match through {
            true => state.covered(session, last, &[]),
            false => state.covered(session, 0, tags),
        };
        let (count, number) = (tags.len(), session_number(session));
        state.note(
            Who::Worker(process),
            "returns {a} deliveries of session {b}",
            0,
            count,
            number,
        );
        tags
    }

    /// The broker carries out acks.
    pub(crate) fn acked(&self, session: u64, tags: &[u64]) {
        let mut state = self.lock();
        for tag in tags {
            let Some(flight) = state.apply(session, *tag) else {
                continue;
            };
            let id = flight.id;
            let fate = &mut state.fates[id];
            fate.instances -= 1;
            let lost = fate.instances <= 0 && fate.successes == 0;
            state.note(Who::Broker, "has the ack of m{m}", id, 0, 0);
            if lost {
                state.fail("no message is lost", || {
                    format!("m{id} was acked and is nowhere")
                });
            }
        }
    }

    /// The broker carries out returns.
    pub(crate) fn returned(&self, process: usize, session: u64, tags: &[u64]) {
        let mut state = self.lock();
        for tag in tags {
            let Some(flight) = state.apply(session, *tag) else {
                continue;
            };
            state.note(Who::Broker, "has m{m} back", flight.id, 0, 0);
            state.fates[flight.id].disturbed = true;
            let may = state.fates[flight.id].may_run(process);
            may.delivered.retain(|it| *it != (session, *tag));
        }
    }

    /// A message that a worker takes was on a channel that the broker has closed.
    pub(crate) fn lost_with_channel(&self, id: Id) {
        let mut state = self.lock();
        state.fates[id].disturbed = true;
        state.fates[id].losses += 1;
    }

    /// The broker has closed a channel: what it had not settled is ready again.
    pub(crate) fn channel_closed(&self, session: u64) {
        let mut state = self.lock();
        state.note(
            Who::Broker,
            "takes back what session {a} has not settled",
            0,
            session_number(session),
            0,
        );
        let State {
            fates, sessions, ..
        } = &mut *state;
        let deliveries = sessions.get(&session);
        let all = deliveries.into_iter().flat_map(|it| &it.all);
        for flight in all.filter(|it| !it.applied) {
            fates[flight.id].disturbed = true;
            fates[flight.id].losses += 1;
        }
    }

    /// The worker knows that a session is lost: what has not started may not start.
    pub(crate) fn session_lost(&self, process: usize, session: u64) {
        let mut state = self.lock();
        state.note(
            Who::Worker(process),
            "knows that session {a} is lost",
            0,
            session_number(session),
            0,
        );
        let now = state.millis();
        if let Some(deliveries) = state.sessions.get_mut(&session) {
            deliveries.lost_at = Some(now);
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

impl State {
    fn flight(&self, session: u64, tag: u64) -> Option<Flight> {
        let place = usize::try_from(tag.checked_sub(1)?).ok()?;
        self.sessions.get(&session)?.all.get(place).copied()
    }

    fn change(&mut self, session: u64, tag: u64) -> Option<&mut Flight> {
        let place = usize::try_from(tag.checked_sub(1)?).ok()?;
        self.sessions.get_mut(&session)?.all.get_mut(place)
    }

    /// The tags that a command covers: all up to `through` that no other command has named, and
    /// `singles`.
    fn covered(&mut self, session: u64, through: u64, singles: &[u64]) -> Vec<u64> {
        let deliveries = self.sessions.entry(session).or_default();
        let through = usize::try_from(through).unwrap_or(usize::MAX);
        let first = deliveries.told_up_to;
        deliveries.told_up_to = first.max(through.min(deliveries.all.len()));
        let open = deliveries.all[first..deliveries.told_up_to].iter();
        let open = (first as u64 + 1..).zip(open).filter(|(_, it)| !it.told);
        let tags = open.map(|(tag, _)| tag).chain(singles.iter().copied());
        let tags: Vec<_> = tags.collect();
        for tag in &tags {
            if let Some(flight) = self.change(session, *tag) {
                flight.told = true;
            }
        }
        tags
    }

    fn apply(&mut self, session: u64, tag: u64) -> Option<Flight> {
        let flight = self.change(session, tag)?;
        flight.applied = true;
        Some(*flight)
    }
}
