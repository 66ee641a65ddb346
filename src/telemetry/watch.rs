//! The observer of a consumer. Each step of a delivery's path makes one call here, and the observer
//! counts, measures, traces and logs that step.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use opentelemetry::{
    Context,
    global::{self, BoxedSpan},
    trace::{Span, SpanContext},
};
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use super::{ConsumerMetrics, ConsumerTraces, SCOPE, Signals, attempt_ended, fail};
use crate::{
    broker::PublishError,
    clock,
    flight::{CancelReason, Flight},
    message::Message,
    outcome::{Ending, Failure},
    policy::{Reason, Settlement},
    status::Figures,
};

/// Observes a consumer. The figures are always kept; traces and metrics only if they are on.
pub(crate) struct Watch {
    pub(crate) figures: Arc<Figures>,
    traces: Option<ConsumerTraces>,
    metrics: Option<ConsumerMetrics>,
}

/// A running publish.
pub(crate) struct Publishing {
    started: Instant,
    span: Option<BoxedSpan>,
}

/// A traced attempt whose delivery is not settled yet. The span of its ack or nack is made when the
/// frame is written.
#[derive(Debug, PartialEq)]
pub(crate) struct AckSpan {
    attempt: SpanContext,
    tag: u64,
    since: SystemTime,
}

#[cfg(test)]
impl AckSpan {
    /// A span that differs from those of other tags.
    pub(crate) fn of_tag(tag: u64) -> Box<Self> {
        Box::new(Self {
            attempt: SpanContext::empty_context(),
            tag,
            since: SystemTime::UNIX_EPOCH,
        })
    }
}

impl Watch {
    pub(crate) fn new(
        figures: Arc<Figures>,
        signals: Signals,
        consumer: &Arc<str>,
        queue: &Arc<str>,
        worker: &Arc<str>,
    ) -> Self {
        let traces = || {
            let (consumer, queue, worker) =
                (Arc::clone(consumer), Arc::clone(queue), Arc::clone(worker));
            ConsumerTraces::new(signals.parent, consumer, queue, worker)
        };
        let metrics = || ConsumerMetrics::new(&global::meter(SCOPE), consumer, queue);
        Self {
            figures,
            traces: signals.traces.then(traces),
            metrics: signals.metrics.then(metrics),
        }
    }

    /// A session has begun with the broker at this address.
    pub(crate) fn connected_to(&self, host: &str, port: u16) {
        if let Some(traces) = &self.traces {
            traces.connected_to((host.into(), port));
        }
    }

    /// The consumer has subscribed.
    pub(crate) fn subscribed(&self, consumer: &str) {
        info!(consumer, queue = self.figures.settings.queue, "consuming");
        self.figures.counters.sessions.add_one();
    }

    /// A message has arrived: notes when it was published, from which the age of the messages behind it
    /// follows. False if the message tells nothing of this, because it has been in the queue before.
    pub(crate) fn arrived(&self, message: &Message) -> bool {
        if !message.is_first_delivery() {
            return false;
        }
        // A message with a priority goes ahead of older ones.
        let is_ahead = message
            .properties
            .priority()
            .is_some_and(|priority| priority > 0);
        if let Some(published) = message.published_at().filter(|_| !is_ahead) {
            self.figures.looks.published(published);
        }
        true
    }

    /// An attempt begins. Keep the returned context attached until the delivery has been settled or
    /// its retry has been arranged.
    pub(crate) fn attempt_began(&self, flight: &Flight) -> Option<Context> {
        self.traces.as_ref().map(|traces| traces.begin(flight))
    }

    /// An attempt has ended.
    pub(crate) fn attempt_ended(&self, flight: &Flight, ending: &Ending) {
        let took = flight.handled_for();
        self.figures.attempt_ended(ending.kind(), took);
        self.figures.attempt_of_route_ended(flight, ending.kind());
        if let (Some(metrics), Some(took)) = (&self.metrics, took) {
            metrics.ran(ending, took);
        }
        if let (Some(metrics), Some(messages)) = (&self.metrics, flight.take_batch()) {
            metrics.called(messages);
        }
        if self.traces.is_some()
            && let Some(trace) = flight.attempt_trace()
        {
            attempt_ended(trace, flight, ending);
        }
    }

