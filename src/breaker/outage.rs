//! The time during which the service counts as down.

use std::time::Duration;

use tokio::time::Instant;

use super::{Evidence, Sign, Stance};

/// An outage: why the service counts as down, and its probes.
#[derive(Debug)]
pub(super) struct Outage {
    pub(super) cause: Sign,
    pub(super) since: Instant,
    pub(super) next: Next,
    pub(super) let_go: bool,
    pub(super) probes: u64,
    pub(super) error: String,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Next {
    /// The next probe is due at this time.
    Due(Instant),
    /// A probe runs, or waits for a message, since this time.
    Since(Instant),
}

/// What an end says about an outage.
pub(super) enum Probed {
    Nothing,
    Answered,
    Failed,
}

/// The longest `Retry-After` that the whole lane waits for.
pub(super) const LONGEST_WAIT: Duration = Duration::from_hours(1);

impl Outage {
    /// Ends of attempts that began before the probe say little about the service of now. If one of
    /// them ends well, the next probe is due at once.
    pub(super) fn judge(&mut self, evidence: &Evidence<'_>) -> Probed {
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

    /// What the lane should do. A probe that is due begins now.
    pub(super) fn stance(&mut self, now: Instant) -> Stance {
        let let_go = self.let_go;
        match self.next {
            Next::Due(until) if until > now => Stance::Wait { until, let_go },
            Next::Due(_) => {
                self.next = Next::Since(now);
                self.probes += 1;
                Stance::Probe { let_go }
            }
            Next::Since(_) => Stance::Probe { let_go },
        }
    }

    /// Why the lane takes no messages, for people.
    pub(super) fn reason(&self, now: Instant, lacks_message: bool) -> String {
        if lacks_message {
            return format!("nothing to probe with; last seen: {}", self.error);
        }
        let probes = match self.probes {
            1 => "1 probe".to_owned(),
            probes => format!("{probes} probes"),
        };
        let next = match self.next {
            Next::Due(next) => {
                let left = next.saturating_duration_since(now).as_secs_f64().ceil();
                format!("next in {left:.0} s")
            }
            Next::Since(_) => "one runs, or waits for a message".to_owned(),
        };
        format!("{}; {probes}, {next}", self.error)
    }
}

/// The wait that the service asks for.
pub(super) fn asked(evidence: &Evidence<'_>) -> Duration {
    evidence.retry_after.unwrap_or_default().min(LONGEST_WAIT)
}
