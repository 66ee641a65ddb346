//! Runners: the tasks that carry deliveries along their paths. [`StartQueue`] decides when a runner
//! is needed.
//!
//! [`StartQueue`]: super::start_queue::StartQueue

use std::{future::poll_fn, mem, panic::AssertUnwindSafe, pin::pin, sync::Arc};

use futures_util::FutureExt;
use tokio::time::Instant;
use tracing::error;

use super::{Ended, Lane, carry_to_end};
use crate::{broker::Broker, flight::Flight, status::End};

/// Starts a runner on the handlers' runtime.
pub(crate) fn run_on<B: Broker>(lane: &Arc<Lane<B>>) {
    lane.runtime.spawn(carry_all(Arc::clone(lane)));
}

/// Carries deliveries along their paths until none can start.
async fn carry_all<B: Broker>(lane: Arc<Lane<B>>) {
    let (mut now, mut first) = (Instant::now(), true);
    loop {
        let taken = lane.starts.take(mem::take(&mut first), now);
        lane.has_used_rate();
        let Some((flight, slot)) = taken else { return };
        flight.slot.put(slot);
        let waited = carry(&lane, flight, now).await;
        let began = mem::replace(&mut now, Instant::now());
        if waited {
            lane.starts.join();
        } else if lane.starts.split(now - began) {
            // tokio keeps the most recently spawned task for the current worker thread (its LIFO
            // slot), where other threads cannot steal it. So spawn two runners and end: the first
            // can be stolen, the second runs here.
            run_on(&lane);
            run_on(&lane);
            return;
        }
        // Yield to tokio when the task's budget is used up: a path that never waits does not yield.
        tokio::task::coop::consume_budget().await;
    }
}

/// Carries one delivery, which has got its slot `now`, along its path and reports its end. True: the path
/// had to wait.
async fn carry<B: Broker>(lane: &Arc<Lane<B>>, flight: Arc<Flight>, now: Instant) -> bool {
    let mut waited = false;
    let end = {
        let mut path = pin!(or_fault(&flight, carry_to_end(lane, &flight, now)));
        let step = poll_fn(|cx| {
            let end = path.as_mut().poll(cx);
            if end.is_pending() {
                let needs_runner = match mem::replace(&mut waited, true) {
                    false => lane.starts.leave(),
                    // The path has released its slot but keeps this task, so another runner must
                    // use the slot.
                    true => !flight.slot.is_held() && lane.starts.pass_on(),
                };
                if needs_runner {
                    run_on(lane);
                }
            }
            end
        });
        step.await
    };
    // A path that panicked still has its slot.
    flight.slot.give_back();
    lane.use_allowance();
    if let Some(end) = end {
        lane.ends.report(Ended { flight, end });
    }
    waited
}

/// Turns a panic of the path into [`End::Fault`]: the lane is held, and then returns the delivery.
/// Such a panic is a fault of the worker. A handler's panic is an outcome.
pub(super) fn or_fault<'a>(
    flight: &'a Flight,
    path: impl Future<Output = Option<End>> + 'a,
) -> impl Future<Output = Option<End>> + 'a {
    let end = AssertUnwindSafe(path).catch_unwind();
    end.map(|end| {
        end.unwrap_or_else(|_| {
            // Claim the delivery, so that the lane does not take its handler for a stuck one.
            flight.claim();
            error!(consumer = %flight.consumer, id = flight.message.id(), "path panicked: the consumer is held, and the message stays in its queue");
            Some(End::Fault)
        })
    })
}
