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
    /// A message of this route has had an attempt, or has one.
    was_used: AtomicBool,
    /// The breaker of this route is closed. An attempt then costs one look at this.
    calm: AtomicBool,
    state: Mutex<State>,
    /// The longest time that an attempt can take.
    longest: Duration,
}

#[derive(Debug)]
struct State {
    breaker: Breaker,
    /// The probe under way.
    probe: Option<Probe>,
    /// A message comes back at this time, to be the next probe.
    called: Option<Instant>,
}

/// An attempt that tries the service while it is down.
#[derive(Debug)]
struct Probe {
    /// A number for its flight.
    flight: usize,
    /// When it has ended at the latest.
    until: Instant,
}

impl State {
    /// This flight's attempt has ended. If it is the probe, another one may follow. The ends of attempts
    /// that began before the outage free nothing: each would let a further message meet a service that
    /// gives no answer.
    fn has_ended(&mut self, flight: usize) {
        self.probe.take_if(|probe| probe.flight == flight);
    }
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
            was_used: AtomicBool::new(false),
            calm: AtomicBool::new(true),
            state: Mutex::new(State {
                breaker: Breaker::new(settings.clone()),
                probe: None,
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

    /// A message of this route has an attempt.
    pub(in crate::path) fn uses(&self) {
        if !self.was_used.load(Ordering::Relaxed) {
            self.was_used.store(true, Ordering::Relaxed);
        }
    }

    /// Whether the route has messages, and serves them.
    pub(super) fn goes_on(&self) -> bool {
        self.was_used.load(Ordering::Relaxed) && self.is_calm()
    }

    /// How long a message of this route waits, because its service is down. `None`: its attempt may
    /// start, and while the service is down this attempt is a probe. `flight`: a number for its flight.
    /// `comes_back`: if it waits, it is back after that time.
    pub(in crate::path) fn wait(
        &self,
        now: Instant,
        flight: usize,
        comes_back: bool,
    ) -> Option<Duration> {
        self.uses();
        if self.is_calm() {
            return None;
        }
        let state = &mut *lock(&self.state);
        match state.breaker.stance(now) {
            Stance::Open => None,
            Stance::Wait { .. } if !comes_back => Some(LATER),
            Stance::Wait { until, .. } if state.called == Some(until) => Some(LATER),
            Stance::Wait { until, .. } => {
                state.called = Some(until);
                Some((until - now).min(LATER))
            }
            Stance::Probe { .. } => match &state.probe {
                Some(probe) if probe.flight != flight && now < probe.until => Some(LATER),
                _ => {
                    let until = now + self.longest;
                    state.probe = Some(Probe { flight, until });
                    None
                }
            },
        }
    }

    /// An attempt that may have been the probe has ended without asking the service.
    pub(in crate::path) fn has_not_tried(&self, flight: usize) {
        if !self.is_calm() {
            lock(&self.state).has_ended(flight);
        }
    }

    /// Tells the route's breaker how an attempt of this flight ended.
    pub(in crate::path) fn note(
        &self,
        consumer: &str,
        flight: usize,
        evidence: Evidence<'_>,
    ) -> Verdict {
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
        state.has_ended(flight);
        if !is_open {
            state.probe = None;
        }
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
        state.probe = None;
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
        own.note("orders", flight(message), evidence(sign, message, now))
    }

    fn evidence(sign: Sign, message: u64, now: Instant) -> Evidence<'static> {
        Evidence {
            sign,
            message,
            started: now,
            now,
            served: 0,
            route: Some(7),
            served_by_route: 0,
            routes_go_on: false,
            retry_after: None,
            error: "refused",
        }
    }

    fn flight(message: u64) -> usize {
        usize::try_from(message).unwrap()
    }

    /// A message asks to start.
    fn wait(own: &Own, message: u64, now: Instant) -> Option<Duration> {
        own.wait(now, flight(message), true)
    }

    /// A route whose service is down since `now`.
    fn down(now: Instant) -> Own {
        let own = own();
        for message in 0..5 {
            assert_eq!(wait(&own, message, now), None);
            let verdict = end(&own, Sign::Unavailable, message, now);
            assert_eq!(verdict, Verdict::Excused { times: 1 });
        }
        own
    }

    #[test]
    fn while_a_route_is_down_one_message_at_a_time_tries_its_service() {
        let now = Instant::now();
        let own = down(now);
        assert_eq!(
            own.wait(now, 7, false),
            Some(LATER),
            "it does not come back"
        );
        let first = wait(&own, 8, now);
        assert_eq!(first, Some(SECOND), "it comes back for the probe");
        assert_eq!(wait(&own, 9, now), Some(LATER));
        let now = now + SECOND;
        assert_eq!(wait(&own, 8, now), None);
        assert_eq!(wait(&own, 9, now), Some(LATER));
        end(&own, Sign::Unavailable, 8, now);
        let next = wait(&own, 9, now);
        assert_eq!(next, Some(2 * SECOND), "the next one comes later");
        let now = now + 2 * SECOND;
        assert_eq!(wait(&own, 9, now), None);
        end(&own, Sign::Well, 9, now);
        assert!(own.is_calm());
        assert_eq!([wait(&own, 1, now), wait(&own, 2, now)], [None, None]);
    }

    #[test]
    fn a_probe_that_asks_the_service_nothing_gives_its_turn_to_another_one() {
        let now = Instant::now();
        let own = down(now);
        let now = now + SECOND;
        assert_eq!(wait(&own, 8, now), None);
        own.has_not_tried(8);
        assert_eq!(wait(&own, 9, now), None);
        // The end of a probe can be lost.
        assert_eq!(wait(&own, 10, now + 21 * SECOND), Some(LATER));
        assert_eq!(wait(&own, 10, now + 22 * SECOND), None);
    }

    #[test]
    fn attempts_that_began_before_the_outage_make_no_room_for_further_probes() {
        let began = Instant::now();
        let own = down(began);
        let now = began + SECOND;
        assert_eq!(wait(&own, 8, now), None);
        // They were under way when the service went down, and end one after the other.
        for straggler in 20..30 {
            let evidence = Evidence {
                started: began,
                ..evidence(Sign::TimedOut, straggler, now)
            };
            own.note("orders", flight(straggler), evidence);
            own.has_not_tried(flight(straggler + 100));
            assert_eq!(wait(&own, 9, now), Some(LATER), "{straggler}");
        }
        end(&own, Sign::TimedOut, 8, now);
        assert_eq!(wait(&own, 9, now), Some(2 * SECOND));
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
            assert_eq!(wait(&own, 1, now), None);
        }
    }
}
