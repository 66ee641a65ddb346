//! One delivery's stay in the worker: what its path, its handler and its lane share.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::{sync::Semaphore, time::Instant};

use crate::{
    handler::{Cancel, Extensions},
    message::{Message, Past},
    state::StateHandle,
    telemetry::{AttemptTrace, traceparent},
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
    pub(crate) received_at: SystemTime,
    permit: Permit,
    /// Set by whoever settles it: its own path, or the lane when its handler is stuck.
    claimed: AtomicBool,
    /// The attempt under way, or the last one.
    attempt: AtomicU32,
    /// When the handler was started, in microseconds since `received`, plus one; 0 when it is not
    /// running.
    handling_since: AtomicU64,
    /// What earlier attempts left behind: from the headers, and from attempts in this stay.
    story: Mutex<Option<Past>>,
    /// The trace of the attempt under way, or of the last one, where there are traces.
    trace: Mutex<Option<AttemptTrace>>,
}

/// A handler slot: one permit of the lane's semaphore, which can be given back by another task
/// than the one that took it.
#[derive(Debug)]
pub(crate) struct Permit {
    semaphore: Arc<Semaphore>,
    held: AtomicBool,
}

impl Permit {
    /// A permit that was taken from the semaphore (and forgotten).
    pub(crate) fn taken(semaphore: Arc<Semaphore>) -> Self {
        Self {
            semaphore,
            held: AtomicBool::new(true),
        }
    }

    /// Gives the slot back, if it is held.
    pub(crate) fn release(&self) {
        if self.held.swap(false, Ordering::AcqRel) {
            self.semaphore.add_permits(1);
        }
    }

    /// Waits for a slot again.
    pub(crate) async fn retake(&self) {
        // Lanes never close their semaphore.
        if let Ok(permit) = self.semaphore.acquire().await {
            permit.forget();
            self.held.store(true, Ordering::Release);
        }
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
            received: Instant::now(),
            received_at: SystemTime::now(),
            permit,
            claimed: AtomicBool::new(false),
            attempt: AtomicU32::new(attempt),
            handling_since: AtomicU64::new(0),
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

    pub(crate) fn handler_started(&self) {
        let micros = u64::try_from(self.received.elapsed().as_micros()).unwrap_or(u64::MAX - 1);
        self.handling_since.store(micros + 1, Ordering::Relaxed);
    }

    pub(crate) fn handler_ended(&self) {
        self.handling_since.store(0, Ordering::Relaxed);
    }

    /// How long the handler has been running; `None` when it is not.
    pub(crate) fn handling_for(&self) -> Option<Duration> {
        let since = self.handling_since.load(Ordering::Relaxed).checked_sub(1)?;
        let since = self.received + Duration::from_micros(since);
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
