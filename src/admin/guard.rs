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
use tracing::info;

use super::{
    api::App, connections::Peer, dead, error::ApiError, hosts::Hosts, refused::Refused, tokens,
};
use crate::{telemetry::AUDIT, text::cut};

/// The longest that the server works on a request after it has read the body. For a stream of
/// events this is only the time until the stream begins.
const LONGEST: Duration = Duration::from_secs(30);
/// The longest that the server waits for the body of a request.
const BODY_LONGEST: Duration = Duration::from_secs(10);
/// The most bytes of a request's body. Only requests about dead letters may be longer.
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
    /// The hosts that a request may name.
    pub(super) hosts: Hosts,
}

/// Checks a request, and answers it within [`LONGEST`]. Logs each change, and refused requests once a
/// second.
pub(super) async fn guard(
    State(guarded): State<Guarded>,
    request: Request,
    next: Next,
) -> Response {
    let (parts, body) = request.into_parts();
    let asked = Asked::of(&parts);
    if let Err(refused) = guarded.check(&parts).await {
        guarded.app.refused.note(&asked, refused.status());
        // Slows down a client that guesses tokens.
        tokio::time::sleep(Refused::WAIT).await;
        return refused.into_response();
    }
    let is_change = changes(&parts.method);
    let response = read(&guarded.app, parts, body, next).await;
    if is_change {
        info!(
            target: AUDIT, peer = asked.peer, agent = asked.agent, method = %asked.method,
            path = asked.path, status = response.status().as_u16(), "admin request",
        );
    }
    response
}

/// Reads the whole body, then answers the request. A body is short, or one of few, and has to arrive soon.
async fn read(app: &App, parts: Parts, body: Body, next: Next) -> Response {
    let refused = |status, text: &str| ApiError::new(status, text).into_response();
    let too_long = || refused(StatusCode::PAYLOAD_TOO_LARGE, "the body is too long");
    let room = dead::room(parts.uri.path()).unwrap_or(BODY);
    if body.size_hint().lower() > room as u64 {
        return too_long();
    }
    // Also if the client does not say how long the body is.
    let is_long = room > dead::LONG
        && body
            .size_hint()
            .exact()
            .is_none_or(|it| it > dead::LONG as u64);
    let _turn = match is_long.then(|| app.long_bodies.try_acquire()) {
        None => None,
        Some(Ok(turn)) => Some(turn),
        Some(Err(_)) => {
            let text = "the server reads other long requests: try again";
            return refused(StatusCode::SERVICE_UNAVAILABLE, text);
        }
    };
    match tokio::time::timeout(BODY_LONGEST, to_bytes(body, room)).await {
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

/// A request, for the log.
pub(super) struct Asked {
    pub(super) peer: String,
    pub(super) agent: String,
    pub(super) method: Method,
    pub(super) path: String,
}

impl Asked {
    fn of(request: &Parts) -> Self {
        /// The most bytes of a text that the client chose.
        const ROOM: usize = 200;
        let peer = request.extensions.get::<Peer>();
        // The agent is logged only if it is visible ASCII.
        let agent = request.headers.get(header::USER_AGENT);
        let agent = agent.and_then(|agent| agent.to_str().ok());
        Self {
            peer: peer.map_or_else(String::new, |peer| peer.0.to_string()),
            agent: cut(agent.unwrap_or_default(), ROOM).to_owned(),
            method: request.method.clone(),
            path: cut(request.uri.path(), ROOM).to_owned(),
        }
    }
}

impl Guarded {
    async fn check(&self, request: &Parts) -> Result<(), ApiError> {
        let forbidden = |text: &str| ApiError::new(StatusCode::FORBIDDEN, text);
        let headers = &request.headers;
        let Some(hosts) = hosts(headers, &request.uri) else {
            return Err(forbidden("the Host header cannot be read"));
        };
        if !hosts.iter().all(|host| self.hosts.allow(host)) {
            return Err(forbidden(
                "the Host header names another host (admin.hosts)",
            ));
        }
        let own = |origin: &HeaderValue| self.is_own(origin, &hosts);
        if !headers.get_all(header::ORIGIN).iter().all(own) {
            return Err(forbidden("the request comes from a page of another origin"));
        }
        let admin = &self.app.settings.admin;
        match changes(&request.method) {
            true => tokens::check_change(admin, headers).await,
            false => tokens::check_read(admin, request.uri.path(), headers).await,
        }
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
