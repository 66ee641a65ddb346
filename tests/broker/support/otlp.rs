//! The test's OpenTelemetry collector: it takes OTLP over gRPC or HTTP and keeps everything. The
//! messages are those of the official protobuf crate.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::http::StatusCode;
use axum::routing::post;
use opentelemetry_proto::tonic::collector::{
    logs::v1::{
        ExportLogsServiceRequest, ExportLogsServiceResponse,
        logs_service_server::{LogsService, LogsServiceServer},
    },
    metrics::v1::{
        ExportMetricsServiceRequest, ExportMetricsServiceResponse,
        metrics_service_server::{MetricsService, MetricsServiceServer},
    },
    trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
};
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::{Metric, metric::Data, number_data_point};
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::transport::server::{Server, TcpIncoming};
use tonic::{Request, Response, Status};

/// Attributes as text: numbers and booleans as they print.
pub type Attributes = BTreeMap<String, String>;

/// Everything that a collector has received.
#[derive(Clone, Debug, Default)]
pub struct Received {
    /// Spans, in order of arrival.
    pub spans: Vec<Span>,
    /// Log records.
    pub logs: Vec<LogRecord>,
    /// The last export of each metric.
    pub metrics: BTreeMap<String, Metric>,
    /// The services that exported spans.
    pub services: BTreeSet<String>,
    /// The resource of the last export.
    pub resource: Attributes,
}

/// The collector. Stops when dropped.
#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    received: watch::Sender<Received>,
    serving: JoinHandle<()>,
}

#[derive(Clone)]
struct Service(watch::Sender<Received>);

impl Service {
    fn spans(&self, request: ExportTraceServiceRequest) {
        self.0.send_modify(|received| {
            for of_resource in request.resource_spans {
                let resource = of_resource.resource.unwrap_or_default();
                received.resource = attributes(&resource.attributes);
                let service = received.resource.get("service.name").cloned();
                received.services.extend(service);
                let scopes = of_resource.scope_spans.into_iter();
                received.spans.extend(scopes.flat_map(|scope| scope.spans));
            }
        });
    }

    fn metrics(&self, request: ExportMetricsServiceRequest) {
        self.0.send_modify(|received| {
            for of_resource in request.resource_metrics {
                let resource = of_resource.resource.unwrap_or_default();
                received.resource = attributes(&resource.attributes);
                let scopes = of_resource.scope_metrics.into_iter();
                for metric in scopes.flat_map(|scope| scope.metrics) {
                    received.metrics.insert(metric.name.clone(), metric);
                }
            }
        });
    }

    fn logs(&self, request: ExportLogsServiceRequest) {
        self.0.send_modify(|received| {
            let scopes = request.resource_logs.into_iter();
            let scopes = scopes.flat_map(|of_resource| of_resource.scope_logs);
            received
                .logs
                .extend(scopes.flat_map(|scope| scope.log_records));
        });
    }
}

