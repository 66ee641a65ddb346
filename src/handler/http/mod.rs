//! A handler that POSTs each message to a URL.
//!
//! The request has the unchanged body of the message and its content type. Other properties of the
//! message go into headers. A status 2xx succeeds. 407, 408, 425, 429, 5xx, any error status with
//! `Retry-After`, connection errors and timeouts are retried. Any other status, redirects included,
//! is a permanent failure. The status counts even if the body breaks off or never ends.
//!
//! An attempt is one request, or two if the first was refused for a reason that the handler can
//! mend: see [`Again`].

mod answer;
mod batch;
mod connections;
mod echo;
mod files;
mod proxy;
mod reach;
mod request;
mod settings;
mod signature;
#[cfg(test)]
mod tests;
mod token;
mod trace;

use std::{
    fmt,
    sync::{Arc, atomic::AtomicU64},
};

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::{Response, StatusCode, Url, header::HeaderMap};

#[cfg(any(test, fuzzing))]
pub(crate) use answer::fuzz_answer;
pub(crate) use proxy::warning as proxy_warning;
pub use settings::{HeaderFile, HttpHandlerSettings, OAuthSettings, SecretIn};

use tokio::time::Instant;

use super::{Context, Handler, HandlerError, HandlerFuture, batch::Batches};
use crate::{
    chance,
    outcome::{Failure, Outcome},
};
use answer::Target;
use connections::{Connections, Generation, On};
use echo::Echo;
use request::{Theirs, describe, printable};
use token::{Token, Tokens};
use trace::RequestTrace;

/// The classes of all failures of a consumer with this handler.
pub(crate) const HTTP_CLASSES: [&str; 11] = [
    "http",
    "http-answer",
    "http-connect",
    "http-echo",
    "http-proxy",
    "http-request",
    "http-timeout",
    token::CLASS,
    "panic",
    "result",
    "timeout",
];

/// POSTs messages to a URL, over pooled connections.
pub struct HttpHandler {
    service: Arc<Service>,
    batches: Option<Batches<Arc<Service>>>,
}

/// The service behind a URL, and how to reach it.
struct Service {
    url: Url,
    connections: Connections,
    target: Target,
    tokens: Option<Tokens>,
    echo: Option<Echo>,
    /// The id of the next message in a batch.
    next: AtomicU64,
}

impl fmt::Debug for HttpHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL may hold a password.
        f.debug_struct("HttpHandler").finish_non_exhaustive()
    }
}

/// What a second request of the same attempt does differently.
enum Again {
    /// It goes on a new connection, because the first did not reach the service.
    Fresh,
    /// It leaves the message's own headers out, because they were too long for the server.
    Bare,
    /// It uses files that have changed.
    Renewed(Arc<Generation>),
    /// It has another token, because the service refused the first.
    Token,
}

/// How a request ended.
struct Ended {
    outcome: Outcome,
    /// A reason to send another request in the same attempt.
    again: Option<Again>,
}

impl HttpHandler {
    /// Makes a handler from its settings.
    ///
    /// # Errors
    /// If the URL, a header or a file cannot be used.
    pub fn new(settings: &HttpHandlerSettings) -> Result<Self, HandlerError> {
        let failed = |error: &dyn fmt::Display| HandlerError::new(format!("http handler: {error}"));
        let url =
            Url::parse(&settings.url).map_err(|error| failed(&format_args!("url: {error}")))?;
        let uri: hyper::Uri = url.as_str().parse().map_err(|error| failed(&error))?;
        let proxy = Matcher::from_env().intercept(&uri);
        let proxy = proxy.as_ref().map(|proxy| proxy.uri());
        let is_tls = |uri: &hyper::Uri| uri.scheme_str() == Some("https");
        let tokens = settings.oauth.as_ref();
        let tokens = tokens.map(|oauth| Tokens::new(oauth, settings.connect_timeout));
        let tokens = tokens.transpose().map_err(|error| failed(&error))?;
        let uses_tls = is_tls(&uri)
            || proxy.is_some_and(is_tls)
            || tokens.as_ref().is_some_and(Tokens::needs_tls);
        let trust_system = settings.system_authorities && uses_tls;
        let connections =
            Connections::new(settings, trust_system).map_err(|error| failed(&error))?;
        let via = proxy.map(|proxy| {
            let host = proxy.host().unwrap_or_default();
            proxy
                .port_u16()
                .map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
        });
        let service = Arc::new(Service {
            url,
            connections,
            target: Target::new(&settings.url, via),
            tokens,
            echo: settings.echo.then(Echo::new),
            next: AtomicU64::new(first_id()),
        });
        Ok(Self {
            batches: Batches::of(&settings.batch, Arc::clone(&service)),
            service,
        })
    }
}

impl Service {
    /// Sends a message.
    async fn handle(&self, context: &Context) -> Outcome {
        let generation = self.connections.present().await;
        let first = self.request(context, &generation, On::AnyConnection, Theirs::Fitting);
        let Ended { outcome, again } = first.await;
        match again {
            None => outcome,
            Some(again) => Box::pin(self.request_again(context, &generation, again)).await,
        }
    }

