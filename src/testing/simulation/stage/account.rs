//! What each worker process was given and wrote, for the comparison with its ledger.

use std::collections::BTreeMap;

use super::{Stage, Who};
use crate::{
    Report,
    broker::{Tolerance, fake::FakeBroker},
};

/// The numbers of one process.
#[derive(Debug)]
pub(crate) struct Tally {
    pub(crate) received: u64,
    /// Nacks whose writes succeeded.
    pub(crate) returned: u64,
    /// Messages with which a queue answered a question. The worker gives them back, and does not count
    /// them.
    pub(crate) answers: u64,
    /// Acks that the broker has carried out.
    pub(crate) applied: u64,
    /// Acks of which the broker never heard, on sessions that the process had as its drain began.
    vanished: u64,
    pub(crate) is_draining: bool,
    /// By lane: handlers that run, and how many may.
    pub(crate) running: Vec<usize>,
    pub(crate) limits: Vec<usize>,
    /// The process was killed. What its remains do is not seen by anybody.
    pub(crate) is_dead: bool,
}

impl Tally {
    pub(super) fn new(lanes: usize, concurrency: usize) -> Self {
        Self {
            received: 0,
            returned: 0,
            answers: 0,
            applied: 0,
            vanished: 0,
            is_draining: false,
            running: vec![0; lanes],
            limits: vec![concurrency; lanes],
            is_dead: false,
        }
    }
}

impl Stage {
    /// Acks were written, and never reach the broker. What the process lost before its drain was
    /// there again by then, and is not left behind by the drain.
    pub(crate) fn vanished(&self, process: usize, session: u64, count: usize) {
        let mut state = self.lock();
        state.note(
            Who::Worker(process),
            "has written {a} acks that never arrive",
            0,
            count,
            0,
        );
        let is_left = state.tallies[process].is_draining && !state.was_lost_before_drain(session);
        state.tallies[process].vanished += if is_left { count as u64 } else { 0 };
    }

    /// A process has ended by itself: its report must be what the broker and its line have seen.
    pub(crate) fn ended_well(&self, process: usize, report: &Report) {
        let mut state = self.lock();
        state.note(Who::Worker(process), "has ended", 0, 0, 0);
        let (ledger, left) = (report.ledger(), report.left());
        state.log.add(format!("{left} left, {ledger:?}"));
        let tally = &state.tallies[process];
        let acked = ledger.acked + ledger.parked + ledger.dead_lettered + ledger.copied;
        let told = (ledger.received, ledger.returned - ledger.copied);
        let seen = (tally.received, tally.returned);
        // The worker may not know of an ack that the broker has carried out, but then it counts the
        // message as one that runs again.
        let (applied, known) = (tally.applied, acked..=acked + ledger.duplicates);
        let (vanished, running) = (tally.vanished, tally.running.iter().sum::<usize>());
        let uncounted = seen.0.saturating_sub(told.0);
        // Messages that a queue has answered with. The worker returns them, or closes their channel.
        let is_told = uncounted <= tally.answers
            && seen.0 == told.0 + uncounted
            && (told.1..=told.1 + uncounted).contains(&seen.1);
        if ledger.open() > 0 || !is_told || !known.contains(&applied) {
            state.fail("the ledger tells the truth", || {
                format!(
                    "(received, returned) are {seen:?}, told are {told:?}, {} open; the broker has {applied} acks, told are {known:?}",
                    ledger.open()
                )
            });
        }
        if left == 0 && vanished > 0 {
            state.fail("exit code 0 means that all is settled", || {
                format!("{vanished} acks never reached the broker, and `left` is 0")
            });
        }
        if running > 0 {
            state.fail("no handler outlives its worker", || {
                format!("{running} handlers still run")
            });
        }
    }

    /// Each message is in exactly one place: done, or as many times at the broker as its copies and
    /// acks say. At the end all are done or dead.
    pub(crate) fn check_places(&self, broker: &FakeBroker, at_the_end: bool) {
        let mut state = self.lock();
        let mut there = BTreeMap::<usize, (i64, i64)>::new();
        let mut reasons = BTreeMap::<usize, Option<String>>::new();
        broker.each_message(|queue, message| {
            let id = id_of(message.properties.message_id());
            let is_dead = queue.ends_with(".dead");
            let places = there.entry(id).or_default();
            places.0 += 1;
            places.1 += i64::from(is_dead);
            if is_dead && at_the_end {
                let reason = message.header("lapwing-reason").map(str::to_owned);
                reasons.insert(id, reason);
            }
        });
        for id in 0..state.fates.len() {
            let (found, dead) = there.get(&id).copied().unwrap_or_default();
            let fate = &state.fates[id];
            let (known, done) = (fate.instances, fate.successes > 0);
            if found == 0 && !done {
                state.fail("no message is lost", || {
                    format!("m{id} is nowhere, and no run of it has succeeded")
                });
            } else if found != known {
                state.fail("each message is in one place", || {
                    format!("m{id} is {found} times at the broker, {known} are known")
                });
            } else if at_the_end && !fate.disturbed && i64::from(fate.successes) + dead != 1 {
                let successes = fate.successes;
                state.fail("an undisturbed message ends once", || {
                    format!("m{id} is done {successes} times and dead {dead} times")
                });
            } else if at_the_end && found > dead {
                state.fail("everything ends", || {
                    format!("m{id} is neither done nor dead")
                });
            }
        }
        for (id, reason) in reasons {
            state.check_dead(id, reason.as_deref());
        }
    }
}

impl super::State {
    /// A dead letter has a reason in what its runs did.
    fn check_dead(&mut self, id: usize, reason: Option<&str>) {
        let fate = &self.fates[id];
        let (failures, rejected, losses) = (fate.failures, fate.rejected, fate.losses);
        let is_just = match reason {
            Some("rejected") => rejected,
            Some("max-attempts") => failures >= self.max_attempts,
            Some(_) => false,
            // The broker did it, at its delivery limit.
            None => true,
        };
        let limit = self.delivery_limit;
        // Returns leave a reserve to lost channels, unless the broker does not take copies.
        let reserve = Tolerance::reserve(limit.into());
        if reason.is_none() && u64::from(losses) <= reserve && !fate.uncopied {
            self.fail("a return is not a failure", || {
                format!(
                    "m{id} is dead at the limit of {limit}, but only {losses} channels were lost"
                )
            });
        }
        if !is_just {
            self.fail("a dead letter has a reason", || {
                format!("m{id} is dead: {reason:?}, after {failures} failures and {losses} lost channels")
            });
        }
    }
}

/// The number of the message with this id.
pub(crate) fn id_of(id: Option<&str>) -> usize {
    let digits = id.and_then(|id| id.strip_prefix('m'));
    digits.and_then(|it| it.parse().ok()).unwrap_or(usize::MAX)
}
