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