    /// The worker cancelled the handler, and returns the message. The attempt is not counted.
    pub(crate) fn interrupted(&self, flight: &Flight) {
        let (consumer, id, attempt) = (&flight.consumer, flight.message.id(), flight.attempt());
        let (ran, queue) = (flight.handled_for(), &self.figures.settings.queue);
        if flight.cancel.reason() != Some(CancelReason::Drain) {
            info!(%consumer, id, attempt, ?ran, queue, "handler cancelled by an operator, message returned to its queue");
            return;
        }
        self.figures.counters.cut_off.add_one();
        warn!(%consumer, id, attempt, ?ran, queue, "handler cancelled at drain.grace, message returned to its queue");
    }

    /// The handler did not end within `cancel_grace` of its cancellation.
    pub(crate) fn ignored_cancellation(&self, flight: &Flight) {
        self.figures.counters.handler_stuck.add_one();
        warn!(consumer = %flight.consumer, id = flight.message.id(), "handler ignored its cancellation and was dropped");
    }

    /// The handler blocks its thread. The consumer settles the message without it.
    pub(crate) fn blocks_its_thread(&self, flight: &Flight) {
        self.figures.counters.handler_stuck.add_one();
        error!(consumer = %flight.consumer, id = flight.message.id(), "handler blocks its thread: the consumer settles the message without it");
    }

    /// A path has ended too late: its delivery was already settled, or its channel had closed.
    pub(crate) fn stale_end(&self) {
        self.figures.counters.stale_settles.add_one();
    }

    /// The policy has decided what follows an attempt.
    pub(crate) fn settled(&self, flight: &Flight, ending: &Ending, settlement: &Settlement) {
        self.figures.note(flight, ending, settlement);
        if *settlement != Settlement::Ack {
            return;
        }
        debug!(consumer = %flight.consumer, id = flight.message.id(), attempt = flight.attempt(), outcome = ending.kind().name(), "message acked");
        if let Some(metrics) = &self.metrics
            && let Some(published) = flight.message.published_at()
        {
            metrics.done(published.elapsed().unwrap_or_default());
        }
    }

    /// An attempt failed, and the next one runs after this time.
    pub(crate) fn failed(
        &self,
        flight: &Flight,
        failure: &Failure,
        after: Duration,
        charged: bool,
    ) {
        info!(
            consumer = %flight.consumer, id = flight.message.id(), attempt = flight.attempt(),
            class = %failure.class, status = failure.status, error = %failure.error,
            retry_in = ?after, charged, "attempt failed",
        );
    }

    /// A retry backs off in the worker.
    pub(crate) fn waits_inline(&self) {
        self.figures.counters.inline_retries.add_one();
    }

    /// The broker confirmed a copy in this retry queue.
    pub(crate) fn parked(&self, flight: &Flight, rung: &str, delay: Duration) {
        self.figures.parked(rung);
        info!(consumer = %flight.consumer, id = flight.message.id(), attempt = flight.attempt(), ?delay, retry_queue = rung, "message parked for retry");
    }

    /// The broker confirmed a copy in the dead-letter queue.
    pub(crate) fn dead_lettered(
        &self,
        flight: &Flight,
        failure: &Failure,
        reason: Reason,
        queue: &str,
    ) {
        self.figures.dead_lettered(reason);
        warn!(
            consumer = %flight.consumer, id = flight.message.id(), attempt = flight.attempt(), %reason,
            class = %failure.class, status = failure.status, error = %failure.error,
            queue, "message dead-lettered",
        );
    }

    /// The publish of a copy begins.
    pub(crate) fn publishing(&self, to: &str, message: &Message) -> Publishing {
        let traces = self.traces.as_ref();
        Publishing {
            started: Instant::now(),
            span: traces.and_then(|traces| traces.publish(to, message)),
        }
    }

