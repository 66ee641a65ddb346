//! The plan of the exports. The standard `OTEL_*` variables override the settings.
//!
//! The SDK reads most variables itself. This module reads those that the SDK leaves out:
//! `OTEL_SDK_DISABLED`, `OTEL_PROPAGATORS` and `OTEL_{TRACES,METRICS,LOGS}_EXPORTER`. For their
//! meaning see <https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/>.

use super::settings::{OtlpProtocol, TelemetrySettings};

/// The three kinds of telemetry, as the variables name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    Traces,
    Metrics,
    Logs,
}

impl Signal {
    const fn name(self) -> &'static str {
        match self {
            Self::Traces => "TRACES",
            Self::Metrics => "METRICS",
            Self::Logs => "LOGS",
        }
    }

    const fn path(self) -> &'static str {
        match self {
            Self::Traces => "/v1/traces",
            Self::Metrics => "/v1/metrics",
            Self::Logs => "/v1/logs",
        }
    }
}

/// The destination of one kind of telemetry.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Export {
    pub(super) protocol: OtlpProtocol,
    /// `None`: the SDK reads the endpoint from the environment.
    pub(super) endpoint: Option<String>,
}

/// A format of trace context in headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Propagator {
    TraceContext,
    Baggage,
}

/// What to export, and where to.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Plan {
    pub(super) traces: Option<Export>,
    pub(super) metrics: Option<Export>,
    pub(super) logs: Option<Export>,
    pub(super) propagators: Vec<Propagator>,
    /// The share of traces to keep, 0 to 1; `None`: `OTEL_TRACES_SAMPLER` decides.
    pub(super) sample: Option<f64>,
    /// The name of the service; `None`: the environment has it.
    pub(super) service_name: Option<String>,
    /// Warnings about values in the environment that are not supported.
    pub(super) warnings: Vec<String>,
}

/// Reads the environment through `variable`.
struct Environment<'a> {
    variable: &'a dyn Fn(&str) -> Option<String>,
    warnings: Vec<String>,
}

impl Plan {
    pub(super) fn new(
        settings: &TelemetrySettings,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Self {
        let mut environment = Environment {
            variable,
            warnings: Vec::new(),
        };
        let disabled = environment
            .get("OTEL_SDK_DISABLED")
            .is_some_and(|text| text.eq_ignore_ascii_case("true"));
        let mut export = |signal, wanted| {
            let export = environment.export(settings, signal, wanted);
            export.filter(|_| !disabled)
        };
        let (traces, metrics, logs) = (
            export(Signal::Traces, settings.traces),
            export(Signal::Metrics, settings.metrics),
            export(Signal::Logs, settings.logs),
        );
        let named = environment.get("OTEL_SERVICE_NAME").is_some()
            || environment
                .get("OTEL_RESOURCE_ATTRIBUTES")
                .is_some_and(|all| {
                    all.split(',')
                        .any(|one| one.trim().starts_with("service.name="))
                });
        Self {
            traces,
            metrics,
            logs,
            propagators: environment.propagators(),
            sample: environment
                .get("OTEL_TRACES_SAMPLER")
                .is_none()
                .then_some(settings.sample),
            service_name: (!named).then(|| settings.service_name.clone()),
            warnings: environment.warnings,
        }
    }
}

impl Environment<'_> {
    /// The value of a variable. By the specification an empty variable counts as not set.
    fn get(&self, name: &str) -> Option<String> {
        let value = (self.variable)(name)?;
        let value = value.trim();
        (!value.is_empty()).then(|| value.to_owned())
    }

