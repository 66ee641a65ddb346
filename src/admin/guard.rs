//! Access control: the checks before a request is answered, and the headers of every answer.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, HttpBody, to_bytes},
    extract::{Request, State},
    http::{
        HeaderMap, HeaderValue, Method, StatusCode, Uri,
        header::{self, HeaderName},
        request::Parts,
        uri::Authority,
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use subtle::ConstantTimeEq;
use tracing::{error, info};

use super::{api::App, connections::Peer, error::ApiError};
use crate::text::cut;

/// The longest that the server works on a request after it has read the body. For a stream of
/// events this is only the time until the stream begins.
const LONGEST: Duration = Duration::from_secs(30);
/// The longest that the server waits for the body of a request.
const BODY_LONGEST: Duration = Duration::from_secs(10);
/// The most bytes of a request's body. The longest body that the API expects has about 30.
const BODY: usize = 16 * 1024;

/// The headers of every answer. A page may use only the console's own scripts and styles. No other
/// page may frame or read it.
const HEADERS: [(HeaderName, &str); 7] = [
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
         img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
         require-trusted-types-for 'script'; trusted-types 'none'",
    ),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (
        HeaderName::from_static("cross-origin-resource-policy"),
        "same-origin",
    ),
    (
        HeaderName::from_static("cross-origin-opener-policy"),
        "same-origin",
    ),
    (header::CACHE_CONTROL, "no-store"),
];

