//! What happens to a lane's messages, told to whoever traces and measures.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use opentelemetry::{
    Context,
    global::{self, BoxedSpan},
    trace::{Span, SpanContext},
};
use tokio::time::Instant;

use super::{LaneMetrics, LaneTraces, Signals, attempt_ended, fail};
use crate::{
    broker::{HeaderValue, PublishError, headers::names},
    flight::{Flight, SCOPE},
    message::Message,
    outcome::Outcome,
};

/// See the module. Where nothing is traced or measured, nothing here costs.
#[derive(Default)]
pub(crate) struct LaneTelemetry {
    traces: Option<LaneTraces>,
    metrics: Option<LaneMetrics>,
}

/// A publish that is under way.
pub(crate) struct Publishing {
    started: Instant,
    span: Option<BoxedSpan>,
}

impl LaneTelemetry {
    pub(crate) fn new(
        signals: Signals,
        lane: &Arc<str>,
        queue: &Arc<str>,
        worker: &Arc<str>,
    ) -> Self {
        let traces = || {
            let (lane, queue, worker) = (Arc::clone(lane), Arc::clone(queue), Arc::clone(worker));
            LaneTraces::new(signals.parent, lane, queue, worker)
        };
        let metrics = || LaneMetrics::new(&global::meter(SCOPE), lane, queue);
        Self {
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

    /// An attempt begins. What is returned is to be current until its end is carried out.
    pub(crate) fn begin(&self, flight: &Flight) -> Option<Context> {
        self.traces.as_ref().map(|traces| traces.begin(flight))
    }

    /// An attempt has ended, after a handler run of this length where one ran.
    pub(crate) fn ended(&self, flight: &Flight, outcome: &Outcome, took: Option<Duration>) {
        if let (Some(metrics), Some(took)) = (&self.metrics, took) {
            metrics.ran(outcome, took);
        }
        if self.traces.is_some()
            && let Some(trace) = flight.attempt_trace()
        {
            attempt_ended(trace, flight, outcome);
        }
    }

    /// A copy is about to be published.
    pub(crate) fn publish(&self, to: &str, message: &Message) -> Publishing {
        let traces = self.traces.as_ref();
        Publishing {
            started: Instant::now(),
            span: traces.and_then(|traces| traces.publish(to, message)),
        }
    }

    /// A copy was published, or was not.
    pub(crate) fn published(
        &self,
        to: &str,
        publishing: Publishing,
        result: &Result<(), PublishError>,
    ) {
        let Publishing { started, span } = publishing;
        let error = result.as_ref().err();
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

    /// A message was handled and is to be acked.
    pub(crate) fn done(&self, message: &Message) {
        if let Some(metrics) = &self.metrics
            && let Some(published) = published_at(message)
        {
            metrics.done(published.elapsed().unwrap_or_default());
        }
    }

    /// Acks were written, or were not.
    pub(crate) fn acked(&self, took: Duration, written: bool) {
        if let Some(metrics) = &self.metrics {
            metrics.acked(took, written);
        }
    }
}

/// Attempts whose end the broker has yet to be told of, by delivery tag: those that are traced.
#[derive(Debug, Default)]
pub(crate) struct Untold(BTreeMap<u64, (SpanContext, SystemTime)>);

impl Untold {
    /// A path has ended.
    pub(crate) fn note(&mut self, telemetry: &LaneTelemetry, flight: &Flight) {
        if telemetry.traces.is_none() {
            return;
        }
        let span = flight.attempt_trace().map(|trace| trace.span_context());
        if let Some(span) = span.filter(SpanContext::is_sampled) {
            self.0.insert(flight.tag, (span, SystemTime::now()));
        }
    }

    /// The broker was told of these tags, and of all up to `through`; or could not be.
    pub(crate) fn told(
        &mut self,
        telemetry: &LaneTelemetry,
        operation: &'static str,
        through: Option<u64>,
        singles: &[u64],
        written: bool,
    ) {
        let Some(traces) = telemetry.traces.as_ref().filter(|_| !self.0.is_empty()) else {
            return;
        };
        let mut told = BTreeMap::new();
        if let Some(through) = through {
            let later = self.0.split_off(&(through + 1));
            told = std::mem::replace(&mut self.0, later);
        }
        for tag in singles {
            told.extend(self.0.remove(tag).map(|attempt| (*tag, attempt)));
        }
        for (tag, (span, since)) in told {
            traces.settled(operation, &span, tag, since, written);
        }
    }
}

/// When a message was published, where that is known: to the millisecond by RabbitMQ's header, to
/// the second by its property.
fn published_at(message: &Message) -> Option<SystemTime> {
    let millis = message
        .properties
        .header(names::TIMESTAMP_IN_MS)
        .and_then(HeaderValue::as_i64)
        .and_then(|millis| u64::try_from(millis).ok())
        .map(Duration::from_millis);
    let seconds = || message.properties.timestamp().map(Duration::from_secs);
    SystemTime::UNIX_EPOCH.checked_add(millis.or_else(seconds)?)
}
