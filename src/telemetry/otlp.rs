//! The SDK's providers: exporters over OTLP, and the registry behind `/metrics`.

use opentelemetry::{KeyValue, propagation::TextMapPropagator};
use opentelemetry_otlp::{
    ExporterBuildError, LogExporter, MetricExporter, Protocol, SpanExporter, WithExportConfig,
};
use opentelemetry_sdk::{
    Resource,
    logs::SdkLoggerProvider,
    metrics::{Instrument, SdkMeterProvider, Stream},
    propagation::{BaggagePropagator, TraceContextPropagator},
    trace::{Sampler, SdkTracerProvider},
};

use super::settings::OtlpProtocol;
use super::{
    TelemetryError,
    catalogue::{INSTRUMENTS, attributes},
    environment::{Export, Plan, Propagator},
    reported::Reported,
};

/// The providers that were started.
#[derive(Default)]
pub(super) struct Providers {
    pub(super) traces: Option<SdkTracerProvider>,
    pub(super) metrics: Option<SdkMeterProvider>,
    pub(super) logs: Option<SdkLoggerProvider>,
    /// The registry behind `/metrics`.
    pub(super) registry: Option<prometheus::Registry>,
}

/// An exporter of one signal, over the transport that the plan names.
macro_rules! exporter {
    ($kind:ty, $export:expr) => {{
        let Export { protocol, endpoint } = $export;
        let built: Result<$kind, ExporterBuildError> = match protocol {
            OtlpProtocol::Grpc => {
                let builder = <$kind>::builder().with_tonic();
                match endpoint {
                    Some(endpoint) => builder.with_endpoint(endpoint).build(),
                    None => builder.build(),
                }
            }
            OtlpProtocol::HttpProtobuf => {
                let builder = <$kind>::builder()
                    .with_http()
                    .with_protocol(Protocol::HttpBinary);
                match endpoint {
                    Some(endpoint) => builder.with_endpoint(endpoint).build(),
                    None => builder.build(),
                }
            }
        };
        built
    }};
}

impl Providers {
    /// Starts the providers of a plan. Call this inside the runtime for the gRPC exporters.
    pub(super) fn start(
        plan: &Plan,
        resource: &Resource,
        consumers: usize,
        scraped: bool,
    ) -> Result<Self, TelemetryError> {
        let mut providers = Self::default();
        if let Some(export) = plan.traces.clone() {
            let builder = SdkTracerProvider::builder()
                .with_resource(resource.clone())
                .with_batch_exporter(Reported::new("traces", exporter!(SpanExporter, export)?));
            let builder = match plan.sample {
                // A trace without a parent is sampled by the ratio; else the parent's decision counts.
                Some(ratio) => builder.with_sampler(Sampler::ParentBased(Box::new(
                    Sampler::TraceIdRatioBased(ratio),
                ))),
                None => builder,
            };
            providers.traces = Some(builder.build());
        }
        if plan.metrics.is_some() || scraped {
            let mut builder = SdkMeterProvider::builder()
                .with_resource(resource.clone())
                .with_view(move |instrument: &Instrument| room(instrument.name(), consumers));
            if let Some(export) = plan.metrics.clone() {
                let exporter = exporter!(MetricExporter, export)?;
                builder = builder.with_periodic_exporter(Reported::new("metrics", exporter));
            }
            if scraped {
                let registry = prometheus::Registry::new();
                let reader = opentelemetry_prometheus::exporter()
                    .with_registry(registry.clone())
                    .scope_info_enabled(false)
                    .build()?;
                builder = builder.with_reader(reader);
                providers.registry = Some(registry);
            }
            providers.metrics = Some(builder.build());
        }
        if let Some(export) = plan.logs.clone() {
            let builder = SdkLoggerProvider::builder()
                .with_resource(resource.clone())
                .with_batch_exporter(Reported::new("logs", exporter!(LogExporter, export)?));
            providers.logs = Some(builder.build());
        }
        Ok(providers)
    }
}

/// A larger cardinality limit for an instrument, if this many consumers need it. Beyond its own limit
/// of 2000 attribute sets the SDK merges all further ones into one, and 200 consumers with their retry
/// queues exceed it. The SDK allocates memory for the limit at once, so other instruments keep the
/// default.
fn room(name: &str, consumers: usize) -> Option<Stream> {
    /// Enough for the retry queues of one consumer, up to half a day, or for its error types.
    const EACH: usize = 40;
    const SDKS_OWN: usize = 2000;
    let consumers_alone = [attributes::CONSUMER];
    let known = INSTRUMENTS.iter().find(|known| known.name == name)?;
    let each = match known.attributes.is_empty() || known.attributes == consumers_alone {
        true => 1,
        false => EACH,
    };
    let limit = consumers.saturating_mul(each);
    if limit <= SDKS_OWN {
        return None;
    }
    Stream::builder().with_cardinality_limit(limit).build().ok()
}

/// The resource: attributes of this process on everything exported. Attributes from
/// `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` override ours.
pub(super) fn resource(plan: &Plan, instance: &str) -> Resource {
    use opentelemetry_sdk::resource::{EnvResourceDetector, ResourceDetector};
    let from_environment = EnvResourceDetector::new().detect();
    let ours = [
        KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
        KeyValue::new("service.instance.id", instance.to_owned()),
    ];
    let ours = ours
        .into_iter()
        .filter(|own| from_environment.get(&own.key).is_none());
    let mut builder = Resource::builder().with_attributes(ours.collect::<Vec<_>>());
    if let Some(name) = &plan.service_name {
        builder = builder.with_service_name(name.clone());
    }
    builder.build()
}

/// The propagators that read trace context from headers and write it to them.
pub(super) fn propagators(plan: &Plan) -> Vec<Box<dyn TextMapPropagator + Send + Sync>> {
    let boxed = |propagator: &Propagator| match propagator {
        Propagator::TraceContext => {
            Box::new(TraceContextPropagator::new()) as Box<dyn TextMapPropagator + Send + Sync>
        }
        Propagator::Baggage => Box::new(BaggagePropagator::new()),
    };
    plan.propagators.iter().map(boxed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::{Scrape, catalogue};
    use opentelemetry::metrics::MeterProvider;

    #[test]
    fn each_of_many_consumers_keeps_its_own_numbers() {
        const CONSUMERS: usize = 300;
        const RUNGS: usize = 16;
        let plan = Plan::new(&Default::default(), &|_| None);
        let resource = Resource::builder_empty().build();
        let providers = Providers::start(&plan, &resource, CONSUMERS, true).unwrap();
        let parked = catalogue::PARKED.name;
        let counter = providers.metrics.as_ref().unwrap().meter("test");
        let counter = counter.u64_counter(parked).build();
        for (consumer, rung) in
            (0..CONSUMERS).flat_map(|consumer| (0..RUNGS).map(move |rung| (consumer, rung)))
        {
            let consumer = KeyValue::new(attributes::CONSUMER, format!("consumer-{consumer}"));
            let rung = KeyValue::new(attributes::RETRY_QUEUE, format!("rung-{rung}"));
            counter.add(1, &[consumer, rung]);
        }
        let text = Scrape(providers.registry.clone()).text();
        let lines = text.lines().filter(|line| line.ends_with("\"} 1"));
        assert_eq!(lines.count(), CONSUMERS * RUNGS);
        assert!(!text.contains("overflow"));
    }
}
