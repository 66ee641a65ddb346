//! A lane whose service is down. The lane starts nothing but probes, one message at a time. After the
//! first probe has failed, the lane returns what has not started, so that other workers can take it,
//! and takes one message for each probe. It returns messages once in each outage: on RabbitMQ 4.0 to
//! 4.2 each return raises a message's delivery count.

use tokio::time::Instant;
use tracing::{info, warn};

use super::LaneActor;
use crate::{
    breaker::Stance,
    broker::{Broker, QueueSpec},
};

/// What the lane has carried out of the breaker's stance.
#[derive(Debug, Default)]
pub(super) struct Tending {
    /// The service counts as down.
    is_down: bool,
    /// The lane has returned what had not started, and subscribes for single messages only.
    has_let_go: bool,
    /// A probe is due or under way.
    probes: bool,
    /// A probe needs a message from the broker.
    needs_message: bool,
    /// The subscription is for a single message.
    takes_one: bool,
    /// When the next probe is due.
    due: Option<Instant>,
    /// Why the lane takes no messages, for people.
    reason: String,
}

impl Tending {
    /// Whether the lane may subscribe. A lane that has let go subscribes for its next probe.
    pub(super) fn subscribes(&self) -> bool {
        !self.has_let_go || self.needs_message
    }

    /// When the next probe is due; `None` while one runs, and while the service is not down.
    pub(super) fn next_probe(&self) -> Option<Instant> {
        self.due.filter(|_| self.is_down)
    }

    /// Whether the lane takes all messages that the prefetch allows.
    pub(super) fn takes_all(&self) -> bool {
        !self.is_down && !self.has_let_go && !self.takes_one
    }

    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.due
    }
}

impl<B: Broker> LaneActor<B> {
    /// Carries out what the breaker says.
    pub(super) fn tend_service(&mut self, now: Instant) {
        if self.lane.service.is_calm() && !self.tending.is_down {
            return;
        }
        let (stance, reason) = self.lane.service.stance(now);
        self.tending.due = None;
        if let Some(reason) = reason {
            self.tending.reason = reason;
        }
        match stance {
            Stance::Open => self.service_is_back(now),
            Stance::Wait { until, let_go } => {
                self.service_is_down();
                self.tending.probes = false;
                self.tending.needs_message = false;
                self.tending.due = Some(until);
                if let_go {
                    self.let_go();
                }
            }
            Stance::Probe { let_go } => {
                self.service_is_down();
                if let_go {
                    self.let_go();
                }
                if !std::mem::replace(&mut self.tending.probes, true) {
                    self.lane.watch.figures.counters.probes.add_one();
                    self.admit(now);
                }
                self.want_message();
            }
        }
    }

    /// Why the lane takes no messages, if its service is down. A lane without a session says that it
    /// is connecting.
    pub(super) fn service_down(&self) -> Option<&str> {
        let tending = &self.tending;
        let connected = match tending.has_let_go {
            true => self.subscription.session.is_some(),
            false => self.subscription.is_live(),
        };
        (tending.is_down && connected).then_some(tending.reason.as_str())
    }

    /// The lane's queues, with the prefetch of the subscription that it needs now.
    pub(super) fn queue_spec(&mut self) -> QueueSpec {
        let mut spec = self.lane.settings.queue_spec();
        self.tending.takes_one = self.tending.has_let_go;
        if self.tending.takes_one {
            spec.prefetch = 1;
        } else {
            spec.prefetch = self.next_prefetch();
        }
        spec
    }

    /// Cancels a subscription for single messages once the service is back, and a full one while it
    /// is down. The lane then subscribes as it needs.
    pub(super) fn check_subscription(&mut self) {
        if self.tending.takes_one != self.tending.has_let_go && self.subscription.is_live() {
            self.cancel_consumer();
        }
    }

    /// After a delivery for a probe the lane takes no other one.
    pub(super) fn take_one_probe(&mut self) {
        if self.tending.has_let_go && self.subscription.is_live() {
            self.tending.needs_message = false;
            self.cancel_consumer();
        }
    }

    /// A probe has ended without the end of an attempt: its session was lost. Another message takes
    /// its place.
    pub(super) fn replace_lost_probe(&mut self) {
        let starts = &self.lane.starts;
        let is_lost = self.tending.probes
            && !starts.has_admitted()
            && self.lane.watch.figures.slots.in_use() == 0;
        if is_lost {
            self.admit(Instant::now());
        }
    }

    /// An operator starts the lane anew.
    pub(super) fn forget_outage(&mut self) {
        self.lane.forget_outage();
        self.tending = Tending::default();
    }

    fn service_is_down(&mut self) {
        if !std::mem::replace(&mut self.tending.is_down, true) {
            let reason = self.tending.reason.as_str();
            warn!(consumer = %self.lane.name, reason, "service is down: taking no messages, probing with one at a time");
        }
    }

    fn service_is_back(&mut self, now: Instant) {
        if !self.tending.is_down {
            return;
        }
        info!(consumer = %self.lane.name, "service is back: taking messages, slowly at first");
        let Tending {
            has_let_go,
            takes_one,
            ..
        } = self.tending;
        self.tending = Tending {
            takes_one,
            ..Tending::default()
        };
        if has_let_go {
            self.check_subscription();
            self.subscription.subscribe_now();
        }
        self.pace.start_at(now);
    }

    fn let_go(&mut self) {
        if std::mem::replace(&mut self.tending.has_let_go, true) || self.draining || self.paused {
            return;
        }
        self.withdraw();
        self.cancel_consumer();
    }

    /// Lets one message start, beside handlers that still run.
    fn admit(&mut self, now: Instant) {
        let slots = &self.lane.watch.figures.slots;
        slots.set_allowance(slots.in_use() + 1);
        self.lane.starts.admit();
        self.pace.start_at(now);
    }

    /// If the lane has no message for its probe, it subscribes for one.
    fn want_message(&mut self) {
        let starts = &self.lane.starts;
        let has_none = starts.has_admitted() && starts.waiting() == 0 && self.starting.is_empty();
        self.tending.needs_message = self.tending.has_let_go && has_none;
    }
}
