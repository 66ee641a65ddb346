//! Traces, metrics and logs: the worker starts and flushes them here. [`catalogue`] lists every
//! instrument.

pub mod catalogue;
mod environment;
mod logs;
mod metrics;
mod observed;
mod otlp;
mod process;
mod propagation;
mod reported;
mod request;
mod settings;
mod spans;
mod watch;

use std::{
    sync::{Mutex, mpsc},
    time::{Duration, Instant},
};

use opentelemetry::{global, propagation::TextMapCompositePropagator};
use opentelemetry_appender_tracing::layer::OpenTelemetryTracingBridge;
use opentelemetry_sdk::error::{OTelSdkError, OTelSdkResult};
use prometheus::TextEncoder;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{
    EnvFilter, Layer, filter::filter_fn, layer::SubscriberExt, util::SubscriberInitExt,
};

pub(crate) use metrics::{ConsumerMetrics, drained};
pub(crate) use observed::{Observed, ObservedConsumer, observe};
pub(crate) use request::PublishTrace;
pub(crate) use spans::{ConsumerTraces, attempt_ended, fail};
pub(crate) use watch::{AckSpan, Watch};

pub use settings::{
    LogFormat, LogSettings, OtlpProtocol, TelemetrySettings, TelemetrySetup, TraceParent,
};

use crate::{
    broker::log::{LIBRARY, is_indiscreet, is_of_library},
    flight::SCOPE,
    lock::lock,
};
use environment::Plan;
use otlp::Providers;

/// Why telemetry could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TelemetryError {
    /// `log.filter` cannot be parsed.
    #[error("log.filter: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// The process already has a subscriber of `tracing`.
    #[error("logging: {0}")]
    Subscriber(#[from] tracing_subscriber::util::TryInitError),
    /// An exporter could not be built from `telemetry.endpoint` and the `OTEL_*` variables.
    #[error("telemetry.endpoint: {0}")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
    /// The registry behind `/metrics` could not be built.
    #[error("metrics: {0}")]
    Metrics(#[from] OTelSdkError),
    /// The exporters' thread could not be started.
    #[error("telemetry thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// The signals that a worker produces, through OpenTelemetry's global providers. None by default,
/// which costs nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signals {
    /// Whether each message gets spans.
    pub traces: bool,
    /// Whether the instruments of the [catalogue] are recorded.
    pub metrics: bool,
    /// How the span of an attempt relates to the span that created the message.
    pub parent: TraceParent,
}

/// Running telemetry. Call [`close`](Self::close) before the process ends: it flushes.
#[must_use = "logs stop when this is dropped"]
pub struct Telemetry {
    signals: Signals,
    providers: Providers,
    warnings: Vec<String>,
    /// The runtime of the gRPC exporters. It is their own, so no handler can block it.
    runtime: Option<tokio::runtime::Runtime>,
    /// Dropping it writes the last log lines.
    logs: Option<WorkerGuard>,
    /// The same for the records of changes over the API, which have a writer of their own.
    records: Mutex<Option<WorkerGuard>>,
}

/// Starts telemetry for the whole process: log lines on standard error, and the exports that
/// `[telemetry]` and the `OTEL_*` variables ask for. If `[admin]` serves `/metrics`, this also starts
/// the registry behind [`Scrape`].
///
/// A separate thread writes the log lines, so a slow reader of standard error does not slow the worker
/// down. If 128,000 lines are not yet written, new lines are dropped, counted, and the log says how many.
/// Records of changes over the API are never dropped. Exporters also have their own
/// threads, with bounded queues: if the collector is slow or down, only telemetry is lost.
///
/// # Errors
/// If the filter or an endpoint cannot be parsed, or if logging was started before.
pub fn start(setup: impl Into<TelemetrySetup>) -> Result<Telemetry, TelemetryError> {
    let setup = setup.into();
    let mut telemetry = export(&setup, setup.is_scraped)?;
    let (logs, records) = subscribe(&setup.log, &telemetry.providers)?;
    telemetry.logs = Some(logs);
    *lock(&telemetry.records) = Some(records);
    for warning in &telemetry.warnings {
        tracing::warn!("{warning}");
    }
    Ok(telemetry)
}

/// Starts the exports that `[telemetry]` and the `OTEL_*` variables ask for, as [`start`] does, but
/// writes and exports no log lines. For a command that prints messages for its user.
///
/// # Errors
/// If an endpoint cannot be parsed.
pub fn start_quietly(setup: impl Into<TelemetrySetup>) -> Result<Telemetry, TelemetryError> {
    export(&setup.into(), false)
}

fn export(setup: &TelemetrySetup, is_scraped: bool) -> Result<Telemetry, TelemetryError> {
    let plan = Plan::new(&setup.telemetry, &|name| std::env::var(name).ok());
    let exports = [&plan.traces, &plan.metrics, &plan.logs];
    let runtime = match exports.into_iter().any(Option::is_some) {
        true => Some(exporter_runtime()?),
        false => None,
    };
    let resource = otlp::resource(&plan, &setup.worker);
    let entered = runtime.as_ref().map(tokio::runtime::Runtime::enter);
    let providers = Providers::start(&plan, &resource, setup.consumers, is_scraped)?;
    drop(entered);
    global::set_text_map_propagator(TextMapCompositePropagator::new(otlp::propagators(&plan)));
    if let Some(traces) = &providers.traces {
        global::set_tracer_provider(traces.clone());
    }
    if let Some(metrics) = &providers.metrics {
        global::set_meter_provider(metrics.clone());
    }
    let signals = Signals {
        traces: providers.traces.is_some(),
        metrics: providers.metrics.is_some(),
        parent: setup.telemetry.parent,
    };
    Ok(Telemetry {
        signals,
        providers,
        runtime,
        warnings: plan.warnings,
        logs: None,
        records: Mutex::default(),
    })
}

fn exporter_runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("lapwing-otlp")
        .enable_all()
        .build()
}