    /// Sends one request, and reads its answer.
    async fn request(
        &self,
        context: &Context,
        generation: &Arc<Generation>,
        on: On,
        theirs: Theirs,
    ) -> Ended {
        let token = match self.token(generation, context.deadline()).await {
            Ok(token) => token,
            Err(failure) => return Ended::failed(failure, None),
        };
        let (mut described, mark) = self.describe(context, generation, theirs);
        if let Some(token) = &token {
            token.put(&mut described);
        }
        let trace = RequestTrace::begin(&self.url, &mut described);
        let request = generation
            .client(on)
            .post(self.url.clone())
            .headers(generation.headers.clone())
            .headers(described)
            .body(bytes::Bytes::from_owner(Body(context.clone())));
        let waiting = generation.wait();
        match request.send().await {
            Ok(response) => {
                waiting.answered(&response);
                trace.answered(response.status());
                if let Some(mark) = &mark
                    && let Some((failure, again)) = Echo::check(&response, mark)
                {
                    return Ended::failed(failure, again);
                }
                // Whatever the reason for another request is, it has another token then.
                let other_token = self.after_token(token.as_ref(), response.status());
                let again = self
                    .after_answer(context, generation, &response, theirs)
                    .await
                    .or(other_token);
                let outcome = match (answer::judge(response, context, &self.target).await, token) {
                    (Outcome::Failed(failure), Some(token)) => {
                        Outcome::Failed(token.excuse(failure))
                    }
                    (outcome, _) => outcome,
                };
                Ended { outcome, again }
            }
            Err(error) => {
                waiting.failed();
                let failure = answer::unreachable(&error, &self.target);
                trace.failed(&failure);
                let again = self.after_error(generation, &error).await;
                Ended::failed(failure, again)
            }
        }
    }

    /// Whether the handler can mend the reason for this error.
    async fn after_error(
        &self,
        generation: &Arc<Generation>,
        error: &reqwest::Error,
    ) -> Option<Again> {
        match error.is_connect() {
            true => self
                .connections
                .changed_since(generation)
                .await
                .map(Again::Renewed),
            false => generation.was_not_served(error).then_some(Again::Fresh),
        }
    }

    /// The headers of a request that are its own, and the mark that its answer must repeat.
    fn describe(
        &self,
        context: &Context,
        generation: &Generation,
        theirs: Theirs,
    ) -> (HeaderMap, Option<String>) {
        let mut described = describe(context, &generation.headers, theirs);
        if let Some(signer) = &generation.signer {
            let message = context.message();
            signer.sign(&mut described, message.id(), message.body());
        }
        let mark = self.echo.as_ref().map(|echo| echo.mark());
        if let Some(mark) = &mark {
            described.insert(Echo::HEADER, printable(mark));
        }
        (described, mark)
    }

    /// The token of a request that must end at `deadline`, if the settings name a server that gives tokens.
    async fn token(
        &self,
        generation: &Generation,
        deadline: Option<Instant>,
    ) -> Result<Option<Arc<Token>>, Failure> {
        match &self.tokens {
            None => Ok(None),
            Some(tokens) => {
                let client = generation.client(On::AnyConnection);
                tokens.token(client, deadline).await.map(Some)
            }
        }
    }

    /// The service has answered a request with this token: whether another token may help.
    fn after_token(&self, token: Option<&Arc<Token>>, status: StatusCode) -> Option<Again> {
        let (tokens, token) = (self.tokens.as_ref()?, token?);
        token.answered(status);
        let may_help = status == StatusCode::UNAUTHORIZED && tokens.refused(token);
        may_help.then_some(Again::Token)
    }

    /// Whether the handler can mend the reason for this answer.
    async fn after_answer(
        &self,
        context: &Context,
        generation: &Arc<Generation>,
        response: &Response,
        theirs: Theirs,
    ) -> Option<Again> {
        match response.status() {
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
                let may_help = theirs == Theirs::Fitting && request::has_theirs(context);
                may_help.then_some(Again::Bare)
            }
            status => self.after_refusal(generation, status).await,
        }
    }

    /// Whether the files have changed with which a request with this answer was sent.
    async fn after_refusal(
        &self,
        generation: &Arc<Generation>,
        status: StatusCode,
    ) -> Option<Again> {
        let may_be_a_secret = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].contains(&status);
        let changed = match may_be_a_secret {
            true => self.connections.changed_since(generation).await,
            false => None,
        };
        changed.map(Again::Renewed)
    }

    /// Sends the second and last request of an attempt.
    async fn request_again(
        &self,
        context: &Context,
        generation: &Arc<Generation>,
        again: Again,
    ) -> Outcome {
        let (any, fresh) = (On::AnyConnection, On::FreshConnection);
        let ended = match again {
            Again::Fresh => {
                self.request(context, generation, fresh, Theirs::Fitting)
                    .await
            }
            Again::Bare => self.request(context, generation, any, Theirs::None).await,
            Again::Renewed(renewed) => self.request(context, &renewed, any, Theirs::Fitting).await,
            Again::Token => {
                self.request(context, generation, any, Theirs::Fitting)
                    .await
            }
        };
        ended.outcome
    }
}

impl Ended {
    fn failed(failure: Failure, again: Option<Again>) -> Self {
        Self {
            outcome: Outcome::Failed(failure),
            again,
        }
    }
}

impl Handler for HttpHandler {
    fn handle(&self, context: Context) -> HandlerFuture<'_> {
        Box::pin(async move {
            match &self.batches {
                Some(batches) => batches.run(context).await,
                None => self.service.handle(&context).await,
            }
        })
    }
}

/// The first id of a message in a batch. It differs from those of other workers, so that an answer to one
/// of them says nothing here. JSON numbers are exact below 2^53.
fn first_id() -> u64 {
    const BELOW: f64 = (1u64 << 52) as f64;
    (chance::fraction() * BELOW) as u64 + 1
}

/// The message's bytes, lent to the HTTP client without a copy.
struct Body(Context);

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        self.0.message().body()
    }
}
