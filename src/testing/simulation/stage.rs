//! What has happened in a run: the log, the fate of each message, and the first broken property.

mod account;
mod fate;
mod log;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::time::Instant;

pub(super) use account::{Tally, id_of};
pub(super) use fate::{Deliveries, Fate, How, Told};
pub(super) use log::{Log, Who};

use super::script::{Script, Step};

/// The number of a message.
pub(super) type Id = usize;

/// A property that does not hold, with what shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) property: &'static str,
    pub(super) text: String,
}

/// What the simulation knows. Clones share it.
#[derive(Clone)]
pub(super) struct Stage(Arc<Mutex<State>>);

pub(super) struct State {
    began: Instant,
    pub(super) log: Log,
    pub(super) fates: Vec<Fate>,
    pub(super) sessions: BTreeMap<u64, Deliveries>,
    /// What each process was given and wrote, for the comparison with its ledger.
    pub(super) tallies: Vec<Tally>,
    pub(super) failure: Option<Failure>,
    pub(super) max_attempts: u32,
    /// Failures may be the service's: they are not charged.
    pub(super) excuses: bool,
    timeout: u128,
    delivery_limit: u32,
    ignored: &'static [&'static str],
    /// The time of day has jumped.
    pub(super) has_jumped: bool,
    /// The run is over: what the end of the runtime drops is not noted.
    is_over: bool,
}

impl Stage {
    pub(super) fn new(script: &Script, ignored: &'static [&'static str]) -> Self {
        Self(Arc::new(Mutex::new(State {
            began: Instant::now(),
            log: Log::default(),
            fates: Vec::with_capacity(script.messages()),
            sessions: BTreeMap::new(),
            tallies: Vec::new(),
            failure: None,
            max_attempts: script.world.max_attempts,
            excuses: script.world.breaker,
            timeout: script.world.timeout.into(),
            delivery_limit: script.world.delivery_limit,
            ignored,
            has_jumped: false,
            is_over: false,
        })))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        crate::lock::lock(&self.0)
    }

    pub(super) fn failure(&self) -> Option<Failure> {
        self.lock().failure.clone()
    }

    /// A new worker process, with the limits of its lanes. Returns its number.
    pub(super) fn process(&self, lanes: usize, concurrency: u16) -> usize {
        let mut state = self.lock();
        state.tallies.push(Tally::new(lanes, concurrency.into()));
        state.tallies.len() - 1
    }

    /// Messages arrive: returns the number of the first.
    pub(super) fn published(&self, lane: usize, plans: &[Vec<Step>]) -> Id {
        let mut state = self.lock();
        let first = state.fates.len();
        let fates = plans.iter().map(|plan| Fate::new(lane, plan.clone()));
        state.fates.extend(fates);
        let text = "{a} messages are published to lane {b}, the first is m{m}";
        state.note(Who::World, text, first, plans.len(), lane);
        first
    }
}

impl State {
    pub(super) fn millis(&self) -> u128 {
        self.began.elapsed().as_millis()
    }

    pub(super) fn note(&mut self, who: Who, text: &'static str, m: Id, a: usize, b: usize) {
        if self.is_over {
            return;
        }
        let at = self.millis();
        self.log.note(at, who, text, m, a, b);
    }

    pub(super) fn is_over(&mut self) {
        self.is_over = true;
    }

    /// A property is broken. The first one counts.
    pub(super) fn fail(&mut self, property: &'static str, text: impl FnOnce() -> String) {
        if self.failure.is_none() && !self.ignored.contains(&property) {
            let text = text();
            let at = self.millis();
            self.log.failed(at, property, &text);
            self.failure = Some(Failure { property, text });
        }
    }
}
