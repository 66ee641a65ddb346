//! `[telemetry]` and `[log]`.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tracing_subscriber::{EnvFilter, filter::LevelFilter};
use url::Url;

use crate::config::{Findings, KeyPath, redact, serialize_redacted};

/// Traces, metrics and logs over OTLP; [telemetry.md](telemetry.md) says what the worker exports.
/// The standard `OTEL_*` environment variables take precedence over these settings. Without an
/// endpoint in either, the worker exports nothing, and export costs nothing.
#[derive(Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct TelemetrySettings {
    /// The collector's URL, by convention with port 4317 for gRPC and 4318 for HTTP. For HTTP the
    /// worker appends `/v1/traces`, `/v1/metrics` and `/v1/logs`. Default: none.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "serialize_redacted"
    )]
    #[schemars(example = "http://127.0.0.1:4317")]
    pub endpoint: Option<String>,
    /// How the worker talks to the collector. Default: `grpc`.
    pub protocol: OtlpProtocol,
    /// Whether the worker exports traces. Default: `true`.
    pub traces: bool,
    /// Whether the worker exports metrics; `/metrics` of the admin server has them in any case.
    /// Default: `true`.
    pub metrics: bool,
    /// Whether the worker exports logs, in addition to standard error. Default: `true`.
    pub logs: bool,
    /// The share of traces to keep, for traces that begin in the worker. For a message that comes
    /// with a trace, its publisher decides. Too low: the message that you look for has no trace.
    /// Too high: spans cost more than small messages do. Default: `1.0`.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub sample: f64,
    /// How a `process` span relates to the span that created the message. Default: `child`.
    pub parent: TraceParent,
    /// The `service.name` of everything exported. Default: `lapwing`.
    pub service_name: String,
}

impl fmt::Debug for TelemetrySettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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

impl TelemetrySettings {
    pub(crate) fn check(&self, findings: &mut Findings) {
        let section = KeyPath::of("telemetry");
        let is_url = |url: &String| {
            Url::parse(url)
                .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        };
        if !self.endpoint.as_ref().is_none_or(is_url) {
            let message = "must be a complete URL, such as http://127.0.0.1:4317";
            findings.add(section.key("endpoint"), message);
        }
        if self.service_name.is_empty() {
            findings.add(section.key("service_name"), "must not be empty");
        }
    }
}

/// The settings that telemetry needs, made of [`Settings`](crate::Settings).
#[derive(Clone, Debug)]
pub struct TelemetrySetup {
    /// The exports.
    pub telemetry: TelemetrySettings,
    /// The log.
    pub log: LogSettings,
    /// This process: name, host and process id.
    pub worker: String,
    /// The number of consumers.
    pub consumers: usize,
    /// Whether an admin server serves `/metrics`.
    pub is_scraped: bool,
}

/// The transports of OTLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OtlpProtocol {
    /// gRPC.
    #[serde(rename = "grpc")]
    Grpc,
    /// Protobuf over HTTP.
    #[serde(rename = "http/protobuf")]
    HttpProtobuf,
}

/// How a `process` span relates to the span that created the message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TraceParent {
    /// The span is a child of that span and linked to it: one trace from publisher to worker.
    #[default]
    Child,
    /// The span is only linked to that span: each attempt begins a trace of its own.
    Link,
}

/// What the worker writes to standard error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    /// The format of log lines. Each event is one line. Default: `text`.
    pub format: LogFormat,
    /// What the worker logs: a level (`error`, `warn`, `info`, `debug`, `trace`, `off`) or `tracing`
    /// directives such as `info,lapwing::broker=debug`. `debug` shows how each message ended. Too
    /// low: the log does not explain a fault. Too high: the log costs more than the work. Default:
    /// `info`.
    pub filter: String,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            format: LogFormat::Text,
            filter: "info".to_owned(),
        }
    }
}

impl LogSettings {
    pub(crate) fn check(&self, findings: &mut Findings) {
        // `EnvFilter` takes any other word for a target and then shows nothing else, so a misspelt
        // level would silence the worker.
        let is_word = |text: &&str| !text.contains(['=', ':', '[']);
        let mut words = self.filter.split(',').filter(is_word);
        if words.any(|word| word.is_empty() || word.parse::<LevelFilter>().is_err())
            || EnvFilter::builder().parse(&self.filter).is_err()
        {
            let right = "expected a level (error, warn, info, debug, trace) or directives such as \
                         \"info,lapwing::broker=debug\"";
            findings.add(KeyPath::of("log.filter"), right);
        }
    }
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines: one JSON object a line.
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::samples::{Sample, sections};

    sections!({ telemetry: TelemetrySettings, log: LogSettings }, |it, findings| {
        it.telemetry.check(findings);
        it.log.check(findings);
    });

    #[test]
    fn telemetry_settings_are_checked() {
        Sections::refused(&[
            (
                "telemetry.endpoint = \"localhost:4317\"",
                "telemetry.endpoint: must be a complete URL",
            ),
            (
                "telemetry.endpoint = \"\"",
                "telemetry.endpoint: must be a complete URL",
            ),
            (
                "telemetry.sample = 1.5",
                "telemetry.sample: is 1.5, must be 0 to 1",
            ),
            (
                "telemetry.service_name = \"\"",
                "telemetry.service_name: must not be empty",
            ),
        ]);
    }

    #[test]
    fn a_filter_that_would_silence_the_worker_is_refused() {
        for filter in [
            "",
            "info,",
            "info, lapwing=debug",
            "inof",
            "info,lapwing=lot",
        ] {
            let text = format!("log.filter = \"{filter}\"");
            Sections::refused(&[(&text, "log.filter: expected a level")]);
        }
        Sections::allowed(&[
            "log.filter = \"off\"",
            "log.filter = \"WARN,lapwing::broker=debug\"",
            "log.filter = \"info,[delivery{consumer}]=trace\"",
        ]);
    }
}
