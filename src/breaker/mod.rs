//! The circuit breaker of a lane: whether the service behind the handlers works, as far as the ends of
//! attempts show.
//!
//! ```text
//!              several messages in a row end unavailable,
//!              or many in a row fail for good
//!  ┌────────┐ ─────────────────────────────────────────────▶ ┌─────────┐
//!  │ closed │                                                │ waiting │ ◀─┐
//!  └────────┘ ◀──────────┐                                   └─────────┘   │
//!    starts slowly:      │ the probe gets an answer               │        │ the probe
//!    one handler, then   │                       the wait is over │        │ fails: wait
//!    one more for each   │                                        ▼        │ twice as long
//!    success             │                                   ┌─────────┐   │
//!                        └────────────────────────────────── │ probing │ ──┘
//!                                                            └─────────┘
//! ```
//!
//! The breaker also decides whether an unavailable end is charged to its message. The first one never
//! is. A later one is charged if other messages succeeded since the last one of the same message.
//!
//! The machine is pure: it reads no clock, and its lane carries out what it says.

mod settings;

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

pub use settings::BreakerSettings;

/// What the end of an attempt says about the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sign {
    /// The service did its work.
    Well,
    /// The service cannot be reached, or says that it is unavailable.
    Unavailable,
    /// The service asks for fewer requests.
    Limited,
    /// The service gave no answer in time.
    TimedOut,
    /// The service refused the message for good.
    Rejected,
    /// The service answered with another failure.
    Answered,
    /// Nothing: no service was asked, or the worker cancelled the handler.
    Nothing,
}

/// The end of an attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Evidence<'a> {
    pub(crate) sign: Sign,
    /// The message: a hash of its id.
    pub(crate) message: u64,
    /// When the attempt began.
    pub(crate) started: Instant,
    pub(crate) now: Instant,
    /// The attempts of the lane that ended well, this one included.
    pub(crate) served: u64,
    /// The wait that the service asks for.
    pub(crate) retry_after: Option<Duration>,
    /// The failure, for people.
    pub(crate) error: &'a str,
}

/// Whether the end of an attempt counts against its message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The retry policy decides as always.
    Usual,
    /// The service is at fault. The attempt is not charged, and the message waits for a later one.
    Excused {
        /// How many attempts in a row of this message were excused, this one included.
        times: u32,
    },
}

/// What the lane should do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stance {
    /// Take and start messages.
    Open,
    /// Start nothing until this time.
    Wait {
        /// When the next probe is due.
        until: Instant,
        /// Whether a probe has failed: deliveries that have not started go back.
        let_go: bool,
    },
    /// Let one message start.
    Probe {
        /// As in `Wait`.
        let_go: bool,
    },
}

/// The breaker of one lane.
#[derive(Debug)]
pub(crate) struct Breaker {
    settings: BreakerSettings,
    /// Messages whose last attempt ended unavailable.
    suspects: HashMap<u64, Suspect>,
    /// The different messages that ended unavailable in a row.
    streak: Vec<u64>,
    /// The messages that failed for good in a row.
    rejected: u32,
    /// `Evidence::served` of the last note.
    served: u64,
    outage: Option<Outage>,
    /// The wait before the next probe. A service that fails again before it has served several
    /// messages keeps the wait of the outage before.
    wait: Duration,
    /// `Evidence::served` at the end of the last outage.
    served_before: u64,
    /// During a slow start, or while the service takes less than the lane could give: the handlers
    /// that may run.
    window: Option<usize>,
    /// The window of the last cut: above it the window grows slowly.
    ceiling: usize,
    /// Successes since the window last grew above the ceiling.
    credit: usize,
    /// When the window was last cut. Attempts that began before do not cut it again.
    cut_at: Option<Instant>,
    /// The lane's own limit.
    limit: usize,
}

#[derive(Clone, Copy, Debug)]
struct Suspect {
    /// `Evidence::served` at its last unavailable end.
    served: u64,
    times: u32,
}

/// The time during which the service counts as down.
#[derive(Debug)]
struct Outage {
    cause: Sign,
    since: Instant,
    next: Next,
    let_go: bool,
    probes: u64,
    error: String,
}

#[derive(Clone, Copy, Debug)]
enum Next {
    /// The next probe is due at this time.
    Due(Instant),
    /// A probe runs, or waits for a message, since this time.
    Since(Instant),
}

/// The most suspects that are remembered. Those of a long outage are each met once.
const SUSPECTS: usize = 4096;
/// The longest `Retry-After` that the whole lane waits for.
const LONGEST_WAIT: Duration = Duration::from_hours(1);

impl Breaker {
    pub(crate) fn new(settings: BreakerSettings) -> Self {
        Self {
            wait: settings.probe,
            served_before: 0,
            settings,
            suspects: HashMap::new(),
            streak: Vec::new(),
            rejected: 0,
            served: 0,
            outage: None,
            window: None,
            ceiling: usize::MAX,
            credit: 0,
            cut_at: None,
            limit: usize::MAX,
        }
    }

