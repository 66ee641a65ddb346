//! `[telemetry]`: traces, metrics and logs over OTLP.

use serde::{Deserialize, Serialize};

use super::secret::{redact, serialize_redacted};

/// `[telemetry]`: traces, metrics and logs over OTLP. The standard `OTEL_*` environment variables
/// come first; these settings say what those leave open. Nothing is exported, and nothing costs,
/// where neither names an endpoint.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetrySettings {
    /// The collector: `http://127.0.0.1:4317` for gRPC, `http://127.0.0.1:4318` for HTTP, where
    /// `/v1/traces` and the like are appended. Default: none, which exports nothing.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "serialize_redacted"
    )]
    pub endpoint: Option<String>,
    /// How to talk to it. Default: `grpc`.
    pub protocol: OtlpProtocol,
    /// Whether traces are exported. Default: true.
    pub traces: bool,
    /// Whether metrics are exported; `/metrics` has them in any case. Default: true.
    pub metrics: bool,
    /// Whether logs are exported, beside standard error. Default: true.
    pub logs: bool,
    /// The part of traces that begin here which is kept, 0 to 1; where a message comes with a
    /// trace, its publisher's decision holds. Default: 1. Too low: the message you look for has no
    /// trace. Too high: spans cost more than small messages do.
    pub sample: f64,
    /// How a `process` span relates to the span that created the message. Default: `child`.
    pub parent: TraceParent,
    /// `service.name` of everything exported. Default: `lapwing`.
    pub service_name: String,
}

impl std::fmt::Debug for TelemetrySettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TelemetrySettings")
            .field("endpoint", &self.endpoint.as_deref().map(redact))
            .field("protocol", &self.protocol)
            .field("traces", &self.traces)
            .field("metrics", &self.metrics)
            .field("logs", &self.logs)
            .field("sample", &self.sample)
            .field("parent", &self.parent)
            .field("service_name", &self.service_name)
            .finish()
    }
}

impl Default for TelemetrySettings {
    fn default() -> Self {
        Self {
            endpoint: None,
            protocol: OtlpProtocol::Grpc,
            traces: true,
            metrics: true,
            logs: true,
            sample: 1.0,
            parent: TraceParent::Child,
            service_name: "lapwing".to_owned(),
        }
    }
}

/// The transports of OTLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum OtlpProtocol {
    /// gRPC, by convention on port 4317.
    #[serde(rename = "grpc")]
    Grpc,
    /// Protobuf over HTTP, by convention on port 4318.
    #[serde(rename = "http/protobuf")]
    HttpProtobuf,
}

/// How a `process` span relates to the span that created the message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TraceParent {
    /// A child of it, and linked to it: one trace from publisher to worker.
    #[default]
    Child,
    /// Linked to it only: each attempt begins a trace of its own.
    Link,
}
