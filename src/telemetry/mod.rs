//! Traces, metrics and logs: starting them, flushing them, and the one catalogue of what is
//! measured.

pub mod catalogue;
mod environment;
mod logs;
mod metrics;
mod observed;
mod otlp;
mod propagation;
mod request;
mod settings;
mod spans;
mod watch;

use std::{
    sync::mpsc,
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

use crate::flight::SCOPE;
use environment::Plan;
use otlp::Providers;

/// Why telemetry could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TelemetryError {
    /// The filter cannot be read.
    #[error("log.filter: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// The process has a subscriber already.
    #[error("logging: {0}")]
    Subscriber(#[from] tracing_subscriber::util::TryInitError),
    /// An exporter could not be made from `telemetry.endpoint` and the `OTEL_*` variables.
    #[error("telemetry.endpoint: {0}")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
    /// What `/metrics` reads could not be made.
    #[error("metrics: {0}")]
    Metrics(#[from] OTelSdkError),
    /// The exporters' thread could not be started.
    #[error("telemetry thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// What a worker traces and measures, by OpenTelemetry's global providers. Nothing by default,
/// which costs nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Signals {
    /// Spans for each message.
    pub traces: bool,
    /// The instruments of the [catalogue].
    pub metrics: bool,
    /// How a message's span relates to the one that created the message.
    pub parent: TraceParent,
}

/// Running telemetry; to be flushed before the process ends.
#[must_use = "logs stop when this is dropped"]
pub struct Telemetry {
    signals: Signals,
    providers: Providers,
    warnings: Vec<String>,
    /// Where gRPC exporters run: no handler can block it.
    runtime: Option<tokio::runtime::Runtime>,
    logs: Option<WorkerGuard>,
}

/// Starts logging to standard error, and what `[telemetry]` and the `OTEL_*` variables ask for, for
/// the whole process; and [`Scrape`], where `[admin]` serves it.
///
/// Lines are written by a thread of their own: whoever reads them slowly, or not at all, does not
/// hold up the worker. Past 128,000 unwritten lines new ones are dropped. Exporters have threads of
/// their own too, with bounded queues: a collector that is slow or gone costs what it does not take.
///
/// # Errors
/// When the filter or an endpoint cannot be read, or logging was started before.
pub fn start(setup: impl Into<TelemetrySetup>) -> Result<Telemetry, TelemetryError> {
    let setup = setup.into();
    let mut telemetry = export(&setup, setup.is_scraped)?;
    telemetry.logs = Some(subscribe(&setup.log, &telemetry.providers)?);
    for warning in &telemetry.warnings {
        tracing::warn!("{warning}");
    }
    Ok(telemetry)
}

/// Starts what `[telemetry]` and the `OTEL_*` variables ask for, as [`start`] does, but writes no
/// lines and exports no logs: for a command that talks to its user.
///
/// # Errors
/// When an endpoint cannot be read.
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
    })
}

fn exporter_runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("lapwing-otlp")
        .enable_all()
        .build()
}

/// Installs what receives log lines and users' spans.
fn subscribe(settings: &LogSettings, providers: &Providers) -> Result<WorkerGuard, TelemetryError> {
    let filter = EnvFilter::try_new(&settings.filter)?;
    let (writer, logs) = NonBlockingBuilder::default()
        .lossy(true)
        .thread_name("lapwing-log")
        .finish(std::io::stderr());
    // What exporters log while they export would be exported again, for ever.
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
        .with(logs::layer(settings.format, writer).with_filter(filter_fn(is_shown)))
        .with(bridge)
        .with(spans)
        .try_init()?;
    Ok(logs)
}

/// The tracer of spans that handlers make with `tracing`.
fn global_tracer(providers: &Providers) -> opentelemetry_sdk::trace::SdkTracer {
    use opentelemetry::trace::TracerProvider;
    let provider = providers.traces.clone().unwrap_or_default();
    provider.tracer(SCOPE)
}

/// The crate that a line or span comes from.
fn crate_of(target: &str) -> &str {
    target.split("::").next().unwrap_or_default()
}

fn is_exporters(target: &str) -> bool {
    const THEIRS: [&str; 6] = ["h2", "hyper", "hyper_util", "reqwest", "tonic", "tower"];
    let name = crate_of(target);
    THEIRS.contains(&name) || name.starts_with("opentelemetry")
}

/// Of the spans made with `tracing`, those of the client library are about frames and no message.
fn is_of_handlers(target: &str) -> bool {
    let name = crate_of(target);
    !is_exporters(target) && !name.starts_with("lapin") && !name.starts_with("amq_protocol")
}

/// Of what exporters say, people need the failures.
fn is_shown(line: &tracing::Metadata<'_>) -> bool {
    !line.target().starts_with("opentelemetry") || *line.level() <= tracing::Level::WARN
}

/// At level `trace` lapin prints every frame, and so the password. Of a message that is returned it
/// prints all bytes, as numbers, where we say what became of it.
fn is_indiscreet(line: &tracing::Metadata<'_>) -> bool {
    let name = crate_of(line.target());
    let of_lapin = name.starts_with("lapin") || name.starts_with("amq_protocol");
    let returned = line.target() == "lapin::returned_messages";
    returned || (of_lapin && *line.level() == tracing::Level::TRACE)
}

/// Renders what `/metrics` shows. Cheap to clone.
#[derive(Clone)]
pub struct Scrape(Option<prometheus::Registry>);

impl Scrape {
    /// All instruments in Prometheus' text format; empty when telemetry was not started for it.
    #[must_use]
    pub fn text(&self) -> String {
        let Some(registry) = &self.0 else {
            return String::new();
        };
        let mut text = String::new();
        // The encoder fails only for families without metrics, which are not there.
        if let Err(error) = TextEncoder::new().encode_utf8(&registry.gather(), &mut text) {
            tracing::warn!(%error, "metrics not rendered");
        }
        text
    }
}

impl Telemetry {
    /// What a worker should trace and measure, to be given to
    /// [`Worker::observe`](crate::Worker::observe).
    #[must_use]
    pub fn signals(&self) -> Signals {
        self.signals
    }

    /// Renders what `/metrics` shows.
    #[must_use]
    pub fn scrape(&self) -> Scrape {
        Scrape(self.providers.registry.clone())
    }

    /// Exports the traces and metrics that are left, until `until` at the longest. What cannot be
    /// exported by then is lost, and the exit is not held up for it.
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
            tracing::warn!(failed, "telemetry not flushed");
        }
    }

    /// From now on only what this thread logs is written, so that its last line is the last one:
    /// the client library has something to say about connections that did not end in order, and
    /// exporters about their end, at any time.
    pub fn silence_others(&self) {
        logs::silence_others();
    }

    /// Exports and writes out the last logs, until `until` at the longest.
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
        // Dropping the guard waits for the writer, which may hang on its reader.
        if let Some(lines) = self.logs {
            let write: Job = Box::new(move || {
                drop(lines);
                String::new()
            });
            // Also where the time is up, what can be written at once should be.
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

/// What can hang, and says what went wrong where something did.
type Job = Box<dyn FnOnce() -> String + Send>;

/// What log lines get at exit when exporters have used up the time.
const LAST_LINES: Duration = Duration::from_millis(100);

/// Runs each in a thread of its own, as each can hang, and waits for all of them until then. What
/// they say, where they say something.
fn together(all: Vec<Job>, until: Instant) -> Vec<String> {
    let (sender, said) = mpsc::channel();
    let mut left = all.len();
    for one in all {
        let sender = sender.clone();
        std::thread::spawn(move || {
            // Whoever waited may have given up.
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