/// Installs the subscriber that receives log lines, and spans that handlers create.
fn subscribe(
    settings: &LogSettings,
    providers: &Providers,
) -> Result<(WorkerGuard, WorkerGuard), TelemetryError> {
    let filter = EnvFilter::try_new(&settings.filter)?;
    let filter = match settings.filter.contains(AUDIT) {
        true => filter,
        false => filter.add_directive(format!("{AUDIT}=info").parse()?),
    };
    let wants_library = settings.filter.contains(LIBRARY);
    let (writer, logs) = NonBlockingBuilder::default()
        .lossy(true)
        .thread_name("lapwing-log")
        .finish(std::io::stderr());
    // A change waits for its record. There are few changes: only who has the token makes one.
    let (records, audit) = NonBlockingBuilder::default()
        .lossy(false)
        .buffered_lines_limit(1024)
        .thread_name("lapwing-audit")
        .finish(std::io::stderr());
    let is_audit = |line: &tracing::Metadata<'_>| line.target() == AUDIT;
    // Do not export what exporters log: exporting a line would produce more lines without end.
    let exported = || filter_fn(|line| !is_exporters(line.target()));
    let bridge = providers.logs.as_ref();
    let bridge = bridge.map(|logs| OpenTelemetryTracingBridge::new(logs).with_filter(exported()));
    let spans = providers.traces.as_ref().map(|_| {
        tracing_opentelemetry::layer()
            .with_tracer(global_tracer(providers))
            .with_filter(filter_fn(|span| is_of_handlers(span.target())))
    });
    tracing_subscriber::registry()
        .with(filter)
        .with(filter_fn(|line| !is_indiscreet(line)))
        .with(filter_fn(move |line| {
            wants_library || !is_of_library(line.target())
        }))
        .with(
            logs::layer(settings.format, writer)
                .with_filter(filter_fn(move |line| is_shown(line) && !is_audit(line))),
        )
        .with(logs::layer(settings.format, records).with_filter(filter_fn(is_audit)))
        .with(bridge)
        .with(spans)
        .try_init()?;
    Ok((logs, audit))
}

/// The target of the lines that record changes over the API.
pub(crate) const AUDIT: &str = "lapwing::audit";

/// The tracer for spans that handlers create with `tracing`.
fn global_tracer(providers: &Providers) -> opentelemetry_sdk::trace::SdkTracer {
    use opentelemetry::trace::TracerProvider;
    let provider = providers.traces.clone().unwrap_or_default();
    provider.tracer(SCOPE)
}

/// Whether a line or span comes from the exporters of telemetry.
fn is_exporters(target: &str) -> bool {
    const THEIRS: [&str; 6] = ["h2", "hyper", "hyper_util", "reqwest", "tonic", "tower"];
    let name = target.split("::").next().unwrap_or_default();
    THEIRS.contains(&name) || name.starts_with("opentelemetry")
}

/// Whether a span comes from a handler. The spans of the AMQP library are about frames, not messages.
fn is_of_handlers(target: &str) -> bool {
    !is_exporters(target) && !is_of_library(target)
}

/// Whether a line is written: of the exporters' lines only warnings and errors, without those about a
/// single export that failed, of which [`reported`] tells.
fn is_shown(line: &tracing::Metadata<'_>) -> bool {
    let is_failed_export = || {
        ["Export", "HttpClient"]
            .iter()
            .any(|word| line.name().contains(word))
    };
    !line.target().starts_with("opentelemetry")
        || (*line.level() <= tracing::Level::WARN && !is_failed_export())
}

