//! The service behind a lane's handlers: paths tell the breaker how attempts end, and carry out what
//! it says about slots and starts.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tokio::time::Instant;

use super::{Lane, dispatch::Own, runner::run_on};
use crate::{
    breaker::{Breaker, BreakerSettings, Evidence, Sign, Stance, Verdict},
    broker::Broker,
    flight::Flight,
    handler::INBOX,
    lock::lock,
    outcome::{Ending, Outcome, OutcomeKind},
    policy,
    retry::RetrySettings,
};

/// The breaker of a lane, which its paths and its actor share.
#[derive(Debug)]
pub(crate) struct Service {
    /// The breaker neither holds nor slows down the lane. An attempt that ends well then costs one
    /// look at this.
    calm: AtomicBool,
    /// Attempts that ended well, and whose results are being published. They count as succeeded only
    /// afterwards.
    publishing: AtomicU64,
    /// Attempts that a handler postponed. Those that the inbox postponed are not among them.
    snoozed: AtomicU64,
    /// The last attempt ended because the store of the inbox was unavailable.
    is_store: AtomicBool,
    breaker: Mutex<Breaker>,
}

impl Service {
    pub(crate) fn new(settings: &BreakerSettings) -> Self {
        Self {
            calm: AtomicBool::new(true),
            publishing: AtomicU64::new(0),
            snoozed: AtomicU64::new(0),
            is_store: AtomicBool::new(false),
            breaker: Mutex::new(Breaker::new(settings.clone())),
        }
    }

    pub(crate) fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Acquire)
    }

    /// Whether the service of the whole lane counts as down.
    pub(super) fn is_down(&self) -> bool {
        !self.is_calm() && lock(&self.breaker).is_open()
    }

    /// What the lane should do now.
    pub(crate) fn stance(&self, now: Instant) -> Stance {
        lock(&self.breaker).stance(now)
    }

    /// What the end of an attempt says. An attempt that the inbox ended asked only the inbox: that says
    /// something good only if the store of the inbox was what was down.
    pub(super) fn sign(&self, flight: &Flight, retry: &RetrySettings, ending: &Ending) -> Sign {
        if flight.has_asked_nothing() {
            return match self.is_store.load(Ordering::Relaxed) {
                true => Sign::Answered,
                false => Sign::Nothing,
            };
        }
        if matches!(ending, Ending::Handled(Outcome::Snoozed { .. })) {
            self.snoozed.fetch_add(1, Ordering::Relaxed);
        }
        let is_store = matches!(ending, Ending::Unavailable(failure) if failure.class == INBOX);
        if self.is_store.load(Ordering::Relaxed) != is_store {
            self.is_store.store(is_store, Ordering::Relaxed);
        }
        policy::sign(retry, ending)
    }

    /// Why the lane takes no messages; `None` if it does. `lacks_message`: for long there has been no
    /// message to probe with.
    pub(crate) fn reason(&self, now: Instant, lacks_message: bool) -> Option<String> {
        lock(&self.breaker).reason(now, lacks_message)
    }
}

impl<B: Broker> Lane<B> {
    /// Tells the breakers of the lane and of the route how an attempt ended. They decide whether the
    /// service is at fault, and then return how many attempts in a row of this message were excused.
    pub(super) fn judge(
        &self,
        flight: &Flight,
        retry: &RetrySettings,
        ending: &Ending,
    ) -> Option<u32> {
        let sign = self.service.sign(flight, retry, ending);
        // Nothing runs for a message that no route takes.
        let route = self.dispatch.route(flight)?;
        let own = route.own();
        match (own, sign) {
            (Some(own), Sign::Nothing) => own.has_not_tried(address(flight)),
            (Some(own), _) => {
                own.uses();
                if sign == Sign::Well {
                    own.worked();
                }
            }
            (None, _) => {}
        }
        let is_calm = self.service.is_calm() && own.is_none_or(Own::is_calm);
        if sign == Sign::Nothing || sign == Sign::Well && is_calm {
            return None;
        }
        let failure = ending.failure();
        let served = self.served();
        let own_of_several = own.filter(|_| self.dispatch.has_several());
        let evidence = Evidence {
            sign,
            message: identity(flight),
            started: flight.started_at(),
            now: Instant::now(),
            served,
            route: own_of_several.map(|own| own.number),
            served_by_route: own.map_or(served, Own::served),
            routes_go_on: false,
            retry_after: failure.as_ref().and_then(|failure| failure.retry_after),
            error: failure.as_ref().map_or("", |failure| &failure.error),
        };
        let of_route = own.map(|own| own.note(&self.name, address(flight), evidence));
        let of_lane = self.tell(&Evidence {
            routes_go_on: own_of_several.is_some() && self.dispatch.goes_on(),
            ..evidence
        });
        [Some(of_lane), of_route]
            .into_iter()
            .flatten()
            .find_map(|verdict| match verdict {
                Verdict::Usual => None,
                Verdict::Excused { times } => Some(times),
            })
    }

