//! What a handler is given beside its arguments.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
};

use tokio::sync::Notify;

use crate::{message::Message, run::Run, state::StateHandle};

/// One run of a handler: the message and what surrounds it. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    run: Arc<Run>,
}

impl Context {
    pub(crate) fn new(run: Arc<Run>) -> Self {
        Self { run }
    }

    /// The message.
    #[must_use]
    pub fn message(&self) -> &Message {
        &self.run.message
    }

    /// The number of this attempt: 1 the first time.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.run.attempt()
    }

    /// The lane's name.
    #[must_use]
    pub fn lane(&self) -> &str {
        &self.run.lane
    }

    /// The state actor that all handlers of the worker share.
    #[must_use]
    pub fn state(&self) -> &StateHandle {
        &self.run.shared.state
    }

    /// A value that was given to the worker by its type.
    pub(crate) fn extension<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        self.run.shared.extensions.get()
    }

    /// This run's cancellation. A handler that asks for it gets `cancel_grace` to end by itself
    /// when it is cancelled; one that does not is dropped at once.
    #[must_use]
    pub fn cancellation(&self) -> Cancellation {
        self.run.cancel.observed.store(true, Ordering::Relaxed);
        Cancellation {
            run: Arc::clone(&self.run),
            attempt: self.run.attempt(),
        }
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("lane", &self.lane())
            .field("message", &self.message().id())
            .field("attempt", &self.attempt())
            .finish()
    }
}

/// Why a run is cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum CancelReason {
    /// The lane's timeout has passed.
    Timeout,
    /// The worker's grace has ended.
    Drain,
    /// An operator asked for it.
    Operator,
}

/// Tells a handler that its run is to end: the worker waits `cancel_grace` for it, then drops it.
#[derive(Clone)]
pub struct Cancellation {
    run: Arc<Run>,
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
            let woken = self.run.cancel.wake.notified();
            if let Some(reason) = self.reason() {
                return reason;
            }
            woken.await;
        }
    }

    fn reason(&self) -> Option<CancelReason> {
        // Attempts that follow in the worker share the switch, which each begins anew; what a
        // handler left behind with this one's cancellation is not part of the next.
        match self.run.attempt() == self.attempt {
            true => self.run.cancel.reason(),
            false => Some(CancelReason::Timeout),
        }
    }
}

impl fmt::Debug for Cancellation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cancellation({:?})", self.reason())
    }
}

/// The switch behind [`Cancellation`].
#[derive(Debug, Default)]
pub(crate) struct Cancel {
    reason: AtomicU8,
    wake: Notify,
    observed: AtomicBool,
}

/// [`CancelReason::Timeout`] in the switch.
const TIMEOUT: u8 = 1;
/// [`CancelReason::Drain`].
const DRAIN: u8 = 2;
/// [`CancelReason::Operator`].
const OPERATOR: u8 = 3;

impl Cancel {
    /// An attempt begins. What was meant for the one before it, its timeout or an operator's wish,
    /// does not end it; a drain does.
    pub(crate) fn begin(&self) {
        self.observed.store(false, Ordering::Relaxed);
        self.replace(|before| (before != DRAIN).then_some(0));
    }

    /// Asks the run to end. The first reason stays, but for a drain: it is asked for once, and is
    /// for the attempts that follow as well.
    pub(crate) fn request(&self, reason: CancelReason) {
        let (number, replaces_all) = match reason {
            CancelReason::Timeout => (TIMEOUT, false),
            CancelReason::Drain => (DRAIN, true),
            CancelReason::Operator => (OPERATOR, false),
        };
        if self.replace(|before| (before == 0 || replaces_all).then_some(number)) {
            self.wake.notify_waiters();
        }
    }

    /// Whether there was something to replace.
    fn replace(&self, by: impl FnMut(u8) -> Option<u8>) -> bool {
        self.reason
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, by)
            .is_ok()
    }

    pub(crate) fn reason(&self) -> Option<CancelReason> {
        match self.reason.load(Ordering::Acquire) {
            0 => None,
            TIMEOUT => Some(CancelReason::Timeout),
            DRAIN => Some(CancelReason::Drain),
            _ => Some(CancelReason::Operator),
        }
    }

    /// Waits until someone asks.
    pub(crate) async fn requested(&self) -> CancelReason {
        loop {
            let woken = self.wake.notified();
            if let Some(reason) = self.reason() {
                return reason;
            }
            woken.await;
        }
    }

    /// Whether the handler asked for its cancellation, and so may be waited for.
    pub(crate) fn is_observed(&self) -> bool {
        self.observed.load(Ordering::Relaxed)
    }
}

/// Values given to the worker, by type.
#[derive(Clone, Default)]
pub(crate) struct Extensions(HashMap<TypeId, Arc<dyn Any + Send + Sync>>);

impl Extensions {
    pub(crate) fn insert<T: Send + Sync + 'static>(&mut self, value: T) {
        self.0.insert(TypeId::of::<T>(), Arc::new(value));
    }

    pub(crate) fn get<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        let value = self.0.get(&TypeId::of::<T>())?;
        Arc::clone(value).downcast().ok()
    }

    pub(crate) fn contains(&self, id: TypeId) -> bool {
        self.0.contains_key(&id)
    }
}

impl fmt::Debug for Extensions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Extensions({})", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_begins_anew_but_for_a_drain() {
        let cancel = Cancel::default();
        cancel.request(CancelReason::Operator);
        cancel.request(CancelReason::Timeout);
        assert_eq!(cancel.reason(), Some(CancelReason::Operator));
        cancel.begin();
        assert_eq!(cancel.reason(), None);

        cancel.request(CancelReason::Timeout);
        cancel.request(CancelReason::Drain);
        cancel.begin();
        assert_eq!(cancel.reason(), Some(CancelReason::Drain));
    }
}