    /// The publish of a copy has ended.
    pub(crate) fn published(
        &self,
        to: &str,
        publishing: Publishing,
        result: &Result<(), PublishError>,
    ) {
        let Publishing { started, span } = publishing;
        let error = result.as_ref().err();
        if error.is_some() {
            self.figures.counters.publish_failures.add_one();
        }
        if let Some(metrics) = &self.metrics {
            metrics.published(to, started.elapsed(), error.map(PublishError::class));
        }
        if let Some(mut span) = span {
            if let Some(error) = error {
                fail(&mut span, error.class(), &error.to_string());
            }
            span.end();
        }
    }

    /// The broker did not confirm a copy. The worker publishes it again after `retry_in`.
    pub(crate) fn not_confirmed(
        &self,
        flight: &Flight,
        queue: &str,
        error: &PublishError,
        retry_in: Duration,
    ) {
        debug!(consumer = %flight.consumer, id = flight.message.id(), queue, %error, ?retry_in, "copy not confirmed");
    }

    /// The broker did not confirm a copy, and the drain does not wait any longer.
    pub(crate) fn gave_up(&self, flight: &Flight, queue: &str, error: &PublishError) {
        warn!(consumer = %flight.consumer, id = flight.message.id(), queue, %error, "copy not confirmed in the drain: the message goes back to its queue");
    }

    /// The broker does not confirm the copy of a message that goes back near its delivery limit.
    pub(crate) fn waits_at_limit(&self, flight: &Flight, error: &PublishError) {
        warn!(consumer = %flight.consumer, id = flight.message.id(), queue = %self.figures.settings.queue, %error, "a message goes back to its queue as a copy, which the broker does not confirm: the worker holds the original until it does");
    }

    /// A drain returns a message whose copy is not confirmed. `spare`: the broker keeps it this time.
    pub(crate) fn returned_at_limit(&self, flight: &Flight, spare: bool) {
        let (consumer, id) = (&flight.consumer, flight.message.id());
        let queue = &self.figures.settings.queue;
        match spare {
            true => {
                warn!(%consumer, id, queue, "copy not confirmed in the drain: the message is returned by a nack");
            }
            false => {
                error!(%consumer, id, queue, "copy not confirmed in the drain: the message is returned at the delivery limit of its queue, and the broker dead-letters it, or drops it where the queue has no dead-letter exchange");
            }
        }
    }

    /// The broker refuses each copy of this message. The worker rejects the message, and the broker
    /// dead-letters it.
    pub(crate) fn rejected(&self, flight: &Flight, queue: &str, error: &PublishError) {
        error!(consumer = %flight.consumer, id = flight.message.id(), queue, %error, "the broker refuses each copy of this message: rejected, so that the broker dead-letters it without a record");
    }

    /// The broker has delivered a message again whose first run is still on its path: the message does
    /// not run a second time.
    pub(crate) fn resettled(&self, flight: &Flight) {
        info!(consumer = %flight.consumer, id = flight.message.id(), "message delivered again while its first run goes on: waiting for that run");
    }

    /// Acks were written, or writing them failed.
    pub(crate) fn acks_written(&self, took: Duration, written: bool) {
        if let Some(metrics) = &self.metrics {
            metrics.acked(took, written);
        }
    }

    /// Begins the span of a delivery's ack or nack, if its attempt is traced.
    pub(crate) fn ack_span(&self, flight: &Flight) -> Option<Box<AckSpan>> {
        self.traces.as_ref()?;
        let attempt = flight.attempt_trace()?.span_context();
        let span = |attempt| AckSpan {
            attempt,
            tag: flight.tag(),
            since: clock::now(),
        };
        attempt.is_sampled().then(|| Box::new(span(attempt)))
    }

    /// The ack or nack of a delivery was written, or writing it failed. Ends its span, if it has one.
    pub(crate) fn told_broker(
        &self,
        operation: &'static str,
        span: Option<Box<AckSpan>>,
        written: bool,
    ) {
        if let (Some(traces), Some(span)) = (&self.traces, span) {
            let AckSpan {
                attempt,
                tag,
                since,
            } = *span;
            traces.settled(operation, &attempt, tag, since, written);
        }
    }
}
