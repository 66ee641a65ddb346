//! Kept decisions: deliveries whose handler has ended, and whose retry or dead letter the broker does
//! not take. Each stays unsettled, and takes a place of the prefetch.
//!
//! When more than half of a subscription's prefetch is taken like this, the lane cancels its consumer
//! and subscribes again on the same channel. What an earlier subscription holds does not count for
//! the new one, so other messages keep coming. Once kept decisions fill twice the prefetch, the lane
//! is held: the broker delivers nothing more, until it takes the copies.
//!
//! In the same way the lane subscribes again when the sizes of its messages allow another prefetch:
//! see [`Sizes`](super::sizes::Sizes).

use std::time::Duration;

use tokio::time::Instant;
use tracing::{error, info};

use super::LaneActor;
use crate::broker::Broker;

/// How often the log mentions kept decisions.
const AGAIN: Duration = Duration::from_secs(60);

/// The window of a lane: the prefetch of its subscription, and what is kept.
#[derive(Debug, Default)]
pub(super) struct Keeping {
    /// The prefetch of the last request to subscribe.
    prefetch: usize,
    /// The first delivery tag of the subscription.
    since: u64,
    /// The consumer is being cancelled so that a new one takes its place.
    renews: bool,
    /// The next subscription waits until memory is free.
    awaits_room: bool,
    /// Kept decisions fill the window.
    is_full: bool,
    /// How many decisions are kept and why, for people.
    reason: Option<String>,
    /// When the log last mentioned them.
    told: Option<Instant>,
}

impl Keeping {
    /// Why decisions are kept, if some are.
    pub(super) fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }

    /// Whether kept decisions fill the window.
    pub(super) fn is_full(&self) -> bool {
        self.is_full
    }

    pub(super) fn renews(&self) -> bool {
        self.renews
    }

    /// The first delivery tag of the subscription.
    pub(super) fn since(&self) -> u64 {
        self.since
    }

    /// The consumer that is being cancelled gets no successor.
    pub(super) fn stop_renewing(&mut self) {
        self.renews = false;
        self.awaits_room = false;
    }
}

impl<B: Broker> LaneActor<B> {
    /// The prefetch of the next subscription.
    pub(super) fn next_prefetch(&mut self) -> u16 {
        let room = self.room().min(self.usual()).max(1);
        self.keeping.prefetch = room;
        self.lane.set_prefetch(self.usual());
        u16::try_from(room).unwrap_or(self.lane.settings.prefetch)
    }

    /// The prefetch while nothing is kept: that of the settings, or less if messages are large.
    fn usual(&self) -> usize {
        usize::from(self.lane.settings.prefetch).min(self.sizes.allowed())
    }

    /// The most deliveries that the lane holds while decisions are kept or while its prefetch changes:
    /// twice the prefetch, if the budget has room for it.
    fn window(&self) -> usize {
        (2 * self.usual()).min(self.sizes.fitting())
    }

    /// Messages were larger than expected: the lane subscribes again once half of the memory is free.
    pub(super) fn awaits_room(&self) -> bool {
        self.keeping.awaits_room && self.unsettled.open() * 2 > self.usual()
    }

    /// The lane has subscribed.
    pub(super) fn window_opened(&mut self) {
        self.keeping.since = self.unsettled.next();
        self.keeping.stop_renewing();
    }

    /// How many more deliveries a new subscription may bring. With a budget for bytes, what the old
    /// subscription holds takes room.
    fn room(&self) -> usize {
        match (self.lane.live.kept.count(), self.sizes.budget()) {
            (0, None) => self.usual(),
            _ => self.window().saturating_sub(self.unsettled.open()),
        }
    }

    /// Whether there is a subscription, or another one takes its place now or as soon as there is room.
    pub(super) fn is_fed(&self) -> bool {
        self.subscription.is_live() || self.awaits_room() || self.is_renewing()
    }

    /// The consumer is being cancelled, and another one takes its place at once.
    fn is_renewing(&self) -> bool {
        self.keeping.renews
            && self.subscription.session.is_some()
            && self.subscription.reason().is_none()
    }

    /// Looks at the kept decisions: tells how many there are, and renews the subscription if they
    /// take too much of its prefetch.
    pub(super) fn tend_kept(&mut self) {
        let kept = self.lane.live.kept.count();
        let held = self.kept_since(0);
        let leave_no_room = self.awaits_room() && held * 2 > self.usual();
        self.keeping.is_full = kept > 0 && (held >= self.window() || leave_no_room);
        self.keeping.reason = (kept > 0).then(|| {
            let why = self.lane.live.kept.why();
            let what = match kept {
                1 => "1 retry or dead letter waits until the broker takes it".to_owned(),
                more => format!("{more} retries or dead letters wait until the broker takes them"),
            };
            format!("{what}: {why}")
        });
        self.tell_of_kept(kept);
        if self.subscription.is_live() && self.tending.takes_all() {
            self.weigh();
            self.renew_if_narrow(kept);
        }
    }

    /// Lets the prefetch grow once the subscription has brought as many messages as it may hold.
    /// Cancels the consumer if messages are so large that fewer of them fit the budget.
    fn weigh(&mut self) {
        let Some(budget) = self.sizes.budget() else {
            return;
        };
        let (consumer, prefetch) = (&self.lane.name, self.keeping.prefetch);
        if self.unsettled.next() - self.keeping.since >= prefetch as u64 {
            self.sizes.trust(prefetch);
        }
        let (usual, largest) = (self.usual(), self.sizes.largest());
        self.lane.set_prefetch(usual);
        // The sizes vary a little. An eighth too many is not worth the wait for room.
        if usual + prefetch / 8 < prefetch {
            info!(%consumer, usual, largest, budget, "messages are large: taking fewer of them at once");
            self.cancel_consumer();
            (self.keeping.renews, self.keeping.awaits_room) = (true, true);
        }
    }

    /// The kept decisions among the deliveries from this tag on.
    fn kept_since(&self, tag: u64) -> usize {
        let flights = self.unsettled.flights();
        let kept = flights.filter(|flight| flight.tag() >= tag && flight.is_kept());
        kept.count()
    }

    fn tell_of_kept(&mut self, kept: usize) {
        let consumer = &self.lane.name;
        if kept == 0 {
            if self.keeping.told.take().is_some() {
                info!(%consumer, "no retry or dead letter waits any more");
            }
            return;
        }
        if self.keeping.told.is_none_or(|at| at.elapsed() >= AGAIN) {
            self.keeping.told = Some(Instant::now());
            let error = self.lane.live.kept.why();
            error!(%consumer, waiting = kept, error, "retries or dead letters are not confirmed: their messages wait and do not run again");
        }
    }

    /// Cancels the consumer, so that another one takes its place with more room, or with the usual
    /// room once nothing is kept.
    fn renew_if_narrow(&mut self, kept: usize) {
        if self.keeping.renews {
            return;
        }
        let usual = self.usual();
        let prefetch = self.keeping.prefetch;
        let since = self.keeping.since;
        let own = self
            .unsettled
            .flights()
            .filter(|flight| flight.tag() >= since)
            .count();
        let own_kept = self.kept_since(since);
        let gains = self.room().min(usual) > prefetch.saturating_sub(own);
        let is_narrow = kept == 0 && self.room().min(usual) > prefetch;
        if is_narrow || gains && own_kept > prefetch / 2 {
            self.cancel_consumer();
            self.keeping.renews = true;
        }
    }
}
