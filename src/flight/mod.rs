//! One delivery's stay in the worker: what its path, its handler and its lane share.

mod cancel;
mod extensions;
mod slots;
mod trace;

pub(crate) use cancel::Cancel;
pub use cancel::CancelReason;
pub(crate) use extensions::Extensions;
pub(crate) use slots::Slots;
pub(crate) use trace::{AttemptTrace, SCOPE, inject, parse_traceparent, traceparent, within};

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

use crate::{
    broker::Moment,
    message::{self, Message, Past},
    state::StateHandle,
};

/// What all handlers of a worker share.
#[derive(Debug)]
pub(crate) struct SharedByHandlers {
    pub(crate) state: StateHandle,
    pub(crate) extensions: Extensions,
}

/// One delivery's stay in the worker.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) lane: Arc<str>,
    pub(crate) message: Message,
    pub(crate) shared: Arc<SharedByHandlers>,
    /// Tells the handler to end.
    pub(crate) cancel: Cancel,
    /// Its delivery tag.
    pub(crate) tag: u64,
    /// The session it came by.
    pub(crate) epoch: u64,
    pub(crate) received: Instant,
    /// When it was received, for headers and spans.
    received_at: SystemTime,
    permit: Permit,
    /// Set by whoever settles it: its own path, or the lane when its handler is stuck.
    claimed: AtomicBool,
    /// The attempt under way, or the last one.
    attempt: AtomicU32,
    /// When the handler was started, in microseconds since `received`, plus one; 0 when it is not
    /// running, [`WAITING`] while a retry waits here.
    handling_since: AtomicU64,
    /// How long the last handler run took, in microseconds plus one; 0 before the first has ended.
    handled: AtomicU64,
    /// What earlier attempts left behind: from the headers, and from attempts in this stay.
    story: Mutex<Option<Past>>,
    /// The trace of the attempt under way, or of the last one, where there are traces.
    trace: Mutex<Option<AttemptTrace>>,
}

/// In place of the time a handler was started: a retry waits in the worker.
const WAITING: u64 = u64::MAX;

/// Where a delivery stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Phase {
    /// It waits for a handler slot.
    Buffered,
    /// Its handler runs.
    Handling,
    /// It waits in the worker for its next attempt.
    Waiting,
    /// Its handler has ended; a retry or dead letter is being published, or the broker is about to
    /// be told.
    Settling,
}

/// A delivery's claim to a handler slot of its lane. The slot can be given back by another task than
/// the one that took it.
#[derive(Debug)]
pub(crate) struct Permit {
    slots: Arc<Slots>,
    held: AtomicBool,
}

impl Permit {
    /// Without a slot.
    pub(crate) fn new(slots: Arc<Slots>) -> Self {
        Self {
            slots,
            held: AtomicBool::new(false),
        }
    }

    /// A slot was taken for it.
    pub(crate) fn granted(&self) {
        self.held.store(true, Ordering::Release);
    }

    pub(crate) fn is_held(&self) -> bool {
        self.held.load(Ordering::Acquire)
    }

    /// Gives the slot back, if it is held.
    pub(crate) fn release(&self) {
        if self.held.swap(false, Ordering::AcqRel) {
            self.slots.give_back();
        }
    }

    /// Takes over the slot of another, if that holds one.
    pub(crate) fn take_over(&self, other: &Self) {
        let held = other.held.swap(false, Ordering::AcqRel);
        self.held.store(held, Ordering::Release);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.release();
    }
}

impl Run {
    pub(crate) fn new(
        lane: Arc<str>,
        message: Message,
        shared: Arc<SharedByHandlers>,
        (epoch, tag): (u64, u64),
        received: Moment,
        permit: Permit,
    ) -> Self {
        let attempt = message.past.attempts.saturating_add(1);
        Self {
            lane,
            message,
            shared,
            cancel: Cancel::default(),
            tag,
            epoch,
            received: received.instant,
            received_at: received.time,
            permit,
            claimed: AtomicBool::new(false),
            attempt: AtomicU32::new(attempt),
            handling_since: AtomicU64::new(0),
            handled: AtomicU64::new(0),
            story: Mutex::new(None),
            trace: Mutex::new(None),
        }
    }

