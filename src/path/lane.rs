//! The part of a lane that its actor and the paths of its deliveries share: settings, routes,
//! broker.

use std::{
    future::pending,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    runtime::Handle,
    sync::{Notify, Semaphore},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    dispatch::Dispatch, ends::Ends, kept::Kept, service::Service, start_queue::StartQueue,
};
use crate::{
    broker::{Broker, Properties, Publication, PublishError, PublishSettings},
    consumer::ConsumerSettings,
    dialect::Dialect,
    flight::{CurrentSession, Flight, Resources, SessionId},
    message::Message,
    retry::{Ladder, Rung},
    telemetry::Watch,
};

/// One consumer with its limits, policy and handlers. The worker makes one for each consumer.
pub(crate) struct Lane<B> {
    pub(crate) name: Arc<str>,
    pub(crate) queue: Arc<str>,
    /// The name of this worker, for headers.
    pub(crate) worker: Arc<str>,
    pub(crate) settings: ConsumerSettings,
    pub(crate) publish: PublishSettings,
    /// The longest wait for the broker to apply the last acks.
    pub(crate) drain_settle: Duration,
    pub(crate) ladder: Ladder,
    pub(crate) dispatch: Dispatch,
    pub(crate) broker: B,
    pub(crate) watch: Watch,
    pub(crate) resources: Arc<Resources>,
    /// Cancelled when a drain begins.
    pub(crate) drain: CancellationToken,
    /// Cancelled at the hard stop: the drain's grace has ended, or a second signal came.
    pub(crate) hard_stop: CancellationToken,
    /// The runtime on which handlers run.
    pub(crate) runtime: Handle,
    /// The one permit of the worker for publishing the report of a canary.
    pub(crate) reports: Arc<Semaphore>,
    /// The permits of the worker for reading long bodies.
    pub(crate) readings: Arc<Semaphore>,
    /// Deliveries that have yet to start.
    pub(crate) starts: StartQueue,
    /// Ends of paths that the actor has not yet booked. When the actor ends, it books its remaining
    /// deliveries as stale, and nobody reads this any more.
    pub(crate) ends: Ends,
    /// What is known about the service behind the handlers.
    pub(crate) service: Service,
    pub(crate) live: Live,
}

/// The part of a lane that the actor and the paths change while the lane runs.
#[derive(Debug, Default)]
pub(crate) struct Live {
    session: CurrentSession,
    /// Notified when the lane has another session, and when a flight has a new place.
    moved: Notify,
    /// Retries that wait for their delay in the worker.
    inline: AtomicUsize,
    /// The prefetch that the budget for bytes allows; 0: that of the settings.
    prefetch: AtomicUsize,
    /// Decisions that wait for the broker.
    pub(crate) kept: Kept,
    /// The log has said that a message asks for a reply that this consumer does not send.
    pub(super) unanswered: AtomicBool,
    /// The log has said that the publisher's system would go on with other work after a message.
    has_sequel: AtomicBool,
    /// A path is declaring a queue again.
    restoring: AtomicBool,
    /// Reports of canaries under way.
    pub(super) reports: Arc<AtomicUsize>,
}

impl<B: Broker> Lane<B> {
    /// Sets the lane's session, on which deliveries can be settled; `None` when it is lost.
    pub(crate) fn set_session(&self, session: Option<SessionId>) {
        self.live.session.set(session);
        self.live.moved.notify_waiters();
    }

    /// Moves a flight whose session has ended to the place of a new delivery of its message.
    pub(crate) fn move_to(
        &self,
        flight: &Flight,
        session: SessionId,
        tag: u64,
        properties: Properties,
    ) {
        flight.move_to(session, tag, properties);
        self.live.moved.notify_waiters();
    }

