//! The span of an HTTP request.

use opentelemetry::{
    Context, KeyValue, global,
    trace::{SpanBuilder, SpanKind, Status, TraceContextExt, Tracer},
};
use opentelemetry_http::HeaderInjector;
use reqwest::{StatusCode, Url, header::HeaderMap};

use crate::{
    flight::{SCOPE, inject},
    outcome::Failure,
    text::snake_case,
};

const ERROR_TYPE: &str = "error.type";

/// The span of an HTTP request, by OpenTelemetry's conventions for HTTP clients. If the request is
/// dropped because its handler is cancelled, the span ends with the error `cancelled`.
pub(super) struct RequestTrace(Option<Context>);

impl RequestTrace {
    /// Begins the span if there is a current trace, and writes its context into the headers.
    pub(super) fn begin(url: &Url, headers: &mut HeaderMap) -> Self {
        let current = Context::current();
        if !current.span().span_context().is_valid() {
            return Self(None);
        }
        let mut context = current;
        if context.span().is_recording() {
            let host = url.host_str().unwrap_or_default().to_owned();
            let port = url.port_or_known_default().unwrap_or_default();
            let all = vec![
                KeyValue::new("http.request.method", "POST"),
                KeyValue::new("url.full", shown(url)),
                KeyValue::new("server.address", host),
                KeyValue::new("server.port", i64::from(port)),
            ];
            let builder = SpanBuilder::from_name("POST")
                .with_kind(SpanKind::Client)
                .with_attributes(all);
            let span = global::tracer(SCOPE).build_with_context(builder, &context);
            context = context.with_span(span);
        }
        inject(&context, &mut HeaderInjector(headers));
        let own = context.span().is_recording();
        Self(own.then_some(context))
    }

    /// The server has answered.
    pub(super) fn answered(mut self, status: StatusCode) {
        let Some(context) = self.0.take() else { return };
        let span = context.span();
        let code = i64::from(status.as_u16());
        span.set_attribute(KeyValue::new("http.response.status_code", code));
        if status.is_client_error() || status.is_server_error() {
            span.set_attribute(KeyValue::new(ERROR_TYPE, status.as_str().to_owned()));
            span.set_status(Status::error(""));
        }
        span.end();
    }

    /// The request failed without an answer.
    pub(super) fn failed(mut self, failure: &Failure) {
        if let Some(context) = self.0.take() {
            end_failed(&context, snake_case(&failure.class), failure.error.clone());
        }
    }
}

impl Drop for RequestTrace {
    fn drop(&mut self) {
        if let Some(context) = self.0.take() {
            end_failed(&context, "cancelled".to_owned(), String::new());
        }
    }
}

fn end_failed(context: &Context, class: String, text: String) {
    let span = context.span();
    span.set_attribute(KeyValue::new(ERROR_TYPE, class));
    span.set_status(Status::error(text));
    span.end();
}

/// The URL without the parts that may be secret.
fn shown(url: &Url) -> String {
    let mut shown = url.clone();
    shown.set_fragment(None);
    if shown.query().is_some() {
        shown.set_query(Some("REDACTED"));
    }
    // The setters fail only for URLs without a host; such a URL has neither user nor password.
    if shown.password().is_some() {
        let _ = shown.set_password(Some("REDACTED"));
    }
    if !shown.username().is_empty() {
        let _ = shown.set_username("REDACTED");
    }
    shown.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_in_a_url_are_not_exported() {
        let url = Url::parse("http://user:s3cret@localhost:8000/a?token=s3cret#s3cret").unwrap();
        assert_eq!(
            shown(&url),
            "http://REDACTED:REDACTED@localhost:8000/a?REDACTED"
        );
    }
}
