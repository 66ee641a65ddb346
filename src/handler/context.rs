//! What a handler is given beside its arguments.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
};

use crate::{
    flight::{CancelReason, Flight},
    message::Message,
    state::StateHandle,
};

/// One run of a handler: the message and what surrounds it. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    flight: Arc<Flight>,
}

impl Context {
    pub(crate) fn new(flight: Arc<Flight>) -> Self {
        Self { flight }
    }

    /// The message.
    #[must_use]
    pub fn message(&self) -> &Message {
        &self.flight.message
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

    /// The state actor that all handlers of the worker share.
    #[must_use]
    pub fn state(&self) -> &StateHandle {
        &self.flight.resources.state
    }

    /// A value that was given to the worker by its type.
    pub(crate) fn extension<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        self.flight.resources.extensions.get()
    }

    /// This run's cancellation. A handler that asks for it gets `cancel_grace` to end by itself
    /// when it is cancelled; one that does not is dropped at once.
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

/// Tells a handler that its run is to end: the worker waits `cancel_grace` for it, then drops it.
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
        // Attempts that follow in the worker share the switch, which each begins anew; what a
        // handler left behind with this one's cancellation is not part of the next.
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
