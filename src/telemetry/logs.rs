//! Log lines on standard error, with the ids of the trace they belong to.

mod dropped;
mod fields;

use std::{
    fmt,
    io::IsTerminal,
    sync::OnceLock,
    thread::{self, ThreadId},
};

use opentelemetry::{Context, trace::TraceContextExt};
use tracing::{Event, Subscriber};
use tracing_appender::non_blocking::NonBlocking;
use tracing_subscriber::{
    Layer,
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer, writer::MakeWriterExt},
    registry::LookupSpan,
};

use super::settings::LogFormat;
use dropped::SaysDropped;
pub(super) use dropped::lines_dropped;
use fields::Visible;

/// If set, only lines of this thread are written.
static LAST_WORD: OnceLock<ThreadId> = OnceLock::new();

/// From now on only lines of this thread are written.
pub(super) fn silence_others() {
    // Only the first thread to call this counts.
    let _ = LAST_WORD.set(thread::current().id());
}

/// Whether lines of this thread are written. The writer asks this for each line. A filter of the layer
/// would not do: `tracing` caches its answer.
fn is_written() -> bool {
    let last = LAST_WORD.get();
    last.is_none_or(|thread| *thread == thread::current().id())
}

/// The layer that writes lines.
pub(super) fn layer<S>(
    format: LogFormat,
    writer: NonBlocking,
) -> Box<dyn Layer<S> + Send + Sync + 'static>
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
{
    let writer = SaysDropped::new(writer, format);
    let layer = tracing_subscriber::fmt::layer().with_writer(writer.with_filter(|_| is_written()));
    match format {
        LogFormat::Json => {
            let layer = layer.json().flatten_event(true).with_current_span(false);
            let layer = layer.with_span_list(false);
            Box::new(layer.map_event_format(|inner| WithTrace { inner, format }))
        }
        LogFormat::Text => {
            let ansi = std::io::stderr().is_terminal();
            let layer = layer.with_ansi(ansi).with_target(false).fmt_fields(Visible);
            // `with_ansi` of the layer applies only to the layer's own writer. `WithTrace` formats into
            // a writer of its own, so the inner format needs the choice too.
            Box::new(layer.map_event_format(|inner| WithTrace {
                inner: inner.with_ansi(ansi),
                format,
            }))
        }
    }
}

/// Adds `trace_id` and `span_id` to lines that are written inside a span.
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

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Write},
        sync::{Arc, Mutex},
    };

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("no panic").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The lines that this writes.
    fn lines(format: LogFormat, write: impl FnOnce()) -> String {
        let written = Written::default();
        let (writer, guard) = tracing_appender::non_blocking(written.clone());
        let lines = tracing_subscriber::registry().with(layer(format, writer));
        tracing::subscriber::with_default(lines, write);
        drop(guard);
        String::from_utf8(written.0.lock().expect("no panic").clone()).expect("text")
    }

    #[test]
    fn text_of_others_stays_within_its_line() {
        let evil = "x\u{1b}[2J\nFAKE ERROR injected\r\n\0tail\u{202e}";
        for format in [LogFormat::Text, LogFormat::Json] {
            let lines = lines(format, || {
                tracing::warn!(error = %evil, plain = evil, debug = ?evil, "failed: {evil}");
            });
            assert_eq!(lines.lines().count(), 1, "{lines}");
            let is_hidden = |letter: &char| letter.is_control() && *letter != '\n';
            assert_eq!(lines.chars().filter(is_hidden).count(), 0, "{lines:?}");
        }
        let text = lines(
            LogFormat::Text,
            || tracing::warn!(error = %evil, n = 7, "failed"),
        );
        let expected = r"failed error=x\u{1b}[2J\nFAKE ERROR injected\r\n\u{0}tail\u{202e} n=7";
        assert!(text.trim_end().ends_with(expected), "{text}");
    }

    fn say(what: &str) {
        tracing::error!("{what}");
    }

    /// Silence is for the whole process, so this test has one of its own: others would write nothing.
    #[test]
    fn the_last_word_is_had_by_who_silenced_the_others() {
        const NAME: &str =
            "telemetry::logs::tests::the_last_word_is_had_by_who_silenced_the_others";
        const ALONE: &str = "LAPWING_TEST_ALONE";
        if std::env::var_os(ALONE).is_none() {
            let this = std::env::current_exe().expect("it runs");
            let mut alone = std::process::Command::new(this);
            let ended = alone.args(["--exact", NAME]).env(ALONE, "1").output();
            let ended = ended.expect("it starts");
            assert!(ended.status.success(), "{ended:?}");
            return;
        }
        let written = Written::default();
        let (writer, guard) = tracing_appender::non_blocking(written.clone());
        let lines = tracing_subscriber::registry().with(layer(LogFormat::Json, writer));
        let lines = tracing::Dispatch::new(lines);
        let elsewhere = |what: &'static str| {
            let lines = lines.clone();
            let thread = thread::spawn(move || {
                tracing::dispatcher::with_default(&lines, || say(what));
            });
            thread.join().expect("no panic");
        };
        elsewhere("heard");
        silence_others();
        elsewhere("not heard");
        tracing::dispatcher::with_default(&lines, || say("the ledger"));
        elsewhere("behind it");
        drop((lines, guard));
        let written = String::from_utf8(written.0.lock().expect("no panic").clone()).expect("text");
        let messages: Vec<serde_json::Value> = written
            .lines()
            .map(|line| {
                serde_json::from_str::<serde_json::Value>(line).expect("JSON")["message"].clone()
            })
            .collect();
        assert_eq!(messages, ["heard", "the ledger"], "{written}");
    }
}
