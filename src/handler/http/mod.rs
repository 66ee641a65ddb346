//! A handler that POSTs each message to a URL.
//!
//! The request has the unchanged body of the message and its content type. Other properties of the
//! message go into headers. A status 2xx succeeds. 408, 425, 429, 5xx, connection errors and timeouts
//! are retried, after `Retry-After` if the response has this header. Any other status, redirects
//! included, is a permanent failure. The status counts even if the body breaks off or never ends.

mod settings;
mod trace;

use std::time::{Duration, SystemTime};

use reqwest::{
    Client, Response, StatusCode, Url,
    header::{
        CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
        RETRY_AFTER,
    },
    redirect,
};
use tokio::time::{Instant, timeout_at};

pub use settings::HttpHandlerSettings;

use super::{Context, Handler, HandlerError, HandlerFuture};
use crate::{
    broker::headers::names::{TRACEPARENT, TRACESTATE},
    outcome::{Failure, Outcome},
    text::cut,
};
use trace::RequestTrace;

/// POSTs messages to a URL, over pooled connections.
#[derive(Clone, Debug)]
pub struct HttpHandler {
    client: Client,
    url: Url,
    headers: HeaderMap,
}

/// The most bytes of an error response that go into the failure.
const ERROR_SHOWN: usize = 2 * 1024;
/// The most bytes of a response that are read. A connection can be reused only if the body was read
/// to its end.
const READ: usize = 64 * 1024;
/// The longest wait for a response's body after its head.
const BODY_LIMIT: Duration = Duration::from_secs(2);
/// The most bytes of all `lapwing-header-*` of a request together. Servers refuse requests with more
/// than about 8 to 64 KiB of headers.
const HEADERS_ROOM: usize = 16 * 1024;
/// The most `lapwing-header-*` of a request. HTTP servers in Python and Rust refuse a request with
/// more than 100 headers.
const HEADERS_MOST: usize = 64;

impl HttpHandler {
    /// Makes a handler from its settings.
    ///
    /// # Errors
    /// If the URL, a header or the certificate file cannot be used.
    pub fn new(settings: &HttpHandlerSettings) -> Result<Self, HandlerError> {
        let failed =
            |error: &dyn std::fmt::Display| HandlerError::new(format!("http handler: {error}"));
        let url =
            Url::parse(&settings.url).map_err(|error| failed(&format_args!("url: {error}")))?;
        let mut headers = HeaderMap::new();
        for (name, value) in &settings.headers {
            let name = HeaderName::try_from(name).map_err(|error| failed(&error))?;
            // The error does not quote the value, which may be a secret.
            let mut value =
                HeaderValue::from_str(value.expose()).map_err(|error| failed(&error))?;
            value.set_sensitive(true);
            headers.insert(name, value);
        }
        let mut client = Client::builder()
            .redirect(redirect::Policy::none())
            .connect_timeout(settings.connect_timeout)
            .tcp_nodelay(true)
            .user_agent(concat!("lapwing/", env!("CARGO_PKG_VERSION")));
        if let Some(file) = &settings.ca_file {
            let pem = std::fs::read(file)
                .map_err(|error| failed(&format_args!("{}: {error}", file.display())))?;
            let authorities =
                reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| failed(&error))?;
            client = client.tls_certs_merge(authorities);
        }
        let client = client.build().map_err(|error| failed(&error))?;
        Ok(Self {
            client,
            url,
            headers,
        })
    }
}

impl Handler for HttpHandler {
    fn handle(&self, context: Context) -> HandlerFuture<'_> {
        Box::pin(async move {
            let mut described = describe(&context);
            let trace = RequestTrace::begin(&self.url, &mut described);
            let request = self
                .client
                .post(self.url.clone())
                .headers(self.headers.clone())
                .headers(described)
                .body(bytes::Bytes::from_owner(Body(context.clone())));
            let answer = request.send().await;
            match answer {
                Ok(response) => {
                    trace.answered(response.status());
                    judge(response, &context).await
                }
                Err(error) => {
                    let failure = unreachable(&error);
                    trace.failed(&failure);
                    Outcome::Failed(failure)
                }
            }
        })
    }
}

