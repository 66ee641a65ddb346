//! The trace that an attempt belongs to.

use std::{future::poll_fn, pin::pin, time::SystemTime};

use opentelemetry::{
    Context, global,
    propagation::Injector,
    trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState},
};

/// The instrumentation scope of all spans and metrics.
pub(crate) const SCOPE: &str = "lapwing";

/// Writes a context into headers, in place of what they had.
pub(crate) fn inject(context: &Context, headers: &mut dyn Injector) {
    global::get_text_map_propagator(|propagator| propagator.inject_context(context, headers));
}

/// The trace of one attempt. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct AttemptTrace {
    /// The context of its `process` span, to be current while the handler runs and while its end is
    /// carried out.
    pub(crate) context: Context,
    /// When it ended; `None` while it runs.
    pub(crate) ended: Option<SystemTime>,
}

impl AttemptTrace {
    /// Its `process` span.
    pub(crate) fn span_context(&self) -> SpanContext {
        self.context.span().span_context().clone()
    }
}

/// Runs a future inside of a context, where there is one.
pub(crate) async fn within<F: Future>(context: Option<&Context>, future: F) -> F::Output {
    let mut future = pin!(future);
    poll_fn(|task| {
        let _current = context.map(|context| context.clone().attach());
        future.as_mut().poll(task)
    })
    .await
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
    // Versions to come may have more parts, version 00 has not; ff is none.
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
        // A version to come may add to what 00 has.
        let later = "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00-x";
        assert!(!parse_traceparent(later).unwrap().is_sampled());
    }
}
