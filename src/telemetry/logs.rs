//! Log lines on standard error, with the ids of the trace they belong to.

use std::{fmt, io::IsTerminal};

use opentelemetry::{Context, trace::TraceContextExt};
use tracing::{Event, Subscriber};
use tracing_appender::non_blocking::NonBlocking;
use tracing_subscriber::{
    Layer,
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

use crate::config::LogFormat;

/// The layer that writes lines.
pub(super) fn layer<S>(
    format: LogFormat,
    writer: NonBlocking,
) -> Box<dyn Layer<S> + Send + Sync + 'static>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    let layer = tracing_subscriber::fmt::layer().with_writer(writer);
    match format {
        LogFormat::Json => {
            let layer = layer.json().flatten_event(true).with_current_span(false);
            let layer = layer.with_span_list(false);
            Box::new(layer.map_event_format(|inner| WithTrace { inner, format }))
        }
        LogFormat::Text => {
            let ansi = std::io::stderr().is_terminal();
            let layer = layer.with_ansi(ansi).with_target(false);
            // The layer's choice reaches only the writer that it makes, not that of a line within.
            Box::new(layer.map_event_format(|inner| WithTrace {
                inner: inner.with_ansi(ansi),
                format,
            }))
        }
    }
}

/// Adds `trace_id` and `span_id` to the lines that are written inside of a span.
struct WithTrace<F> {
    inner: F,
    format: LogFormat,
}

impl<S, N, F> FormatEvent<S, N> for WithTrace<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let span = Context::map_current(|current| current.span().span_context().clone());
        if !span.is_valid() {
            return self.inner.format_event(context, writer, event);
        }
        let mut line = String::new();
        self.inner
            .format_event(context, Writer::new(&mut line), event)?;
        let (trace, span) = (span.trace_id(), span.span_id());
        match (self.format, line.trim_end().strip_suffix('}')) {
            (LogFormat::Json, Some(object)) => writeln!(
                writer,
                r#"{object},"trace_id":"{trace}","span_id":"{span}"}}"#
            ),
            _ => writeln!(
                writer,
                "{} trace_id={trace} span_id={span}",
                line.trim_end()
            ),
        }
    }
}