/// The message's bytes, lent to the HTTP client without a copy.
struct Body(Context);

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        self.0.message().body()
    }
}

/// The headers that describe the message.
fn describe(context: &Context) -> HeaderMap {
    let message = context.message();
    let properties = message.properties();
    let attempt = context.attempt().to_string();
    let mut headers = HeaderMap::new();
    let known = [
        (CONTENT_TYPE, properties.content_type()),
        (CONTENT_ENCODING, properties.content_encoding()),
        (HeaderName::from_static("lapwing-message-id"), message.id()),
        (
            HeaderName::from_static("lapwing-attempt"),
            Some(attempt.as_str()),
        ),
        (
            HeaderName::from_static("lapwing-queue"),
            Some(message.queue()),
        ),
        (
            HeaderName::from_static("lapwing-routing-key"),
            Some(message.routing_key()),
        ),
        (
            HeaderName::from_static("lapwing-type"),
            message.message_type(),
        ),
        (
            HeaderName::from_static("lapwing-redelivered"),
            Some(if message.redelivered() {
                "true"
            } else {
                "false"
            }),
        ),
    ];
    for (name, value) in known {
        headers.extend(value.map(|value| (name, printable(value))));
    }
    if message.body().is_empty() {
        // reqwest sends no Content-Length for an empty body, and servers answer 411 to a POST without
        // one.
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    let trace = [TRACEPARENT, TRACESTATE].into_iter();
    let trace = trace.filter_map(|name| {
        let value = properties.header(name)?;
        Some((HeaderName::from_static(name), value))
    });
    let theirs = properties.headers();
    let theirs = theirs.filter_map(|(name, value)| Some((header_name(name)?, value)));
    let mut room = HEADERS_ROOM;
    for (name, value) in trace.chain(theirs).take(HEADERS_MOST) {
        let text = value.to_text();
        let length = name.as_str().len() + text.len();
        if length <= room {
            room -= length;
            headers.append(name, printable(&text));
        }
    }
    headers
}

/// The name of a message's header as an HTTP header: `lapwing-header-` and the name, with `-` for each
/// character that an HTTP name cannot have. `None` for our own headers, and for the trace headers,
/// which keep their names.
fn header_name(name: &str) -> Option<HeaderName> {
    if name.starts_with("lapwing-") || [TRACEPARENT, TRACESTATE].contains(&name) {
        return None;
    }
    let allowed = |c: char| match c.is_ascii_alphanumeric() || c == '-' || c == '_' || c == '.' {
        true => c.to_ascii_lowercase(),
        false => '-',
    };
    let name: String = name.chars().map(allowed).collect();
    HeaderName::try_from(format!("lapwing-header-{name}")).ok()
}

/// The text as a header's value, with `?` for each control character. Characters beyond ASCII are sent
/// as UTF-8.
fn printable(text: &str) -> HeaderValue {
    HeaderValue::from_bytes(text.as_bytes()).unwrap_or_else(|_| {
        let clean = text.replace(|c: char| c.is_ascii_control(), "?");
        HeaderValue::from_bytes(clean.as_bytes()).unwrap_or(HeaderValue::from_static("?"))
    })
}

/// The outcome of an attempt, from the response.
async fn judge(mut response: Response, context: &Context) -> Outcome {
    let status = response.status();
    if status.is_success() {
        let cancellation = context.cancellation();
        tokio::select! {
            biased;
            _ = read(&mut response, READ) => {}
            // The status already decided: a body that never ends does not change the outcome.
            _ = cancellation.cancelled() => {}
        }
        return Outcome::Succeeded;
    }
    let retry_after = retry_after(&response, SystemTime::now());
    let body = read(&mut response, READ).await;
    let body = String::from_utf8_lossy(&body[..body.len().min(ERROR_SHOWN)]);
    let text = match cut(body.trim(), ERROR_SHOWN) {
        "" => format!("HTTP {status}"),
        said => format!("HTTP {status}: {said}"),
    };
    let mut failure = match is_retryable(status) {
        true if is_unavailable(status) => Failure::unavailable("http", text),
        true => Failure::retryable("http", text),
        false => Failure::permanent("http", text),
    };
    failure.retry_after = retry_after;
    Outcome::Failed(failure.status(status.as_u16()))
}

/// Reads up to `most` bytes of the body. Returns fewer if reading fails or takes longer than
/// [`BODY_LIMIT`]: the outcome depends on the status only.
async fn read(response: &mut Response, most: usize) -> Vec<u8> {
    let mut body = Vec::new();
    let until = Instant::now() + BODY_LIMIT;
    while let Ok(Ok(Some(chunk))) = timeout_at(until, response.chunk()).await {
        let room = most - body.len();
        body.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if body.len() == most {
            break;
        }
    }
    body
}

fn is_retryable(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429)
}

