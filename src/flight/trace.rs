//! The trace that an attempt belongs to.

use std::{
    pin::Pin,
    task::{self, Poll},
    time::SystemTime,
};

use opentelemetry::{
    Context, global,
    propagation::Injector,
    trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState},
};

/// The instrumentation scope of all spans and metrics.
pub(crate) const SCOPE: &str = "lapwing";

/// Writes a context into headers, and replaces the context that they had.
pub(crate) fn inject(context: &Context, headers: &mut dyn Injector) {
    global::get_text_map_propagator(|propagator| propagator.inject_context(context, headers));
}

/// The trace of one attempt. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct AttemptTrace {
    /// The context of the attempt's `process` span. Keep it current while the handler runs and
    /// while the worker settles the outcome.
    pub(crate) context: Context,
    /// When the attempt ended; `None` while it runs.
    pub(crate) ended: Option<SystemTime>,
}

impl AttemptTrace {
    /// The attempt's `process` span.
    pub(crate) fn span_context(&self) -> SpanContext {
        self.context.span().span_context().clone()
    }
}

/// Runs a future with a context as the current one, if there is a context.
pub(crate) fn within<F: Future>(context: Option<&Context>, future: F) -> Within<'_, F> {
    Within { context, future }
}

pin_project_lite::pin_project! {
    /// The future of [`within`]. An async function would have room for the inner future twice, and
    /// would copy it: the path of each message runs two of them.
    pub(crate) struct Within<'a, F> {
        context: Option<&'a Context>,
        #[pin]
        future: F,
    }
}

impl<F: Future> Future for Within<'_, F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, task: &mut task::Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let _current = this.context.map(|context| context.clone().attach());
        this.future.poll(task)
    }
}

/// A span as a `traceparent` (W3C Trace Context, version 00).
pub(crate) fn traceparent(span: &SpanContext) -> String {
    let (trace, id, flags) = (span.trace_id(), span.span_id(), span.trace_flags().to_u8());
    format!("00-{trace}-{id}-{flags:02x}")
}

/// The span that a `traceparent` names.
pub(crate) fn parse_traceparent(text: &str) -> Option<SpanContext> {
    let mut parts = text.split('-');
    let (version, trace, id, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let is_hex = |text: &str, length| {
        text.len() == length && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    // Later versions may have more parts, but version 00 has exactly four. Version ff is invalid.
    if version == "00" && parts.next().is_some()
        || version == "ff"
        || !is_hex(version, 2)
        || !is_hex(trace, 32)
        || !is_hex(id, 16)
        || !is_hex(flags, 2)
    {
        return None;
    }
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
    let trace = TraceId::from_hex(trace).ok()?;
    let id = SpanId::from_hex(id).ok()?;
    let span = SpanContext::new(trace, id, flags, true, TraceState::default());
    span.is_valid().then_some(span)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceparent_is_read_as_it_was_written() {
        let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let span = parse_traceparent(text).unwrap();
        assert!(span.is_sampled() && span.is_remote());
        assert_eq!(traceparent(&span), text);
    }

    #[test]
    fn what_is_no_traceparent_is_no_span() {
        for text in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
            "\u{e9}0-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(parse_traceparent(text), None, "{text}");
        }
        // A later version may have more parts than version 00.
        let later = "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00-x";
        assert!(!parse_traceparent(later).unwrap().is_sampled());
    }
}