#[tonic::async_trait]
impl TraceService for Service {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        self.spans(request.into_inner());
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Service {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        self.metrics(request.into_inner());
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl LogsService for Service {
    async fn export(
        &self,
        request: Request<ExportLogsServiceRequest>,
    ) -> Result<Response<ExportLogsServiceResponse>, Status> {
        self.logs(request.into_inner());
        Ok(Response::new(ExportLogsServiceResponse::default()))
    }
}

impl Collector {
    /// A collector that takes gRPC.
    pub async fn grpc() -> Self {
        let received = watch::Sender::new(Received::default());
        let service = Service(received.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let serving = Server::builder()
            .add_service(TraceServiceServer::new(service.clone()))
            .add_service(MetricsServiceServer::new(service.clone()))
            .add_service(LogsServiceServer::new(service))
            .serve_with_incoming(TcpIncoming::from(listener));
        let serving = tokio::spawn(async move {
            serving.await.expect("serving ends only by being aborted");
        });
        Self {
            address,
            received,
            serving,
        }
    }

    /// A collector that takes protobuf over HTTP.
    pub async fn http() -> Self {
        let received = watch::Sender::new(Received::default());
        let service = Service(received.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (traces, metrics, logs) = (service.clone(), service.clone(), service);
        let router = Router::new()
            .route(
                "/v1/traces",
                post(async move |body: Bytes| decoded(&body, |request| traces.spans(request))),
            )
            .route(
                "/v1/metrics",
                post(async move |body: Bytes| decoded(&body, |request| metrics.metrics(request))),
            )
            .route(
                "/v1/logs",
                post(async move |body: Bytes| decoded(&body, |request| logs.logs(request))),
            );
        let serving = tokio::spawn(async move {
            axum::serve(listener, router)
                .await
                .expect("serving ends only by being aborted");
        });
        Self {
            address,
            received,
            serving,
        }
    }

    /// The collector's URL.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Everything received up to now.
    pub fn received(&self) -> Received {
        self.received.borrow().clone()
    }

    /// Waits until `accept` returns true for everything received. Checks at every export.
    pub async fn wait_for(
        &self,
        what: &str,
        deadline: Duration,
        accept: impl Fn(&Received) -> bool,
    ) -> Received {
        let mut received = self.received.subscribe();
        match tokio::time::timeout(deadline, received.wait_for(&accept)).await {
            Ok(found) => found.expect("the sender is ours").clone(),
            Err(_) => {
                let seen = self.received();
                let names: Vec<_> = seen.spans.iter().map(|span| span.name.as_str()).collect();
                panic!(
                    "waited {deadline:?} for {what}; spans: {names:?}; metrics: {:?}",
                    seen.metrics.keys()
                );
            }
        }
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn decoded<M: Message + Default>(body: &Bytes, take: impl FnOnce(M)) -> StatusCode {
    match M::decode(body.clone()) {
        Ok(message) => {
            take(message);
            StatusCode::OK
        }
        Err(_) => StatusCode::BAD_REQUEST,
    }
}

/// Attributes as text.
pub fn attributes(all: &[KeyValue]) -> Attributes {
    let pair = |one: &KeyValue| (one.key.clone(), text(one.value.as_ref()));
    all.iter().map(pair).collect()
}

fn text(value: Option<&AnyValue>) -> String {
    match value.and_then(|any| any.value.as_ref()) {
        Some(Value::StringValue(text)) => text.clone(),
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::DoubleValue(number)) => number.to_string(),
        Some(Value::BoolValue(is)) => is.to_string(),
        other => format!("{other:?}"),
    }
}

impl Received {
    /// The spans of this name, by start time.
    pub fn named(&self, name: &str) -> Vec<&Span> {
        let mut found: Vec<_> = self.spans.iter().filter(|span| span.name == name).collect();
        found.sort_by_key(|span| span.start_time_unix_nano);
        found
    }

    /// The only span of this name.
    pub fn only(&self, name: &str) -> &Span {
        match self.named(name).as_slice() {
            [one] => one,
            found => {
                let names: Vec<_> = self.spans.iter().map(|span| span.name.as_str()).collect();
                panic!("{} spans {name:?} of {names:?}", found.len())
            }
        }
    }

    /// The values of a metric by its attributes. For a histogram, the number of recorded values.
    pub fn points(&self, metric: &str) -> Vec<(Attributes, f64)> {
        let Some(Metric {
            data: Some(data), ..
        }) = self.metrics.get(metric)
        else {
            return Vec::new();
        };
        let numbers = match data {
            Data::Sum(sum) => &sum.data_points,
            Data::Gauge(gauge) => &gauge.data_points,
            Data::Histogram(histogram) => {
                let points = histogram.data_points.iter();
                #[expect(clippy::cast_precision_loss, reason = "small counts")]
                let point =
                    |point: &opentelemetry_proto::tonic::metrics::v1::HistogramDataPoint| {
                        (attributes(&point.attributes), point.count as f64)
                    };
                return points.map(point).collect();
            }
            other => panic!("{metric}: {other:?}"),
        };
        let number = |point: &opentelemetry_proto::tonic::metrics::v1::NumberDataPoint| {
            #[expect(clippy::cast_precision_loss, reason = "small counts")]
            let value = match point.value {
                Some(number_data_point::Value::AsInt(value)) => value as f64,
                Some(number_data_point::Value::AsDouble(value)) => value,
                None => f64::NAN,
            };
            (attributes(&point.attributes), value)
        };
        numbers.iter().map(number).collect()
    }

    /// The sum of a metric's values where the attribute has this value.
    pub fn sum(&self, metric: &str, attribute: &str, value: &str) -> f64 {
        let points = self.points(metric).into_iter();
        points
            .filter(|(attributes, _)| attributes.get(attribute).is_some_and(|is| is == value))
            .map(|(_, value)| value)
            .sum()
    }
}
