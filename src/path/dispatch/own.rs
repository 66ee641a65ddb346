//! One of the routes of a lane: its breaker, and what is told of it.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;
use tracing::{info, warn};

use crate::{
    breaker::{Breaker, BreakerSettings, Evidence, Stance, Verdict},
    lock::lock,
    status::RouteFigures,
};

/// How long a message waits whose service is down for other messages. Each of these messages comes back
/// after this time, and one of them is the next probe.
const LATER: Duration = Duration::from_secs(30);

/// A route's part in the breakers.
#[derive(Debug)]
pub(in crate::path) struct Own {
    /// From 0, different for each route.
    pub(in crate::path) number: usize,
    figures: Arc<RouteFigures>,
    /// The attempts of this route that ended well.
    served: AtomicU64,
    /// The breaker of this route is closed. An attempt then costs one look at this.
    calm: AtomicBool,
    state: Mutex<State>,
    /// The longest time that an attempt can take.
    longest: Duration,
}

#[derive(Debug)]
struct State {
    breaker: Breaker,
    /// When the probe under way has ended at the latest.
    probes_until: Option<Instant>,
    /// A message comes back at this time, to be the next probe.
    called: Option<Instant>,
}

impl Own {
    pub(super) fn new(
        number: usize,
        figures: Arc<RouteFigures>,
        settings: &BreakerSettings,
        longest: Duration,
    ) -> Self {
        Self {
            number,
            figures,
            served: AtomicU64::new(0),
            calm: AtomicBool::new(true),
            state: Mutex::new(State {
                breaker: Breaker::new(settings.clone()),
                probes_until: None,
                called: None,
            }),
            longest,
        }
    }

    pub(in crate::path) fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Acquire)
    }

    /// The attempts of this route that ended well.
    pub(in crate::path) fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// An attempt of this route has ended well.
    pub(in crate::path) fn worked(&self) {
        self.served.fetch_add(1, Ordering::Relaxed);
    }

    /// How long a message of this route waits, because its service is down. `None`: its attempt may
    /// start, and while the service is down this attempt is a probe.
    pub(in crate::path) fn wait(&self, now: Instant) -> Option<Duration> {
        if self.is_calm() {
            return None;
        }
        let state = &mut *lock(&self.state);
        match state.breaker.stance(now) {
            Stance::Open => None,
            Stance::Wait { until, .. } if state.called == Some(until) => Some(LATER),
            Stance::Wait { until, .. } => {
                state.called = Some(until);
                Some((until - now).min(LATER))
            }
            Stance::Probe { .. } if state.probes_until.is_some_and(|until| now < until) => {
                Some(LATER)
            }
            Stance::Probe { .. } => {
                state.probes_until = Some(now + self.longest);
                None
            }
        }
    }

    /// An attempt that may have been the probe has ended without asking the service.
    pub(in crate::path) fn has_not_tried(&self) {
        if !self.is_calm() {
            lock(&self.state).probes_until = None;
        }
    }

    /// Tells the route's breaker how an attempt ended.
    pub(in crate::path) fn note(&self, consumer: &str, evidence: Evidence<'_>) -> Verdict {
        let served = self.served();
        let evidence = Evidence {
            served,
            served_by_route: served,
            route: None,
            ..evidence
        };
        let state = &mut *lock(&self.state);
        let was_open = state.breaker.is_open();
        let verdict = state.breaker.note(&evidence);
        let is_open = state.breaker.is_open();
        self.calm.store(!is_open, Ordering::Release);
        state.probes_until = None;
        if was_open || is_open {
            let reason = state.breaker.reason(evidence.now, false);
            self.figures.set_down(reason);
        }
        match (was_open, is_open) {
            (false, true) => {
                warn!(consumer, route = %self.figures.name, error = evidence.error, "the service of one route is down: its messages wait, and one at a time tries it");
            }
            (true, false) => {
                info!(consumer, route = %self.figures.name, "the service of one route is back");
            }
            _ => {}
        }
        verdict
    }

    /// Forgets everything: an operator starts the lane anew.
    pub(in crate::path) fn reset(&self) {
        let state = &mut *lock(&self.state);
        state.breaker.reset();
        state.probes_until = None;
        state.called = None;
        self.calm.store(true, Ordering::Release);
        self.figures.set_down(None);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::breaker::Sign;

    const SECOND: Duration = Duration::from_secs(1);

    fn own() -> Own {
        let figures = Arc::new(RouteFigures::new("a", 20 * SECOND, &Default::default()));
        Own::new(0, figures, &BreakerSettings::default(), 22 * SECOND)
    }

    fn end(own: &Own, sign: Sign, message: u64, now: Instant) -> Verdict {
        if sign == Sign::Well {
            own.worked();
        }
        let evidence = Evidence {
            sign,
            message,
            started: now,
            now,
            served: 0,
            route: Some(7),
            served_by_route: 0,
            retry_after: None,
            error: "refused",
        };
        own.note("orders", evidence)
    }

    /// A route whose service is down since `now`.
    fn down(now: Instant) -> Own {
        let own = own();
        for message in 0..5 {
            assert_eq!(own.wait(now), None);
            let verdict = end(&own, Sign::Unavailable, message, now);
            assert_eq!(verdict, Verdict::Excused { times: 1 });
        }
        own
    }

    #[test]
    fn while_a_route_is_down_one_message_at_a_time_tries_its_service() {
        let now = Instant::now();
        let own = down(now);
        assert_eq!(own.wait(now), Some(SECOND), "it comes back for the probe");
        assert_eq!(own.wait(now), Some(LATER));
        let now = now + SECOND;
        assert_eq!(own.wait(now), None);
        assert_eq!(own.wait(now), Some(LATER));
        end(&own, Sign::Unavailable, 9, now);
        assert_eq!(own.wait(now), Some(2 * SECOND), "the next one comes later");
        let now = now + 2 * SECOND;
        assert_eq!(own.wait(now), None);
        end(&own, Sign::Well, 9, now);
        assert!(own.is_calm());
        assert_eq!([own.wait(now), own.wait(now)], [None, None]);
    }

    #[test]
    fn a_probe_that_asks_the_service_nothing_gives_its_turn_to_another_one() {
        let now = Instant::now();
        let own = down(now);
        let now = now + SECOND;
        assert_eq!(own.wait(now), None);
        own.has_not_tried();
        assert_eq!(own.wait(now), None);
        // The end of a probe can be lost.
        assert_eq!(own.wait(now + 21 * SECOND), Some(LATER));
        assert_eq!(own.wait(now + 22 * SECOND), None);
    }

    #[test]
    fn a_service_without_an_answer_and_one_that_refuses_everything_are_down_too() {
        let now = Instant::now();
        for (sign, times) in [(Sign::TimedOut, 5), (Sign::Rejected, 50)] {
            let own = own();
            for message in 0..times {
                assert!(own.is_calm(), "{sign:?} {message}");
                end(&own, sign, message, now);
            }
            assert!(!own.is_calm(), "{sign:?}");
            own.reset();
            assert_eq!(own.wait(now), None);
        }
    }
}
