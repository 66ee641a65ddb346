//! The span of publishing a new message.

use opentelemetry::{
    Context, KeyValue, global,
    trace::{SpanBuilder, SpanKind, Status, TraceContextExt, Tracer},
};

use super::{
    catalogue::attributes::{DESTINATION, ERROR_TYPE, OPERATION, OPERATION_TYPE, SYSTEM},
    propagation::TextHeaders,
    spans::{ROUTING_KEY, server},
};
use crate::{
    broker::PublishError,
    flight::{SCOPE, inject},
    text::snake_case,
};

/// The span of publishing a new message. It creates the message's trace context.
pub(crate) struct PublishTrace(Context);

impl PublishTrace {
    /// Begins the span, and writes its context into the message's headers. `broker` has the host and
    /// port of the live connection.
    pub(crate) fn begin(
        broker: Option<(&str, u16)>,
        exchange: &str,
        routing_key: &str,
        message_id: &str,
        headers: &mut Vec<(String, String)>,
    ) -> Self {
        let parts = [exchange, routing_key].into_iter();
        let parts: Vec<_> = parts.filter(|part| !part.is_empty()).collect();
        let destination = match parts.is_empty() {
            true => "amq.default".to_owned(),
            false => parts.join(":"),
        };
        let name = format!("publish {destination}");
        let mut all = vec![
            KeyValue::new(SYSTEM, "rabbitmq"),
            KeyValue::new(OPERATION, "publish"),
            KeyValue::new(OPERATION_TYPE, "send"),
            KeyValue::new(DESTINATION, destination),
            KeyValue::new("messaging.message.id", message_id.to_owned()),
            KeyValue::new(ROUTING_KEY, routing_key.to_owned()),
        ];
        if let Some((host, port)) = broker {
            all.extend(server(host.to_owned(), port));
        }
        let builder = SpanBuilder::from_name(name)
            .with_kind(SpanKind::Producer)
            .with_attributes(all);
        let current = Context::current();
        let span = global::tracer(SCOPE).build_with_context(builder, &current);
        let context = current.with_span(span);
        if context.span().span_context().is_valid() {
            inject(&context, &mut TextHeaders(headers));
        }
        Self(context)
    }

    pub(crate) fn end(self, published: &Result<(), PublishError>) {
        let span = self.0.span();
        if let Err(error) = published {
            span.set_attribute(KeyValue::new(ERROR_TYPE, snake_case(error.class())));
            span.set_status(Status::error(error.to_string()));
        }
        span.end();
    }
}
