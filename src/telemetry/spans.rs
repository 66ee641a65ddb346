//! The spans of a message, after OpenTelemetry's conventions for messaging (v1.44).
//!
//! ```text
//! publish orders                    PRODUCER  `lapwing publish`, or any publisher
//! └─ process orders                 CONSUMER  an attempt: one run of the handler
//!    ├─ buffer orders               INTERNAL  the wait for a handler slot, before the run
//!    ├─ POST                        CLIENT    the request of the HTTP handler
//!    ├─ batch orders                INTERNAL  a call for several messages, linked to their attempts
//!    ├─ publish orders.retry.4s     CLIENT    the publish of the copy, until its confirm
//!    ├─ ack orders                  CLIENT    from the end of the attempt until the ack is written
//!    └─ wait orders                 INTERNAL  the wait for the next attempt
//! ```
//!
//! The next attempt is a sibling, linked to this one. If the message came without a trace, the next
//! attempt is a child of this one. An attempt that is not sampled has only its ids: neither attributes
//! nor the spans below it are made.

use std::{
    borrow::Cow,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use opentelemetry::{
    Context, KeyValue, Value,
    baggage::{BaggageExt, KeyValueMetadata},
    global::{self, BoxedSpan, BoxedTracer},
    trace::{Link, Span, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt, Tracer},
};

use super::{
    TraceParent,
    catalogue::attributes::{DESTINATION, ERROR_TYPE, OPERATION, OPERATION_TYPE, SYSTEM},
    propagation::{extract, remote},
};
use crate::{
    broker::{HeaderValue, headers::names},
    clock,
    flight::{AttemptTrace, Flight, SCOPE, parse_traceparent},
    lock::lock,
    message::Message,
    outcome::Ending,
    text::snake_case,
};

/// The name of the consumer.
const CONSUMER: &str = "lapwing.consumer";
/// The outcome of a handler run.
const OUTCOME: &str = "lapwing.outcome";
/// The time from the publish of a message until this delivery of it, in seconds.
const AGE: &str = "lapwing.message.age";

/// A shorter wait for a handler slot gets no span.
const WORTH_A_SPAN: Duration = Duration::from_millis(1);
/// The most bytes of an error's text in a span's status.
const STATUS_ROOM: usize = 1024;

pub(crate) const ROUTING_KEY: &str = "messaging.rabbitmq.destination.routing_key";

/// Makes the spans of one consumer's messages.
pub(crate) struct ConsumerTraces {
    tracer: BoxedTracer,
    parent: TraceParent,
    consumer: Arc<str>,
    queue: Arc<str>,
    worker: Arc<str>,
    /// The broker's address in the current session.
    server: Mutex<Option<(Arc<str>, u16)>>,
}

impl ConsumerTraces {
    pub(crate) fn new(
        parent: TraceParent,
        consumer: Arc<str>,
        queue: Arc<str>,
        worker: Arc<str>,
    ) -> Self {
        Self {
            tracer: global::tracer(SCOPE),
            parent,
            consumer,
            queue,
            worker,
            server: Mutex::new(None),
        }
    }

    /// A session has begun with the broker at this address.
    pub(crate) fn connected_to(&self, server: (Arc<str>, u16)) {
        *lock(&self.server) = Some(server);
    }

    fn name(&self, operation: &str) -> String {
        format!("{operation} {}", self.queue)
    }

    fn internal(&self, operation: &str, parent: &Context, from: SystemTime, to: SystemTime) {
        let span = SpanBuilder::from_name(self.name(operation))
            .with_kind(SpanKind::Internal)
            .with_start_time(from);
        let mut span = self.tracer.build_with_context(span, parent);
        span.set_attribute(KeyValue::new(CONSUMER, Arc::clone(&self.consumer)));
        span.end_with_timestamp(to.max(from));
    }

    /// Begins an attempt: starts its `process` span, and makes the spans of the waits before it.
    pub(crate) fn begin(&self, flight: &Flight) -> Context {
        let created = extract(&flight.message.properties);
        let before = flight.attempt_trace();
        let last = match &before {
            Some(before) => Some(before.span_context()),
            None => header(&flight.message, names::LAST_ATTEMPT).and_then(parse_traceparent),
        };
        let creation = created.span().span_context().clone();
        let parent = match self.parent {
            // Of a message that came without a trace all attempts are one trace too.
            TraceParent::Child if !creation.is_valid() => match &last {
                Some(last) => created.with_remote_span_context(last.clone()),
                None => created,
            },
            TraceParent::Child => created,
            TraceParent::Link => {
                let baggage = created.baggage().iter();
                let baggage = baggage.map(|(key, (value, metadata))| {
                    KeyValueMetadata::new(key.clone(), value.clone(), metadata.clone())
                });
                Context::new().with_baggage(baggage)
            }
        };
        // No link to the span's own parent: Jaeger then draws the span as one that follows from it.
        let above = parent.span().span_context().span_id();
        let links = [Some(creation), last.clone()].into_iter().flatten();
        let links: Vec<_> = links
            .filter(|span| span.is_valid() && span.span_id() != above)
            .map(Link::with_context)
            .collect();
        let mut builder = SpanBuilder::from_name(Cow::Borrowed("process"));
        builder.span_kind = Some(SpanKind::Consumer);
        if !links.is_empty() {
            builder = builder.with_links(links);
        }
        let mut span = self.tracer.build_with_context(builder, &parent);
        let recording = span.is_recording();
        if recording {
            span.update_name(self.name("process"));
            self.describe(&mut span, flight);
        }
        let context = parent.with_span(span);
        if recording {
            self.trace_waits(flight, before, last, &context);
        }
        flight.set_attempt_trace(AttemptTrace {
            context: context.clone(),
            ended: None,
        });
        context
    }

    fn describe(&self, span: &mut BoxedSpan, flight: &Flight) {
        let message = &flight.message;
        let mut all = vec![
            KeyValue::new(SYSTEM, "rabbitmq"),
            KeyValue::new(OPERATION, "process"),
            KeyValue::new(OPERATION_TYPE, "process"),
            KeyValue::new(DESTINATION, destination(message)),
            KeyValue::new("messaging.destination.template", Arc::clone(&self.queue)),
            KeyValue::new("messaging.client.id", Arc::clone(&self.worker)),
            KeyValue::new(
                "messaging.rabbitmq.message.delivery_tag",
                i64::try_from(flight.tag()).unwrap_or(i64::MAX),
            ),
            KeyValue::new(CONSUMER, Arc::clone(&self.consumer)),
            KeyValue::new("lapwing.attempt", i64::from(flight.attempt())),
        ];
        let mut text = |key: &'static str, value: Option<&str>| {
            let value = value.filter(|value| !value.is_empty());
            all.extend(value.map(|value| KeyValue::new(key, value.to_owned())));
        };
        text(ROUTING_KEY, Some(message.routing_key()));
        text("messaging.message.id", message.id());
        text(
            "messaging.message.conversation_id",
            message.properties.correlation_id(),
        );
        // Publisher and worker may have different clocks.
        let received = clock::now() - flight.received.elapsed();
        let age = message
            .published_at()
            .and_then(|at| received.duration_since(at).ok());
        all.extend(age.map(|age| KeyValue::new(AGE, age.as_secs_f64())));
        self.add_server(&mut all);
        span.set_attributes(all);
    }

    fn add_server(&self, all: &mut Vec<KeyValue>) {
        if let Some((host, port)) = &*lock(&self.server) {
            all.extend(server(Arc::clone(host), *port));
        }
    }

    /// Makes the spans of the waits before this attempt: in the buffer, or between two attempts.
    fn trace_waits(
        &self,
        flight: &Flight,
        before: Option<AttemptTrace>,
        last: Option<SpanContext>,
        process: &Context,
    ) {
        let now = clock::now();
        let received = now - flight.received.elapsed();
        match (before, last) {
            // The last attempt ran in this worker, for the same delivery: the retry waited here.
            (Some(before), _) => {
                let since = before.ended.unwrap_or(now);
                self.internal("wait", &before.context, since, now);
                return;
            }
            (None, Some(last)) => {
                let parked = header(&flight.message, names::PARKED_AT);
                let parked = parked.and_then(|text| humantime::parse_rfc3339(text).ok());
                if let Some(parked) = parked.filter(|parked| *parked <= received) {
                    self.internal("wait", &remote(last), parked, received);
                }
            }
            (None, None) => {}
        }
        if now.duration_since(received).unwrap_or_default() >= WORTH_A_SPAN {
            self.internal("buffer", process, received, now);
        }
    }

    /// Begins the span of publishing a copy, as a child of the current span.
    pub(crate) fn publish(&self, to: &str, message: &Message) -> Option<BoxedSpan> {
        let mut span = self.client_span("publish", "send", to)?;
        // Copies go to their queue through the default exchange.
        span.set_attribute(KeyValue::new(ROUTING_KEY, to.to_owned()));
        if let Some(id) = message.id() {
            span.set_attribute(KeyValue::new("messaging.message.id", id.to_owned()));
        }
        Some(span)
    }

    fn client_span(
        &self,
        operation: &'static str,
        kind: &'static str,
        to: &str,
    ) -> Option<BoxedSpan> {
        // Ask whether the attempt is sampled, not whether it records: its span has already ended.
        let current = Context::current();
        if !current.span().span_context().is_sampled() {
            return None;
        }
        let mut all = vec![
            KeyValue::new(SYSTEM, "rabbitmq"),
            KeyValue::new(OPERATION, operation),
            KeyValue::new(OPERATION_TYPE, kind),
            KeyValue::new(DESTINATION, to.to_owned()),
            KeyValue::new("messaging.client.id", Arc::clone(&self.worker)),
        ];
        self.add_server(&mut all);
        let builder = SpanBuilder::from_name(format!("{operation} {to}"))
            .with_kind(SpanKind::Client)
            .with_attributes(all);
        Some(self.tracer.build_with_context(builder, &current))
    }

    /// Makes the span of an ack or a nack, from `since` to now.
    pub(crate) fn settled(
        &self,
        operation: &'static str,
        attempt: &SpanContext,
        tag: u64,
        since: SystemTime,
        written: bool,
    ) {
        if !attempt.is_sampled() {
            return;
        }
        let mut all = vec![
            KeyValue::new(SYSTEM, "rabbitmq"),
            KeyValue::new(OPERATION, operation),
            KeyValue::new(OPERATION_TYPE, "settle"),
            KeyValue::new(DESTINATION, Arc::clone(&self.queue)),
            KeyValue::new("messaging.client.id", Arc::clone(&self.worker)),
            KeyValue::new(
                "messaging.rabbitmq.message.delivery_tag",
                i64::try_from(tag).unwrap_or(i64::MAX),
            ),
        ];
        self.add_server(&mut all);
        let builder = SpanBuilder::from_name(self.name(operation))
            .with_kind(SpanKind::Client)
            .with_start_time(since)
            .with_attributes(all);
        let parent = remote(attempt.clone());
        let mut span = self.tracer.build_with_context(builder, &parent);
        if !written {
            fail(&mut span, "not_written", "the channel died");
        }
        span.end();
    }
}

