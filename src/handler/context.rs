//! The context of a handler's run, and its cancellation.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
};

use opentelemetry::trace::SpanContext;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    decode::Seen,
    flight::{AttemptTrace, CancelReason, Flight, Outbox},
    message::Message,
    state::StateHandle,
};

/// The context of one run of a handler: the message, the attempt, the worker's shared values. Cheap to
/// clone.
#[derive(Clone)]
pub struct Context {
    flight: Arc<Flight>,
    seen: Seen,
}

impl Context {
    pub(crate) fn new(flight: Arc<Flight>, seen: Seen) -> Self {
        Self { flight, seen }
    }

    /// The message.
    #[must_use]
    pub fn message(&self) -> &Message {
        self.seen.message.as_deref().unwrap_or(&self.flight.message)
    }

    /// The number of this attempt: 1 the first time.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.flight.attempt()
    }

    /// The consumer's name.
    #[must_use]
    pub fn consumer(&self) -> &str {
        &self.flight.consumer
    }

    /// A handle to the state actor, which all handlers of the worker share.
    #[must_use]
    pub fn state(&self) -> &StateHandle {
        &self.flight.resources.state
    }

    /// Whether the worker has checked that the body is JSON, because the settings say so or the
    /// content type.
    pub(crate) fn is_checked_json(&self) -> bool {
        self.seen.is_json
    }

    /// Whether the message is a CloudEvent, by the settings. Its attributes are headers.
    pub(crate) fn is_event(&self) -> bool {
        self.seen.is_event
    }

    /// What the handler wants published once it has succeeded.
    pub(crate) fn outbox(&self) -> &Outbox {
        &self.flight.outbox
    }

    /// This run ends without asking the service behind the handler.
    pub(super) fn asks_nothing(&self) {
        self.flight.asks_nothing();
    }

    /// When the worker ends this run. `None`: no limit is known.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.flight.deadline()
    }

    /// Cancelled when the worker begins to drain.
    pub(super) fn drain(&self) -> CancellationToken {
        self.flight.resources.drain.clone()
    }

    /// The place of the delivery among others of its consumer.
    pub(super) fn delivered(&self) -> (Instant, u64) {
        (self.flight.received, self.flight.tag())
    }

    /// Whether so many messages, this one included, hold all slots of the consumer.
    pub(super) fn holds_all_slots_with(&self, messages: usize) -> bool {
        self.flight.slot.are_all_held_by(messages)
    }

    /// A call was made for so many messages. It is counted with this one.
    pub(super) fn count_batch(&self, messages: usize) {
        let messages = u32::try_from(messages).unwrap_or(u32::MAX);
        self.flight.count_batch(messages);
    }

    /// The trace of this attempt, if it is traced.
    pub(super) fn attempt_trace(&self) -> Option<AttemptTrace> {
        self.flight.attempt_trace()
    }

    /// The span of this attempt, if it is traced.
    pub(super) fn attempt_span(&self) -> Option<SpanContext> {
        self.attempt_trace().map(|trace| trace.span_context())
    }

    /// A shared value of the worker, by its type.
    pub(crate) fn extension<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        self.flight.resources.extensions.get()
    }

    /// The cancellation of this run. A handler that calls this gets `cancel_grace` to end by itself
    /// when it is cancelled. A handler that does not call it is dropped at once.
    #[must_use]
    pub fn cancellation(&self) -> Cancellation {
        self.flight.cancel.observed.store(true, Ordering::Relaxed);
        Cancellation {
            flight: Arc::clone(&self.flight),
            attempt: self.flight.attempt(),
        }
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("consumer", &self.consumer())
            .field("message", &self.message().id())
            .field("attempt", &self.attempt())
            .finish()
    }
}

/// Tells a handler that its run is cancelled. The worker then waits `cancel_grace` for the handler to
/// end, and drops it after that.
#[derive(Clone)]
pub struct Cancellation {
    flight: Arc<Flight>,
    attempt: u32,
}

impl Cancellation {
    /// Whether the run is cancelled.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.reason().is_some()
    }

    /// Waits until the run is cancelled.
    pub async fn cancelled(&self) -> CancelReason {
        loop {
            let woken = self.flight.cancel.wake.notified();
            if let Some(reason) = self.reason() {
                return reason;
            }
            woken.await;
        }
    }

    fn reason(&self) -> Option<CancelReason> {
        // All attempts of a delivery share one `Cancel`, which is reset for each attempt. A task left
        // over from an earlier attempt must not take the next attempt for its own, so its
        // cancellation reports a timeout.
        match self.flight.attempt() == self.attempt {
            true => self.flight.cancel.reason(),
            false => Some(CancelReason::Timeout),
        }
    }
}

impl fmt::Debug for Cancellation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cancellation({:?})", self.reason())
    }
}