    /// Notes the end of an attempt. While the breaker [is calm](Self::is_calm) it need not see
    /// attempts that ended well.
    pub(crate) fn note(&mut self, evidence: &Evidence<'_>) -> Verdict {
        if self.served != evidence.served {
            self.served = evidence.served;
            self.streak.clear();
            self.rejected = 0;
        }
        match evidence.sign {
            Sign::Nothing => return Verdict::Usual,
            Sign::Unavailable | Sign::Limited | Sign::TimedOut => {
                self.rejected = 0;
                if !self.streak.contains(&evidence.message) {
                    self.streak.push(evidence.message);
                }
            }
            Sign::Rejected => {
                self.streak.clear();
                self.rejected = self.rejected.saturating_add(1);
            }
            Sign::Well | Sign::Answered => {
                self.streak.clear();
                self.rejected = 0;
            }
        }
        match self.outage.as_mut().map(|outage| outage.judge(evidence)) {
            Some(Probed::Nothing) => {}
            Some(Probed::Answered) => self.close(),
            Some(Probed::Failed) => self.wait_longer(evidence),
            None if self.is_tripped() => self.open(evidence),
            None => self.adapt(evidence),
        }
        self.verdict(evidence)
    }

    /// What the lane should do. A probe that is due begins now.
    pub(crate) fn stance(&mut self, now: Instant) -> Stance {
        let Some(outage) = &mut self.outage else {
            return Stance::Open;
        };
        let let_go = outage.let_go;
        match outage.next {
            Next::Due(until) if until > now => Stance::Wait { until, let_go },
            Next::Due(_) => {
                outage.next = Next::Since(now);
                outage.probes += 1;
                Stance::Probe { let_go }
            }
            Next::Since(_) => Stance::Probe { let_go },
        }
    }

    /// Whether the breaker neither holds nor slows down its lane.
    pub(crate) fn is_calm(&self) -> bool {
        self.outage.is_none() && self.window.is_none()
    }

    pub(crate) fn is_open(&self) -> bool {
        self.outage.is_some()
    }

    /// The handlers that may run at once, apart from the lane's own limit.
    pub(crate) fn window(&self) -> usize {
        match &self.outage {
            Some(_) => 1,
            None => self.window.unwrap_or(usize::MAX),
        }
    }

    /// The lane has this many slots: a slow start that has reached them is over.
    pub(crate) fn slots(&mut self, limit: usize) {
        self.limit = limit;
        if self.window.is_some_and(|window| window >= limit) {
            self.window = None;
            self.ceiling = usize::MAX;
            self.wait = self.settings.probe;
        }
    }

    /// Why the lane takes no messages, for people; `None` while it does.
    pub(crate) fn reason(&self, now: Instant) -> Option<String> {
        let outage = self.outage.as_ref()?;
        let probes = match outage.probes {
            1 => "1 probe".to_owned(),
            probes => format!("{probes} probes"),
        };
        let next = match outage.next {
            Next::Due(next) => {
                let left = next.saturating_duration_since(now).as_secs_f64().ceil();
                format!("next in {left:.0} s")
            }
            Next::Since(_) => "one runs, or waits for a message".to_owned(),
        };
        Some(format!("{}; {probes}, {next}", outage.error))
    }

    /// Forgets everything: an operator starts the lane anew.
    pub(crate) fn reset(&mut self) {
        *self = Self {
            served: self.served,
            ..Self::new(self.settings.clone())
        };
    }

    fn is_tripped(&self) -> bool {
        let BreakerSettings {
            enabled,
            unavailable,
            storms,
            rejected,
            ..
        } = self.settings;
        enabled
            && (self.streak.len() >= unavailable as usize || storms && self.rejected >= rejected)
    }

    fn open(&mut self, evidence: &Evidence<'_>) {
        if self.window.is_some() {
            self.cut(evidence.now);
        }
        self.window = None;
        let rejected = evidence.sign == Sign::Rejected;
        let error = match rejected {
            true => format!(
                "{} messages in a row failed for good: {}",
                self.rejected, evidence.error
            ),
            false => evidence.error.to_owned(),
        };
        let served = evidence.served.saturating_sub(self.served_before);
        if served >= u64::from(self.settings.unavailable) {
            self.wait = self.settings.probe;
        }
        let wait = self.wait.max(asked(evidence));
        self.outage = Some(Outage {
            cause: evidence.sign,
            since: evidence.now,
            next: Next::Due(evidence.now + wait),
            let_go: wait > self.settings.probe_cap,
            probes: 0,
            error,
        });
    }