    /// The number of the attempt under way: 1 the first time.
    pub(crate) fn attempt(&self) -> u32 {
        self.attempt.load(Ordering::Relaxed)
    }

    pub(crate) fn next_attempt(&self) {
        self.attempt.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether the caller is the one that settles; true once.
    pub(crate) fn claim(&self) -> bool {
        !self.claimed.swap(true, Ordering::AcqRel)
    }

    /// The path goes on to a further attempt.
    pub(crate) fn unclaim(&self) {
        self.claimed.store(false, Ordering::Release);
    }

    pub(crate) fn permit(&self) -> &Permit {
        &self.permit
    }

    /// The handler is started now.
    pub(crate) fn handler_started(&self) -> Instant {
        let micros = self.micros();
        self.handling_since.store(micros + 1, Ordering::Relaxed);
        self.received + Duration::from_micros(micros)
    }

    /// The handler has ended, or what waited for its next attempt waits no longer.
    pub(crate) fn handler_ended(&self) {
        if let Some(since) = self.started() {
            let took = self.micros().saturating_sub(since);
            self.handled.store(took + 1, Ordering::Relaxed);
        }
        self.handling_since.store(0, Ordering::Relaxed);
    }

    /// A retry begins its wait in the worker; it lasts until the handler is started again.
    pub(crate) fn wait_begins(&self) {
        self.handling_since.store(WAITING, Ordering::Relaxed);
    }

    /// Microseconds since it was received.
    fn micros(&self) -> u64 {
        const MOST: u64 = u64::MAX - 2;
        u64::try_from(self.received.elapsed().as_micros()).map_or(MOST, |micros| micros.min(MOST))
    }

    /// When the handler that runs was started.
    fn started(&self) -> Option<u64> {
        let since = self.handling_since.load(Ordering::Relaxed).checked_sub(1)?;
        (since != WAITING - 1).then_some(since)
    }

    /// How long the last handler run took; `None` before it has ended.
    pub(crate) fn handled_for(&self) -> Option<Duration> {
        let micros = self.handled.load(Ordering::Relaxed).checked_sub(1)?;
        Some(Duration::from_micros(micros))
    }

    /// Where it stands.
    pub(crate) fn phase(&self) -> Phase {
        match self.handling_since.load(Ordering::Relaxed) {
            WAITING => Phase::Waiting,
            _ if self.claimed.load(Ordering::Acquire) => Phase::Settling,
            // A task that has yet to be run is as good as buffered.
            0 => Phase::Buffered,
            _ => Phase::Handling,
        }
    }

    /// The id of the trace that the message belongs to, where it has one.
    pub(crate) fn trace_id(&self) -> Option<String> {
        if let Some(trace) = self.attempt_trace() {
            return Some(trace.span_context().trace_id().to_string());
        }
        message::trace_id(&self.message.properties)
    }

    /// How long the handler has been running; `None` when it is not.
    pub(crate) fn handling_for(&self) -> Option<Duration> {
        let since = self.received + Duration::from_micros(self.started()?);
        Some(since.elapsed())
    }

    /// When a worker first saw the message.
    pub(crate) fn first_seen(&self) -> SystemTime {
        self.message.past.first_seen.unwrap_or(self.received_at)
    }

    /// Time since a worker first saw the message.
    pub(crate) fn age(&self) -> Duration {
        self.first_seen().elapsed().unwrap_or_default()
    }

    /// What earlier attempts left behind, to be read or added to.
    pub(crate) fn story<T>(&self, with: impl FnOnce(&mut Past) -> T) -> T {
        let mut story = self.story.lock().unwrap_or_else(PoisonError::into_inner);
        with(story.get_or_insert_with(|| self.message.past.clone()))
    }

    /// The trace of the attempt under way, or of the last one.
    pub(crate) fn attempt_trace(&self) -> Option<AttemptTrace> {
        self.trace
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn set_attempt_trace(&self, trace: AttemptTrace) {
        *self.trace.lock().unwrap_or_else(PoisonError::into_inner) = Some(trace);
    }

    /// The span of the last attempt, as a header.
    pub(crate) fn attempt_traceparent(&self) -> Option<String> {
        let trace = self.attempt_trace()?;
        Some(traceparent(&trace.span_context()))
    }
}
