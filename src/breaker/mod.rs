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
//! is. A later one is charged if other messages of the same route succeeded since the last one of the
//! same message.
//!
//! The machine is pure: it reads no clock, and its lane carries out what it says.

mod outage;
mod settings;
mod suspects;
mod window;

use std::time::Duration;

use tokio::time::Instant;

use outage::{Next, Outage, Probed, asked};
pub use settings::BreakerSettings;
use suspects::Suspects;
use window::Window;

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
    /// The number of the message's route, if the lane has several.
    pub(crate) route: Option<usize>,
    /// Of `served`, those of the message's own route.
    pub(crate) served_by_route: u64,
    /// One of several routes of the lane goes on: its own breaker is closed.
    pub(crate) routes_go_on: bool,
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
    suspects: Suspects,
    /// What is known of each route, by its number.
    rows: Vec<Row>,
    /// The messages that failed for good in a row.
    rejected: u32,
    /// `Evidence::served` of the last note.
    served: u64,
    /// When `served` had last changed.
    served_at: Option<Instant>,
    outage: Option<Outage>,
    /// The wait before the next probe. A service that fails again before it has served several
    /// messages keeps the wait of the outage before.
    wait: Duration,
    /// `Evidence::served` at the end of the last outage.
    served_before: u64,
    window: Window,
}

/// One route of the lane.
#[derive(Debug, Default)]
struct Row {
    /// `Evidence::served_by_route` of its last note.
    served: u64,
    /// The different messages that ended unavailable in a row.
    streak: Vec<u64>,
}

/// A lane with several routes stops only if the breaker of each route that has messages is open, and if
/// none of them was served for this long: it can stop for all of them or for none.
const NONE_SERVED: Duration = Duration::from_secs(10);

impl Breaker {
    pub(crate) fn new(settings: BreakerSettings) -> Self {
        Self {
            wait: settings.probe,
            served_before: 0,
            settings,
            suspects: Suspects::default(),
            rows: Vec::new(),
            rejected: 0,
            served: 0,
            served_at: None,
            outage: None,
            window: Window::default(),
        }
    }

    /// Notes the end of an attempt. While the breaker [is calm](Self::is_calm) it need not see
    /// attempts that ended well.
    pub(crate) fn note(&mut self, evidence: &Evidence<'_>) -> Verdict {
        if self.served != evidence.served {
            self.served = evidence.served;
            self.served_at = Some(evidence.now);
            self.rejected = 0;
        }
        let row = self.row(evidence);
        match evidence.sign {
            Sign::Nothing => return Verdict::Usual,
            Sign::Unavailable | Sign::Limited | Sign::TimedOut => {
                if !row.streak.contains(&evidence.message) {
                    row.streak.push(evidence.message);
                }
                self.rejected = 0;
            }
            Sign::Rejected => {
                row.streak.clear();
                self.rejected = self.rejected.saturating_add(1);
            }
            Sign::Well | Sign::Answered => {
                row.streak.clear();
                self.rejected = 0;
            }
        }
        let goes_on = evidence.routes_go_on && evidence.sign == Sign::Well;
        match self.outage.as_mut().map(|outage| outage.judge(evidence)) {
            // A route whose first message ends well while the lane stops for all others.
            Some(_) if goes_on => self.close(),
            Some(Probed::Nothing) => {}
            Some(Probed::Answered) => self.close(),
            Some(Probed::Failed) => self.wait_longer(evidence),
            None if self.is_tripped(evidence) => self.open(evidence),
            None => self.adapt(evidence),
        }
        self.verdict(evidence)
    }

    /// What the lane should do. A probe that is due begins now.
    pub(crate) fn stance(&mut self, now: Instant) -> Stance {
        let outage = self.outage.as_mut();
        outage.map_or(Stance::Open, |outage| outage.stance(now))
    }

    /// Whether the breaker neither holds nor slows down its lane.
    pub(crate) fn is_calm(&self) -> bool {
        self.outage.is_none() && self.window.most().is_none()
    }

    pub(crate) fn is_open(&self) -> bool {
        self.outage.is_some()
    }

    /// The handlers that may run at once, apart from the lane's own limit.
    pub(crate) fn window(&self) -> usize {
        match &self.outage {
            Some(_) => 1,
            None => self.window.most().unwrap_or(usize::MAX),
        }
    }

    /// The lane has this many slots: a slow start that has reached them is over.
    pub(crate) fn slots(&mut self, limit: usize) {
        if self.window.slots(limit) {
            self.wait = self.settings.probe;
        }
    }

    /// Why the lane takes no messages, for people; `None` while it does. `lacks_message`: for long
    /// there has been no message to probe with.
    pub(crate) fn reason(&self, now: Instant, lacks_message: bool) -> Option<String> {
        let outage = self.outage.as_ref()?;
        Some(outage.reason(now, lacks_message))
    }

    /// Forgets everything: an operator starts the lane anew.
    pub(crate) fn reset(&mut self) {
        *self = Self {
            served: self.served,
            ..Self::new(self.settings.clone())
        };
    }

    /// The row of the message's route.
    fn row(&mut self, evidence: &Evidence<'_>) -> &mut Row {
        let number = evidence.route.unwrap_or_default();
        if self.rows.len() <= number {
            self.rows.resize_with(number + 1, Row::default);
        }
        let row = &mut self.rows[number];
        if row.served != evidence.served_by_route {
            row.served = evidence.served_by_route;
            row.streak.clear();
        }
        row
    }

    fn is_tripped(&mut self, evidence: &Evidence<'_>) -> bool {
        let BreakerSettings {
            enabled,
            unavailable,
            storms,
            rejected,
            ..
        } = self.settings;
        let recent = |at: Instant| evidence.now - at < NONE_SERVED;
        let was_served = evidence.route.is_some() && self.served_at.is_some_and(recent);
        let is_down = self.row(evidence).streak.len() >= unavailable as usize && !was_served;
        let trips = is_down || storms && self.rejected >= rejected;
        enabled && trips && !evidence.routes_go_on
    }

    fn open(&mut self, evidence: &Evidence<'_>) {
        self.window.close(evidence.now);
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
        self.rows.clear();
        self.rejected = 0;
        self.window.start_slowly();
    }

    /// Fits the window to what the service takes.
    fn adapt(&mut self, evidence: &Evidence<'_>) {
        // One message alone may be at fault itself, and after many the service has no room at all: the
        // lane goes on for its other routes.
        let few = 2..self.settings.unavailable as usize;
        let may_cut = self.settings.enabled && few.contains(&self.row(evidence).streak.len());
        match evidence.sign {
            Sign::Well => self.window.grow(),
            Sign::Unavailable | Sign::Limited if may_cut => {
                self.window.cut(evidence.started, evidence.now);
            }
            _ => {}
        }
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

    fn excuse(&mut self, evidence: &Evidence<'_>) -> Verdict {
        let (times, is_own) = self.suspects.note(evidence);
        match is_own && self.outage.is_none() {
            true => Verdict::Usual,
            false => Verdict::Excused { times },
        }
    }
}

#[cfg(test)]
mod tests;