    fn wait_longer(&mut self, evidence: &Evidence<'_>) {
        let BreakerSettings { probe_cap, .. } = self.settings;
        if let Some(outage) = &mut self.outage {
            // A service that limits its rate takes requests again soon: keep what has not started.
            let is_long = evidence.now - outage.since >= probe_cap;
            let lasts = evidence.sign != Sign::Limited || is_long;
            if lasts {
                self.wait = (self.wait * 2).min(probe_cap);
            }
            let wait = self.wait.max(asked(evidence));
            outage.next = Next::Due(evidence.now + wait);
            outage.let_go |= lasts || wait > probe_cap;
            outage.cause = evidence.sign;
            if evidence.sign != Sign::Rejected {
                evidence.error.clone_into(&mut outage.error);
            }
        }
    }

    fn close(&mut self) {
        self.outage = None;
        self.served_before = self.served;
        self.suspects.clear();
        self.streak.clear();
        self.rejected = 0;
        self.window = Some(1);
    }

    /// Fits the window to what the service takes: additive increase, multiplicative decrease.
    fn adapt(&mut self, evidence: &Evidence<'_>) {
        match evidence.sign {
            Sign::Well => self.grow(),
            // One message alone may be at fault itself.
            Sign::Unavailable | Sign::Limited
                if self.settings.enabled
                    && self.streak.len() > 1
                    && self.cut_at.is_none_or(|at| evidence.started > at) =>
            {
                self.cut(evidence.now);
            }
            _ => {}
        }
    }

    /// Each success lets one more handler run, so the number doubles in the time of one run. At the
    /// ceiling it takes the successes of eight runs of all handlers, then of four, two and one.
    fn grow(&mut self) {
        const RUNS: usize = 8;
        let Some(window) = &mut self.window else {
            return;
        };
        self.credit += 1;
        let above = window.saturating_sub(self.ceiling).min(RUNS);
        let runs = (RUNS >> above).max(1);
        if *window < self.ceiling || self.credit >= runs * *window {
            *window += 1;
            self.credit = 0;
        }
    }

    /// Lowers the window by a quarter.
    fn cut(&mut self, now: Instant) {
        let window = self.window.unwrap_or(self.limit).min(self.limit);
        let lower = (window - window.div_ceil(4)).max(1);
        self.window = Some(lower);
        self.ceiling = lower;
        self.credit = 0;
        self.cut_at = Some(now);
    }

    fn verdict(&mut self, evidence: &Evidence<'_>) -> Verdict {
        let once = Verdict::Excused { times: 1 };
        let cause = self.outage.as_ref().map(|outage| outage.cause);
        match (evidence.sign, cause) {
            (Sign::Unavailable | Sign::Limited, _) => self.excuse(evidence),
            (Sign::TimedOut, Some(_)) => once,
            (Sign::Rejected, Some(Sign::Rejected)) => once,
            _ => Verdict::Usual,
        }
    }

    /// Excuses an unavailable end, unless others succeeded since the last one of the same message.
    /// A limit is never the message's fault.
    fn excuse(&mut self, evidence: &Evidence<'_>) -> Verdict {
        let served = evidence.served;
        if self.suspects.len() >= SUSPECTS && !self.suspects.contains_key(&evidence.message) {
            self.suspects.clear();
        }
        let none = Suspect { served, times: 0 };
        let suspect = self.suspects.entry(evidence.message).or_insert(none);
        let is_own = suspect.served != served && evidence.sign == Sign::Unavailable;
        suspect.served = served;
        suspect.times = suspect.times.saturating_add(1);
        match is_own && self.outage.is_none() {
            true => Verdict::Usual,
            false => Verdict::Excused {
                times: suspect.times,
            },
        }
    }
}

/// What an end says about an outage.
enum Probed {
    Nothing,
    Answered,
    Failed,
}

impl Outage {
    /// Ends of attempts that began before the probe say little about the service of now. If one of
    /// them ends well, the next probe is due at once.
    fn judge(&mut self, evidence: &Evidence<'_>) -> Probed {
        let due = match self.next {
            Next::Since(since) if evidence.started >= since => None,
            Next::Since(_) => return Probed::Nothing,
            Next::Due(due) => Some(due),
        };
        let fails = match evidence.sign {
            Sign::Unavailable | Sign::Limited | Sign::TimedOut => true,
            Sign::Rejected => self.cause == Sign::Rejected,
            Sign::Well | Sign::Answered | Sign::Nothing => false,
        };
        let now = evidence.now;
        match (due, fails) {
            (None, true) => return Probed::Failed,
            (None, false) => return Probed::Answered,
            (Some(due), true) => self.next = Next::Due(due.max(now + asked(evidence))),
            (Some(due), false) if evidence.sign == Sign::Well => {
                self.next = Next::Due(due.min(now));
            }
            (Some(_), false) => {}
        }
        Probed::Nothing
    }
}

fn asked(evidence: &Evidence<'_>) -> Duration {
    evidence.retry_after.unwrap_or_default().min(LONGEST_WAIT)
}

#[cfg(test)]
mod tests;
