//! The outcome of a request, from its answer or its error.

use std::time::{Duration, SystemTime};

use reqwest::{
    Response, StatusCode,
    header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, LOCATION, RETRY_AFTER},
};
use tokio::time::{Instant, timeout_at};

use super::token;
use crate::{
    clock,
    config::redact,
    handler::{Context, results},
    outcome::{Failure, Outcome},
    text::{causes, cut},
};

/// The most bytes of an error response that go into the failure.
const ERROR_SHOWN: usize = 2 * 1024;
/// The most bytes of the handler's URL that go into the failure.
const URL_SHOWN: usize = 256;
/// The most bytes of `Location` that go into the failure.
const LOCATION_SHOWN: usize = 256;
/// The most bytes of a response that are read. A connection can be reused only if the body was read
/// to its end.
const READ: usize = 64 * 1024;
/// The longest wait for a response's body after its head.
const BODY_LIMIT: Duration = Duration::from_secs(2);

/// Where requests go, for people.
pub(super) struct Target {
    /// The URL without its secrets.
    url: String,
    /// The host and port of the proxy, if requests go through one.
    via: Option<String>,
}

impl Target {
    pub(super) fn new(url: &str, via: Option<String>) -> Self {
        let url = cut(&redact(url), URL_SHOWN).to_owned();
        Self { url, via }
    }
}

/// The outcome of an attempt, from the response.
pub(super) async fn judge(mut response: Response, context: &Context, to: &Target) -> Outcome {
    let status = response.status();
    if status.is_success() && context.outbox().wants_result() {
        return result(response, context).await;
    }
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
    Outcome::Failed(refused(response, to).await)
}

/// The failure of a request with this answer, which is no success.
pub(super) async fn refused(mut response: Response, to: &Target) -> Failure {
    let status = response.status();
    let retry_after = retry_after(&response, clock::now());
    let redirect = redirect(status, response.headers());
    let body = read(&mut response, READ).await;
    let said = said(response.headers(), &body);
    let via = to.via.as_ref();
    let via = via.map(|proxy| format!(" (by way of the proxy {proxy})"));
    let via = via.unwrap_or_default();
    let text = format!("HTTP {status}{redirect} from {}{via}", to.url);
    let text = match said.as_str() {
        "" => text,
        said => format!("{text}: {said}"),
    };
    refusal(status, retry_after, text)
}

