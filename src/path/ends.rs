//! The ends of paths, on their way to the lane.
//!
//! Waking the lane's thread costs more than handling a small message, and a single end gives the
//! lane little to do: an ack goes out when a batch has gathered, when it has waited for
//! `ack.delay`, or when nothing else runs. So the lane asks for a number of ends, and only the end
//! that completes this number wakes the lane. The lane's timer finds the others.

use std::{
    future::poll_fn,
    mem,
    sync::{Arc, Mutex, MutexGuard},
    task::{Poll, Waker},
};

use crate::{flight::Flight, lock::lock, status::End};

/// The end of one delivery's path.
#[derive(Debug)]
pub(crate) struct Ended<R = Arc<Flight>> {
    pub(crate) flight: R,
    pub(crate) end: End,
}

/// Ends that the lane has not taken yet. The list has no limit of its own. Each path reports once,
/// so the list is never longer than the number of deliveries under way.
#[derive(Debug)]
pub(crate) struct Ends<R = Arc<Flight>>(Mutex<Queue<R>>);

#[derive(Debug)]
struct Queue<R> {
    ended: Vec<Ended<R>>,
    /// The number of ends that wakes the lane.
    wanted: usize,
    /// One of the ends is not an ack, so the lane wakes at once.
    urgent: bool,
    /// The lane is to wake without an end.
    roused: bool,
    /// The lane's waker, while the lane waits.
    lane: Option<Waker>,
}

impl<R> Default for Ends<R> {
    fn default() -> Self {
        Self(Mutex::new(Queue {
            ended: Vec::new(),
            wanted: 1,
            urgent: false,
            roused: false,
            lane: None,
        }))
    }
}

impl<R> Ends<R> {
    /// Reports an end.
    pub(crate) fn report(&self, ended: Ended<R>) {
        let mut queue = self.lock();
        queue.urgent |= !ended.end.is_acked();
        queue.ended.push(ended);
        let lane = match queue.is_due() {
            true => queue.lane.take(),
            false => None,
        };
        // Unlock before waking the lane, which takes this lock.
        drop(queue);
        if let Some(lane) = lane {
            lane.wake();
        }
    }

    /// Wakes the lane for another reason than an end.
    pub(crate) fn rouse(&self) {
        let lane = {
            let mut queue = self.lock();
            queue.roused = true;
            queue.lane.take()
        };
        if let Some(lane) = lane {
            lane.wake();
        }
    }

    /// Takes the ends that have gathered, in exchange for an empty list.
    pub(crate) fn take(&self, ended: &mut Vec<Ended<R>>) {
        debug_assert!(ended.is_empty(), "an old end would be booked again");
        let mut queue = self.lock();
        mem::swap(&mut queue.ended, ended);
        queue.urgent = false;
        queue.roused = false;
    }

    /// Waits until `wanted` ends have gathered, or one that is not an ack. Does not take them.
    pub(crate) async fn gathered(&self, wanted: usize) {
        poll_fn(|cx| {
            let mut queue = self.lock();
            queue.wanted = wanted;
            if queue.is_due() {
                return Poll::Ready(());
            }
            match &mut queue.lane {
                Some(lane) => lane.clone_from(cx.waker()),
                none => *none = Some(cx.waker().clone()),
            }
            Poll::Pending
        })
        .await;
    }

    fn lock(&self) -> MutexGuard<'_, Queue<R>> {
        lock(&self.0)
    }
}

impl<R> Queue<R> {
    fn is_due(&self) -> bool {
        self.roused || !self.ended.is_empty() && (self.urgent || self.ended.len() >= self.wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    fn ended(end: End) -> Ended<()> {
        Ended { flight: (), end }
    }

    #[tokio::test]
    async fn the_lane_is_woken_by_as_many_ends_as_it_wants_or_by_one_that_cannot_wait() {
        let ends = Ends::default();
        let mut taken = Vec::new();
        ends.report(ended(End::Done));
        assert!(ends.gathered(2).now_or_never().is_none());
        ends.report(ended(End::Parked));
        assert!(ends.gathered(2).now_or_never().is_some());
        ends.take(&mut taken);
        assert_eq!(taken.len(), 2);

        taken.clear();
        assert!(ends.gathered(1).now_or_never().is_none());
        ends.report(ended(End::Fault));
        assert!(ends.gathered(9).now_or_never().is_some());
        ends.take(&mut taken);
        taken.clear();
        ends.report(ended(End::Done));
        assert!(ends.gathered(9).now_or_never().is_none());
    }

    #[tokio::test]
    async fn a_lane_can_be_roused_without_an_end() {
        let ends = Ends::<()>::default();
        assert!(ends.gathered(1).now_or_never().is_none());
        ends.rouse();
        assert!(ends.gathered(9).now_or_never().is_some());
        ends.take(&mut Vec::new());
        assert!(ends.gathered(1).now_or_never().is_none());
    }

    #[tokio::test]
    async fn a_lane_that_waits_is_woken_once_its_number_is_complete() {
        let ends = Arc::new(Ends::default());
        let waiting = Arc::clone(&ends);
        let lane = tokio::spawn(async move { waiting.gathered(3).await });
        for _ in 0..3 {
            assert!(!lane.is_finished());
            tokio::task::yield_now().await;
            ends.report(ended(End::Done));
        }
        lane.await.unwrap();
    }
}