/// The handler has ended: ends the attempt's `process` span.
pub(crate) fn attempt_ended(mut trace: AttemptTrace, flight: &Flight, ending: &Ending) {
    {
        let span = trace.context.span();
        if span.is_recording() {
            span.set_attribute(KeyValue::new(OUTCOME, snake_case(ending.kind().name())));
            if let Some(class) = ending.error_class() {
                span.set_attribute(KeyValue::new(ERROR_TYPE, snake_case(&class)));
            }
            if let Some(failure) = ending.failure() {
                let text = crate::text::cut(&failure.error, STATUS_ROOM).to_owned();
                span.set_status(Status::error(text));
            }
        }
        span.end();
    }
    trace.ended = Some(clock::now());
    flight.set_attempt_trace(trace);
}

/// The attributes for the server to which a span's operation talks.
pub(crate) fn server(host: impl Into<Value>, port: u16) -> [KeyValue; 2] {
    [
        KeyValue::new("server.address", host),
        KeyValue::new("server.port", i64::from(port)),
    ]
}

/// Marks a span as failed.
pub(crate) fn fail(span: &mut impl Span, class: &'static str, text: &str) {
    span.set_attribute(KeyValue::new(ERROR_TYPE, snake_case(class)));
    span.set_status(Status::error(text.to_owned()));
}

/// `messaging.destination.name` of a delivery: `{exchange}:{routing key}:{queue}`, without the empty
/// parts, and without the queue if it equals the routing key.
fn destination(message: &Message) -> String {
    let queue = Some(message.queue()).filter(|queue| *queue != message.routing_key());
    let parts = [Some(message.exchange()), Some(message.routing_key()), queue];
    let parts: Vec<_> = parts
        .into_iter()
        .flatten()
        .filter(|part| !part.is_empty())
        .collect();
    parts.join(":")
}

fn header<'a>(message: &'a Message, name: &str) -> Option<&'a str> {
    message
        .properties
        .header(name)
        .and_then(HeaderValue::as_str)
}