    fn export(
        &mut self,
        settings: &TelemetrySettings,
        signal: Signal,
        wanted: bool,
    ) -> Option<Export> {
        let name = signal.name();
        let in_environment = [
            format!("OTEL_EXPORTER_OTLP_{name}_ENDPOINT"),
            "OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(),
        ]
        .iter()
        .any(|variable| self.get(variable).is_some());
        let has_endpoint = in_environment || settings.endpoint.is_some();
        if !self.exporter(signal).unwrap_or(has_endpoint && wanted) {
            return None;
        }
        let protocol = self.protocol(signal).unwrap_or(settings.protocol);
        let endpoint = match (&settings.endpoint, protocol) {
            _ if in_environment => None,
            (None, _) => None,
            (Some(url), OtlpProtocol::Grpc) => Some(url.clone()),
            (Some(url), OtlpProtocol::HttpProtobuf) => {
                Some(format!("{}{}", url.trim_end_matches('/'), signal.path()))
            }
        };
        Some(Export { protocol, endpoint })
    }

    /// Whether `OTEL_{signal}_EXPORTER` asks for OTLP; `None` if the variable says nothing about it.
    fn exporter(&mut self, signal: Signal) -> Option<bool> {
        let variable = format!("OTEL_{}_EXPORTER", signal.name());
        let value = self.get(&variable)?;
        let mut known = None;
        for word in value.split(',').map(str::trim) {
            match word {
                "otlp" => known = Some(true),
                "none" => known = known.or(Some(false)),
                // `/metrics` exists in any case.
                "prometheus" if signal == Signal::Metrics => known = known.or(Some(false)),
                other => self.warn(format!(
                    "{variable}: {other:?} is not supported and is ignored"
                )),
            }
        }
        known
    }

    fn protocol(&mut self, signal: Signal) -> Option<OtlpProtocol> {
        let own = format!("OTEL_EXPORTER_OTLP_{}_PROTOCOL", signal.name());
        for variable in [own.as_str(), "OTEL_EXPORTER_OTLP_PROTOCOL"] {
            match self.get(variable).as_deref() {
                None => {}
                Some("grpc") => return Some(OtlpProtocol::Grpc),
                Some("http/protobuf") => return Some(OtlpProtocol::HttpProtobuf),
                Some(other) => self.warn(format!(
                    "{variable}: {other:?} is not supported and is ignored"
                )),
            }
        }
        None
    }

    fn propagators(&mut self) -> Vec<Propagator> {
        let Some(value) = self.get("OTEL_PROPAGATORS") else {
            return vec![Propagator::TraceContext, Propagator::Baggage];
        };
        let mut found = Vec::new();
        for word in value.split(',').map(str::trim) {
            match word {
                "tracecontext" => found.push(Propagator::TraceContext),
                "baggage" => found.push(Propagator::Baggage),
                "none" => return Vec::new(),
                other => self.warn(format!(
                    "OTEL_PROPAGATORS: {other:?} is not supported and is ignored"
                )),
            }
        }
        found
    }