/// The whole body of an answer.
///
/// # Errors
/// If the body breaks off, or is longer than `most` bytes.
pub(super) async fn whole(mut response: Response, most: usize) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| causes(&error))? {
        if body.len() + chunk.len() > most {
            return Err(format!("the body is longer than {most} bytes"));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

/// The failure of a request that was answered with this error status.
pub(super) fn refusal(status: StatusCode, retry_after: Option<Duration>, text: String) -> Failure {
    let class = match status {
        // Only a proxy answers 407. The service has not seen the request.
        StatusCode::PROXY_AUTHENTICATION_REQUIRED => "http-proxy",
        _ => "http",
    };
    // A server that names a time wants to be asked again.
    let mut failure = if is_unavailable(status) {
        Failure::unavailable(class, text)
    } else if is_retryable(status) || retry_after.is_some() {
        Failure::retryable(class, text)
    } else {
        Failure::permanent(class, text)
    };
    failure.retry_after = retry_after;
    failure.status(status.as_u16())
}

/// The class of a request that reached no server.
const CONNECT: &str = "http-connect";

/// The failure of a request without an answer, of this class.
pub(super) fn no_answer(class: &'static str, text: String) -> Failure {
    match class {
        CONNECT | token::CLASS => Failure::unavailable(class, text),
        _ => Failure::retryable(class, text),
    }
}

/// The outcome of a request whose answer is a result that somebody takes: the whole of it counts.
async fn result(mut response: Response, context: &Context) -> Outcome {
    let headers = response.headers();
    let content_type = headers.get(CONTENT_TYPE);
    let content_type = content_type.and_then(|value| value.to_str().ok());
    let content_type = content_type.map(str::to_owned);
    let cancellation = context.cancellation();
    let mut body = Vec::new();
    let read = async {
        while let Some(chunk) = response.chunk().await? {
            body.extend_from_slice(&chunk);
            if body.len() > results::LONGEST {
                break;
            }
        }
        Ok::<_, reqwest::Error>(())
    };
    let read = tokio::select! {
        biased;
        read = read => read.map_err(|error| causes(&error)),
        _ = cancellation.cancelled() => Err("the run was cancelled".to_owned()),
    };
    if let Err(error) = read {
        let text = format!("the body of the answer breaks off: {error}");
        return Outcome::Failed(Failure::retryable("result", text));
    }
    let length = body.len() as u64;
    results::succeeded(context, body, length, content_type.as_deref())
}

/// The failure of a request without an answer.
pub(super) fn unreachable(error: &reqwest::Error, to: &Target) -> Failure {
    let class = match error {
        connect if connect.is_connect() => CONNECT,
        late if late.is_timeout() => "http-timeout",
        _ => "http-request",
    };
    // Leave out reqwest's own text, which has the URL and so may have credentials. The causes say
    // what went wrong.
    let cause = std::error::Error::source(error).map(|cause| format!(": {}", causes(cause)));
    let via = to.via.as_ref();
    let via = via.map(|proxy| format!(" by way of the proxy {proxy}"));
    let text = format!(
        "request to {}{} failed{}",
        to.url,
        via.unwrap_or_default(),
        cause.unwrap_or_default()
    );
    no_answer(class, text)
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

/// What the server says about its error.
fn said(headers: &HeaderMap, body: &[u8]) -> String {
    let coding = headers.get(CONTENT_ENCODING).map(|value| value.to_str());
    match coding {
        Some(Ok(coding)) if !body.is_empty() && !coding.eq_ignore_ascii_case("identity") => {
            format!("{} bytes of {}", body.len(), cut(coding, 32))
        }
        _ => {
            let text = String::from_utf8_lossy(&body[..body.len().min(ERROR_SHOWN)]);
            cut(text.trim(), ERROR_SHOWN).to_owned()
        }
    }
}

/// Where a redirect leads, without its query, which may be secret.
fn redirect(status: StatusCode, headers: &HeaderMap) -> String {
    let location = headers.get(LOCATION).and_then(|value| value.to_str().ok());
    match location {
        Some(location) if status.is_redirection() => {
            let (path, query) = location
                .split_once(['?', '#'])
                .map_or((location, ""), |(path, _)| (path, "?***"));
            let shown = match path
                .split_once("//")
                .and_then(|(scheme, rest)| Some((scheme, rest.split_once('@')?)))
            {
                Some((scheme, (_, host))) => format!("{scheme}//***@{host}"),
                None => path.to_owned(),
            };
            format!(" to {}{query}", cut(&shown, LOCATION_SHOWN))
        }
        _ => String::new(),
    }
}

fn is_retryable(status: StatusCode) -> bool {
    status.is_server_error() || matches!(status.as_u16(), 407 | 408 | 425 | 429)
}

/// Whether the status says something about the service or the proxy, and nothing about the message.
fn is_unavailable(status: StatusCode) -> bool {
    matches!(status.as_u16(), 407 | 429 | 502..=504)
}

/// `Retry-After` (RFC 9110, 10.2.3): seconds, or a date.
pub(super) fn retry_after(response: &Response, now: SystemTime) -> Option<Duration> {
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

/// Reads an answer as the handler does: a status of three digits, lines of headers, and a body behind an
/// empty line.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz_answer(data: &[u8]) {
    use reqwest::header::{HeaderName, HeaderValue};
    let (status, rest) = data.split_at(data.len().min(3));
    let Ok(status) = StatusCode::from_bytes(status) else {
        return;
    };
    let end = rest.windows(2).position(|pair| pair == b"\n\n");
    let (head, body) = rest.split_at(end.unwrap_or(rest.len()));
    let mut headers = HeaderMap::new();
    for line in head.split(|byte| *byte == b'\n') {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(&line[colon + 1..]);
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    let said = said(&headers, body);
    assert!(said.len() <= ERROR_SHOWN);
    let _ = redirect(status, &headers);
    for value in headers.values() {
        if let Ok(text) = value.to_str() {
            let _ = parse_retry_after(text.trim(), SystemTime::UNIX_EPOCH);
            let printable = super::request::printable(text);
            let is_control = |byte: &u8| byte.is_ascii_control() && *byte != b'\t';
            assert!(!printable.as_bytes().iter().any(is_control));
        }
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
        assert_eq!(retried, [407, 408, 425, 429]);
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
    fn a_redirect_names_its_target_without_secrets() {
        let shown = |status: StatusCode, location: &str| {
            let value = location.parse().unwrap();
            redirect(status, &HeaderMap::from_iter([(LOCATION, value)]))
        };
        let moved = StatusCode::TEMPORARY_REDIRECT;
        assert_eq!(shown(moved, "/orders/"), " to /orders/");
        assert_eq!(
            shown(moved, "https://u:s3cret@host/a?token=s3cret"),
            " to https://***@host/a?***"
        );
        assert_eq!(shown(StatusCode::CREATED, "/orders/1"), "");
    }
}
