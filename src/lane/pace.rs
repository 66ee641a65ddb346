//! When a lane looks: not at each delivery and each end, but when there is something to do for it.

use std::{mem, time::Duration};

use tokio::time::Instant;

use super::LaneActor;
use crate::broker::Broker;

/// Deliveries that are started together.
pub(super) const TOGETHER: usize = 64;
/// The longest that ends gather before a lane books them, where `ack.delay` is longer.
const GATHER: Duration = Duration::from_millis(2);
/// How long deliveries that were started may wait for a thread before others are asked.
pub(super) const TAKE_UP: Duration = Duration::from_millis(1);
/// So many deliveries, taken so soon after others, make a lane a busy one.
const BUSY: usize = 8;
const SOON: Duration = Duration::from_millis(3);
/// A busy lane lets deliveries gather for so long, and a little longer: the timer is coarse.
const REST: Duration = Duration::from_millis(1);
const HORIZON: Duration = Duration::from_micros(1500);

/// See the module.
#[derive(Debug)]
pub(super) struct Pace {
    /// A path has started or ended since this was last looked at.
    pub(super) stirred: bool,
    /// Until when ends may gather before they wake the lane: while paths start and end. When
    /// nothing has for a while, the first wakes it.
    gather_until: Option<Instant>,
    /// Since when they have.
    pub(super) gathering_since: Option<Instant>,
    /// When to see whether the deliveries that can start have been taken up.
    pub(super) take_up_at: Option<Instant>,
    /// When deliveries were taken from the session.
    took_at: Instant,
    /// Until when they gather there.
    rest_until: Option<Instant>,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            stirred: false,
            gather_until: None,
            gathering_since: None,
            take_up_at: None,
            took_at: now,
            rest_until: None,
        }
    }

    /// What waits can start, and from then on is to be taken up.
    pub(super) fn start_at(&mut self, time: Instant) {
        self.take_up_at = Some(time);
    }

    pub(super) fn next_wake(&self) -> Option<Instant> {
        let wakes = [self.gather_until, self.take_up_at, self.rest_until];
        wakes.into_iter().flatten().min()
    }
}

impl<B: Broker> LaneActor<B> {
    /// After `taken` deliveries: a busy lane takes no more for a moment, so that the next come
    /// together. It must not slow down the broker: what is to be expected meanwhile must find room
    /// in the prefetch.
    pub(super) fn rest_if_busy(&mut self, taken: usize) {
        let now = Instant::now();
        let time = now - mem::replace(&mut self.pace.took_at, now);
        if taken < BUSY || time > SOON {
            return;
        }
        let expected = taken as u128 * HORIZON.as_micros() / time.as_micros().max(1);
        let prefetch = u128::from(self.lane.settings.prefetch);
        let there = self.unsettled.open() + self.unsettled.finished();
        if expected + there as u128 <= prefetch * 3 / 4 {
            self.pace.rest_until = Some(now + REST);
        }
    }

    pub(super) fn is_resting(&mut self, now: Instant) -> bool {
        self.pace.rest_until = self.pace.rest_until.filter(|until| *until > now);
        self.pace.rest_until.is_some()
    }

    /// How many ends are to wake the lane: as many as complete a batch of acks, all that can still
    /// come, or the first.
    pub(super) fn ends_wanted(&mut self, now: Instant) -> usize {
        let pace = &mut self.pace;
        if mem::take(&mut pace.stirred) {
            pace.gather_until = Some(now + self.lane.settings.ack.delay.min(GATHER));
        }
        if self.under_way == 0 {
            pace.take_up_at = None;
            pace.gather_until = None;
        }
        pace.gather_until = pace.gather_until.filter(|until| *until > now);
        pace.gathering_since = pace.gather_until.map(|_| now);
        if pace.gather_until.is_none() {
            return 1;
        }
        let batch = self.ack_batch();
        let missing = batch - self.unsettled.finished() % batch;
        match self.acks_at_rest(now) {
            true => missing.min(self.under_way),
            false => missing,
        }
    }
}
