//! One life of a message: what the worker decides after each attempt that fails in the same way.
//!
//! The decisions are those of the code that a worker runs: the policy, and the breaker's verdict.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    breaker::{Breaker, BreakerSettings, Evidence, Sign, Verdict},
    outcome::Ending,
    policy::{self, Facts, Reason, Settlement},
    retry::RetrySettings,
};

/// The circumstances of a life.
pub(super) struct Circumstances<'a> {
    pub(super) retry: &'a RetrySettings,
    pub(super) breaker: &'a BreakerSettings,
    /// How each attempt ends.
    pub(super) ending: &'a Ending,
    /// How long each attempt runs.
    pub(super) runs: Duration,
    /// Whether other messages succeed between two attempts of this one.
    pub(super) others_succeed: bool,
    /// The most attempts to look at.
    pub(super) look: usize,
}

/// What a message lives through.
#[derive(Debug, PartialEq)]
pub(super) struct Life {
    /// What follows each attempt.
    pub(super) steps: Vec<Settlement>,
    /// The age of the message at the end of its last attempt.
    pub(super) age: Duration,
}

impl Life {
    /// A life whose random numbers are all this: 0 gives the longest delays, 1 the shortest.
    pub(super) fn new(given: &Circumstances<'_>, random: f64) -> Self {
        let mut breaker = Breaker::new(given.breaker.clone());
        let began = Instant::now();
        let mut steps = Vec::new();
        let (mut age, mut attempt, mut served) = (given.runs, 1_u32, 0);
        loop {
            let ending = policy::classify(given.retry, given.ending.clone());
            served += u64::from(given.others_succeed);
            let excused = verdict(&mut breaker, given.retry, &ending, served, began + age);
            let facts = || Facts {
                attempt,
                age,
                random,
                excused,
            };
            let settlement = policy::decide(given.retry, &ending, facts);
            let (after, charged) = match settlement {
                Settlement::Retry { after, charged } => (after, charged),
                Settlement::Defer { after } => (after, false),
                Settlement::Ack | Settlement::DeadLetter { .. } | Settlement::Return => {
                    steps.push(settlement);
                    return Self { steps, age };
                }
            };
            steps.push(settlement);
            if steps.len() >= given.look {
                return Self { steps, age };
            }
            attempt = attempt.saturating_add(u32::from(charged));
            age = age.saturating_add(after).saturating_add(given.runs);
        }
    }

    /// The reason of the dead letter. `None`: the message is acked, or has more attempts than this
    /// looks at.
    pub(super) fn reason(&self) -> Option<Reason> {
        match self.steps.last() {
            Some(Settlement::DeadLetter { reason }) => Some(*reason),
            _ => None,
        }
    }

    /// The delays between the attempts.
    pub(super) fn delays(&self) -> impl Iterator<Item = Duration> {
        let before_last = self.steps.len().saturating_sub(1);
        self.steps[..before_last].iter().filter_map(wait)
    }
}

/// The delay after an attempt.
pub(super) fn wait(settlement: &Settlement) -> Option<Duration> {
    match settlement {
        Settlement::Retry { after, .. } | Settlement::Defer { after } => Some(*after),
        Settlement::Ack | Settlement::DeadLetter { .. } | Settlement::Return => None,
    }
}

/// Whether the attempt is excused, as the path of a delivery asks the breaker.
fn verdict(
    breaker: &mut Breaker,
    retry: &RetrySettings,
    ending: &Ending,
    served: u64,
    now: Instant,
) -> Option<u32> {
    let sign = policy::sign(retry, ending);
    if matches!(sign, Sign::Nothing | Sign::Well) {
        return None;
    }
    match breaker.note(&evidence(sign, 1, served, now, None)) {
        Verdict::Usual => None,
        Verdict::Excused { times } => Some(times),
    }
}

/// The end of an attempt of this message.
pub(super) fn evidence(
    sign: Sign,
    message: u64,
    served: u64,
    now: Instant,
    retry_after: Option<Duration>,
) -> Evidence<'static> {
    Evidence {
        sign,
        message,
        started: now,
        now,
        served,
        route: None,
        served_by_route: served,
        routes_go_on: false,
        retry_after,
        error: "",
    }
}