    /// Waits until the delivery can be settled: at once, unless its session has ended. Then the
    /// broker delivers the message again, and the flight waits for that. False: the broker has
    /// delivered the message to somebody else, or the worker drains.
    pub(super) async fn has_place(&self, flight: &Flight) -> bool {
        /// How long after the lane has another session. Messages that go back to their queue are the
        /// first to be delivered again.
        const LONGEST: Duration = Duration::from_secs(60);
        if self.is_current(flight.session()) {
            return true;
        }
        let mut give_up = None;
        loop {
            let mut moved = pin!(self.live.moved.notified());
            moved.as_mut().enable();
            if self.is_current(flight.session()) {
                return true;
            }
            if self.live.session.is_some() {
                give_up.get_or_insert_with(|| Instant::now() + LONGEST);
            }
            let late = async {
                match give_up {
                    Some(time) => sleep_until(time).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.drain.cancelled() => return false,
                () = moved => {}
                () = late => return false,
            }
        }
    }

    /// Whether the log has yet to say that a message has follow-up work.
    pub(crate) fn wants_sequel(&self) -> bool {
        !self.live.has_sequel.load(Ordering::Relaxed)
    }

    /// Says once that a message has follow-up work, such as the rest of a Celery chain.
    pub(crate) fn tell_of_sequel(&self, message: &Message) {
        if !self.live.has_sequel.swap(true, Ordering::Relaxed) {
            let dialect = self.settings.dialect.map(Dialect::name);
            warn!(consumer = %self.name, id = message.id(), dialect, "a message names work that its system starts after it (a chain, a callback): this worker does not start it, the handler has to; logged once");
        }
    }

    /// Whether deliveries of this session can still be settled.
    pub(crate) fn is_current(&self, session: SessionId) -> bool {
        self.live.session.is(session)
    }

    /// Takes a place among the retries that wait in the worker, if one is free. At most half of the
    /// prefetch may wait, so that new messages keep coming. In a drain no place is free.
    pub(super) fn wait_inline(&self) -> Option<InlinePlace<'_>> {
        let most = match self.live.prefetch.load(Ordering::Relaxed) {
            0 => usize::from(self.settings.prefetch / 2),
            prefetch => prefetch / 2,
        };
        let place = InlinePlace(&self.live.inline);
        let before = self.live.inline.fetch_add(1, Ordering::AcqRel);
        (before < most && !self.drain.is_cancelled()).then_some(place)
    }

    /// The prefetch is this, because of the sizes of messages.
    pub(crate) fn set_prefetch(&self, prefetch: usize) {
        self.live.prefetch.store(prefetch, Ordering::Relaxed);
    }

    /// The number of retries that wait for their delay in the worker.
    pub(crate) fn waiting_inline(&self) -> usize {
        self.live.inline.load(Ordering::Acquire)
    }

    /// Publishes a copy, and waits for the broker's confirm.
    pub(super) async fn publish(&self, copy: &Publication<'_>) -> Result<(), PublishError> {
        self.broker.publish(copy).await
    }

    /// Waits until the broker has blocked publishing.
    pub(super) async fn blocked(&self) {
        self.broker.blocked().await;
    }

    /// Declares a missing queue, if the settings allow it. The broker returned a copy because this
    /// queue does not exist. True: it is declared.
    pub(super) async fn restore(&self, queue: &str) -> bool {
        if !self.settings.topology.creates() {
            return false;
        }
        if self.live.restoring.swap(true, Ordering::AcqRel) {
            return false;
        }
        let spec = self.settings.queue_spec();
        let declared = self.broker.restore(&spec, queue).await;
        self.live.restoring.store(false, Ordering::Release);
        match declared {
            Some(Ok(())) if self.is_first_use(queue) => {
                info!(consumer = %self.name, queue, "declared a retry queue at its first use");
                true
            }
            Some(Ok(())) => {
                warn!(consumer = %self.name, queue, "queue was missing, declared it again");
                true
            }
            Some(Err(error)) => {
                warn!(consumer = %self.name, queue, %error, "queue is missing, failed to declare it");
                false
            }
            None => false,
        }
    }

    /// Whether the broker itself dead-letters a message that the worker rejects, with confirms, to a
    /// queue that exists.
    pub(super) async fn dead_letters_by_itself(&self) -> bool {
        let spec = self.settings.queue_spec();
        if !spec.dead_letters_safely() {
            return false;
        }
        let depths = self.broker.depths(vec![spec.dead_letter_queue]).await;
        depths.is_ok_and(|found| found.iter().all(|(_, depth)| depth.is_some()))
    }

    /// Whether the queue is a retry queue outside of the schedule, which the worker declares when a
    /// message needs it first.
    fn is_first_use(&self, queue: &str) -> bool {
        let is_it = |rung: Rung| rung.queue == queue;
        self.ladder.all().any(is_it) && !self.ladder.rungs().any(is_it)
    }
}

/// The place of one retry that waits in the worker. Dropping it frees the place.
pub(super) struct InlinePlace<'a>(&'a AtomicUsize);

impl Drop for InlinePlace<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
