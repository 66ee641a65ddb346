//! A flight: one delivery inside the worker, which its path, its handler and its lane share.

mod cancel;
mod extensions;
mod outbox;
mod phase;
mod session_id;
mod slots;
mod trace;

pub(crate) use cancel::Cancel;
pub use cancel::CancelReason;
pub(crate) use extensions::Extensions;
pub(crate) use outbox::{HandlerResult, Outbox};
pub use phase::Phase;
pub(crate) use session_id::{CurrentSession, SessionId};
pub(crate) use slots::{Slot, SlotPlace, Slots};
pub(crate) use trace::{AttemptTrace, SCOPE, inject, parse_traceparent, traceparent, within};

use std::{
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    broker::{Moment, Properties},
    clock,
    lock::lock,
    message::{self, Message, Past},
    state::StateHandle,
};
use phase::SharedPhase;
use session_id::Place;

/// The state handle and the extensions that all handlers of a worker share.
#[derive(Debug)]
pub(crate) struct Resources {
    pub(crate) state: StateHandle,
    pub(crate) extensions: Extensions,
    /// Cancelled when a drain begins.
    pub(crate) drain: CancellationToken,
}

/// One delivery inside the worker, from its arrival to its settlement.
#[derive(Debug)]
pub(crate) struct Flight {
    pub(crate) consumer: Arc<str>,
    pub(crate) message: Message,
    pub(crate) resources: Arc<Resources>,
    /// Tells the handler to end.
    pub(crate) cancel: Cancel,
    place: Place,
    /// The properties of the last delivery, with the broker's counts, if the message was delivered again.
    redelivered: Mutex<Option<Box<Properties>>>,
    pub(crate) received: Instant,
    /// `received` as wall-clock time, for headers and spans.
    received_at: SystemTime,
    /// The number of the route of the message, once it is known. `None` inside: no route takes it.
    pub(crate) route: OnceLock<Option<usize>>,
    /// What the handler wants published once it has succeeded.
    pub(crate) outbox: Outbox,
    /// The slot that the handler holds.
    pub(crate) slot: SlotPlace,
    phase: SharedPhase,
    /// The decision about the message waits, because the broker does not take its copy.
    kept: AtomicBool,
    /// An attempt of this flight has had an outcome.
    has_outcome: AtomicBool,
    /// The attempt has ended without asking the service behind the handler.
    unasked: AtomicBool,
    /// The attempt under way, or the last one.
    attempt: AtomicU32,
    /// When the handler was last started, in microseconds since `received`.
    started: AtomicU64,
    /// How long the last handler run took, in microseconds; 0 before the first has ended.
    handled: AtomicU64,
    /// The time for the run under way, in microseconds; 0: no limit is known.
    limit: AtomicU64,
    /// The messages of a call that is counted with this flight; 0: none.
    batch: AtomicU32,
    /// The record of earlier attempts: from the message's headers, and from attempts of this
    /// flight.
    story: Mutex<Option<Past>>,
    /// The trace of the attempt under way or of the last one, if the attempt is traced.
    trace: Mutex<Option<AttemptTrace>>,
}

