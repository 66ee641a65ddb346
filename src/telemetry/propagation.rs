//! Trace context in message headers and HTTP headers: W3C `traceparent`, `tracestate`, `baggage`.

use opentelemetry::{
    Context, global,
    propagation::{Extractor, Injector},
    trace::{SpanContext, TraceContextExt},
};

use crate::broker::{
    HeaderValue, Properties,
    headers::names::{BAGGAGE, TRACEPARENT},
};

/// The trace context of a message; an empty context if the message has none.
pub(crate) fn extract(properties: &Properties) -> Context {
    let has = |name| properties.header(name).is_some();
    if !has(TRACEPARENT) && !has(BAGGAGE) {
        return Context::new();
    }
    global::get_text_map_propagator(|propagator| {
        propagator.extract_with_context(&Context::new(), &Carrier(properties))
    })
}

struct Carrier<'a>(&'a Properties);

impl Extractor for Carrier<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.header(key).and_then(HeaderValue::as_str)
    }

    fn keys(&self) -> Vec<&str> {
        self.0.headers().map(|(name, _)| name).collect()
    }
}

/// Writes trace context into the text headers of a new message.
pub(crate) struct TextHeaders<'a>(pub(crate) &'a mut Vec<(String, String)>);

impl Injector for TextHeaders<'_> {
    fn set(&mut self, key: &str, value: String) {
        self.0.retain(|(name, _)| name != key);
        self.0.push((key.to_owned(), value));
    }
}

/// A context with this span as the span of another process.
pub(crate) fn remote(span: SpanContext) -> Context {
    Context::new().with_remote_span_context(span)
}
