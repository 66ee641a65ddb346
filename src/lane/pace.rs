//! Pacing: when a lane's loop wakes for deliveries and ends. A wake-up costs more than handling a
//! small message, so the loop wakes once for several of them.

use std::{mem, time::Duration};

use tokio::time::Instant;

use super::LaneActor;
use crate::broker::Broker;

/// The most deliveries that the lane puts in the start queue together.
pub(super) const TOGETHER: usize = 64;
/// Ends gather for `ack.delay`, and at most for this long, before the lane books them.
const GATHER: Duration = Duration::from_millis(2);
/// How long deliveries that can start may wait for a runner before the lane adds runners.
pub(super) const TAKE_UP: Duration = Duration::from_millis(1);
/// A busy lane takes at least this many deliveries at once, within [`SOON`] of the last ones.
const BUSY: usize = 8;
/// The longest time between two takes of a busy lane.
const SOON: Duration = Duration::from_millis(3);
/// How long a busy lane lets deliveries gather.
const REST: Duration = Duration::from_millis(1);
/// How long such a rest really takes: tokio's timer is coarse.
const HORIZON: Duration = Duration::from_micros(1500);

/// The times at which the loop wakes for deliveries and ends.
#[derive(Debug)]
pub(super) struct Pace {
    /// A path has started or ended since the last turn.
    pub(super) stirred: bool,
    /// Until this time ends gather before they wake the lane. `None` if no path has started or
    /// ended for a while: the next end wakes the lane.
    gather_until: Option<Instant>,
    /// Since when ends have been gathering.
    pub(super) gathering_since: Option<Instant>,
    /// When to check that runners have taken the deliveries that can start.
    pub(super) take_up_at: Option<Instant>,
    /// When the lane last took deliveries from the session.
    took_at: Instant,
    /// Until when deliveries gather in the session.
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

    /// Deliveries that wait can start from this time on; the lane then adds runners for them.
    pub(super) fn start_at(&mut self, time: Instant) {
        self.take_up_at = Some(time);
    }

    pub(super) fn next_wake(&self) -> Option<Instant> {
        let wakes = [self.gather_until, self.take_up_at, self.rest_until];
        wakes.into_iter().flatten().min()
    }
}

impl<B: Broker> LaneActor<B> {
    /// Called when the lane has taken this many deliveries. A busy lane takes no more for a moment,
    /// so that the next ones come together. The rest must not slow down the broker: the lane rests
    /// only if the deliveries expected meanwhile fill at most a quarter of the prefetch. With more
    /// the prefetch is the limit, and the broker would wait for acks while the lane rests.
    pub(super) fn rest_if_busy(&mut self, taken: usize) {
        let now = Instant::now();
        let time = now - mem::replace(&mut self.pace.took_at, now);
        if taken < BUSY || time > SOON {
            return;
        }
        let expected = taken as u128 * HORIZON.as_micros() / time.as_micros().max(1);
        let prefetch = u128::from(self.proof.prefetch);
        let there = self.unsettled.open() + self.unsettled.finished();
        if (expected + there as u128) * 4 <= prefetch {
            self.pace.rest_until = Some(now + REST);
        }
    }

    pub(super) fn is_resting(&mut self, now: Instant) -> bool {
        self.pace.rest_until = self.pace.rest_until.filter(|until| *until > now);
        self.pace.rest_until.is_some()
    }

    /// The number of ends that wakes the lane: 1 if no ends gather, otherwise as many as complete a
    /// batch of acks. If acks may go out at once, the ends of all paths under way are enough.
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