impl Flight {
    pub(crate) fn new(
        consumer: Arc<str>,
        message: Message,
        resources: Arc<Resources>,
        session: SessionId,
        tag: u64,
        received: Moment,
    ) -> Self {
        let attempt = message.past.attempts.saturating_add(1);
        Self {
            consumer,
            message,
            resources,
            cancel: Cancel::default(),
            place: Place::new(session, tag),
            redelivered: Mutex::new(None),
            received: received.instant,
            received_at: received.time,
            route: OnceLock::new(),
            outbox: Outbox::default(),
            slot: SlotPlace::default(),
            phase: SharedPhase::buffered(),
            kept: AtomicBool::new(false),
            has_outcome: AtomicBool::new(false),
            unasked: AtomicBool::new(false),
            attempt: AtomicU32::new(attempt),
            started: AtomicU64::new(0),
            handled: AtomicU64::new(0),
            limit: AtomicU64::new(0),
            batch: AtomicU32::new(0),
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

    /// The session in which the delivery can be settled.
    pub(crate) fn session(&self) -> SessionId {
        self.place.session()
    }

    /// The delivery tag in that session.
    pub(crate) fn tag(&self) -> u64 {
        self.place.tag()
    }

    /// The lane: the broker has delivered the message again, and the flight settles that delivery.
    pub(crate) fn move_to(&self, session: SessionId, tag: u64, properties: Properties) {
        *lock(&self.redelivered) = Some(Box::new(properties));
        self.place.set(session, tag);
    }

    /// Reads the properties of the last delivery: they have the broker's counts of deliveries.
    pub(crate) fn last_properties<T>(&self, read: impl FnOnce(&Properties) -> T) -> T {
        let last = lock(&self.redelivered);
        read(last.as_deref().unwrap_or(&self.message.properties))
    }

    /// The delivery's phase.
    pub(crate) fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// The path claims the delivery, and settles it. False: the lane has claimed it before.
    pub(crate) fn claim(&self) -> bool {
        self.phase.claim()
    }

    /// The lane claims the delivery of a stuck handler, and settles it. False: no handler runs.
    pub(crate) fn claim_from_handler(&self) -> bool {
        let claimed = self.phase.claim_from_handler();
        if claimed {
            self.handler_ended();
        }
        claimed
    }

    /// The path has claimed the delivery, and now waits in the worker for the next attempt.
    pub(crate) fn wait(&self) {
        self.phase.wait();
    }

    pub(crate) fn set_kept(&self, kept: bool) {
        self.kept.store(kept, Ordering::Relaxed);
    }

    /// Whether the decision about the message waits, because the broker does not take its copy.
    pub(crate) fn is_kept(&self) -> bool {
        self.kept.load(Ordering::Relaxed)
    }

    /// Whether an attempt of a canary has had an outcome, which is reported.
    pub(crate) fn has_outcome(&self) -> bool {
        self.has_outcome.load(Ordering::Relaxed)
    }

    /// The attempt ends without asking the service behind the handler: the inbox knows the message.
    pub(crate) fn asks_nothing(&self) {
        self.unasked.store(true, Ordering::Relaxed);
    }

    /// Whether the attempt that has ended [asked nothing](Self::asks_nothing). Only the first look says
    /// so.
    pub(crate) fn has_asked_nothing(&self) -> bool {
        self.unasked.load(Ordering::Relaxed) && self.unasked.swap(false, Ordering::Relaxed)
    }

    /// An attempt has had an outcome: whether it is the first one of this flight.
    pub(crate) fn is_first_outcome(&self) -> bool {
        !self.has_outcome.swap(true, Ordering::Relaxed)
    }

    /// The handler starts now, and may run for this long.
    pub(crate) fn handler_started(&self, limit: Duration) -> Instant {
        let micros = self.micros();
        let limit = u64::try_from(limit.as_micros()).unwrap_or(u64::MAX);
        self.limit.store(limit, Ordering::Relaxed);
        self.started.store(micros, Ordering::Relaxed);
        self.phase.handle();
        self.received + Duration::from_micros(micros)
    }

    /// The handler has ended. A run of less than a microsecond counts as one microsecond.
    pub(crate) fn handler_ended(&self) {
        let took = self.micros().saturating_sub(self.started());
        self.handled.store(took.max(1), Ordering::Relaxed);
    }

    /// Microseconds since `received`.
    fn micros(&self) -> u64 {
        u64::try_from(self.received.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// When the handler was last started.
    pub(crate) fn started_at(&self) -> Instant {
        self.received + Duration::from_micros(self.started())
    }

    /// When the worker ends the run under way. `None`: no limit is known.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let limit = self.limit.load(Ordering::Relaxed);
        let started = self.started_at();
        started
            .checked_add(Duration::from_micros(limit))
            .filter(|_| limit > 0)
    }

    /// A call with this many messages was made, and is counted when this flight's attempt ends.
    pub(crate) fn count_batch(&self, messages: u32) {
        self.batch.store(messages, Ordering::Relaxed);
    }

    /// The messages of the call to count, if there is one. It is counted once.
    pub(crate) fn take_batch(&self) -> Option<u32> {
        match self.batch.load(Ordering::Relaxed) {
            0 => None,
            _ => Some(self.batch.swap(0, Ordering::Relaxed)).filter(|count| *count > 0),
        }
    }

    fn started(&self) -> u64 {
        self.started.load(Ordering::Relaxed)
    }

    /// How long the last handler run took; `None` before the first has ended.
    pub(crate) fn handled_for(&self) -> Option<Duration> {
        let micros = self.handled.load(Ordering::Relaxed);
        (micros > 0).then(|| Duration::from_micros(micros))
    }

    /// How long the handler has been running; `None` while no handler runs.
    pub(crate) fn handling_for(&self) -> Option<Duration> {
        let running = self.phase() == Phase::Handling;
        running.then(|| Duration::from_micros(self.micros().saturating_sub(self.started())))
    }

    /// The id of the trace that the message belongs to, if there is one.
    pub(crate) fn trace_id(&self) -> Option<String> {
        if let Some(trace) = self.attempt_trace() {
            return Some(trace.span_context().trace_id().to_string());
        }
        message::trace_id(&self.message.properties)
    }

    /// When a worker first saw the message.
    pub(crate) fn first_seen(&self) -> SystemTime {
        self.message.past.first_seen.unwrap_or(self.received_at)
    }

    /// The [age](Self::age) at a time that was read before: reading a clock costs time.
    pub(crate) fn age_at(&self, now: Instant) -> Duration {
        let here = now.saturating_duration_since(self.received);
        let since = self.message.due_since(self.first_seen());
        match self.received_at.duration_since(since) {
            Ok(before) => before + here,
            // The message is not due yet.
            Err(early) => here.saturating_sub(early.duration()),
        }
    }

    /// When the worker received the delivery.
    pub(crate) fn received_at(&self) -> SystemTime {
        self.received_at
    }

    /// How long the message was at the broker before its delivery: since it was parked, or since it was
    /// published if this is its first delivery. `None`: the message does not say so.
    pub(crate) fn queued(&self) -> Option<Duration> {
        let message = &self.message;
        let is_first = message.is_first_delivery();
        let published = || message.published_at().filter(|_| is_first);
        let since = message.past.parked_at.or_else(published)?;
        Some(self.received_at.duration_since(since).unwrap_or_default())
    }

    /// Time since a worker first saw the message, or since the message was due if that was later.
    pub(crate) fn age(&self) -> Duration {
        clock::now()
            .duration_since(self.message.due_since(self.first_seen()))
            .unwrap_or_default()
    }

    /// Reads the record of earlier attempts, or adds to it.
    pub(crate) fn story<T>(&self, with: impl FnOnce(&mut Past) -> T) -> T {
        let mut story = lock(&self.story);
        with(story.get_or_insert_with(|| self.message.past.clone()))
    }

    /// The trace of the attempt under way or of the last one.
    pub(crate) fn attempt_trace(&self) -> Option<AttemptTrace> {
        lock(&self.trace).clone()
    }

    pub(crate) fn set_attempt_trace(&self, trace: AttemptTrace) {
        *lock(&self.trace) = Some(trace);
    }

    /// The span of the last attempt, as a `traceparent` header.
    pub(crate) fn attempt_traceparent(&self) -> Option<String> {
        let trace = self.attempt_trace()?;
        Some(traceparent(&trace.span_context()))
    }
}
