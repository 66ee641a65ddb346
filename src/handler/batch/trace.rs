//! The span of a call for several messages.

use opentelemetry::{
    Context as Trace, KeyValue, global,
    trace::{Link, SpanBuilder, SpanContext, SpanKind, Status, TraceContextExt, Tracer},
};

use crate::{
    flight::SCOPE,
    handler::Context,
    outcome::Failure,
    text::{cut, snake_case},
};

/// The most bytes of an error's text in a span's status.
const STATUS_ROOM: usize = 1024;

/// The span of a call, in the trace of the first of its messages that is sampled, with links to the
/// spans of the others. If the call is dropped, the span ends with the error `cancelled`.
pub(super) struct CallTrace(Option<Trace>);

impl CallTrace {
    /// Begins the span, if a message is sampled.
    pub(super) fn begin(messages: &[Context]) -> Self {
        let spans = messages.iter().filter_map(Context::attempt_span);
        let mut sampled = spans.filter(SpanContext::is_sampled);
        let Some(parent) = sampled.next() else {
            return Self(None);
        };
        let first = messages.first();
        let name = first.map_or("", |first| first.message().queue());
        let count = i64::try_from(messages.len()).unwrap_or(i64::MAX);
        let consumer = first.map_or("", Context::consumer).to_owned();
        let builder = SpanBuilder::from_name(format!("batch {name}"))
            .with_kind(SpanKind::Internal)
            .with_links(sampled.map(Link::with_context).collect())
            .with_attributes([
                KeyValue::new("messaging.system", "rabbitmq"),
                KeyValue::new("messaging.batch.message_count", count),
                KeyValue::new("lapwing.consumer", consumer),
            ]);
        let parent = Trace::new().with_remote_span_context(parent);
        let span = global::tracer(SCOPE).build_with_context(builder, &parent);
        Self(Some(parent.with_span(span)))
    }

    /// The context of the call.
    pub(super) fn context(&self) -> Option<&Trace> {
        self.0.as_ref()
    }

    /// The call has ended.
    pub(super) fn ended<T>(&mut self, called: &Result<T, Failure>) {
        let Some(context) = self.0.take() else {
            return;
        };
        let span = context.span();
        if let Err(failure) = called {
            let class = snake_case(&failure.class);
            span.set_attribute(KeyValue::new("error.type", class));
            span.set_status(Status::error(cut(&failure.error, STATUS_ROOM).to_owned()));
        }
        span.end();
    }
}

impl Drop for CallTrace {
    fn drop(&mut self) {
        if let Some(context) = self.0.take() {
            let span = context.span();
            span.set_attribute(KeyValue::new("error.type", "cancelled"));
            span.set_status(Status::error(""));
            span.end();
        }
    }
}