/// Adds [`HEADERS`] to an answer.
pub(super) async fn secure(mut response: Response) -> Response {
    for (name, value) in HEADERS {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}

/// What [`guard`] checks requests against.
#[derive(Clone)]
pub(super) struct Guarded {
    pub(super) app: Arc<App>,
    /// The server listens at a loopback address. A request that names another host then comes from a
    /// web page whose DNS name was pointed at this machine (DNS rebinding).
    pub(super) only_loopback: bool,
}

/// Checks a request, answers it within [`LONGEST`], and logs it if it asks for a change.
pub(super) async fn guard(
    State(guarded): State<Guarded>,
    request: Request,
    next: Next,
) -> Response {
    let (parts, body) = request.into_parts();
    let asked = Asked::of(&parts);
    let response = match guarded.check(&parts).await {
        Ok(()) => read(parts, body, next).await,
        Err(refused) => refused.into_response(),
    };
    if let Some(asked) = asked {
        info!(
            peer = asked.peer, agent = asked.agent, method = %asked.method, path = asked.path,
            status = response.status().as_u16(), "admin request",
        );
    }
    response
}

/// Reads the whole body, then answers the request. A body is short and has to arrive soon.
async fn read(parts: Parts, body: Body, next: Next) -> Response {
    let refused = |status, text: &str| ApiError::new(status, text).into_response();
    let too_long = || refused(StatusCode::PAYLOAD_TOO_LARGE, "the body is too long");
    if body.size_hint().lower() > BODY as u64 {
        return too_long();
    }
    match tokio::time::timeout(BODY_LONGEST, to_bytes(body, BODY)).await {
        Ok(Ok(bytes)) => bound(Request::from_parts(parts, bytes.into()), next).await,
        Ok(Err(_)) => too_long(),
        Err(_) => refused(
            StatusCode::REQUEST_TIMEOUT,
            "the body did not arrive in time",
        ),
    }
}

/// Answers a request within [`LONGEST`].
pub(super) async fn bound(request: Request, next: Next) -> Response {
    match tokio::time::timeout(LONGEST, next.run(request)).await {
        Ok(response) => response,
        Err(_) => {
            let text = "the request took too long";
            ApiError::new(StatusCode::REQUEST_TIMEOUT, text).into_response()
        }
    }
}

/// Whether a request may change something, and so needs the token. The answer depends on the method
/// alone, so no route can be forgotten.
fn changes(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// A request to change something, for the log.
struct Asked {
    peer: String,
    agent: String,
    method: Method,
    path: String,
}

impl Asked {
    fn of(request: &Parts) -> Option<Self> {
        /// The most bytes of a text that the client chose.
        const ROOM: usize = 200;
        if !changes(&request.method) {
            return None;
        }
        let peer = request.extensions.get::<Peer>();
        // The agent is logged only if it is visible ASCII.
        let agent = request.headers.get(header::USER_AGENT);
        let agent = agent.and_then(|agent| agent.to_str().ok());
        Some(Self {
            peer: peer.map_or_else(String::new, |peer| peer.0.to_string()),
            agent: cut(agent.unwrap_or_default(), ROOM).to_owned(),
            method: request.method.clone(),
            path: cut(request.uri.path(), ROOM).to_owned(),
        })
    }
}

impl Guarded {
    async fn check(&self, request: &Parts) -> Result<(), ApiError> {
        let forbidden = |text: &str| ApiError::new(StatusCode::FORBIDDEN, text);
        let headers = &request.headers;
        let Some(hosts) = hosts(headers, &request.uri) else {
            return Err(forbidden("the Host header cannot be read"));
        };
        if self.only_loopback && !hosts.iter().all(is_loopback) {
            return Err(forbidden("the Host header names another host"));
        }
        let own = |origin: &HeaderValue| self.is_own(origin, &hosts);
        if !headers.get_all(header::ORIGIN).iter().all(own) {
            return Err(forbidden("the request comes from a page of another origin"));
        }
        if changes(&request.method) {
            self.check_token(headers).await?;
        }
        Ok(())
    }

    /// Whether a page of this origin may send requests. Allowed are the origin of the host that the
    /// request names, and those in `admin.origins`.
    fn is_own(&self, origin: &HeaderValue, hosts: &[Authority]) -> bool {
        let Ok(origin) = origin.to_str() else {
            return false;
        };
        let authority = ["http://", "https://"]
            .iter()
            .find_map(|scheme| origin.strip_prefix(scheme));
        let is_host =
            |host: &Authority| authority.is_some_and(|own| own.eq_ignore_ascii_case(host.as_str()));
        let configured = &self.app.settings.admin.origins;
        hosts.first().is_some_and(is_host) || configured.iter().any(|own| own == origin)
    }

    async fn check_token(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let admin = &self.app.settings.admin;
        let wanted = match (&admin.token, &admin.token_file) {
            (Some(token), _) => token.expose().to_owned(),
            (None, Some(file)) => match tokio::fs::read_to_string(file).await {
                Ok(text) => text.trim_end_matches(['\r', '\n']).to_owned(),
                Err(error) => {
                    error!(%error, file = %file.display(), "cannot read the token");
                    let text = "the token cannot be read";
                    return Err(ApiError::new(StatusCode::SERVICE_UNAVAILABLE, text));
                }
            },
            (None, None) => {
                let text = "nothing can be changed: no token is configured (admin.token)";
                return Err(ApiError::new(StatusCode::FORBIDDEN, text));
            }
        };
        let given = headers.get(header::AUTHORIZATION).and_then(bearer);
        let is_right = |given: &[u8]| bool::from(given.ct_eq(wanted.as_bytes()));
        // The file may have become empty since the start: an empty token matches nothing.
        if !wanted.is_empty() && given.is_some_and(is_right) {
            return Ok(());
        }
        let text = match given {
            Some(_) => "the token is wrong",
            None => "a token is needed (Authorization: Bearer ...)",
        };
        Err(ApiError::new(StatusCode::UNAUTHORIZED, text))
    }
}

/// The token of an `Authorization` header. The case of the scheme does not matter (RFC 9110).
fn bearer(header: &HeaderValue) -> Option<&[u8]> {
    let (scheme, token) = header.as_bytes().split_at_checked("Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
}

/// The hosts that a request names: in its `Host` headers, and in its target if that is a whole URL,
/// as for a proxy. `None` if a host cannot be parsed. Empty if there is none; no browser sends such
/// a request.
fn hosts(headers: &HeaderMap, uri: &Uri) -> Option<Vec<Authority>> {
    let mut hosts = Vec::new();
    for host in headers.get_all(header::HOST) {
        hosts.push(Authority::try_from(host.as_bytes()).ok()?);
    }
    hosts.extend(uri.authority().cloned());
    Some(hosts)
}

fn is_loopback(host: &Authority) -> bool {
    let name = host.host();
    let address = name.trim_start_matches('[').trim_end_matches(']');
    let is_loopback = |address: std::net::IpAddr| address.is_loopback();
    address.parse().is_ok_and(is_loopback) || name.eq_ignore_ascii_case("localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_hosts_are_told_from_others() {
        let is = |host: &str| is_loopback(&Authority::try_from(host).unwrap());
        for host in [
            "127.0.0.1",
            "127.0.0.1:8672",
            "127.1.2.3",
            "[::1]:8672",
            "localhost",
            "LOCALHOST:1",
        ] {
            assert!(is(host), "{host}");
        }
        for host in [
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example:8672",
            "10.0.0.1",
            "[fe80::1]",
            "0.0.0.0",
        ] {
            assert!(!is(host), "{host}");
        }
    }

    #[test]
    fn a_bearer_token_is_taken_as_it_is() {
        let of = |text: &'static str| bearer(&HeaderValue::from_static(text)).map(<[u8]>::to_vec);
        assert_eq!(of("Bearer abc"), Some(b"abc".to_vec()));
        assert_eq!(of("bearer abc "), Some(b"abc ".to_vec()));
        for text in ["Basic abc", "Bearer", "Bearerabc", ""] {
            assert_eq!(of(text), None, "{text}");
        }
    }
}