    /// Tells the breaker of the lane how an attempt ended.
    fn tell(&self, evidence: &Evidence<'_>) -> Verdict {
        let mut breaker = lock(&self.service.breaker);
        let was_open = breaker.is_open();
        let verdict = breaker.note(evidence);
        self.carry_out(&mut breaker);
        let has_changed = was_open != breaker.is_open();
        drop(breaker);
        if has_changed || was_open {
            self.ends.rouse();
        }
        verdict
    }

    /// Tells the breaker of an attempt that ended well, before its results are published. Until the
    /// value is dropped the attempt counts among those that ended well.
    pub(super) fn worked(
        &self,
        flight: &Flight,
        retry: &RetrySettings,
        ending: &Ending,
    ) -> Worked<'_> {
        self.service.publishing.fetch_add(1, Ordering::Relaxed);
        self.judge(flight, retry, ending);
        Worked(&self.service)
    }

    /// A slow start has freed a slot that no path has given back: starts a runner for it.
    pub(super) fn use_allowance(self: &std::sync::Arc<Self>) {
        if !self.service.is_calm() && self.starts.pass_on() {
            run_on(self);
        }
    }

    /// An attempt has started, or waits to start. If the lane has a fixed rate, the lane must know when
    /// the rate allows the next start.
    pub(super) fn has_used_rate(&self) {
        if self.starts.has_rate() {
            self.ends.rouse();
        }
    }

    /// An operator has paused the lane: it begins anew afterwards.
    pub(crate) fn forget_outage(&self) {
        self.dispatch.forget_outages();
        let mut breaker = lock(&self.service.breaker);
        breaker.reset();
        self.carry_out(&mut breaker);
    }

    /// Sets slots and starts as the breaker says. The lock orders the calls.
    fn carry_out(&self, breaker: &mut Breaker) {
        let slots = &self.watch.figures.slots;
        breaker.slots(slots.limit());
        slots.set_allowance(breaker.window());
        self.starts.suspend(breaker.is_open());
        self.service
            .calm
            .store(breaker.is_calm(), Ordering::Release);
    }

    /// The attempts that ended well.
    pub(super) fn served(&self) -> u64 {
        const WELL: [OutcomeKind; 2] = [OutcomeKind::Succeeded, OutcomeKind::Dropped];
        let counters = &self.watch.figures.counters;
        let counted: u64 = WELL.iter().map(|kind| counters.outcome(*kind).get()).sum();
        let service = &self.service;
        counted
            + service.snoozed.load(Ordering::Relaxed)
            + service.publishing.load(Ordering::Relaxed)
    }
}

/// An attempt that ended well, and whose results are being published.
pub(super) struct Worked<'a>(&'a Service);

impl Drop for Worked<'_> {
    fn drop(&mut self) {
        self.0.publishing.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A number for a flight, different from those of all other flights.
pub(super) fn address(flight: &Flight) -> usize {
    std::ptr::from_ref(flight).addr()
}

/// The message as a number. A message without an id gets one with its first copy.
fn identity(flight: &Flight) -> u64 {
    let mut hasher = DefaultHasher::new();
    match flight.message.id() {
        Some(id) => id.hash(&mut hasher),
        None => (flight.received, address(flight)).hash(&mut hasher),
    }
    hasher.finish()
}
