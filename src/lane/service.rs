//! A lane whose service is down. The lane starts nothing but probes, one message at a time. After the
//! first probe has failed, the lane returns what has not started, so that other workers can take it,
//! and takes one message for each probe. It returns messages once in each outage: on RabbitMQ 4.0 to
//! 4.2 each return raises a message's delivery count.
//!
//! A queue can be empty when the next probe is due: the messages became too old, another worker took
//! them, somebody purged the queue. The lane then waits for a message to probe with. A deferred message
//! is back after 30 s, so after a minute without a message nothing is known about the service, and
//! nobody waits for it: the lane no longer calls it down.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use super::LaneActor;
use crate::{
    breaker::Stance,
    broker::{Broker, QueueSpec},
    status::ConsumerState,
};

/// After this time without a message to probe with the state of the service is unknown, unless
/// `breaker.probe_cap` is longer. Longer than the time for which messages are deferred.
const LACK: Duration = Duration::from_secs(60);

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
    /// Since when a probe is due and there is no message for it.
    lacks_since: Option<Instant>,
    /// There has been no message to probe with for long.
    is_unknown: bool,
    /// The subscription is for a single message.
    takes_one: bool,
    /// The next full subscription is the one after the outage.
    comes_back: bool,
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

    /// Whether the subscription is for the message of a probe.
    pub(super) fn awaits_probe(&self) -> bool {
        self.takes_one && self.needs_message
    }

    /// Whether the lane subscribes because of its service, and not because a subscription was lost.
    pub(super) fn subscribes_for_its_service(&mut self) -> bool {
        self.takes_one || std::mem::take(&mut self.comes_back)
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
        let stance = self.lane.service.stance(now);
        self.tending.due = None;
        self.note_lack(now, matches!(stance, Stance::Probe { .. }));
        if let Some(reason) = self.lane.service.reason(now, self.tending.is_unknown) {
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

    /// The state of a lane whose service is down, and why it takes no messages. A lane without a
    /// session says that it is connecting.
    pub(super) fn service_down(&self) -> Option<(ConsumerState, &str)> {
        let tending = &self.tending;
        let connected = match tending.has_let_go {
            true => self.subscription.session.is_some(),
            false => self.is_fed(),
        };
        let state = match tending.is_unknown {
            true => ConsumerState::ServiceUnknown,
            false => ConsumerState::ServiceDown,
        };
        (tending.is_down && connected).then_some((state, tending.reason.as_str()))
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
            comes_back: has_let_go,
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
        self.tending.needs_message = self.tending.has_let_go && self.has_no_probe();
    }

    /// Whether a probe is due, and the lane has no message for it.
    fn has_no_probe(&self) -> bool {
        let starts = &self.lane.starts;
        starts.has_admitted() && starts.waiting() == 0 && self.starting.is_empty()
    }

    /// Notes since when a probe waits for a message that the broker does not send. Messages that back
    /// off in the worker are tried too.
    fn note_lack(&mut self, now: Instant, is_due: bool) {
        let lacks = is_due
            && self.has_no_probe()
            && self.unsettled.open() == 0
            && self.subscription.is_live();
        let since = self.tending.lacks_since.unwrap_or(now);
        self.tending.lacks_since = lacks.then_some(since);
        let long = LACK.max(self.lane.settings.breaker.probe_cap);
        let was_unknown = self.tending.is_unknown;
        self.tending.is_unknown = lacks && now - since >= long;
        if self.tending.is_unknown && !was_unknown {
            info!(consumer = %self.lane.name, "the queue is empty, so nobody knows whether the service is back: trying it with the next message");
        }
    }
}
