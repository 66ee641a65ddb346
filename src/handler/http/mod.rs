//! A handler that POSTs each message to a URL.
//!
//! The body goes untouched, with the message's content type; what else is known goes in headers.
//! 2xx succeeds. 408, 425, 429, 5xx, connection errors and time-outs are retried, after
//! `Retry-After` where the response has one. Any other status, redirects included, is permanent.
//! The status counts also where the body breaks off or does not end.

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

/// Of an error response, this much goes into the failure, in bytes.
const ERROR_SHOWN: usize = 2 * 1024;
/// Of a response, this much is read, so that its connection can be used again, in bytes.
const READ: usize = 64 * 1024;
/// How long a response's body has to come, behind its head.
const BODY_LIMIT: Duration = Duration::from_secs(2);
/// All `lapwing-header-*` of a request together, in bytes: servers refuse requests with more than
/// some 8 to 64 KiB of headers.
const HEADERS_ROOM: usize = 16 * 1024;
/// And this many of them: Python's and Rust's servers refuse a request with more than 100 headers.
const HEADERS_MOST: usize = 64;

impl HttpHandler {
    /// A handler from its settings.
    ///
    /// # Errors
    /// When the URL, a header or the certificate file cannot be used.
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

/// What is known about the message, as headers.
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
        // The client leaves it out, and servers answer 411 to a POST without.
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

/// `lapwing-header-` and the name, with `-` for what a header's name cannot hold; none for our own
/// and for those that go by their own name.
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

/// The text as a header's value, with `?` for what it cannot hold. Characters beyond ASCII go as
/// UTF-8.
fn printable(text: &str) -> HeaderValue {
    HeaderValue::from_bytes(text.as_bytes()).unwrap_or_else(|_| {
        let clean = text.replace(|c: char| c.is_ascii_control(), "?");
        HeaderValue::from_bytes(clean.as_bytes()).unwrap_or(HeaderValue::from_static("?"))
    })
}

/// The outcome that a response means.
async fn judge(mut response: Response, context: &Context) -> Outcome {
    let status = response.status();
    if status.is_success() {
        let cancellation = context.cancellation();
        tokio::select! {
            biased;
            _ = read(&mut response, READ) => {}
            // The word is given. A body that does not end takes nothing back.
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
        true => Failure::retryable("http", text),
        false => Failure::permanent("http", text),
    };
    failure.retry_after = retry_after;
    Outcome::Failed(failure.status(status.as_u16()))
}

/// Reads up to `most` bytes of the body; what cannot be read, or does not come in time, does not
/// matter any more: the status has said what counts.
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

/// `Retry-After` (RFC 9110, 10.2.3): seconds, or a date.
fn retry_after(response: &Response, now: SystemTime) -> Option<Duration> {
    let value = response.headers().get(RETRY_AFTER)?.to_str().ok()?;
    parse_retry_after(value.trim(), now)
}

fn parse_retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    if value.bytes().all(|b| b.is_ascii_digit()) && !value.is_empty() {
        // More digits than fit are a long time.
        return Some(Duration::from_secs(
            value.parse().unwrap_or(u32::MAX.into()),
        ));
    }
    let date = httpdate::parse_http_date(value).ok()?;
    // A date that has passed asks for nothing; where clocks differ it would have all attempts made
    // at once.
    date.duration_since(now).ok()
}

fn unreachable(error: &reqwest::Error) -> Failure {
    let class = match error {
        connect if connect.is_connect() => "http-connect",
        late if late.is_timeout() => "http-timeout",
        _ => "http-request",
    };
    // The URL may carry credentials; the cause says what went wrong.
    let mut text = "request failed".to_owned();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    Failure::retryable(class, text)
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
