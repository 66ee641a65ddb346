//! What the worker writes for its deliveries, and what of it reaches the broker.

use super::{Flight, session_number};
use crate::testing::simulation::stage::{Id, Stage, State, Who};

impl Stage {
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
        for (flight, tag) in ids.iter().zip(&tags) {
            let may = state.fates[flight.id].may_run(process);
            may.acked((session, *tag));
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
    pub(crate) fn acked(&self, process: usize, session: u64, tags: &[u64]) {
        let mut state = self.lock();
        state.tallies[process].applied += tags.len() as u64;
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
        let drains = state.tallies[process].is_draining;
        let deliveries = state.sessions.entry(session).or_default();
        deliveries.lost_at = Some(now);
        deliveries.lost_before_drain = !drains;
    }
}

impl State {
    /// Whether the worker knew that the session is lost before its drain began.
    pub(in super::super) fn was_lost_before_drain(&self, session: u64) -> bool {
        let deliveries = self.sessions.get(&session);
        deliveries.is_some_and(|it| it.lost_before_drain)
    }

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