/// Renders the text of `/metrics`. Cheap to clone.
#[derive(Clone)]
pub struct Scrape(Option<prometheus::Registry>);

impl Scrape {
    /// All instruments in Prometheus' text format; empty if `[admin]` serves no `/metrics`.
    #[must_use]
    pub fn text(&self) -> String {
        let Some(registry) = &self.0 else {
            return String::new();
        };
        let mut text = process::text();
        // The encoder fails only for a family without metrics, and the registry has none.
        if let Err(error) = TextEncoder::new().encode_utf8(&registry.gather(), &mut text) {
            tracing::warn!(%error, "failed to render metrics");
        }
        text
    }
}

impl Telemetry {
    /// The signals for [`Worker::observe`](crate::Worker::observe).
    #[must_use]
    pub fn signals(&self) -> Signals {
        self.signals
    }

    /// The renderer of `/metrics`.
    #[must_use]
    pub fn scrape(&self) -> Scrape {
        Scrape(self.providers.registry.clone())
    }

    /// Exports the remaining traces and metrics, until `until` at the latest. Telemetry that is not
    /// exported by then is lost, so the exit is not delayed further.
    pub fn flush(&mut self, until: Instant) {
        let limit = until.saturating_duration_since(Instant::now());
        let mut exports: Vec<Job> = Vec::new();
        if let Some(traces) = self.providers.traces.take() {
            exports.push(Box::new(move || {
                told("traces", &traces.shutdown_with_timeout(limit))
            }));
        }
        if let Some(metrics) = self.providers.metrics.take() {
            exports.push(Box::new(move || {
                told("metrics", &metrics.shutdown_with_timeout(limit))
            }));
        }
        for failed in together(exports, until) {
            tracing::warn!(failed, "failed to flush telemetry; some may be missing");
        }
    }

    /// From now on only lines of this thread are written, so that its last line is the last of the
    /// log. Otherwise the AMQP library could log a connection that did not close in order, and an exporter its
    /// end, at any time.
    ///
    /// Records of changes over the API have a writer of their own: this waits until they are written, or for a
    /// moment if nobody reads standard error.
    pub fn silence_others(&self) {
        logs::silence_others();
        let records = lock(&self.records).take();
        let write: Job = Box::new(move || {
            drop(records);
            String::new()
        });
        together(vec![write], Instant::now() + RECORDS);
    }

    /// Exports and writes the last log lines, until `until` at the latest.
    pub fn close(mut self, until: Instant) {
        self.flush(until);
        self.silence_others();
        if let Some(logs) = self.providers.logs {
            let limit = until.saturating_duration_since(Instant::now());
            together(
                vec![Box::new(move || {
                    told("logs", &logs.shutdown_with_timeout(limit))
                })],
                until,
            );
        }
        // Dropping the guard waits for the writing thread, which hangs if nobody reads standard
        // error.
        if let Some(lines) = self.logs {
            let write: Job = Box::new(move || {
                drop(lines);
                String::new()
            });
            // Even if the time is up, the writer gets a moment for the last lines.
            together(vec![write], until.max(Instant::now() + LAST_LINES));
        }
        if let Some(runtime) = self.runtime {
            runtime.shutdown_background();
        }
    }
}

fn told(signal: &str, result: &OTelSdkResult) -> String {
    match result {
        Ok(()) => String::new(),
        Err(error) => format!("{signal}: {error}"),
    }
}

/// Work that may hang. Returns an error text, or an empty text on success.
type Job = Box<dyn FnOnce() -> String + Send>;

/// The time for the last log lines at exit if the exporters have used up `until`.
const LAST_LINES: Duration = Duration::from_millis(100);
/// How long the last records may take. Nobody reads standard error if they take longer.
const RECORDS: Duration = Duration::from_secs(1);

/// Runs each job on its own thread, because a job may hang, and waits for them until `until`.
/// Returns the error texts.
fn together(all: Vec<Job>, until: Instant) -> Vec<String> {
    let (sender, said) = mpsc::channel();
    let mut left = all.len();
    for one in all {
        let sender = sender.clone();
        std::thread::spawn(move || {
            // The receiver is gone if the time was up.
            let _ = sender.send(one());
        });
    }
    drop(sender);
    let mut told = Vec::new();
    while left > 0 {
        let wait = until.saturating_duration_since(Instant::now());
        match said.recv_timeout(wait) {
            Ok(text) => told.push(text),
            Err(_) => {
                told.push("not done in time".to_owned());
                break;
            }
        }
        left -= 1;
    }
    told.retain(|text| !text.is_empty());
    told
}