/// Whether the status says something about the service, and nothing about the message.
fn is_unavailable(status: StatusCode) -> bool {
    matches!(status.as_u16(), 429 | 502..=504)
}

/// `Retry-After` (RFC 9110, 10.2.3): seconds, or a date.
fn retry_after(response: &Response, now: SystemTime) -> Option<Duration> {
    let value = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    parse_retry_after(value.trim(), now)
}

fn parse_retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    if value.bytes().all(|b| b.is_ascii_digit()) && !value.is_empty() {
        // A number that does not fit means a very long time.
        return Some(Duration::from_secs(
            value.parse().unwrap_or(u32::MAX.into()),
        ));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    // Ignore a date in the past. If the clocks differ, a delay of 0 would make all attempts run at
    // once.
    date.duration_since(now).ok()
}

fn unreachable(error: &reqwest::Error) -> Failure {
    let class = match error {
        connect if connect.is_connect() => "http-connect",
        late if late.is_timeout() => "http-timeout",
        _ => "http-request",
    };
    // Leave out the URL, which may hold credentials. The causes say what went wrong.
    let mut text = "request failed".to_owned();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    match error.is_connect() {
        true => Failure::unavailable(class, text),
        false => Failure::retryable(class, text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_retried_only_where_that_can_help() {
        let retried: Vec<_> = (100..600)
            .filter_map(|code| StatusCode::from_u16(code).ok())
            .filter(|status| is_retryable(*status))
            .map(|status| status.as_u16())
            .filter(|code| *code < 500)
            .collect();
        assert_eq!(retried, [408, 425, 429]);
        assert!(is_retryable(StatusCode::BAD_GATEWAY));
    }

    #[test]
    fn retry_after_is_read_as_seconds_or_as_a_date() {
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
        let parsed = |value| parse_retry_after(value, now).map(|delay| delay.as_secs());
        assert_eq!(parsed("120"), Some(120));
        assert_eq!(parsed("Sun, 06 Nov 1994 08:50:37 GMT"), Some(60));
        assert_eq!(parsed("Sun, 06 Nov 1994 08:40:37 GMT"), None);
        assert_eq!(parsed("0"), Some(0));
        assert_eq!(parsed("99999999999999999999999"), Some(u32::MAX.into()));
        assert_eq!(
            (parsed("soon"), parsed(""), parsed("-1")),
            (None, None, None)
        );
    }

    #[test]
    fn header_names_and_values_are_made_to_fit() {
        let name = |name| header_name(name).map(|name| name.to_string());
        assert_eq!(
            name("X-Tenant id\u{e9}"),
            Some("lapwing-header-x-tenant-id-".to_owned())
        );
        assert_eq!(printable("a\r\nb").as_bytes(), b"a??b");
        assert_eq!(printable("\u{e9}").as_bytes(), "\u{e9}".as_bytes());
    }
}
