//! Logs, and what is counted.

mod counters;
mod durations;

use std::{io::IsTerminal, sync::mpsc, time::Duration};

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    EnvFilter, filter::filter_fn, layer::SubscriberExt, util::SubscriberInitExt,
};

pub(crate) use counters::Counters;
pub use counters::Counts;
pub(crate) use durations::{Added, Durations, Tally};

use crate::config::{LogFormat, LogSettings};

/// Why logging could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TelemetryError {
    /// The filter cannot be read.
    #[error("log.filter: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// The process has a subscriber already.
    #[error("logging: {0}")]
    Subscriber(#[from] tracing_subscriber::util::TryInitError),
}

/// Running telemetry; to be flushed before the process ends.
#[must_use = "logs stop when this is dropped"]
#[derive(Debug)]
pub struct Telemetry {
    logs: WorkerGuard,
}

/// Starts logging to standard error, for the whole process. Lines are written by a thread of their
/// own: whoever reads them slowly, or not at all, does not hold up the worker. Past 128,000
/// unwritten lines new ones are dropped.
///
/// # Errors
/// When the filter cannot be read, or logging was started before.
pub fn start(settings: &LogSettings) -> Result<Telemetry, TelemetryError> {
    let filter = EnvFilter::try_new(&settings.filter)?;
    let registry = tracing_subscriber::registry()
        .with(filter)
        .with(filter_fn(|line| !prints_frames(line)));
    let (writer, logs) = NonBlockingBuilder::default()
        .lossy(true)
        .thread_name("lapwing-log")
        .finish(std::io::stderr());
    let layer = tracing_subscriber::fmt::layer().with_writer(writer);
    match settings.format {
        LogFormat::Json => {
            let layer = layer.json().flatten_event(true).with_current_span(false);
            registry.with(layer.with_span_list(false)).try_init()?;
        }
        LogFormat::Text => {
            let layer = layer.with_ansi(std::io::stderr().is_terminal());
            registry.with(layer.with_target(false)).try_init()?;
        }
    }
    Ok(Telemetry { logs })
}

/// At level `trace` lapin prints every frame, and so the password.
fn prints_frames(line: &tracing::Metadata<'_>) -> bool {
    let of_lapin = ["lapin", "amq_protocol"]
        .iter()
        .any(|name| line.target().starts_with(name));
    of_lapin && *line.level() == tracing::Level::TRACE
}

impl Telemetry {
    /// Writes out what is left, within `limit`.
    pub fn flush(self, limit: Duration) {
        let (sender, flushed) = mpsc::channel::<()>();
        // Dropping the guard waits for the writer, which may hang on its reader.
        std::thread::spawn(move || {
            drop(self.logs);
            drop(sender);
        });
        // The end of the wait is all there is to know: the channel is closed, or the time is up.
        let _ = flushed.recv_timeout(limit);
    }
}