    fn warn(&mut self, warning: String) {
        if !self.warnings.contains(&warning) {
            self.warnings.push(warning);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(settings: &TelemetrySettings, variables: &[(&str, &str)]) -> Plan {
        Plan::new(settings, &|name| {
            let found = variables.iter().find(|(known, _)| *known == name)?;
            Some(found.1.to_owned())
        })
    }

    fn with_endpoint() -> TelemetrySettings {
        TelemetrySettings {
            endpoint: Some("http://collector:4317".to_owned()),
            ..TelemetrySettings::default()
        }
    }

    const ENDPOINT: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://other:4317");

    #[test]
    fn nothing_is_exported_without_an_endpoint() {
        let plan = plan(&TelemetrySettings::default(), &[]);
        assert_eq!((plan.traces, plan.metrics, plan.logs), (None, None, None));
        assert_eq!(plan.service_name.as_deref(), Some("lapwing"));
        assert_eq!(plan.sample, Some(1.0));
        assert_eq!(plan.warnings, [""; 0]);
    }

    #[test]
    fn the_environment_comes_before_the_settings() {
        let in_settings = plan(&with_endpoint(), &[]);
        let grpc = |endpoint: Option<&str>| {
            Some(Export {
                protocol: OtlpProtocol::Grpc,
                endpoint: endpoint.map(str::to_owned),
            })
        };
        assert_eq!(in_settings.traces, grpc(Some("http://collector:4317")));
        let in_both = plan(&with_endpoint(), &[ENDPOINT]);
        assert_eq!(in_both.traces, grpc(None));
        let one = ("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", "http://logs:4317");
        let one = plan(&TelemetrySettings::default(), &[one]);
        assert_eq!(
            (one.traces, one.metrics, one.logs),
            (None, None, grpc(None))
        );
    }

    #[test]
    fn http_endpoints_in_settings_get_the_path_of_their_signal() {
        let settings = TelemetrySettings {
            endpoint: Some("http://collector:4318/".to_owned()),
            protocol: OtlpProtocol::HttpProtobuf,
            ..TelemetrySettings::default()
        };
        let plan = plan(&settings, &[]);
        let endpoint = |export: Option<Export>| export.and_then(|export| export.endpoint);
        let wanted = |path: &str| Some(format!("http://collector:4318{path}"));
        assert_eq!(endpoint(plan.traces), wanted("/v1/traces"));
        assert_eq!(endpoint(plan.metrics), wanted("/v1/metrics"));
        assert_eq!(endpoint(plan.logs), wanted("/v1/logs"));
    }

    #[test]
    fn exporters_are_turned_off_and_on_by_name() {
        let some = plan(
            &with_endpoint(),
            &[
                ("OTEL_TRACES_EXPORTER", "none"),
                ("OTEL_METRICS_EXPORTER", "prometheus"),
                ("OTEL_LOGS_EXPORTER", "console"),
            ],
        );
        assert_eq!((some.traces, some.metrics), (None, None));
        assert!(some.logs.is_some(), "an unknown value changes nothing");
        assert_eq!(some.warnings.len(), 1, "{:?}", some.warnings);
        let off = TelemetrySettings {
            traces: false,
            ..TelemetrySettings::default()
        };
        let on = plan(&off, &[("OTEL_TRACES_EXPORTER", "otlp")]);
        assert!(on.traces.is_some() && on.metrics.is_none());
        let both = ("OTEL_METRICS_EXPORTER", "prometheus,otlp");
        assert!(plan(&off, &[both]).metrics.is_some());
    }

    #[test]
    fn the_sdk_can_be_disabled_as_a_whole() {
        for (value, disabled) in [("true", true), ("TRUE", true), ("1", false), ("", false)] {
            let plan = plan(&with_endpoint(), &[("OTEL_SDK_DISABLED", value)]);
            assert_eq!(plan.traces.is_none(), disabled, "{value:?}");
            assert_eq!(plan.logs.is_none(), disabled, "{value:?}");
        }
    }

    #[test]
    fn protocols_sampler_and_service_name_follow_the_environment() {
        let plan = plan(
            &with_endpoint(),
            &[
                ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
                ("OTEL_EXPORTER_OTLP_LOGS_PROTOCOL", "grpc"),
                ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/json"),
                ("OTEL_TRACES_SAMPLER", "always_off"),
                ("OTEL_RESOURCE_ATTRIBUTES", "a=b, service.name=orders"),
            ],
        );
        let protocol = |export: Option<Export>| export.map(|export| export.protocol);
        assert_eq!(protocol(plan.traces), Some(OtlpProtocol::HttpProtobuf));
        assert_eq!(protocol(plan.logs), Some(OtlpProtocol::Grpc));
        assert_eq!(protocol(plan.metrics), Some(OtlpProtocol::HttpProtobuf));
        assert_eq!((plan.sample, plan.service_name), (None, None));
        assert_eq!(plan.warnings.len(), 1, "{:?}", plan.warnings);
    }

    #[test]
    fn propagators_are_chosen_by_name() {
        let chosen = |value| plan(&with_endpoint(), &[("OTEL_PROPAGATORS", value)]).propagators;
        assert_eq!(chosen("tracecontext"), [Propagator::TraceContext]);
        assert_eq!(chosen("none"), []);
        assert_eq!(chosen("b3,baggage"), [Propagator::Baggage]);
        assert_eq!(chosen("").len(), 2);
    }
}
