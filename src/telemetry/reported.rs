//! Says that a collector is away, once, and that it is back.

use std::{
    fmt,
    sync::Mutex,
    time::{Duration, Instant},
};

use opentelemetry::logs::Severity;
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    logs::{LogBatch, LogExporter},
    metrics::{Temporality, data::ResourceMetrics, exporter::PushMetricExporter},
    trace::{SpanData, SpanExporter},
};
use tracing::{info, warn};

use crate::lock::lock;

/// The time between two lines about the same outage.
const AGAIN: Duration = Duration::from_secs(600);

/// An exporter that logs when its exports begin to fail, every ten minutes while they fail, and when
/// they succeed again. The SDK's own lines about single exports are left out.
pub(super) struct Reported<E> {
    exporter: E,
    signal: &'static str,
    outage: Mutex<Option<Outage>>,
}

/// Failed exports without a successful one between them.
struct Outage {
    since: Instant,
    said: Instant,
    failed: u64,
}

impl<E: fmt::Debug> fmt::Debug for Reported<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.exporter.fmt(f)
    }
}

impl<E> Reported<E> {
    pub(super) fn new(signal: &'static str, exporter: E) -> Self {
        Self {
            exporter,
            signal,
            outage: Mutex::new(None),
        }
    }

    /// Notes how an export ended.
    fn note(&self, result: OTelSdkResult, now: Instant) -> OTelSdkResult {
        let signal = self.signal;
        let mut outage = lock(&self.outage);
        match (&result, &mut *outage) {
            (Ok(()), None) => {}
            (Ok(()), Some(Outage { since, failed, .. })) => {
                let lasted = now.duration_since(*since);
                info!(signal, failed, ?lasted, "telemetry is exported again");
                *outage = None;
            }
            (Err(error), None) => {
                warn!(
                    signal, %error,
                    "telemetry cannot be exported and is lost; the worker works on"
                );
                *outage = Some(Outage {
                    since: now,
                    said: now,
                    failed: 1,
                });
            }
            (
                Err(error),
                Some(Outage {
                    since,
                    said,
                    failed,
                }),
            ) => {
                *failed += 1;
                if now.duration_since(*said) >= AGAIN {
                    *said = now;
                    let lasted = now.duration_since(*since);
                    warn!(signal, %error, failed, ?lasted, "telemetry still cannot be exported");
                }
            }
        }
        result
    }
}

impl<E: SpanExporter> SpanExporter for Reported<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let exported = self.exporter.export(batch).await;
        self.note(exported, Instant::now())
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

impl<E: LogExporter> LogExporter for Reported<E> {
    async fn export(&self, batch: LogBatch<'_>) -> OTelSdkResult {
        let exported = self.exporter.export(batch).await;
        self.note(exported, Instant::now())
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn event_enabled(&self, level: Severity, target: &str, name: Option<&str>) -> bool {
        self.exporter.event_enabled(level, target, name)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

impl<E: PushMetricExporter> PushMetricExporter for Reported<E> {
    async fn export(&self, metrics: &ResourceMetrics) -> OTelSdkResult {
        let exported = self.exporter.export(metrics).await;
        self.note(exported, Instant::now())
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn temporality(&self) -> Temporality {
        self.exporter.temporality()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use opentelemetry_sdk::error::OTelSdkError;
    use tracing_subscriber::{Layer, layer::SubscriberExt};

    use super::*;

    /// The messages of all events.
    #[derive(Clone, Default)]
    struct Said(Arc<Mutex<Vec<String>>>);

    impl<S: tracing::Subscriber> Layer<S> for Said {
        fn on_event(
            &self,
            event: &tracing::Event<'_>,
            _: tracing_subscriber::layer::Context<'_, S>,
        ) {
            struct Message<'a>(&'a mut String);
            impl tracing::field::Visit for Message<'_> {
                fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
                    if field.name() == "message" {
                        *self.0 = format!("{value:?}");
                    }
                }
            }
            let mut text = String::new();
            event.record(&mut Message(&mut text));
            lock(&self.0).push(text);
        }
    }

    #[test]
    fn an_outage_is_said_once_summarised_every_ten_minutes_and_its_end_is_said() {
        let said = Said::default();
        let subscriber = tracing_subscriber::registry().with(said.clone());
        let start = Instant::now();
        tracing::subscriber::with_default(subscriber, || {
            let exporter = Reported::new("traces", ());
            let away = || Err(OTelSdkError::InternalFailure("refused".to_owned()));
            exporter.note(Ok(()), start).unwrap();
            // An export every 5 s, for 25 minutes.
            for n in 0..=300 {
                let now = start + Duration::from_secs(5 * n);
                exporter.note(away(), now).unwrap_err();
            }
            let now = start + Duration::from_secs(1600);
            exporter.note(Ok(()), now).unwrap();
            exporter.note(Ok(()), now).unwrap();
            exporter.note(away(), now).unwrap_err();
        });
        let lost = "telemetry cannot be exported and is lost; the worker works on";
        let still = "telemetry still cannot be exported";
        let again = "telemetry is exported again";
        assert_eq!(*lock(&said.0), [lost, still, still, again, lost]);
    }
}
